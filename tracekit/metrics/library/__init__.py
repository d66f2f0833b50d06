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

_DEFINITION = re.compile(
    r"^CREATE (?:OR REPLACE )?MACRO (?:IF NOT EXISTS )?(\w+)\(.*?;$", re.MULTILINE | re.DOTALL
)
_WORD = re.compile(r"\w+")
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


def install(connection: duckdb.DuckDBPyConnection, *sql: str) -> None:
    """Define the macros that the texts `sql` name, or all of them, on `connection`, which must have the view `ops`.

    To define all takes DuckDB 0.2 s, longer than most queries of a small trace.
    """
    wanted = _needed(sql) if sql else _definitions()
    for name, definition in _definitions().items():
        if name in wanted:
            connection.execute(definition)


@functools.cache
def _definitions() -> dict[str, str]:
    """The statement that defines each macro, by name, in the order in which they must run."""
    return {found[1]: found[0] for sql in library().values() for found in _DEFINITION.finditer(sql)}


@functools.cache
def _needed(sql: tuple[str, ...]) -> frozenset[str]:
    """The macros whose names are words of the texts, and those that these use."""
    found: set[str] = set()
    texts = [*sql]
    while texts:
        named = set(_WORD.findall(texts.pop().lower())) & _definitions().keys() - found
        found |= named
        texts += (_definitions()[name] for name in named)
    return frozenset(found)
