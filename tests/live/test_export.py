"""The numbers of a watch for dashboards: Prometheus, OTLP, and the Grafana file, all from one table."""

from __future__ import annotations

import json
import re
import socket
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import tracekit
from tracekit.live.numbers import NUMBERS

REPO = Path(__file__).resolve().parents[2]
SAMPLE = REPO / "sample_traces" / "s3.trace"


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def scrape(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def test_prometheus_scrapes_the_numbers_of_the_last_interval(port: int) -> None:
    pytest.importorskip("prometheus_client")
    readings = tracekit.watch(SAMPLE, interval="500ms", prometheus=port)
    first = next(readings)
    found = scrape(port)
    assert first.latency is not None
    assert found["tracekit_ops_total"] == first.total_ops
    assert found['tracekit_latency_seconds{quantile="0.99"}'] == first.latency.p99_ns / 1e9
    assert found['tracekit_bytes_per_second{direction="read"}'] == first.read_bytes_per_s
    assert not any("train-" in name for name in found), "names of files are no labels"
    rest = list(readings)
    assert rest
    with pytest.raises(OSError):  # the end of the watch closes the port
        scrape(port)


def test_prometheus_listens_on_the_loopback_alone(port: int) -> None:
    pytest.importorskip("prometheus_client")
    readings = tracekit.watch(SAMPLE, prometheus=str(port))
    next(readings)
    found = socket.getaddrinfo(socket.gethostname(), port, socket.AF_INET)
    others = {str(item[4][0]) for item in found if not str(item[4][0]).startswith("127.")}
    for host in others:
        with pytest.raises(OSError):
            socket.create_connection((host, port), timeout=2).close()
    list(readings)


@pytest.mark.parametrize("where", ["nine", "0", "70000", "localhost:"])
def test_a_wrong_port_is_refused(where: str) -> None:
    with pytest.raises(tracekit.UsageError, match="is not a port"):
        next(tracekit.watch(SAMPLE, prometheus=where))


def test_a_taken_port_is_named(port: int) -> None:
    pytest.importorskip("prometheus_client")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with pytest.raises(tracekit.UsageError, match="cannot listen"):
            next(tracekit.watch(SAMPLE, prometheus=port))


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """An OTLP/HTTP collector that keeps what it gets."""
    got: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/metrics":
                got.append(body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", got
    server.shutdown()
    server.server_close()


def test_an_otlp_collector_gets_the_same_numbers(collector: tuple[str, list[bytes]]) -> None:
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

    url, got = collector
    last = list(tracekit.watch(SAMPLE, interval="10s", otlp=url))[-1]
    request = ExportMetricsServiceRequest.FromString(got[-1])
    metrics = {
        metric.name: metric
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    assert set(metrics) == {number.name for number in NUMBERS if list(number.values(last))}
    assert metrics["tracekit_ops"].sum.data_points[0].as_double == last.total_ops
    points = metrics["tracekit_latency_seconds"].gauge.data_points
    assert last.latency is not None
    assert {point.attributes[0].value.string_value: point.as_double for point in points}[
        "0.5"
    ] == last.latency.p50_ns / 1e9


def test_the_dashboard_asks_for_numbers_that_there_are() -> None:
    text = (REPO / "docs" / "workflows" / "grafana.json").read_text()
    asked = {
        name
        for target in re.findall(r'"expr": "([^"]+)"', text)
        for name in re.findall(r"tracekit_\w+", target)
    }
    known = {f"{number.name}_total" if number.total else number.name for number in NUMBERS}
    assert asked == known
    assert len({panel["id"] for panel in json.loads(text)["panels"]}) == len(json.loads(text)["panels"])
