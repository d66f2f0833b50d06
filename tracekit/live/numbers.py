"""The numbers of a reading as metrics, for Prometheus and OTLP alike. No label holds the name of a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tracekit.live.reading import Quantiles, Reading

__all__ = ["NUMBERS", "Number"]

Values = Iterator[tuple[tuple[str, ...], float]]
"""Values of the labels, and the number."""


@dataclass(frozen=True, slots=True)
class Number:
    """One metric. A `total` only grows; the others are of the last interval. Unknown numbers have no value."""

    name: str
    help: str
    unit: str
    labels: tuple[str, ...]
    values: Callable[[Reading], Values]
    total: bool = False


def _one(take: Callable[[Reading], float | None]) -> Callable[[Reading], Values]:
    def values(reading: Reading) -> Values:
        value = take(reading)
        if value is not None:
            yield (), float(value)

    return values


def _quantiles(take: Callable[[Reading], Quantiles | None]) -> Callable[[Reading], Values]:
    def values(reading: Reading) -> Values:
        times = take(reading)
        if times is not None:
            for label, ns in (
                ("0.5", times.p50_ns),
                ("0.9", times.p90_ns),
                ("0.99", times.p99_ns),
                ("1", times.max_ns),
            ):
                yield (label,), ns / 1e9

    return values


def _rates(reading: Reading) -> Values:
    for direction, rate in (("read", reading.read_bytes_per_s), ("write", reading.write_bytes_per_s)):
        if rate is not None:
            yield (direction,), rate


def _errors(reading: Reading) -> Values:
    for name, count in sorted(reading.total_errors.items()):
        yield (name,), float(count)


def _worker_ops(reading: Reading) -> Values:
    for each in reading.workers:
        yield (str(each.rank), str(each.worker)), each.ops * 1e9 / reading.interval_ns


def _worker_latency(reading: Reading) -> Values:
    for each in reading.workers:
        if each.p99_ns is not None:
            yield (str(each.rank), str(each.worker)), each.p99_ns / 1e9


NUMBERS = (
    Number("tracekit_ops", "Ops that have ended.", "", (), _one(lambda r: r.total_ops), total=True),
    Number(
        "tracekit_moved_bytes", "Bytes moved by all ops.", "By", (), _one(lambda r: r.total_bytes), total=True
    ),
    Number("tracekit_failed_ops", "Ops that failed, by class of error.", "", ("error",), _errors, total=True),
    Number(
        "tracekit_ops_per_second",
        "Ops that ended in the last interval, per second.",
        "1/s",
        (),
        _one(lambda r: r.ops_per_s),
    ),
    Number(
        "tracekit_bytes_per_second",
        "Bytes moved in the last interval, per second.",
        "By/s",
        ("direction",),
        _rates,
    ),
    Number(
        "tracekit_in_flight_ops",
        "Mean ops in flight in the last interval.",
        "",
        (),
        _one(lambda r: r.in_flight),
    ),
    Number(
        "tracekit_latency_seconds",
        "Quantiles of the latency in the last interval.",
        "s",
        ("quantile",),
        _quantiles(lambda r: r.latency),
    ),
    Number(
        "tracekit_lateness_seconds",
        "Quantiles of a replay's lateness in the last interval.",
        "s",
        ("quantile",),
        _quantiles(lambda r: r.lateness),
    ),
    Number(
        "tracekit_worker_ops_per_second",
        "Ops of a worker in the last interval, per second.",
        "1/s",
        ("rank", "worker"),
        _worker_ops,
    ),
    Number(
        "tracekit_worker_p99_latency_seconds",
        "99th percentile of a worker's latency in the last interval.",
        "s",
        ("rank", "worker"),
        _worker_latency,
    ),
)
