"""Which foreign formats there are, and the one way in.

A format's module is imported when it is asked for, so that each may need a library of
its own.
"""

from __future__ import annotations

import importlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from tracekit.errors import TraceFormatError, UsageError
from tracekit.formats.base import Importer, Tally
from tracekit.store.writer import TraceWriter

__all__ = ["ImportResult", "import_trace", "importer", "importers"]

_IMPORTERS = {"dftracer": ("tracekit.formats.dftracer", "DFTracer")}


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What came in: ops, lines that could not be read (and the first few), and notes."""

    ops: int
    skipped: int
    examples: tuple[str, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def importers() -> tuple[str, ...]:
    """Names of the formats that can be read."""
    return tuple(_IMPORTERS)


def importer(name: str) -> Importer:
    """The format called `name`. Raises UsageError for an unknown one."""
    if name not in _IMPORTERS:
        raise UsageError(f"no format {name!r} to import", f"there are {', '.join(_IMPORTERS)}")
    module, cls = _IMPORTERS[name]
    return cast(Importer, getattr(importlib.import_module(module), cls)())


def import_trace(
    name: str, source: str | Path, out: str | Path, *, strict: bool = False, overwrite: bool = False
) -> ImportResult:
    """Read the log `source` of format `name` into the trace `out`, which appears whole or not at all.

    Bad lines are counted, or (strict) an error that names the first. Raises UsageError for
    an unknown format or a taken `out`, TraceFormatError if `source` is no such log.
    """
    reads = importer(name)
    path = Path(source)
    if not path.is_file():
        raise TraceFormatError(f"{path}: no such file", f"give a {name} log")
    tally = Tally(path, strict)
    with TraceWriter(
        out, source=f"import:{name}", overwrite=overwrite, options={"from": path.name}
    ) as writer:
        for batch in reads.read(path, tally):
            writer.write(batch)
        if tally.skipped:
            writer.count("skipped_lines", tally.skipped)
        rows = writer.rows
    return ImportResult(rows, tally.skipped, tuple(tally.examples), tuple(tally.notes))
