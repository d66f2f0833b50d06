"""The table of formats in docs/formats.md, made from what each format declares.

`python -m tracekit.formats.matrix` prints it.
"""

from __future__ import annotations

import sys

from tracekit.formats.registry import exporter, exporters, importer, importers, names

__all__ = ["matrix"]

_HEADER = ("format", "in", "out", "times", "latency", "offset", "length asked", "sample, step", "streams", "errors",
           "completeness")  # fmt: skip


def matrix() -> str:
    """Return the table, one row a format."""
    rows = [_HEADER, ("---",) * len(_HEADER)]
    for name in names():
        carries = (importer(name) if name in importers() else exporter(name)).carries
        reads = carries.reads if name in importers() else "no"
        writes = carries.writes if name in exporters() else "no"
        rows.append((f"`{name}`", reads, writes, carries.times, carries.latency, carries.offset, carries.length, carries.samples,
                     carries.streams, carries.errors, carries.completeness))  # fmt: skip
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


if __name__ == "__main__":
    sys.stdout.write(matrix())
