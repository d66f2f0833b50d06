"""Load the SQL files of the package. Each stands beside the module that uses it.

This module imports nothing of tracekit.
"""

from __future__ import annotations

import functools
from importlib.resources import files

__all__ = ["load_sql", "sql_names"]


@functools.cache
def load_sql(package: str, name: str) -> str:
    """Return the text of `NAME.sql` in `package`; pass `__package__` for a file beside the caller."""
    return files(package).joinpath(f"{name}.sql").read_text(encoding="utf-8")


def sql_names(package: str) -> tuple[str, ...]:
    """Return the names of the SQL files in `package`, sorted, without the suffix."""
    found = (entry.name for entry in files(package).iterdir())
    return tuple(sorted(name.removesuffix(".sql") for name in found if name.endswith(".sql")))
