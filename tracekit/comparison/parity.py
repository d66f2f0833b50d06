"""Parity: how closely one trace matches another, metric by metric, within a tolerance.

It knows only the store: a replay is a trace like any other, and what it was told to do
(speed, window) stands in its options. docs/replay.md defines every metric.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

import duckdb

from tracekit.errors import UsageError
from tracekit.sql import load_sql
from tracekit.store.reader import TraceLike, TraceReader, open_reader
from tracekit.store.statements import value_errors

__all__ = ["WINDOW_NS", "Measures", "Parity", "ParityRow", "compare", "define_percentile", "measure"]

DEFAULT_TOLERANCE = 0.15
WINDOW_NS = 1_000_000_000
_MOVING = ("read", "get", "put")
_MAPS = ("req_bytes", "window_bytes")
_EXACT_UP_TO = 20_000_000


@dataclass(frozen=True, slots=True)
class Measures:
    """What parity compares of one trace, as in `parity.sql`; `req_bytes` maps log2 bucket to count."""

    ops: int
    failed_ops: int
    bytes: int
    duration_ns: int
    submit_span_ns: int
    steps: int
    bytes_per_step: float | None
    latency_p50_ns: float | None
    latency_p99_ns: float | None
    lateness_p50_ns: float | None
    lateness_p99_ns: float | None
    lateness_max_ns: float | None
    req_bytes: dict[int, int]
    window_bytes: dict[int, int]


@dataclass(frozen=True, slots=True)
class ParityRow:
    """One metric: its values in both traces, how far apart, and the verdict (None: shown, not judged).

    `difference` is relative to `a`, but for the histogram distance, which is absolute.
    """

    metric: str
    unit: str
    a: float | None
    b: float | None
    difference: float | None
    ok: bool | None


@dataclass(frozen=True, slots=True)
class Parity:
    """The table and its verdict."""

    rows: tuple[ParityRow, ...]
    tolerance: float
    speed: float

    @property
    def ok(self) -> bool:
        """Whether every judged metric is within the tolerance."""
        return all(row.ok is not False for row in self.rows)

    def row(self, metric: str) -> ParityRow:
        """One metric's row. Raises KeyError for an unknown one."""
        for row in self.rows:
            if row.metric == metric:
                return row
        raise KeyError(metric)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it, which knows no infinity: a difference from 0 is null there."""
        return {
            "ok": self.ok,
            "tolerance": _finite(self.tolerance),
            "speed": self.speed,
            "metrics": [{**asdict(row), "difference": _finite(row.difference)} for row in self.rows],
        }


def measure(reader: TraceReader, *, speed: float = 1.0, planned: Sequence[str] = ()) -> Measures:
    """What parity compares, of one trace; windows are `speed` seconds long, so that they match a faster replay's.

    With `planned`, kinds of op: as a replay of those is to have it.
    """
    sql = load_sql("tracekit.comparison", "parity")
    with closing(reader.connect()) as connection, value_errors(reader.path):
        define_percentile(connection, reader.rows)
        result = connection.execute(
            sql,
            {
                "window_ns": max(round(WINDOW_NS * speed), 1), "planned": bool(planned),
                "kinds": list(planned or _MOVING),
            },
        )  # fmt: skip
        names = [column[0] for column in result.description or ()]
        row = dict(zip(names, result.fetchone() or (), strict=True))
    for name in _MAPS:
        row[name] = dict(row[name] or {})
    return Measures(**row)


def define_percentile(connection: duckdb.DuckDBPyConnection, rows: int) -> None:
    """Define the macro `percentile`: exact, but for traces whose values would not fit in little memory."""
    how = "approx_quantile" if rows > _EXACT_UP_TO else "quantile_disc"
    connection.execute(f"CREATE OR REPLACE TEMP MACRO percentile(data, share) AS {how}(data, share)")


def compare(
    a: TraceLike,
    b: TraceLike,
    *,
    tolerance: float = DEFAULT_TOLERANCE,
    speed: float | None = None,
) -> Parity:
    """How closely `b` (a replay, or another run) matches `a` (the recording).

    If `b` is a replay of `a`, it is held to what its plan foretold of the ops that it was
    told to issue (speed, filters and all), unless `speed` is given. Else the whole traces
    are compared, `a`'s submit times divided by `speed`. Raises UsageError for a tolerance
    or speed that cannot be meant.
    """
    if not tolerance >= 0:
        raise UsageError(f"--tolerance {tolerance} is negative", "give a fraction such as 0.15")
    if speed is not None and not speed > 0:
        raise UsageError(f"--speed {speed} is not positive", "give a factor such as 0.5, 1 or 10")
    a, b = open_reader(a), open_reader(b)
    told: dict[str, Any] = b.options.get("replay", {}) if b.source == "replay" else {}
    timed = told.get("pace", "recorded") == "recorded"
    if speed is None and told.get("expected") and told.get("of") == a.trace_id:
        foretold = dict(told["expected"])
        for name in _MAPS:
            foretold[name] = {int(key): count for key, count in foretold.get(name, {}).items()}
        return _table(Measures(**foretold), measure(b), tolerance, 1.0, timed=timed)
    speed = speed or told.get("speed", 1.0)
    # A replay whose plan was too long to be foretold is of the whole trace, but for writes.
    unforetold = told.get("of") == a.trace_id and not told.get("expected")
    planned = _MOVING[: None if told.get("allow_writes") else -1] if unforetold else ()
    return _table(measure(a, speed=speed, planned=planned), measure(b), tolerance, speed, timed=timed)


def _table(a: Measures, b: Measures, tolerance: float, speed: float, *, timed: bool) -> Parity:
    def relative(
        metric: str, unit: str, x: float | None, y: float | None, *, judged: bool = True
    ) -> ParityRow:
        difference = _relative(x, y)
        return ParityRow(
            metric,
            unit,
            x,
            y,
            difference,
            difference <= tolerance if judged and difference is not None else None,
        )

    duration = a.submit_span_ns / speed + (a.duration_ns - a.submit_span_ns)
    timed = timed and duration > 0  # one op of no known latency says nothing of how long it should take
    distance = histogram_distance(a.req_bytes, b.req_bytes)
    rows = [
        ParityRow("req_bytes_hist", "distance", 0.0, distance, distance, distance <= tolerance),
        relative("ops", "ops", a.ops, b.ops),
        relative("bytes", "bytes", a.bytes, b.bytes),
        relative("duration_ns", "ns", duration, b.duration_ns, judged=timed),
        relative(
            "throughput_bytes_per_s",
            "bytes/s",
            _rate(a.bytes, duration),
            _rate(b.bytes, b.duration_ns),
            judged=timed,
        ),
    ]
    moved = histogram_distance(a.window_bytes, b.window_bytes)
    rows.append(ParityRow("throughput_windows", "distance", 0.0, moved, moved, None))
    if a.bytes_per_step is not None or b.bytes_per_step is not None:
        rows.append(relative("bytes_per_step", "bytes", a.bytes_per_step, b.bytes_per_step))
    rows.append(
        ParityRow("failed_ops", "ops", a.failed_ops, b.failed_ops, None, b.failed_ops <= a.failed_ops)
    )
    for name in ("latency_p50_ns", "latency_p99_ns"):
        rows.append(relative(name, "ns", getattr(a, name), getattr(b, name), judged=False))
    for name in ("lateness_p50_ns", "lateness_p99_ns", "lateness_max_ns"):
        if getattr(b, name) is not None:
            rows.append(ParityRow(name, "ns", getattr(a, name), getattr(b, name), None, None))
    return Parity(tuple(rows), tolerance, speed)


def histogram_distance(a: dict[int, int], b: dict[int, int]) -> float:
    """Total variation distance of two histograms: 0 the same shares, 1 nothing in common.

    Half the sum over buckets of |share in a - share in b|.
    """
    total_a, total_b = sum(a.values()), sum(b.values())
    if not total_a or not total_b:
        return 0.0 if total_a == total_b else 1.0
    return sum(abs(a.get(k, 0) / total_a - b.get(k, 0) / total_b) for k in a.keys() | b.keys()) / 2


def _relative(a: float | None, b: float | None) -> float | None:
    if a is None or b is None:
        return None
    if a == b:
        return 0.0
    return abs(b - a) / abs(a) if a else float("inf")


def _finite(value: float | None) -> float | None:
    return value if value is None or isfinite(value) else None


def _rate(nbytes: int, duration_ns: float) -> float | None:
    return nbytes * 1e9 / duration_ns if duration_ns else None
