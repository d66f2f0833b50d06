"""Loads the SQL that ships with the package: one file a query, beside the module that uses it.

This module imports nothing of tracekit.
"""

from __future__ import annotations

import functools
from importlib.resources import files

__all__ = ["load_sql", "sql_names"]


@functools.cache
def load_sql(package: str, name: str) -> str:
    """The SQL in `NAME.sql` of `package`. Pass `__package__` for a file beside the caller."""
    return files(package).joinpath(f"{name}.sql").read_text(encoding="utf-8")


def sql_names(package: str) -> tuple[str, ...]:
    """The names of the SQL files in `package`, sorted, without their suffix."""
    found = (entry.name for entry in files(package).iterdir())
    return tuple(sorted(name.removesuffix(".sql") for name in found if name.endswith(".sql")))
