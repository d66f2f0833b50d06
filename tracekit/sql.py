"""Load the SQL files of the package, and read their headers. Each stands beside the module that uses it.

A header is the comment at the beginning of a file. It names columns as `name TYPE meaning, name TYPE ...`. This module imports
nothing of tracekit.
"""

from __future__ import annotations

import functools
import re
from importlib.resources import files
from itertools import takewhile

__all__ = ["columns_named", "load_sql", "sql_header", "sql_names"]

_COLUMN = re.compile(r"\b([a-z]\w*) (VARCHAR|BIGINT|INTEGER|DOUBLE|BOOLEAN)\b")


@functools.cache
def load_sql(package: str, name: str) -> str:
    """Return the text of `NAME.sql` in `package`; pass `__package__` for a file beside the caller."""
    return files(package).joinpath(f"{name}.sql").read_text(encoding="utf-8")


def sql_names(package: str) -> tuple[str, ...]:
    """Return the names of the SQL files in `package`, sorted, without the suffix."""
    found = (entry.name for entry in files(package).iterdir())
    return tuple(sorted(name.removesuffix(".sql") for name in found if name.endswith(".sql")))


def sql_header(sql: str) -> list[str]:
    """Return the lines of the header of a file, without the marks of a comment."""
    lines = takewhile(lambda line: line.startswith("--"), sql.splitlines())
    return [line.removeprefix("--").removeprefix(" ") for line in lines]


def columns_named(text: str) -> tuple[tuple[str, str], ...]:
    """Return the names and types of the columns that the text of a header names, in order."""
    return tuple((found[1], found[2]) for found in _COLUMN.finditer(text))
