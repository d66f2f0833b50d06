"""The list of formats, and the functions that import and export traces.

A format's module is imported only when the format is used, because some need libraries of
their own.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc

from tracekit.errors import TraceFormatError, UsageError
from tracekit.formats.base import (
    WAIT_UNITS,
    Exporter,
    ExportOptions,
    Importer,
    ImportOptions,
    Tally,
    TogetherImporter,
)
from tracekit.formats.sink import STANDARD_OUTPUT, open_sink
from tracekit.formats.sound import op_map
from tracekit.formats.sources import STANDARD_INPUT, Log, SourceLike, opened
from tracekit.formats.text.lines import ahead
from tracekit.formats.window import Window, parse_window
from tracekit.schema import OPS
from tracekit.store.opening import ENDS
from tracekit.store.reader import TraceLike, open_reader
from tracekit.store.writer import TraceWriter
from tracekit.units import parse_size
from tracekit.uri import local_file
from tracekit.validation import choosing

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
    "azure-log": ("tracekit.formats.cloud_logs", "AzureLog"),
    "blktrace": ("tracekit.formats.blktrace", "Blktrace"),
    "csv": ("tracekit.formats.text.columns", "Csv"),
    "darshan": ("tracekit.formats.darshan_dxt", "DarshanDxt"),
    "dftracer": ("tracekit.formats.dftracer", "DFTracer"),
    "elbencho": ("tracekit.formats.elbencho", "Elbencho"),
    "fio": ("tracekit.formats.fio", "Fio"),
    "gcs-usage": ("tracekit.formats.cloud_logs", "GcsUsage"),
    "jsonl": ("tracekit.formats.text.jsonl", "Jsonl"),
    "lmcache": ("tracekit.formats.lmcache", "LMCache"),
    "minio-trace": ("tracekit.formats.minio", "MinioTrace"),
    "mooncake": ("tracekit.formats.mooncake", "Mooncake"),
    "nfsdump": ("tracekit.formats.nfsdump", "Nfsdump"),
    "recorder": ("tracekit.formats.recorder_log", "RecorderLog"),
    "s3-access-log": ("tracekit.formats.s3_access_log", "S3AccessLog"),
    "s3dlio": ("tracekit.formats.oplog", "S3dlio"),
    "strace": ("tracekit.formats.syscalls.strace", "Strace"),
    "warp": ("tracekit.formats.oplog", "Warp"),
}
_OF_DIRECTORIES = ("dftracer", "recorder")
_EXPORTERS = {
    "block-csv": ("tracekit.formats.block_csv", "BlockCsv"),
    "chrome": ("tracekit.formats.chrome", "Chrome"),
    "csv": ("tracekit.formats.text.columns", "Csv"),
    "dlio": ("tracekit.formats.configurations", "Dlio"),
    "elbencho-command": ("tracekit.formats.configurations", "ElbenchoCommand"),
    "fio": ("tracekit.formats.fio", "Fio"),
    "fio-job": ("tracekit.formats.configurations", "FioJob"),
    "jsonl": ("tracekit.formats.text.jsonl", "Jsonl"),
    "libcachesim": ("tracekit.formats.libcachesim", "LibCacheSim"),
    "mlpstorage": ("tracekit.formats.configurations", "MlpStorage"),
    "s3dlio": ("tracekit.formats.oplog", "S3dlio"),
    "warp": ("tracekit.formats.oplog", "Warp"),
    "warp-command": ("tracekit.formats.configurations", "WarpCommand"),
}


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What was imported: ops, lines that could not be read (and the first few), notes, and what no such log holds.

    `closing` says in a sentence what a log of the format holds.
    """

    ops: int
    skipped: int
    examples: tuple[str, ...]
    notes: tuple[str, ...]
    lacking: tuple[str, ...] = ()
    closing: str = ""

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
    source: SourceLike | Sequence[SourceLike],
    out: str | os.PathLike[str],
    *,
    strict: bool = False,
    overwrite: bool = False,
    map_columns: str | None = None,
    base: str | None = None,
    separator: str | None = None,
    map_ops: str | None = None,
    wait_unit: str = "ms",
    block_bytes: int | str = "160MiB",
    since: str | int | None = None,
    until: str | int | None = None,
) -> ImportResult:
    """Read the log `source` of `format` into the trace `out`, which appears whole or not at all.

    `source` is a path, a glob, a URI, `-` for standard input, or several of them. Bad lines are counted, or
    (strict) an error that names the first. Only ops from `since` to before `until` are kept: times such as
    `2026-01-31T12:00:00Z`, seconds since 1970, or, with a unit, the time since the first op. The other options
    are those of `ImportOptions`. Raises UsageError for an unknown format or a taken `out`, TraceFormatError
    if `source` is not such a log.
    """
    reads = importer(format)
    window = parse_window(since, until)
    if wait_unit not in WAIT_UNITS:
        raise UsageError(f"wait_unit={wait_unit!r} is unknown", choosing(wait_unit, WAIT_UNITS))
    size = parse_size(block_bytes, name="block_bytes")
    options = ImportOptions(map_columns, base, separator, op_map(map_ops), wait_unit, size)
    with opened(source, format, directories=format in _OF_DIRECTORIES) as logs:
        tally = Tally(logs[0].path, strict, several=len(logs) > 1)
        about = {"from": ", ".join(log.name.rpartition("/")[2] for log in logs[:10])}
        with TraceWriter(out, source=f"import:{format}", overwrite=overwrite, options=about) as writer:
            known: set[str] = set()
            for batch in ahead(_in_window(reads, logs, tally, options, window)):
                known |= _known_columns(batch, known)
                writer.describe(has=_has(known, reads, tally))
                writer.write(batch)
            writer.describe(has=_has(known, reads, tally), completeness=_completeness(tally))
            if tally.skipped:
                if not writer.rows and window is None and not tally.left_out:
                    none = tally.nothing("is this the right format?")
                    raise TraceFormatError(_in_names(none.message, logs), none.hint)
                writer.count("skipped_lines", tally.skipped)
            rows = writer.rows
    for text in tally.closing_notes():
        tally.note(text)
    examples = tuple(_in_names(text, logs) for text in tally.examples)
    carries = reads.carries
    return ImportResult(
        rows, tally.skipped, examples, tuple(tally.notes), carries.lacking(), carries.closing(format)
    )


def _has(known: set[str], reads: Importer, tally: Tally) -> tuple[str, ...]:
    """Return what the trace can say: the columns that hold a value, and whether an op without a latency never ended."""
    ends = reads.carries.ends != "no" and not tally.ends_unknown
    return (*sorted(known), *((ENDS,) if ends else ()))


def _known_columns(batch: pa.RecordBatch, known: set[str]) -> set[str]:
    """Return the columns of the schema that hold a value in `batch`, but for those of `known`."""
    names = (name for name in batch.schema.names if name in OPS.names and name not in known)
    return {name for name in names if batch.column(name).null_count < batch.num_rows}


def _completeness(tally: Tally) -> dict[str, Any] | None:
    """Return what the import has not taken from the log, if anything; its share of all is not known."""
    unseen = {**tally.left_out, **tally.unknown_ops}
    if not unseen and not tally.skipped and not tally.losses:
        return None
    names = [f"{name} {count}" for name, count in unseen.items()]
    lines = [f"lines that could not be read {tally.skipped}"] if tally.skipped else []
    return {"share": None, "skipped_lines": tally.skipped, "unseen": [*names, *lines, *tally.losses]}


def _in_window(
    reads: Importer, logs: list[Log], tally: Tally, options: ImportOptions, window: Window | None
) -> Iterator[pa.RecordBatch]:
    """Yield the ops of `logs` that are in the window, and note how many are not."""
    if window is None:
        yield from _all(reads, logs, tally, options)
        return
    outside = 0

    def left(rows: int) -> None:
        nonlocal outside
        outside += rows

    first = Tally(logs[0].path, several=tally.several)
    passes = iter([first, tally] if window.relative else [tally])
    yield from window.kept(lambda: _all(reads, logs, next(passes), options), left)
    if outside:
        tally.note(f"{outside} ops outside since= and until= left out")


def _all(reads: Importer, logs: list[Log], tally: Tally, options: ImportOptions) -> Iterator[pa.RecordBatch]:
    """Yield the ops of all `logs`. Ranks of different logs differ, unless the format's ranks have names."""
    if isinstance(reads, TogetherImporter):
        together = reads.read_together([log.path for log in logs], tally, options)
        yield from _named(logs, _settled(together, tally))
        return
    first_rank = 0
    for log in logs:
        tally.source = log.path if log.name == str(log.path) else Path(log.name)
        highest = -1
        for batch in _named([log], _settled(reads.read(log.path, tally, options), tally)):
            if len(logs) > 1 and not tally.shares_ranks:
                batch, most = _shifted(batch, first_rank)
                highest = max(highest, most)
            yield batch
        first_rank = max(first_rank, highest) + 1


def _shifted(batch: pa.RecordBatch, first: int) -> tuple[pa.RecordBatch, int]:
    """Return `batch` with ranks from `first` on, and its highest rank."""
    place = batch.schema.get_field_index("rank")
    given = pa.nulls(batch.num_rows, pa.int64()) if place < 0 else batch.column(place).cast(pa.int64())
    ranks = pc.add(pc.fill_null(given, 0), first).cast(pa.int32())
    batch = batch.append_column("rank", ranks) if place < 0 else batch.set_column(place, "rank", ranks)
    return batch, pc.max(ranks).as_py() if batch.num_rows else -1


def export_trace(
    format: str,
    trace: TraceLike,
    out: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    object_by: str = "range",
) -> ExportResult:
    """Write `trace` to the file `out` (`-`: standard output) in `format`; it appears whole or not at all.

    A name that ends in `.zst`, `.gz`, `.bz2`, `.xz` or `.lz4` is compressed. Raises UsageError for an unknown
    format or a taken `out`.
    """
    writes = exporter(format)
    reader = open_reader(trace)
    target = STANDARD_OUTPUT if os.fspath(out) == STANDARD_INPUT else local_file(out)
    tally = Tally(target)
    with open_sink(target, overwrite=overwrite) as sink:
        ops = writes.write(reader, sink, tally, ExportOptions(object_by=object_by))
    return ExportResult(ops, tuple(tally.notes))


def _named(logs: Sequence[Log], batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield `batches`; an error of a log that was copied first names the log, not the copy."""
    try:
        yield from batches
    except TraceFormatError as error:
        raise TraceFormatError(_in_names(error.message, logs), error.hint) from error


def _in_names(text: str, logs: Sequence[Log]) -> str:
    """Return a message about logs with their names in place of their paths."""
    for log in logs:
        text = text.replace(str(log.path), log.name)
    return text


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
        raise UsageError(f"unknown format {name!r} to {what}", choosing(name, known))
    module, cls = known[name]
    return getattr(importlib.import_module(module), cls)()
