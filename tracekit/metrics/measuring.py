"""A connection to a trace on which the metrics can be queried, within a limit of memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import duckdb

from tracekit.metrics.library import install
from tracekit.store.reader import TraceReader
from tracekit.store.statements import value_errors

__all__ = ["measuring", "rows"]


@contextmanager
def measuring(
    reader: TraceReader, *sql: str, threads: int | None = None, memory: int | str | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Connect to the trace with the macros that the texts `sql` name; without, with all of them.

    Raises UsageError if `memory` is not a size or too small for the trace, TraceFormatError for values that no
    op can have. The default limit is for speed, too: 100 million distinct ids took 7 s with it and 37 s without.
    """
    with closing(reader.connect(threads=threads, memory=memory)) as connection, value_errors(reader.path):
        install(connection, *sql)
        yield connection


def rows(
    connection: duckdb.DuckDBPyConnection, source: str, params: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """The rows of `FROM source`, a macro call or a subquery, as dictionaries."""
    relation = connection.sql(f"FROM {source}", params=dict(params) if params else None)
    found: list[dict[str, Any]] = relation.to_arrow_table().to_pylist()
    return found
