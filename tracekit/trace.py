"""A trace as its users hold it: open, query, measure, picture. The face over store and metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import duckdb
import pyarrow as pa

from tracekit.metrics.histogram import Histogram
from tracekit.metrics.library import install
from tracekit.metrics.partial import Partial, Window, partial, windows
from tracekit.metrics.snapshot import MetricsSnapshot, snapshot
from tracekit.store.reader import TraceLike, TraceReader, open_reader
from tracekit.store.statements import query_errors, select
from tracekit.store.totals import totals
from tracekit.units import parse_size

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

__all__ = ["Trace", "open_trace"]


@dataclass(frozen=True, slots=True)
class Trace:
    """An open trace. Cheap to make: only footers are read until something is asked."""

    reader: TraceReader

    @property
    def path(self) -> Path:
        return self.reader.path

    @property
    def ops(self) -> int:
        """How many ops there are."""
        return self.reader.rows

    @property
    def source(self) -> str:
        """Who produced the ops: loader, replay, import:FORMAT, capture; `mixed` if several."""
        return self.reader.source

    def info(self) -> dict[str, Any]:
        """Describe the trace from its footers, as plain values with units in the names."""
        reader = self.reader
        first, last = reader.extent()
        total = totals(reader)
        return {
            "path": str(reader.path),
            "trace_id": reader.trace_id,
            "source": reader.source,
            "ops": reader.rows,
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
        }

    def query(
        self,
        sql: str,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        threads: int | None = None,
        memory: int | str | None = None,
    ) -> pa.Table:
        """Run DuckDB SQL over the view `ops` (ordered by `t_submit`) and the shipped macros; an Arrow table.

        `threads` and `memory` (bytes, or text such as `"4GiB"`) limit the query. Raises UsageError,
        in DuckDB's words, if the SQL is wrong or does anything but read.
        """
        with self.relation(sql, params, threads=threads, memory=memory) as relation:
            return relation.to_arrow_table()

    @contextmanager
    def relation(
        self,
        sql: str,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        threads: int | None = None,
        memory: int | str | None = None,
    ) -> Iterator[duckdb.DuckDBPyRelation]:
        """Run `sql` as `query` does, and yield the lazy DuckDB relation while the connection is open."""
        limit = None if memory is None else f"{parse_size(memory, name='memory')}B"
        connecting = self.reader.connect(ordered=True, threads=threads, memory_limit=limit)
        with closing(connecting) as connection, query_errors():
            install(connection)
            yield select(connection, sql, params)

    def pl(self, sql: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> pl.DataFrame:
        """As `query`, as a polars frame."""
        import polars

        return cast("pl.DataFrame", polars.from_arrow(self.query(sql, params)))

    def df(self, sql: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> pd.DataFrame:
        """As `query`, as a pandas frame; pandas is the caller's to install."""
        return cast("pd.DataFrame", self.query(sql, params).to_pandas())

    def __fspath__(self) -> str:
        """A trace stands for its path, wherever a path is taken."""
        return str(self.reader.path)

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The ops in order of `t_submit`, streamed in batches."""
        return self.reader.batches(columns)

    def snapshot(self, *, threads: int | None = None, memory: int | str | None = None) -> MetricsSnapshot:
        """Measure the trace: every metric that docs/metrics.md defines.

        `threads` and `memory` (bytes, or text such as `"4GiB"`) limit the queries.
        """
        return snapshot(self.reader, threads=threads, memory_limit=None if memory is None else str(memory))

    def windows(self, parts: int) -> list[Window]:
        """Cut the trace into `parts` windows of equal length: [start, end) in ns, None at the outer ends."""
        return windows(self.reader, parts)

    def partial(
        self, window: Window, *, threads: int | None = None, memory: int | str | None = None
    ) -> Partial:
        """Measure the ops submitted in `window`. Partials pickle, merge, and give the snapshot of the whole."""
        limit = None if memory is None else str(memory)
        return partial(self.reader, window, threads=threads, memory_limit=limit)

    def histogram(self, name: str = "latency_us") -> Histogram:
        """One histogram of the snapshot: `latency_us` or `req_bytes`."""
        return self.snapshot().histogram(name)


def open_trace(trace: TraceLike) -> Trace:
    """Open a trace: a directory of segments, one Parquet file, or several Parquet files (a list or a glob).

    Raises TraceFormatError, in one line, if there is no trace or it cannot be read.
    """
    return Trace(open_reader(trace))
