"""Measure parts of a trace so that they add up, for example on several machines.

A `Partial` holds what a snapshot cannot: the files, samples and steps seen (distinct counts do
not add), and what was in flight at the edges of the part. Parts are windows of time, or segments
that do not overlap, and merge in order of time. A partial can be pickled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from tracekit.errors import UsageError
from tracekit.metrics.estimates import Sampled, sampled
from tracekit.metrics.histogram import Histogram
from tracekit.metrics.measuring import measuring, rows
from tracekit.metrics.snapshot import (
    DISTINCT,
    MACROS,
    MetricsSnapshot,
    assemble,
    distributions,
)
from tracekit.metrics.sweep import Flight, flight
from tracekit.store.opening import joined_ends, records_ends
from tracekit.store.reader import TraceReader

__all__ = ["Partial", "Window", "partial", "windows"]

Window = tuple[int | None, int | None]
"""First submit, inclusive, and last submit, exclusive, in ns since the epoch of the trace; None is unbounded."""

_FIRST = ("first_submit_ns", "latency_min_ns", "response_min_ns")
_LAST = ("last_submit_ns", "last_end_ns", "latency_max_ns", "response_max_ns")


@dataclass(frozen=True, slots=True, eq=False)
class Partial:
    """The measurements of a part of a trace. Make one with `partial`."""

    totals: dict[str, int | None]
    by_op: tuple[dict[str, Any], ...]
    req_bytes_hist: Histogram
    latency_us_hist: Histogram
    response_us_hist: Histogram
    ids: dict[str, pa.Table]
    flight: Flight
    counters: dict[str, int]
    ends: bool | None
    sampled: Sampled

    def merge(self, later: Partial) -> Partial:
        """Add the next part to this one. Raises UsageError if they overlap in time."""
        return Partial(
            {name: _merge_total(name, value, later.totals[name]) for name, value in self.totals.items()},
            _merge_by_op(self.by_op, later.by_op),
            self.req_bytes_hist.merge(later.req_bytes_hist),
            self.latency_us_hist.merge(later.latency_us_hist),
            self.response_us_hist.merge(later.response_us_hist),
            {name: _union(table, later.ids[name]) for name, table in self.ids.items()},
            self.flight.merge(later.flight),
            {
                name: self.counters.get(name, 0) + later.counters.get(name, 0)
                for name in dict.fromkeys((*self.counters, *later.counters))
            },
            joined_ends((self.ends, later.ends)),
            self.sampled.merge(later.sampled),
        )

    def snapshot(self) -> MetricsSnapshot:
        """The metrics of the part. Of all parts merged, this is the snapshot of the whole trace."""
        distinct = {name: len(table) for name, table in self.ids.items()}
        counts = {**self.totals, **distinct, "estimates": self.sampled.estimates()}
        by_op = [dict(row) for row in self.by_op]
        return assemble(
            counts,
            by_op,
            self.req_bytes_hist,
            self.latency_us_hist,
            self.response_us_hist,
            self.flight.peaks,
            self.counters,
            ends=self.ends,
        )


def partial(
    reader: TraceReader,
    window: Window = (None, None),
    *,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Partial:
    """Measure the ops submitted in `window`. Counters have no time: the first window gets them."""
    start_ns, stop_ns = window
    with measuring(reader, *MACROS, threads=threads, memory=memory) as connection:
        _narrow(connection, start_ns, stop_ns)
        counts = rows(connection, "totals()")[0]
        by_op, sizes, latencies, responses = distributions(connection, waited=bool(counts["wait_sum_ns"]))
        return Partial(
            counts,
            tuple(by_op),
            sizes,
            latencies,
            responses,
            {name: connection.sql(f"FROM {macro}()").to_arrow_table() for name, macro in DISTINCT.items()},
            flight(reader, start_ns=start_ns, stop_ns=stop_ns, memory=memory),
            reader.counters if start_ns is None else {},
            records_ends(reader.segments),
            sampled(reader, connection),
        )


def windows(reader: TraceReader, parts: int) -> list[Window]:
    """Cut the trace into `parts` windows of equal length, in order. Their partials merge to the whole.

    Raises UsageError if `parts` is less than 1.
    """
    if parts < 1:
        raise UsageError(f"parts={parts} is less than 1", "give the number of windows")
    first, last = reader.extent()
    if first is None or last is None:
        return [(None, None)]
    edges = [first + (last - first) * part // parts for part in range(1, parts)]
    return list(zip([None, *edges], [*edges, None], strict=True))


def _narrow(connection: duckdb.DuckDBPyConnection, start_ns: int | None, stop_ns: int | None) -> None:
    """Reduce the view `ops` of the connection to the window."""
    submit, scan = duckdb.ColumnExpression("t_submit"), connection.view("internal.ops_scan")
    if start_ns is not None:
        scan = scan.filter(submit >= duckdb.ConstantExpression(start_ns))
    if stop_ns is not None:
        scan = scan.filter(submit < duckdb.ConstantExpression(stop_ns))
    scan.create_view("ops", replace=True)


def _merge_total(name: str, a: int | None, b: int | None) -> int | None:
    if a is None or b is None:
        return b if a is None else a
    return min(a, b) if name in _FIRST else max(a, b) if name in _LAST else a + b


def _merge_by_op(a: tuple[dict[str, Any], ...], b: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
    """Add the rows of `by_op()`, and order them as the macro does."""
    merged: dict[tuple[str, str, bool, str], dict[str, Any]] = {}
    for row in (*a, *b):
        key = (row["scheme"], row["op"], row["error"] is not None, row["error"] or "")
        known = merged.get(key)
        merged[key] = (
            dict(row)
            if known is None
            else {
                name: value if name in ("scheme", "op", "error") else _merge_total(name, known[name], value)
                for name, value in row.items()
            }
        )
    return tuple(row for _, row in sorted(merged.items(), key=lambda item: item[0]))


def _union(a: pa.Table, b: pa.Table) -> pa.Table:
    return pa.concat_tables([a, b]).group_by(a.column_names).aggregate([])
