"""One statement over a trace: that it only reads, and what is said when it fails."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import duckdb

from tracekit.errors import UsageError

__all__ = ["query_errors", "select"]

_READING = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
_BARE_OFFSET = re.compile(r'(?<![".\w])offset(?![\w"])', re.IGNORECASE)


def select(
    connection: duckdb.DuckDBPyConnection, sql: str, params: Sequence[Any] | Mapping[str, Any] | None = None
) -> duckdb.DuckDBPyRelation:
    """One statement that reads, as a relation. Raises UsageError for anything else."""
    statements = connection.extract_statements(sql)
    if len(statements) != 1 or statements[0].type not in _READING:
        raise UsageError("query: not one statement that reads", "write one SELECT over the view ops")
    relation = connection.sql(sql, params=params)
    if relation is None:
        raise UsageError("query: the statement gives no rows", "write one SELECT over the view ops")
    return relation


@contextmanager
def query_errors() -> Iterator[None]:
    """DuckDB's errors as UsageError, in its own words, in one line."""
    try:
        yield
    except duckdb.Error as error:
        said = str(error)
        keyword = isinstance(error, duckdb.ParserException) and _BARE_OFFSET.search(said)
        hint = (
            'offset is a word of SQL: write "offset" or ops.offset' if keyword else "the view is called ops"
        )
        raise UsageError(f"query: {said.splitlines()[0]}", hint) from error
