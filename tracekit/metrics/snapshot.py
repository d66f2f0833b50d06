"""The metrics of a trace, in one value: `MetricsSnapshot`. docs/metrics.md defines each."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb

from tracekit.errors import ErrorClass, UsageError
from tracekit.metrics.histogram import Histogram
from tracekit.metrics.queries import run
from tracekit.metrics.sweep import Peaks, peaks
from tracekit.store.reader import TraceReader
from tracekit.store.statements import value_errors
from tracekit.units import parse_size

__all__ = ["SNAPSHOT_VERSION", "MetricsSnapshot", "assemble", "distributions", "measuring", "snapshot"]

SNAPSHOT_VERSION = 1
_MEMORY = "2GiB"
_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99_9": 0.999}


@dataclass(frozen=True, slots=True)
class MetricsSnapshot:
    """What a trace's ops come to. Times in ns, sizes in bytes, unless a name says otherwise.

    `max_qd` is the most ops and `peak_inflight` the most bytes in flight at one moment.
    """

    ops: int
    failed_ops: int
    unfinished_ops: int
    bytes: int
    requested_bytes: int
    first_submit_ns: int | None
    last_submit_ns: int | None
    last_end_ns: int | None
    steps: int
    step_bytes: int
    files: int
    samples: int
    latency_sum_ns: int
    latency_min_ns: int | None
    latency_max_ns: int | None
    by_op: tuple[dict[str, Any], ...]
    req_bytes_hist: Histogram
    latency_us_hist: Histogram
    max_qd: int
    peak_inflight: int
    backend_counters: dict[str, int] = field(default_factory=dict)

    @property
    def duration_ns(self) -> int:
        """From the first submit to the last end."""
        if self.first_submit_ns is None or self.last_end_ns is None:
            return 0
        return self.last_end_ns - self.first_submit_ns

    @property
    def throughput_bytes_per_s(self) -> float | None:
        return self.bytes * 1e9 / self.duration_ns if self.duration_ns else None

    @property
    def ops_per_s(self) -> float | None:
        return self.ops * 1e9 / self.duration_ns if self.duration_ns else None

    @property
    def bytes_per_step(self) -> float | None:
        return self.step_bytes / self.steps if self.steps else None

    @property
    def latency_us(self) -> dict[str, float | None]:
        """min, mean, p50, p90, p99, p99_9, max. Percentiles come from the histogram: within 0.8 %."""
        ended = self.latency_us_hist.total
        found: dict[str, float | None] = {
            "min": None if self.latency_min_ns is None else self.latency_min_ns / 1e3,
            "mean": self.latency_sum_ns / ended / 1e3 if ended else None,
        }
        found.update({name: self._percentile(q) for name, q in _QUANTILES.items()})
        found["max"] = None if self.latency_max_ns is None else self.latency_max_ns / 1e3
        return found

    def histogram(self, name: str) -> Histogram:
        """`req_bytes` or `latency_us`. Raises UsageError for another name."""
        found = {"req_bytes": self.req_bytes_hist, "latency_us": self.latency_us_hist}
        key = name.removesuffix("_hist")
        if key not in found:
            raise UsageError(f"no histogram {name!r}", f"there are {', '.join(found)}")
        return found[key]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "schema_version": SNAPSHOT_VERSION,
            "ops": self.ops,
            "failed_ops": self.failed_ops,
            "unfinished_ops": self.unfinished_ops,
            "bytes": self.bytes,
            "requested_bytes": self.requested_bytes,
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
            "by_op": [dict(row) for row in self.by_op],
            "req_bytes_hist": self.req_bytes_hist.to_dict(),
            "latency_us_hist": self.latency_us_hist.to_dict(),
            "max_qd": self.max_qd,
            "peak_inflight": self.peak_inflight,
            "backend_counters": dict(sorted(self.backend_counters.items())),
            "units": {
                "max_qd": "ops",
                "peak_inflight": "bytes",
                "latency_us": "us",
                "backend_counters": "count",
            },
        }

    def to_json(self) -> str:
        """`to_dict` as text; keys in a fixed order, ends with a line break."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def to_csv(self) -> str:
        """`metric,value,unit` rows: every scalar, then histogram buckets as `NAME[lo,hi)`."""
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
                    unit = _unit(key if name == "backend_counters" else name)
                    writer.writerow([f"{name}.{key}", "" if inner is None else inner, unit])
            else:
                writer.writerow([name, "" if value is None else value, _unit(name)])
        for row in self.by_op:
            label = f"by_op.{row['scheme']}.{row['op']}.{row['error'] or 'ok'}"
            for key in ("ops", "bytes", "requested_bytes"):
                writer.writerow([f"{label}.{key}", row[key], _unit(key)])
        return out.getvalue()

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> MetricsSnapshot:
        """Of what `to_dict` gave. Raises UsageError for a newer version."""
        if int(raw.get("schema_version", 0)) > SNAPSHOT_VERSION:
            raise UsageError(
                f"snapshot version {raw['schema_version']} is newer than {SNAPSHOT_VERSION}",
                "upgrade tracekit",
            )
        latency = raw["latency_us"]
        plain = {name: raw[name] for name in cls.__dataclass_fields__ if name in raw}
        plain["by_op"] = tuple(dict(row) for row in raw["by_op"])
        plain["req_bytes_hist"] = Histogram.from_dict(raw["req_bytes_hist"])
        plain["latency_us_hist"] = Histogram.from_dict(raw["latency_us_hist"])
        for name in ("min", "max"):
            value = latency[name]
            plain[f"latency_{name}_ns"] = None if value is None else round(value * 1e3)
        return cls(**plain)

    def _percentile(self, q: float) -> float | None:
        value = self.latency_us_hist.quantile(q)
        if value is None or self.latency_min_ns is None or self.latency_max_ns is None:
            return value
        return min(max(value, self.latency_min_ns / 1e3), self.latency_max_ns / 1e3)


def snapshot(
    reader: TraceReader, *, threads: int | None = None, memory_limit: str | None = None
) -> MetricsSnapshot:
    """The metrics of every op of the trace. Queries over `ops`, and one sweep in order of time.

    The queries keep to `memory_limit` (2GiB unless told) and spill what does not fit to
    the temporary directory.
    """
    with ThreadPoolExecutor(1) as beside:  # the sweep is one thread's work: DuckDB has the other cores
        swept = beside.submit(peaks, reader) if threads != 1 else None
        with measuring(reader, threads=threads, memory_limit=memory_limit) as connection:
            counts = _row(connection, "totals") | _row(connection, "steps_count")
            counts |= _row(connection, "distinct_counts")
            by_op, sizes, latencies = distributions(connection)
        peak = peaks(reader) if swept is None else swept.result()
    return assemble(counts, by_op, sizes, latencies, peak, reader.counters)


@contextmanager
def measuring(
    reader: TraceReader, *, threads: int | None = None, memory_limit: str | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection that spills: measured on 100 M distinct ids, 7 s where memory without a limit took 37 s.

    Raises UsageError if `memory_limit` is no size, or too little for the trace, TraceFormatError
    for values that no op can have.
    """
    limit = memory_limit or _MEMORY
    allowed = f"{parse_size(limit, name='memory')}B"
    try:
        with (
            TemporaryDirectory(prefix="tracekit-spill-") as spill,
            closing(
                reader.connect(threads=threads, memory_limit=allowed, spill_dir=Path(spill))
            ) as connection,
            value_errors(reader.path),
        ):
            yield connection
    except duckdb.OutOfMemoryException as error:
        raise UsageError(
            f"memory limit {limit} is too little to measure {reader.path}", "allow more, such as 2GiB"
        ) from error


def distributions(
    connection: duckdb.DuckDBPyConnection,
) -> tuple[list[dict[str, Any]], Histogram, Histogram]:
    """Ops by kind, request sizes in bytes, latencies in us."""
    latencies = [(lo / 1e3, hi / 1e3, n) for lo, hi, n in _rows(connection, "latency_hist")]
    return (
        run(connection, "by_op").to_pylist(),
        Histogram.from_rows("bytes", _rows(connection, "req_bytes_hist")),
        Histogram.from_rows("us", latencies),
    )


def assemble(
    counts: Mapping[str, Any],
    by_op: list[dict[str, Any]],
    sizes: Histogram,
    latencies: Histogram,
    peak: Peaks,
    counted: Mapping[str, int],
) -> MetricsSnapshot:
    """The snapshot of what was measured; `counts` has the columns of `totals` and of the distinct counts."""
    return MetricsSnapshot(
        **counts,
        by_op=tuple(by_op),
        req_bytes_hist=sizes,
        latency_us_hist=latencies,
        max_qd=peak.ops,
        peak_inflight=peak.bytes,
        backend_counters=_counters(counted, by_op),
    )


def _row(connection: duckdb.DuckDBPyConnection, name: str) -> dict[str, Any]:
    found: dict[str, Any] = run(connection, name).to_pylist()[0]
    return found


def _rows(connection: duckdb.DuckDBPyConnection, name: str) -> list[tuple[int, int, int]]:
    return [(row["lo"], row["hi"], row["counts"]) for row in run(connection, name).to_pylist()]


def _counters(counted: Mapping[str, int], by_op: list[dict[str, Any]]) -> dict[str, int]:
    """What the producer counted; of what it did not count, what the rows show."""
    shown: dict[str, int] = {}
    for row in by_op:
        name = _counter_of(row["scheme"], row["op"])
        if name is not None:
            shown[name] = shown.get(name, 0) + row["ops"]
        if row["error"] == ErrorClass.THROTTLED:
            shown["throttles"] = shown.get("throttles", 0) + row["ops"]
    return {**shown, **counted}


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
    if name.endswith("bytes_per_s"):
        return "bytes/s"
    if "bytes" in name or name == "peak_inflight":
        return "bytes"
    return "ops/s" if name == "ops_per_s" else "count"
