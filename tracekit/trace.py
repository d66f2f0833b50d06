"""A trace as its users hold it: open, query, measure, picture. The face over store and metrics."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from tracekit.metrics.histogram import Histogram
from tracekit.metrics.library import install
from tracekit.metrics.snapshot import MetricsSnapshot, snapshot
from tracekit.store.reader import TraceReader, open_reader
from tracekit.store.statements import query_errors, select

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

    def query(self, sql: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> pa.Table:
        """DuckDB SQL over the view `ops` (ordered by `t_submit`) and the shipped macros, as an Arrow table.

        Raises UsageError, in DuckDB's words, if the SQL is wrong or does not only read.
        """
        with closing(self.reader.connect(ordered=True)) as connection, query_errors():
            install(connection)
            return select(connection, sql, params).to_arrow_table()

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

    def snapshot(self) -> MetricsSnapshot:
        """The metrics of the trace (docs/metrics.md defines each)."""
        return snapshot(self.reader)

    def histogram(self, name: str = "latency_us") -> Histogram:
        """One histogram of the snapshot: `latency_us` or `req_bytes`."""
        return self.snapshot().histogram(name)


def open_trace(path: str | os.PathLike[str]) -> Trace:
    """Open the trace at `path`: a directory of segments, or one Parquet file.

    Raises TraceFormatError, in one line, if it is none or cannot be read.
    """
    return Trace(open_reader(Path(path)))
