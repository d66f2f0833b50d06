"""The SQL of the metrics, one relation a file. Each file's header says what its columns are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import duckdb
import pyarrow as pa

from tracekit.sql import load_sql, sql_names

__all__ = ["load", "names", "run"]


def names() -> tuple[str, ...]:
    """Every query, by name."""
    return sql_names(__name__)


def load(name: str) -> str:
    """The SQL text of one query."""
    return load_sql(__name__, name)


def run(
    connection: duckdb.DuckDBPyConnection, name: str, params: Mapping[str, Any] | None = None
) -> pa.Table:
    """The rows of one query over the connection's view `ops`."""
    return connection.sql(load(name), params=dict(params) if params else None).to_arrow_table()
