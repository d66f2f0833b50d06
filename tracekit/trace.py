"""`Trace`, an open trace to query and measure. It joins the store and the metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

import duckdb
import pyarrow as pa

from tracekit.consumer import overhead_of
from tracekit.extras import require
from tracekit.metrics.histogram import Histogram
from tracekit.metrics.library import install
from tracekit.metrics.partial import Partial, Window, partial, windows
from tracekit.metrics.snapshot import MetricsSnapshot
from tracekit.metrics.spreading import snapshot_on
from tracekit.store.clocks import clocks
from tracekit.store.reader import TraceLike, TraceReader, open_reader
from tracekit.store.statements import collected, query_errors, select
from tracekit.store.totals import totals

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

__all__ = ["QueryParams", "Trace", "open_trace"]

QueryValue = (
    str
    | bytes
    | int
    | float
    | bool
    | Decimal
    | date
    | datetime
    | time
    | timedelta
    | UUID
    | None
    | Sequence["QueryValue"]
    | Mapping[str, "QueryValue"]
)
QueryParams = Sequence[QueryValue] | Mapping[str, QueryValue]
"""Values for a query: a sequence for `?` and `$1`, a mapping for `$name`."""


@dataclass(frozen=True, slots=True, repr=False)
class Trace:
    """An open trace. Opening reads only the footers of its files; each query opens a connection of its own."""

    reader: TraceReader

    @property
    def path(self) -> Path:
        """The directory or file of the trace."""
        return self.reader.path

    @property
    def ops(self) -> int:
        """The number of ops."""
        return self.reader.rows

    @property
    def source(self) -> str:
        """What produced the ops: loader, replay, import:FORMAT or capture; `mixed` if several did."""
        return self.reader.source

    def __repr__(self) -> str:
        return f"<Trace {str(self.path)!r}: {self.ops:,} ops, source {self.source}>"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>"
            for name, value in self.info().items()
            if not isinstance(value, dict | list)
        )
        return f"<table>{rows}</table>"

    def info(self) -> dict[str, Any]:
        """Describe the trace from its footers, as plain values with units in the names."""
        reader = self.reader
        first, last = reader.extent()
        total = totals(reader)
        return {
            "path": str(reader.path),
            "trace_id": reader.trace_id,
            "source": reader.source,
            "schema_versions": list(reader.schema_versions),
            "ops": reader.rows,
            "removed_ops": reader.removed_ops,
            "bytes": total.bytes,
            "streams": total.streams,
            "epoch_unix_ns": reader.epoch_unix_ns,
            "first_submit_ns": first,
            "last_submit_ns": last,
            "segments": len(reader.segments),
            "unfinished_segments": len(reader.unfinished),
            "torn_bytes": sum(segment.torn_bytes for segment in reader.segments),
            "file_bytes": sum(segment.file_bytes for segment in reader.segments),
            "columns": list(reader.columns),
            "options": reader.options,
            "counters": reader.counters,
            "completeness": reader.completeness,
            "not_issued": reader.not_issued,
            "clock": clocks(reader.segments),
            "overhead": overhead_of(reader.counters),
        }

    def query(
        self,
        sql: str,
        params: QueryParams | None = None,
        *,
        threads: int | None = None,
        memory: int | str | None = None,
    ) -> pa.Table:
        """Run DuckDB SQL over the view `ops`, ordered by `t_submit`, and return an Arrow table.

        The macros of docs/metrics.md are defined. `params` fills `?` from a sequence and `$name` from a
        mapping. `threads` and `memory` (bytes, or text such as `"4GiB"`) limit the query; `memory` also limits
        the result. Raises UsageError, with DuckDB's message, if the SQL is invalid, does anything but read, or
        needs more memory (default: the environment's TRACEKIT_MEMORY, else 2 GiB).
        """
        with self.relation(sql, params, threads=threads, memory=memory) as relation:
            return collected(relation, memory)

    @contextmanager
    def relation(
        self,
        sql: str,
        params: QueryParams | None = None,
        *,
        threads: int | None = None,
        memory: int | str | None = None,
    ) -> Iterator[duckdb.DuckDBPyRelation]:
        """Run `sql` as `query` does and yield the DuckDB relation, which is valid inside the `with` block."""
        connecting = self.reader.connect(ordered=True, threads=threads, memory=memory)
        with closing(connecting) as connection, query_errors():
            install(connection)
            yield select(connection, sql, params)

    def pl(self, sql: str, params: QueryParams | None = None) -> pl.DataFrame:
        """Run `sql` as `query` does, and return a polars frame. Raises UsageError if polars is not installed."""
        polars = require("polars", extra="polars")
        return cast("pl.DataFrame", polars.from_arrow(self.query(sql, params)))

    def df(self, sql: str, params: QueryParams | None = None) -> pd.DataFrame:
        """Run `sql` as `query` does, and return a pandas frame. Raises UsageError if pandas is not installed."""
        require("pandas", extra="pandas")
        return cast("pd.DataFrame", self.query(sql, params).to_pandas())

    def __fspath__(self) -> str:
        """The path of the trace, so that functions that take a path take a trace."""
        return str(self.reader.path)

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the ops in order of `t_submit`, in batches. Raises UsageError for an unknown column."""
        return self.reader.batches(columns)

    def snapshot(
        self,
        *,
        threads: int | None = None,
        memory: int | str | None = None,
        on: str | None = None,
        hosts: int | None = None,
    ) -> MetricsSnapshot:
        """Compute every metric that docs/metrics.md defines.

        `threads` and `memory` (bytes, or text such as `"4GiB"`) limit the queries. With `on`, windows of the trace are measured by
        as many `hosts`: processes of this machine (`"local"`), or nodes of a Ray cluster (`"ray"`, `"ray://HOST:PORT"`) that open the
        trace by the same path. The figures are the same. Raises UsageError for another place or a number of hosts without one.
        """
        return snapshot_on(self.reader, on=on, hosts=hosts, threads=threads, memory=memory)

    def windows(self, parts: int) -> list[Window]:
        """Cut the trace into `parts` windows of equal length: [start, end) in ns, None at the outer ends."""
        return windows(self.reader, parts)

    def partial(
        self, window: Window, *, threads: int | None = None, memory: int | str | None = None
    ) -> Partial:
        """Measure the ops submitted in `window`. Partials pickle, merge, and give the snapshot of the whole."""
        return partial(self.reader, window, threads=threads, memory=memory)

    def histogram(self, name: str = "latency_us") -> Histogram:
        """Compute one histogram: `latency_us` or `req_bytes`. Raises UsageError for another name."""
        return self.snapshot().histogram(name)


def open_trace(trace: TraceLike) -> Trace:
    """Open a trace: a directory of segments, one Parquet file, or several Parquet files (a list or a glob).

    Raises TraceFormatError, in one line, if there is no trace or it cannot be read.
    """
    return Trace(open_reader(trace))
