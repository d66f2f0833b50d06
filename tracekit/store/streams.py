"""The streams of a trace: which ranks and workers it has, and how many ops each submitted."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

from tracekit.sql import load_sql
from tracekit.store.reader import TraceReader
from tracekit.store.statements import value_errors

__all__ = ["StreamOps", "ranks_of", "stream_files", "streams_of"]


@dataclass(frozen=True, slots=True)
class StreamOps:
    """One stream of a trace: its number of ops, and when the first was submitted, ns since the epoch."""

    rank: int
    worker: int
    ops: int
    first_ns: int


def ranks_of(reader: TraceReader) -> frozenset[int]:
    """Return the ranks of a trace."""
    if not reader.rows:
        return frozenset()
    with closing(reader.connect()) as connection, value_errors(reader.path):
        return frozenset(rank for (rank,) in connection.sql("SELECT DISTINCT rank FROM ops").fetchall())


def streams_of(reader: TraceReader) -> list[StreamOps]:
    """Return the streams of a trace, by rank and worker."""
    if not reader.rows:
        return []
    sql = load_sql("tracekit.store", "streams")
    with closing(reader.connect()) as connection, value_errors(reader.path):
        return [StreamOps(*row) for row in connection.sql(sql).fetchall()]


def stream_files(reader: TraceReader) -> list[tuple[int, int, str]]:
    """Return each pair of a stream and a URI that it uses: (rank, worker, URI)."""
    if not reader.rows:
        return []
    sql = load_sql("tracekit.store", "stream_files")
    with closing(reader.connect()) as connection, value_errors(reader.path):
        return [(rank, worker, uri) for rank, worker, uri in connection.sql(sql).fetchall()]
