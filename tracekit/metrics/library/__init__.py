"""Every metric, as DuckDB macros over the view `ops`: what `tracekit query` offers beyond SQL itself.

Each metric is defined here once. The header of each file describes its macros: `name(parameters): what it gives`, with
`-> TYPE` before the colon for a scalar, and below a table macro its columns. The macros need only DuckDB and a view `ops`.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

import duckdb

from tracekit.sql import columns_named, load_sql, sql_header, sql_names

__all__ = ["Macro", "install", "library", "macros"]

_ENTRY = re.compile(r"(\w+\([^)]*\))(?: -> (\w+))?: (.+)")


@dataclass(frozen=True, slots=True)
class Macro:
    """One macro, from the header of its file. `returns` is the type of a scalar, `columns` are those of a table."""

    signature: str
    help: str
    returns: str
    columns: tuple[tuple[str, str], ...]
    about: str

    @property
    def name(self) -> str:
        return self.signature.partition("(")[0]

    @property
    def gives(self) -> str:
        """The type of a scalar, or the names of the columns."""
        return self.returns or ", ".join(name for name, _ in self.columns)


@functools.cache
def library() -> dict[str, str]:
    """The SQL of every file by name, in the order in which the files must run."""
    return {name: load_sql(__name__, name) for name in sql_names(__name__)}


@functools.cache
def macros() -> tuple[Macro, ...]:
    """Return every macro, by name."""
    found = []
    for sql in library().values():
        header = sql_header(sql)
        for number, line in enumerate(header):
            if entry := _ENTRY.fullmatch(line):
                below = header[number + 1 :]
                end = next((i for i, more in enumerate(below) if not more.startswith("    ")), len(below))
                about = " ".join(more.strip() for more in below[:end])
                found.append(
                    Macro(entry[1], entry[3], entry[2] or "", () if entry[2] else columns_named(about), about)
                )
    return tuple(sorted(found, key=lambda macro: macro.name))


def install(connection: duckdb.DuckDBPyConnection) -> None:
    """Define every macro on `connection`, which must have the view `ops`."""
    for sql in library().values():
        connection.execute(sql)
