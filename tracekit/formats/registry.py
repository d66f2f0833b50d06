"""The list of formats, and the functions that import and export traces.

A format's module is imported only when the format is used, because some need libraries of
their own.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from tracekit.errors import TraceFormatError, UsageError
from tracekit.extras import require
from tracekit.formats.base import WAIT_UNITS, Exporter, ExportOptions, Importer, ImportOptions, Tally
from tracekit.formats.sink import open_sink
from tracekit.formats.sound import op_map
from tracekit.formats.text.lines import ahead
from tracekit.store.reader import TraceLike, open_reader
from tracekit.store.writer import TraceWriter
from tracekit.validation import nearest

__all__ = [
    "ExportResult",
    "ImportResult",
    "export_trace",
    "exporter",
    "exporters",
    "import_trace",
    "importer",
    "importers",
    "names",
]

_IMPORTERS = {
    "csv": ("tracekit.formats.text.columns", "Csv"),
    "darshan": ("tracekit.formats.darshan_dxt", "DarshanDxt"),
    "dftracer": ("tracekit.formats.dftracer", "DFTracer"),
    "fio": ("tracekit.formats.fio", "Fio"),
    "jsonl": ("tracekit.formats.text.jsonl", "Jsonl"),
    "s3-access-log": ("tracekit.formats.s3_access_log", "S3AccessLog"),
    "s3dlio": ("tracekit.formats.oplog", "S3dlio"),
    "strace": ("tracekit.formats.syscalls.strace", "Strace"),
    "warp": ("tracekit.formats.oplog", "Warp"),
}
_OF_DIRECTORIES = ("dftracer",)
_EXPORTERS = {
    "chrome": ("tracekit.formats.chrome", "Chrome"),
    "csv": ("tracekit.formats.text.columns", "Csv"),
    "fio": ("tracekit.formats.fio", "Fio"),
    "jsonl": ("tracekit.formats.text.jsonl", "Jsonl"),
    "libcachesim": ("tracekit.formats.libcachesim", "LibCacheSim"),
    "s3dlio": ("tracekit.formats.oplog", "S3dlio"),
    "warp": ("tracekit.formats.oplog", "Warp"),
}


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What was imported: ops, lines that could not be read (and the first few), notes, and what no such log holds."""

    ops: int
    skipped: int
    examples: tuple[str, ...]
    notes: tuple[str, ...]
    lacking: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What was exported: ops, and notes on what the format cannot carry."""

    ops: int
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def names() -> tuple[str, ...]:
    """Return the names of all formats."""
    return tuple(sorted({*_IMPORTERS, *_EXPORTERS}))


def importers() -> tuple[str, ...]:
    """Return the names of the formats that can be read."""
    return tuple(_IMPORTERS)


def exporters() -> tuple[str, ...]:
    """Return the names of the formats that can be written."""
    return tuple(_EXPORTERS)


def importer(name: str) -> Importer:
    """Return the format `name`. Raises UsageError for an unknown one."""
    return cast(Importer, _load(_IMPORTERS, name, "import"))


def exporter(name: str) -> Exporter:
    """Return the format `name`. Raises UsageError for an unknown one."""
    return cast(Exporter, _load(_EXPORTERS, name, "export"))


def import_trace(
    format: str,
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    strict: bool = False,
    overwrite: bool = False,
    map_columns: str | None = None,
    base: str | None = None,
    separator: str | None = None,
    map_ops: str | None = None,
    wait_unit: str = "ms",
) -> ImportResult:
    """Read the log `source` of `format` into the trace `out`, which appears whole or not at all.

    Bad lines are counted, or (strict) an error that names the first; the other options are
    those of `ImportOptions`. Raises UsageError for an unknown format or a taken `out`,
    TraceFormatError if `source` is not such a log.
    """
    reads = importer(format)
    path = Path(source)
    if not path.is_file() and not (path.is_dir() and format in _OF_DIRECTORIES):
        raise TraceFormatError(f"{path}: no such file", f"give a {format} log")
    tally = Tally(path, strict)
    if wait_unit not in WAIT_UNITS:
        raise UsageError(
            f"wait_unit={wait_unit!r} is not one of {', '.join(WAIT_UNITS)}", "see docs/formats.md, fio"
        )
    options = ImportOptions(map_columns, base, separator, op_map(map_ops), wait_unit)
    with TraceWriter(
        out, source=f"import:{format}", overwrite=overwrite, options={"from": path.name}
    ) as writer:
        for batch in ahead(_settled(reads.read(path, tally, options), tally)):
            writer.write(batch)
        if tally.skipped:
            writer.count("skipped_lines", tally.skipped)
        rows = writer.rows
    for text in tally.closing_notes():
        tally.note(text)
    return ImportResult(
        rows, tally.skipped, tuple(tally.examples), tuple(tally.notes), reads.carries.lacking()
    )


def export_trace(
    format: str,
    trace: TraceLike,
    out: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    object_by: str = "range",
) -> ExportResult:
    """Write `trace` to the file `out` in `format`; it appears whole or not at all.

    A name that ends in `.zst` or `.gz` is compressed. Raises UsageError for an unknown
    format or a taken `out`.
    """
    writes = exporter(format)
    reader = open_reader(trace)
    tally = Tally(Path(out))
    with open_sink(Path(out), overwrite=overwrite) as sink:
        ops = writes.write(reader, sink, tally, ExportOptions(object_by=object_by))
    return ExportResult(ops, tuple(tally.notes))


def _settled(batches: Iterator[pa.RecordBatch], tally: Tally) -> Iterator[pa.RecordBatch]:
    """Yield `batches`; if strict, a bad line among those read so far is raised before any other error."""
    try:
        for batch in batches:
            tally.settle()
            yield batch
    except TraceFormatError:
        tally.settle()
        raise
    tally.settle()


def _load(known: dict[str, tuple[str, str]], name: str, what: str) -> object:
    if name not in known:
        near = nearest(name, known)
        hint = f"{near}{' ' if near else ''}choose {', '.join(known)}"
        raise UsageError(f"unknown format {name!r} to {what}", hint)
    module, cls = known[name]
    try:
        return getattr(importlib.import_module(module), cls)()
    except ModuleNotFoundError as error:
        if error.name != "polars":
            raise
        return require("polars", extra="polars")
