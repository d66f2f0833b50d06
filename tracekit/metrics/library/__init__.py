"""Macros over the view `ops`: what `tracekit query` knows beyond SQL itself.

Each file makes one idea's macros and says in its header what comes out. They need nothing
but DuckDB and a view `ops`, so any DuckDB can read them.
"""

from __future__ import annotations

import duckdb

from tracekit.sql import load_sql, sql_names

__all__ = ["install", "names", "text"]

_FIRST = ("buckets",)
"""Files that others build on."""


def names() -> tuple[str, ...]:
    """The files, in the order in which they are to be read."""
    found = sql_names(__name__)
    return (*_FIRST, *(name for name in found if name not in _FIRST))


def text(name: str) -> str:
    """The SQL of one file."""
    return load_sql(__name__, name)


def install(connection: duckdb.DuckDBPyConnection) -> None:
    """Make every macro known to `connection`, which has the view `ops`."""
    for name in names():
        connection.execute(text(name))
