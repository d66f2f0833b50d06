"""Runs a query of someone else: it can only read the trace, and is limited in time, memory and rows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import duckdb

from tracekit.errors import UsageError
from tracekit.formats.rows import as_values, plain
from tracekit.metrics.library import install
from tracekit.store.reader import TraceReader
from tracekit.store.statements import collected, query_errors, select

__all__ = ["Limits", "Rows", "run_query"]


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a query may take, how many rows are given, and what it may use."""

    seconds: float = 30.0
    rows: int = 1000
    threads: int | None = None
    memory: int | str | None = None


@dataclass(frozen=True, slots=True)
class Rows:
    """The first rows of a result. `more` says whether there are others."""

    columns: tuple[tuple[str, str], ...]
    rows: list[list[Any]]
    more: bool

    def to_dict(self) -> dict[str, Any]:
        """Names and types of the columns, and the rows as lists of JSON-able values."""
        named = [{"name": name, "type": kind} for name, kind in self.columns]
        return {"columns": named, "rows": self.rows, "more": self.more}


def run_query(reader: TraceReader, sql: str, limits: Limits) -> Rows:
    """Run one statement that reads over the view `ops`, with the macros.

    Raises UsageError, with DuckDB's message, for anything else, and when a limit is reached.
    """
    connecting = reader.connect(ordered=True, threads=limits.threads, memory=limits.memory)
    with closing(connecting) as connection, query_errors(), _in_time(connection, limits.seconds):
        install(connection)
        relation = select(connection, sql)
        columns = tuple(zip(relation.columns, map(str, relation.types), strict=True))
        table = collected(relation.limit(limits.rows + 1), limits.memory)
    found = as_values(table.slice(0, limits.rows))
    return Rows(columns, [[plain(value) for value in row] for row in found], len(table) > limits.rows)


@contextmanager
def _in_time(connection: duckdb.DuckDBPyConnection, seconds: float) -> Iterator[None]:
    """Interrupt what runs on `connection` after `seconds`. Raises UsageError if that was needed."""
    late = threading.Event()

    def interrupt() -> None:
        late.set()
        connection.interrupt()

    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    except duckdb.Error as error:
        if late.is_set():
            raise UsageError(
                f"query: not done after {seconds:g} s, and ended", "ask for less, or use tracekit query"
            ) from error
        raise
    finally:
        timer.cancel()
