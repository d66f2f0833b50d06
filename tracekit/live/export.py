"""Serves the numbers of a watch to Prometheus, and sends them to an OTLP collector. Both are off unless asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from tracekit.errors import UsageError
from tracekit.extras import require
from tracekit.live.numbers import NUMBERS, Number
from tracekit.live.reading import Reading

__all__ = ["exporting"]

_LOOPBACK = "127.0.0.1"
_Latest = Callable[[], Reading | None]


@contextmanager
def exporting(
    interval_ns: int, *, prometheus: str | int | None = None, otlp: str | None = None
) -> Iterator[Callable[[Reading], None]]:
    """Yield the function that publishes a reading; the last one is what Prometheus scrapes and OTLP sends.

    Raises UsageError if a package is missing, an address is invalid, or the port is taken.
    """
    held: list[Reading] = []

    def latest() -> Reading | None:
        return held[0] if held else None

    def publish(reading: Reading) -> None:
        held[:] = [reading]

    with ExitStack() as stack:
        if prometheus is not None:
            stack.enter_context(_serving(prometheus, latest))
        if otlp is not None:
            stack.enter_context(_sending(otlp, interval_ns, latest))
        yield publish


@contextmanager
def _serving(where: str | int, latest: _Latest) -> Iterator[None]:
    client = require("prometheus_client", extra="live")
    host, port = _address(where)

    class Collector:
        def collect(self) -> Iterator[Any]:
            reading = latest()
            if reading is not None:
                yield from (_family(client, number, reading) for number in NUMBERS)

        def describe(self) -> list[Any]:
            return []

    registry = client.CollectorRegistry()
    registry.register(Collector())
    try:
        server, thread = client.start_http_server(port, host, registry)
    except OSError as error:
        raise UsageError(
            f"prometheus={where}: cannot listen: {error.strerror or error}", "choose another port"
        ) from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _family(client: Any, number: Number, reading: Reading) -> Any:
    kind = client.metrics_core.CounterMetricFamily if number.total else client.metrics_core.GaugeMetricFamily
    family = kind(number.name, number.help, labels=number.labels)
    for labels, value in number.values(reading):
        family.add_metric(labels, value)
    return family


def _address(where: str | int) -> tuple[str, int]:
    host, _, port = str(where).rpartition(":")
    if not port.isdigit() or not 0 < int(port) < 65_536:
        raise UsageError(f"prometheus={where!r} is not a port", "give PORT or HOST:PORT, such as 9464")
    return host.strip("[]") or _LOOPBACK, int(port)


@contextmanager
def _sending(url: str, interval_ns: int, latest: _Latest) -> Iterator[None]:
    if not url.startswith(("http://", "https://")):
        raise UsageError(
            f"otlp={url!r} is not a URL", "give that of a collector, such as http://localhost:4318"
        )
    metrics = require("opentelemetry.sdk.metrics", extra="live")
    export = require("opentelemetry.sdk.metrics.export", extra="live")
    sender = require("opentelemetry.exporter.otlp.proto.http.metric_exporter", extra="live")
    resources = require("opentelemetry.sdk.resources", extra="live")
    api = require("opentelemetry.metrics", extra="live")
    exporter = sender.OTLPMetricExporter(endpoint=f"{url.rstrip('/')}/v1/metrics", timeout=5)
    reader = export.PeriodicExportingMetricReader(exporter, export_interval_millis=interval_ns / 1e6)
    provider = metrics.MeterProvider(
        metric_readers=[reader],
        resource=resources.Resource.create({"service.name": "tracekit"}),
        shutdown_on_exit=False,
    )
    meter = provider.get_meter("tracekit")
    for number in NUMBERS:
        make = meter.create_observable_counter if number.total else meter.create_observable_gauge
        make(number.name, [_observer(api, number, latest)], unit=number.unit, description=number.help)
    try:
        yield
    finally:
        provider.shutdown()


def _observer(api: Any, number: Number, latest: _Latest) -> Callable[[Any], list[Any]]:
    def observe(_options: Any) -> list[Any]:
        reading = latest()
        if reading is None:
            return []
        return [
            api.Observation(value, dict(zip(number.labels, labels, strict=True)))
            for labels, value in number.values(reading)
        ]

    return observe
