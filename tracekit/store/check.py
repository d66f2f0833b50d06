"""Is a trace whole, and what of it can be salvaged.

`verify` reads everything and changes nothing. `repair` turns the journals that a crash
left into segments and sets aside files that cannot be read; it deletes no op.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tracekit.errors import ErrorClass, TraceFormatError, UsageError
from tracekit.schema import OP_KINDS
from tracekit.sql import load_sql
from tracekit.store.journal import read_journal
from tracekit.store.layout import (
    JOURNAL_SUFFIX,
    MANIFEST_NAME,
    SEGMENT_SUFFIX,
    UPGRADE,
    read_manifest,
)
from tracekit.store.locate import local_path
from tracekit.store.reader import TraceReader, open_reader, open_segment
from tracekit.store.rolling import compact
from tracekit.store.statements import value_errors

__all__ = ["Finding", "Repair", "repair", "verify"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be. `broken` ones make a trace not whole."""

    where: str
    what: str
    broken: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Repair:
    """What `repair` did: ops salvaged from journals, files set aside, bytes torn off."""

    ops_salvaged: int
    journals: int
    torn_bytes: int
    set_aside: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def verify(
    trace: str | os.PathLike[str], *, progress: Callable[[int, int], None] | None = None
) -> list[Finding]:
    """Everything wrong with the trace at `trace`; empty when it is whole.

    Reads every page of every segment. `progress(done, total)` is called per segment.
    Raises TraceFormatError if there is no trace at all.
    """
    root = local_path(trace)
    found = [finding for file in _files(root) if (finding := _unreadable(file)) is not None]
    if found:
        return found
    reader = open_reader(root)
    if root.is_dir() and not (root / MANIFEST_NAME).exists():
        found.append(
            Finding(MANIFEST_NAME, "is missing; times count from the earliest segment's epoch", False)
        )
    for index, segment in enumerate(reader.segments):
        if segment.journal:
            torn = f", {segment.torn_bytes} bytes of it torn" if segment.torn_bytes else ""
            found.append(
                Finding(segment.path.name, f"is an unfinished journal of {segment.rows} ops{torn}", True)
            )
        else:
            found.extend(_damage(segment.path))
        if progress is not None:
            progress(index + 1, len(reader.segments))
    if any(finding.broken for finding in found):
        return found  # the ops themselves cannot all be read
    return found + _odd_values(reader)


def repair(trace: str | os.PathLike[str]) -> Repair:
    """Make the trace at `trace` whole: journals become segments, unreadable files are renamed `*.broken`.

    Do not run it on a trace that is being recorded. Raises UsageError for a single file,
    TraceFormatError if it is no trace (other Parquet files are left alone) or a newer tracekit's.
    """
    root = local_path(trace)
    if not root.is_dir():
        raise UsageError(f"{root} is no trace directory", "repair works on directories")
    entries = _files(root)
    if read_manifest(root) is None and all(_unreadable(file) is not None for file in entries):
        raise TraceFormatError(f"{root} is no trace: nothing in it is ops", "give a trace directory")
    set_aside, salvaged, journals, torn = [], 0, 0, 0
    for file in entries:
        if file.suffix == SEGMENT_SUFFIX and _unreadable(file) is not None:
            file.rename(file.with_name(file.name + ".broken"))
            set_aside.append(file.name)
    finished = {file.stem for file in _files(root) if file.suffix == SEGMENT_SUFFIX}
    for file in entries:
        if file.suffix != JOURNAL_SUFFIX:
            continue
        if file.stem in finished:  # the crash came between the segment's rename and the journal's removal
            file.unlink()
        elif _unreadable(file) is not None:
            file.rename(file.with_name(file.name + ".broken"))
            set_aside.append(file.name)
        else:
            contents = read_journal(file)
            if contents is not None:
                salvaged += contents.rows
                torn += contents.torn_bytes
            journals += 1
            compact(file)
    for partial in root.glob(".*.partial"):
        partial.unlink()
    return Repair(salvaged, journals, torn, tuple(set_aside))


def _files(root: Path) -> list[Path]:
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise TraceFormatError(f"{root}: no such trace", "give a trace directory or a Parquet file")
    return sorted(
        entry
        for entry in root.iterdir()
        if entry.suffix in (SEGMENT_SUFFIX, JOURNAL_SUFFIX) and not entry.name.startswith(".")
    )


def _unreadable(file: Path) -> Finding | None:
    try:
        open_segment(file)
    except TraceFormatError as error:
        if error.hint == UPGRADE:  # whole, for all that we can tell
            raise
        return Finding(file.name, error.message, True)
    return None


def _odd_values(reader: TraceReader) -> list[Finding]:
    """What the ops hold that cannot be true."""
    sql = load_sql("tracekit.store", "verify")
    known = {"kinds": list(OP_KINDS), "errors": [str(name) for name in ErrorClass]}
    try:
        with closing(reader.connect()) as connection, value_errors(reader.path):
            rows = connection.execute(sql, known).fetchall()
    except TraceFormatError as error:
        return [Finding("ops", error.message, True)]
    return [Finding("ops", what.format(count), bool(broken)) for what, count, broken in rows]


def _damage(file: Path) -> list[Finding]:
    """Read every page; a footer can be whole where the data is not."""
    try:
        with pq.ParquetFile(file, memory_map=True) as parquet:
            for _ in parquet.iter_batches(batch_size=262_144):
                pass
    except (pa.ArrowException, OSError) as error:
        return [Finding(file.name, f"is damaged: {str(error).splitlines()[0]}", True)]
    return []
