"""The metrics of a trace in one value, `MetricsSnapshot`. docs/metrics.md defines each of them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import duckdb

from tracekit.errors import ErrorClass, UsageError
from tracekit.metrics.estimates import sampled
from tracekit.metrics.histogram import Histogram
from tracekit.metrics.measuring import measuring, rows
from tracekit.metrics.sweep import Peaks, peaks
from tracekit.schema import READ_KINDS, WRITE_KINDS
from tracekit.store.opening import records_ends
from tracekit.store.reader import TraceReader
from tracekit.units import format_count, format_duration, format_size
from tracekit.validation import choosing

__all__ = [
    "DISTINCT",
    "MACROS",
    "SNAPSHOT_VERSION",
    "MetricsSnapshot",
    "assemble",
    "distributions",
    "snapshot",
]

SNAPSHOT_VERSION = 3
DISTINCT = {"files": "file_ids", "samples": "sample_ids", "steps": "step_ids"}
"""Metrics that count distinct things, and the macro that lists them."""
MACROS = ("totals", "by_op", "req_bytes_hist", "latency_hist", "response_hist", *DISTINCT.values())
"""What a snapshot calls."""
_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99_9": 0.999}


@dataclass(frozen=True, slots=True, repr=False)
class MetricsSnapshot:
    """The metrics of a trace. Times in ns and sizes in bytes, unless the name has another unit.

    `max_qd` is the largest number of ops and `peak_inflight` of bytes in flight at one moment.
    None means unknown: `max_qd` and `peak_inflight` if the source of the trace has no latencies,
    `unfinished_ops` if it lacks some and does not say which ops ended (the peaks are then the least
    that was in flight), `bytes` if no op says what it moved, `requested_bytes` if no op has a length.
    """

    ops: int
    failed_ops: int
    unfinished_ops: int | None
    bytes: int | None
    unknown_bytes_ops: int
    requested_bytes: int | None
    read_ops: int
    write_ops: int
    read_bytes: int | None
    write_bytes: int | None
    first_submit_ns: int | None
    last_submit_ns: int | None
    last_end_ns: int | None
    steps: int
    step_bytes: int | None
    files: int
    samples: int
    latency_sum_ns: int | None
    latency_min_ns: int | None
    latency_max_ns: int | None
    retried_ops: int | None
    wait_sum_ns: int | None
    response_sum_ns: int | None
    response_min_ns: int | None
    response_max_ns: int | None
    by_op: tuple[dict[str, Any], ...]
    req_bytes_hist: Histogram
    latency_us_hist: Histogram
    response_us_hist: Histogram
    max_qd: int | None
    peak_inflight: int | None
    backend_counters: dict[str, int] = field(default_factory=dict)
    estimates: dict[str, float | None] | None = None
    """Of a trace that is a sample of the files: the sums of the whole run, estimated, and their standard errors."""

    @property
    def duration_ns(self) -> int:
        """From the first submit to the last end, or to the last submit if that is later. 0 without ops."""
        if self.first_submit_ns is None or self.last_submit_ns is None:
            return 0
        return max(self.last_submit_ns, self.last_end_ns or self.last_submit_ns) - self.first_submit_ns

    @property
    def throughput_bytes_per_s(self) -> float | None:
        """Bytes moved over the duration; None if the bytes are unknown or the duration is 0."""
        return self.bytes * 1e9 / self.duration_ns if self.bytes is not None and self.duration_ns else None

    @property
    def ops_per_s(self) -> float | None:
        """Ops over the duration; None if the duration is 0."""
        return self.ops * 1e9 / self.duration_ns if self.duration_ns else None

    @property
    def bytes_per_step(self) -> float | None:
        """Bytes moved for steps over the number of steps; None without steps or if the bytes are unknown."""
        return self.step_bytes / self.steps if self.step_bytes is not None and self.steps else None

    @property
    def latency_us(self) -> dict[str, float | None]:
        """min, mean, p50, p90, p99, p99_9 and max, in us. Percentiles come from the histogram: within 0.8 %."""
        return _summary_us(
            self.latency_us_hist, self.latency_min_ns, self.latency_sum_ns, self.latency_max_ns
        )

    @property
    def response_us(self) -> dict[str, float | None]:
        """The same of the response time: the latency, and what the client spent on earlier tries and waits."""
        return _summary_us(
            self.response_us_hist, self.response_min_ns, self.response_sum_ns, self.response_max_ns
        )

    def histogram(self, name: str) -> Histogram:
        """The histogram `req_bytes`, `latency_us` or `response_us`. Raises UsageError for another name."""
        key, known = name.removesuffix("_hist"), ("req_bytes", "latency_us", "response_us")
        if key not in known:
            raise UsageError(f"no histogram {name!r}", choosing(key, known))
        found: Histogram = getattr(self, f"{key}_hist")
        return found

    def to_dict(self) -> dict[str, Any]:
        """The snapshot as JSON-able values, in the form that docs/metrics.schema.json describes."""
        return {
            "schema_version": SNAPSHOT_VERSION,
            "ops": self.ops,
            "failed_ops": self.failed_ops,
            "unfinished_ops": self.unfinished_ops,
            "bytes": self.bytes,
            "unknown_bytes_ops": self.unknown_bytes_ops,
            "requested_bytes": self.requested_bytes,
            "read_ops": self.read_ops,
            "write_ops": self.write_ops,
            "read_bytes": self.read_bytes,
            "write_bytes": self.write_bytes,
            "first_submit_ns": self.first_submit_ns,
            "last_submit_ns": self.last_submit_ns,
            "last_end_ns": self.last_end_ns,
            "duration_ns": self.duration_ns,
            "throughput_bytes_per_s": self.throughput_bytes_per_s,
            "ops_per_s": self.ops_per_s,
            "files": self.files,
            "samples": self.samples,
            "steps": self.steps,
            "step_bytes": self.step_bytes,
            "bytes_per_step": self.bytes_per_step,
            "latency_sum_ns": self.latency_sum_ns,
            "latency_us": self.latency_us,
            "retried_ops": self.retried_ops,
            "wait_sum_ns": self.wait_sum_ns,
            "response_sum_ns": self.response_sum_ns,
            "response_us": self.response_us,
            "by_op": [dict(row) for row in self.by_op],
            "req_bytes_hist": self.req_bytes_hist.to_dict(),
            "latency_us_hist": self.latency_us_hist.to_dict(),
            "response_us_hist": self.response_us_hist.to_dict(),
            "max_qd": self.max_qd,
            "peak_inflight": self.peak_inflight,
            "backend_counters": dict(sorted(self.backend_counters.items())),
            "estimates": self.estimates,
            "units": {
                "max_qd": "ops",
                "peak_inflight": "bytes",
                "latency_us": "us",
                "response_us": "us",
                "backend_counters": "count",
            },
        }

    def to_json(self) -> str:
        """`to_dict` as JSON text: keys in a fixed order, a line break at the end."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def to_csv(self) -> str:
        """The snapshot as CSV rows of metric, value and unit; a histogram bucket is `NAME[lo,hi)`."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["metric", "value", "unit"])
        for name, value in self.to_dict().items():
            if name in ("units", "by_op"):
                continue
            if isinstance(value, dict) and "counts" in value:
                for lo, hi, count in zip(value["lo"], value["hi"], value["counts"], strict=True):
                    writer.writerow([f"{name}[{lo},{hi})", count, f"ops by {value['unit']}"])
            elif isinstance(value, dict):
                for key, inner in value.items():
                    unit = _unit(key if name in ("backend_counters", "estimates") else name)
                    writer.writerow([f"{name}.{key}", "" if inner is None else inner, unit])
            else:
                writer.writerow([name, "" if value is None else value, _unit(name)])
        for row in self.by_op:
            label = f"by_op.{row['scheme']}.{row['op']}.{row['error'] or 'ok'}"
            for key in ("ops", "bytes", "requested_bytes"):
                writer.writerow([f"{label}.{key}", "" if row[key] is None else row[key], _unit(key)])
        return out.getvalue()

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> MetricsSnapshot:
        """Rebuild a snapshot from the result of `to_dict`. Raises UsageError for a newer version."""
        if int(raw.get("schema_version", 0)) > SNAPSHOT_VERSION:
            raise UsageError(
                f"snapshot version {raw['schema_version']} is newer than {SNAPSHOT_VERSION}",
                "upgrade tracekit",
            )
        full = {**_of_older_versions(raw), **raw}
        plain = {name: full[name] for name in cls.__dataclass_fields__ if name in full}
        plain["by_op"] = tuple(dict(row) for row in full["by_op"])
        for name in ("req_bytes_hist", "latency_us_hist", "response_us_hist"):
            plain[name] = Histogram.from_dict(full[name])
        for name in ("latency", "response"):
            for edge in ("min", "max"):
                value = full[f"{name}_us"][edge]
                plain[f"{name}_{edge}_ns"] = None if value is None else round(value * 1e3)
        return cls(**plain)

    def __repr__(self) -> str:
        return f"<MetricsSnapshot: {', '.join(f'{name} {value}' for name, value in self._summary().items())}>"

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in self._summary().items())
        return f"<table>{rows}</table>"

    def _summary(self) -> dict[str, str]:
        """The main figures, for people."""
        p50, p99 = (self.latency_us[name] for name in ("p50", "p99"))
        return {
            "ops": format_count(self.ops),
            "failed": format_count(self.failed_ops),
            "bytes": "unknown" if self.bytes is None else format_size(self.bytes),
            "duration": format_duration(self.duration_ns),
            "latency p50": "unknown" if p50 is None else format_duration(p50 * 1e3),
            "latency p99": "unknown" if p99 is None else format_duration(p99 * 1e3),
            "max queue depth": "unknown" if self.max_qd is None else format_count(self.max_qd),
        }


def _summary_us(
    found: Histogram, least: int | None, total: int | None, most: int | None
) -> dict[str, float | None]:
    """Return min, mean, percentiles and max in us of the histogram, and of the exact figures in ns."""
    summary: dict[str, float | None] = {
        "min": None if least is None else least / 1e3,
        "mean": None if total is None else total / found.total / 1e3,
    }
    for name, q in _QUANTILES.items():
        value = found.quantile(q)
        if value is not None and least is not None and most is not None:
            value = min(max(value, least / 1e3), most / 1e3)
        summary[name] = value
    summary["max"] = None if most is None else most / 1e3
    return summary


def _of_older_versions(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return what version 1 (no `unknown_bytes_ops`) and version 2 (no retries, kinds together) do not have."""
    found: dict[str, Any] = {"unknown_bytes_ops": 0, "retried_ops": None, "wait_sum_ns": None}
    for name in ("us", "us_hist", "sum_ns"):
        found[f"response_{name}"] = raw[f"latency_{name}"]
    for name, kinds in (("read", READ_KINDS), ("write", WRITE_KINDS)):
        some = [row for row in raw["by_op"] if row["op"] in kinds]
        moved = [row["bytes"] for row in some if row["bytes"] is not None]
        found[f"{name}_ops"] = sum(row["ops"] for row in some)
        found[f"{name}_bytes"] = sum(moved) if moved or not some else None
    return found


def snapshot(
    reader: TraceReader, *, threads: int | None = None, memory: int | str | None = None
) -> MetricsSnapshot:
    """Measure every op of the trace, with queries over `ops` and one sweep in order of time.

    The queries keep to `memory` and spill the rest to a scratch directory.
    """
    with ThreadPoolExecutor(1) as pool:  # the sweep uses one thread: DuckDB has the other cores
        swept = pool.submit(peaks, reader, memory=memory) if threads != 1 else None
        with measuring(reader, *MACROS, threads=threads, memory=memory) as connection:
            counts = rows(connection, "totals()")[0]
            for name, macro in DISTINCT.items():
                counts[name] = rows(connection, f"(SELECT count(*) AS n FROM {macro}())")[0]["n"]
            counts["estimates"] = sampled(reader, connection).estimates()
            found = distributions(connection, waited=bool(counts["wait_sum_ns"]))
        peak = peaks(reader, memory=memory) if swept is None else swept.result()
    return assemble(counts, *found, peak, reader.counters, ends=records_ends(reader.segments))


def distributions(
    connection: duckdb.DuckDBPyConnection, *, waited: bool
) -> tuple[list[dict[str, Any]], Histogram, Histogram, Histogram]:
    """Ops by kind, request sizes in bytes, latencies and response times in us.

    Unless an op `waited`, response times are latencies, and are not counted again.
    """
    sizes = rows(connection, "req_bytes_hist('all')")
    latencies = _times(connection, "latency_hist")
    return (
        rows(connection, "by_op()"),
        Histogram.from_rows("bytes", [(row["lo"], row["hi"], row["counts"]) for row in sizes]),
        latencies,
        _times(connection, "response_hist") if waited else latencies,
    )


def _times(connection: duckdb.DuckDBPyConnection, macro: str) -> Histogram:
    found = rows(connection, f"{macro}('all')")
    return Histogram.from_rows("us", [(row["lo"] / 1e3, row["hi"] / 1e3, row["counts"]) for row in found])


def assemble(
    counts: Mapping[str, Any],
    by_op: list[dict[str, Any]],
    sizes: Histogram,
    latencies: Histogram,
    responses: Histogram,
    peak: Peaks,
    counted: Mapping[str, int],
    *,
    ends: bool | None,
) -> MetricsSnapshot:
    """Make the snapshot of what was measured; `counts` has the columns of `totals()` and the keys of `DISTINCT`.

    `ends` is what `records_ends` says of the trace.
    """
    figures = dict(counts)
    ended = figures.pop("ended_ops")
    unended = figures["ops"] - ended
    ended_or_not = not unended or ends is True or (ends is None and bool(ended))
    flight_known = bool(ended) or ends is True or not figures["ops"]
    if not figures["unknown_bytes_ops"]:  # a sum over no op that moves data
        figures["bytes"] = figures["bytes"] or 0
        figures["step_bytes"] = figures["step_bytes"] or 0
    for kind in ("read", "write"):
        if not figures[f"{kind}_ops"]:
            figures[f"{kind}_bytes"] = 0
    return MetricsSnapshot(
        **figures,
        unfinished_ops=unended if ended_or_not else None,
        by_op=tuple(by_op),
        req_bytes_hist=sizes,
        latency_us_hist=latencies,
        response_us_hist=responses,
        max_qd=peak.ops if flight_known else None,
        peak_inflight=peak.bytes if flight_known else None,
        backend_counters=_counters(counted, by_op),
    )


def _counters(counted: Mapping[str, int], by_op: list[dict[str, Any]]) -> dict[str, int]:
    """The counters of the producer, and counts from the rows for what it did not count."""
    from_rows: dict[str, int] = {}
    for row in by_op:
        name = _counter_of(row["scheme"], row["op"])
        if name is not None:
            from_rows[name] = from_rows.get(name, 0) + row["ops"]
        if row["error"] == ErrorClass.THROTTLED:
            from_rows["throttles"] = from_rows.get("throttles", 0) + row["ops"]
    return {**from_rows, **counted}


def _counter_of(scheme: str, op: str) -> str | None:
    if op == "hint":
        return "hints_applied"
    if scheme == "direct":
        return "direct_reads" if op == "read" else None
    if scheme == "file":
        return None
    return {"read": "range_gets", "get": "whole_gets"}.get(op)


def _unit(name: str) -> str:
    if name.endswith("_ns"):
        return "ns"
    if name.endswith("_us"):
        return "us"
    if name == "sample_rate":
        return "share"
    if name.endswith("bytes_per_s"):
        return "bytes/s"
    if "bytes" in name or name == "peak_inflight":
        return "bytes"
    return "ops/s" if name == "ops_per_s" else "count"
