"""The SQL of the metrics, one relation a file. Each file's header says what its columns are."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import duckdb
import pyarrow as pa

__all__ = ["load", "names", "run"]


def names() -> tuple[str, ...]:
    """Every query, by name."""
    found = (entry.name for entry in files(__name__).iterdir())
    return tuple(sorted(name.removesuffix(".sql") for name in found if name.endswith(".sql")))


def load(name: str) -> str:
    """The SQL text of one query."""
    return files(__name__).joinpath(f"{name}.sql").read_text(encoding="utf-8")


def run(
    connection: duckdb.DuckDBPyConnection, name: str, params: Mapping[str, Any] | None = None
) -> pa.Table:
    """The rows of one query over the connection's view `ops`."""
    return connection.sql(load(name), params=dict(params) if params else None).to_arrow_table()
