"""Parts of a trace, measured apart so that they add up: the way to spread a snapshot over machines.

A `Partial` holds what a snapshot needs that a snapshot cannot hold: which files, samples and
steps were seen (distinct counts do not add), and what was in flight at the part's edges. Parts
are windows of time, or segments that do not overlap; they merge in order of time. A partial
pickles. It reads; it never writes and knows no processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from tracekit.errors import UsageError
from tracekit.metrics.histogram import Histogram
from tracekit.metrics.queries import run
from tracekit.metrics.snapshot import MetricsSnapshot, assemble, distributions, measuring
from tracekit.metrics.sweep import Flight, flight
from tracekit.store.reader import TraceReader

__all__ = ["Partial", "Window", "partial", "windows"]

Window = tuple[int | None, int | None]
"""From this submit, to before that one, ns since the trace's epoch; None is without bound."""

_IDS = {"files": "file_ids", "samples": "sample_ids", "steps": "step_ids"}
_FIRST = ("first_submit_ns", "latency_min_ns")
_LAST = ("last_submit_ns", "last_end_ns", "latency_max_ns")


@dataclass(frozen=True, slots=True, eq=False)
class Partial:
    """A part of a trace: `totals` and distributions add, `ids` unite, `flight` joins end to end."""

    totals: dict[str, int | None]
    by_op: tuple[dict[str, Any], ...]
    req_bytes_hist: Histogram
    latency_us_hist: Histogram
    ids: dict[str, pa.Table]
    flight: Flight
    counters: dict[str, int]

    def merge(self, later: Partial) -> Partial:
        """This part and the next. Raises UsageError if they overlap in time."""
        return Partial(
            {name: _together(name, value, later.totals[name]) for name, value in self.totals.items()},
            _added(self.by_op, later.by_op),
            self.req_bytes_hist.merge(later.req_bytes_hist),
            self.latency_us_hist.merge(later.latency_us_hist),
            {name: _united(table, later.ids[name]) for name, table in self.ids.items()},
            self.flight.merge(later.flight),
            {
                name: self.counters.get(name, 0) + later.counters.get(name, 0)
                for name in dict.fromkeys((*self.counters, *later.counters))
            },
        )

    def snapshot(self) -> MetricsSnapshot:
        """The metrics of what was measured. Of all parts merged, it is the snapshot of the whole."""
        counts = {**self.totals, **{name: len(table) for name, table in self.ids.items()}}
        by_op = [dict(row) for row in self.by_op]
        return assemble(
            counts, by_op, self.req_bytes_hist, self.latency_us_hist, self.flight.peaks, self.counters
        )


def partial(
    reader: TraceReader,
    window: Window = (None, None),
    *,
    threads: int | None = None,
    memory_limit: str | None = None,
) -> Partial:
    """Measure the ops submitted in `window`. Counters, which have no time, are the first window's."""
    start_ns, stop_ns = window
    with measuring(reader, threads=threads, memory_limit=memory_limit) as connection:
        _narrow(connection, start_ns, stop_ns)
        by_op, sizes, latencies = distributions(connection)
        return Partial(
            run(connection, "totals").to_pylist()[0],
            tuple(by_op),
            sizes,
            latencies,
            {name: run(connection, query) for name, query in _IDS.items()},
            flight(reader, start_ns=start_ns, stop_ns=stop_ns),
            reader.counters if start_ns is None else {},
        )


def windows(reader: TraceReader, parts: int) -> list[Window]:
    """`parts` windows of equal length, in order, that cover the trace: partials of them merge."""
    if parts < 1:
        raise UsageError(f"parts={parts} is less than 1", "give the number of windows")
    first, last = reader.extent()
    if first is None or last is None:
        return [(None, None)]
    edges = [first + (last - first) * part // parts for part in range(1, parts)]
    return list(zip([None, *edges], [*edges, None], strict=True))


def _narrow(connection: duckdb.DuckDBPyConnection, start_ns: int | None, stop_ns: int | None) -> None:
    """Make the connection's view `ops` that window alone."""
    submit, scan = duckdb.ColumnExpression("t_submit"), connection.view("internal.ops_scan")
    if start_ns is not None:
        scan = scan.filter(submit >= duckdb.ConstantExpression(start_ns))
    if stop_ns is not None:
        scan = scan.filter(submit < duckdb.ConstantExpression(stop_ns))
    scan.create_view("ops", replace=True)


def _together(name: str, a: int | None, b: int | None) -> int | None:
    if a is None or b is None:
        return b if a is None else a
    return min(a, b) if name in _FIRST else max(a, b) if name in _LAST else a + b


def _added(a: tuple[dict[str, Any], ...], b: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
    """As `by_op.sql` groups and orders."""
    found: dict[tuple[str, str, bool, str], dict[str, Any]] = {}
    for row in (*a, *b):
        key = (row["scheme"], row["op"], row["error"] is not None, row["error"] or "")
        so_far = found.get(key)
        found[key] = (
            dict(row)
            if so_far is None
            else {
                name: value if name in ("scheme", "op", "error") else so_far[name] + value
                for name, value in row.items()
            }
        )
    return tuple(row for _, row in sorted(found.items()))


def _united(a: pa.Table, b: pa.Table) -> pa.Table:
    return pa.concat_tables([a, b]).group_by(a.column_names).aggregate([])
