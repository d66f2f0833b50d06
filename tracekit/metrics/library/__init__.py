"""Every metric, as DuckDB macros over the view `ops`: what `tracekit query` offers beyond SQL itself.

Each metric is defined here once. The header of each file names its macros with their columns
and units. The macros need only DuckDB and a view `ops`.
"""

from __future__ import annotations

import functools

import duckdb

from tracekit.sql import load_sql, sql_names

__all__ = ["install", "library"]


@functools.cache
def library() -> dict[str, str]:
    """The SQL of every file by name, in the order in which the files must run."""
    return {name: load_sql(__name__, name) for name in sql_names(__name__)}


def install(connection: duckdb.DuckDBPyConnection) -> None:
    """Define every macro on `connection`, which must have the view `ops`."""
    for sql in library().values():
        connection.execute(sql)
