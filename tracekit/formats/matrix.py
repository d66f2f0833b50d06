"""The tables of docs/formats.md: formats, from what each declares, and presets, from their mappings.

`python -m tracekit.formats.matrix docs/formats.md` puts them into the page.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tracekit.formats.registry import exporter, exporters, importer, importers, names
from tracekit.formats.text.presets import PRESETS

__all__ = ["matrix", "presets", "with_tables"]

_HEADER = (
    "format",
    "in",
    "out",
    "times",
    "latency",
    "offset",
    "length asked",
    "sample, step",
    "streams",
    "errors",
    "completeness",
    "never ended",
)


def matrix() -> str:
    """Return the table, one row a format."""
    rows = [_HEADER, ("---",) * len(_HEADER)]
    for name in names():
        carries = (importer(name) if name in importers() else exporter(name)).carries
        reads = carries.reads if name in importers() else "no"
        writes = carries.writes if name in exporters() else "no"
        rows.append(
            (
                f"`{name}`",
                reads,
                writes,
                carries.times,
                carries.latency,
                carries.offset,
                carries.length,
                carries.samples,
                carries.streams,
                carries.errors,
                carries.completeness,
                carries.ends,
            )
        )
    return _table(rows)


def presets() -> str:
    """Return the table of presets, one row each."""
    rows = [("preset", "format", "what it reads", "names are placed under"), ("---",) * 4]
    rows += [
        (f"`{name}`", preset.format, preset.about, f"`{preset.base}`")
        for name, preset in sorted(PRESETS.items())
    ]
    return _table(rows)


def with_tables(page: str) -> str:
    """Return the text of the page with each table as it is now, between its marks."""
    for name, table in _TABLES.items():
        before, begin, rest = page.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- end of {name} -->")
        page = f"{before}{begin}\n{table()}\n{end}{after}"
    return page


_TABLES: dict[str, Callable[[], str]] = {"formats": matrix, "presets": presets}


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


if __name__ == "__main__":
    where = Path(sys.argv[1])
    where.write_text(with_tables(where.read_text("utf-8")), "utf-8")
