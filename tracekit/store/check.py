"""Checks whether a trace is whole, and repairs what a crash or damage left.

`verify` reads every byte and changes nothing. `repair` turns journals into segments and keeps the intact row
groups of damaged segments. It deletes nothing that it could not read: that is renamed `*.broken`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from tracekit.errors import ErrorClass, TraceFormatError, UsageError
from tracekit.schema import META_PREFIX, OP_KINDS
from tracekit.sql import load_sql
from tracekit.store.footer import parquet_errors
from tracekit.store.index import Entry, Index, append_entry, digest_of, index_problems, read_index, seal
from tracekit.store.layout import (
    BROKEN_SUFFIX,
    MANIFEST_NAME,
    SEGMENT_SUFFIX,
    is_leftover,
    journals_of,
    segment_of,
    segments_of,
    stem_of,
)
from tracekit.store.locate import one_path
from tracekit.store.lock import exclusive
from tracekit.store.manifest import UPGRADE, Manifest, read_manifest, write_manifest
from tracekit.store.opening import NotOpsError, SegmentInfo, open_file, open_pages, open_segment, records_ends
from tracekit.store.reader import TraceReader, open_reader
from tracekit.store.remote import RemotePath
from tracekit.store.rolling import compact
from tracekit.store.segment import conform, write_segment
from tracekit.store.statements import value_errors

__all__ = ["Finding", "Repair", "repair", "verify"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem of a trace. A trace with `broken` findings is not whole."""

    where: str
    what: str
    broken: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Repair:
    """What `repair` did.

    `ops_salvaged` ops were taken from `journals` journals and from damaged segments. `torn_bytes` belong to
    batches that were being written when a process died, `damaged_bytes` of journals fail their checksums.
    `set_aside` has the new names of the files that were renamed, `ops_lost` counts ops of segments that could not be read.
    """

    ops_salvaged: int
    journals: int
    torn_bytes: int
    set_aside: tuple[str, ...]
    damaged_bytes: int = 0
    ops_lost: int = 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def verify(
    trace: str | os.PathLike[str], *, watch: Callable[[int, int], None] | None = None
) -> list[Finding]:
    """Return the problems of the trace at `trace`; an empty list if it is whole.

    Reads every byte of every segment and checks digests, page checksums, and the values of all ops.
    `watch(done, total)` is called for each segment. Raises TraceFormatError if there is no trace, or for a
    single file whose columns are not those of ops.
    """
    root = one_path(trace)
    files = _files(root)
    alone = root.is_file()
    found = [finding for file in files if (finding := _unreadable(file, alone=alone)) is not None]
    manifest = read_manifest(root) if root.is_dir() else None
    index = read_index(root) if manifest is not None else None
    if manifest is not None and not found:
        found = _unlike_index(root, manifest, index, files)
    if found:
        return found
    reader = open_reader(root)
    if root.is_dir() and manifest is None:
        found.append(
            Finding(MANIFEST_NAME, "is missing; times count from the earliest segment's epoch", False)
        )
    for at, segment in enumerate(reader.segments):
        if segment.journal:
            found.append(Finding(segment.path.name, _unfinished(segment), True))
        else:
            entry = index.entries.get(segment.path.name) if index is not None else None
            found.extend(_damage(segment.path, entry))
        if watch is not None:
            watch(at + 1, len(reader.segments))
    if any(finding.broken for finding in found):
        return found  # not all ops can be read
    return found + _odd_values(reader)


def _unlike_index(
    root: Path, manifest: Manifest, index: Index | None, files: Iterable[Path]
) -> list[Finding]:
    opened = [segment for file in files if (segment := open_segment(file)) is not None]
    found = [Finding(name, what, True) for name, what, _ in index_problems(manifest, index, opened)]
    if index is None:
        return found
    found += [
        Finding(entry.name, f"lost {entry.rows} ops: {entry.lost}", False)
        for entry in index.entries.values()
        if entry.lost
    ]
    if index.damaged_lines:
        found.append(
            Finding(root.name, f"{index.damaged_lines} lines of its list of segments are damaged", True)
        )
    return found if any(finding.broken for finding in found) else []


def _unfinished(segment: SegmentInfo) -> str:
    parts = [f"is an unfinished journal of {segment.rows} ops"]
    if segment.torn_bytes:
        parts.append(f"its last {segment.torn_bytes} bytes are of a batch that was not written to its end")
    if segment.damaged_bytes:
        parts.append(f"{segment.damaged_bytes} of its bytes are damaged")
    return "; ".join(parts)


def repair(trace: str | os.PathLike[str]) -> Repair:
    """Make the trace at `trace` whole, and return what was done.

    Journals become segments. Of a damaged segment, the intact row groups become a new one. Whatever holds a
    byte that could not be read is kept, renamed `*.broken`. The list of segments is written anew.

    Raises UsageError for a single file, or while the trace is being recorded; TraceFormatError if there is
    nothing to repair (other Parquet files are left alone), if a newer tracekit wrote it, or if it still
    cannot be opened afterwards.
    """
    root = one_path(trace)
    if isinstance(root, RemotePath):
        raise UsageError(
            f"{root} is on an object store, and repair needs a file system",
            "copy it to a directory, repair that, and copy it back",
        )
    if not root.is_dir():
        raise UsageError(f"{root} is not a trace directory", "repair works on directories")
    with exclusive(root, "repair"):
        work = _Work(root)
        work.run()
    open_reader(root)
    return work.result()


@dataclass(slots=True)
class _Work:
    """One repair of the trace directory `root`."""

    root: Path
    salvaged: int = 0
    journals: int = 0
    torn_bytes: int = 0
    damaged_bytes: int = 0
    lost: int = 0
    set_aside: list[str] = field(default_factory=list)
    _damaged: set[str] = field(default_factory=set)

    def result(self) -> Repair:
        return Repair(
            self.salvaged,
            self.journals,
            self.torn_bytes,
            tuple(self.set_aside),
            self.damaged_bytes,
            self.lost,
        )

    def run(self) -> None:
        files = _files(self.root)
        leftovers = [entry for entry in self.root.iterdir() if is_leftover(entry.name) and entry.is_file()]
        manifest = self._manifest(files, leftovers)
        index = read_index(self.root) or Index()
        foreign = {name for name, what, _ in _differences(manifest, index, files) if "belong" in what}
        for file in segments_of(self.root):
            if file.name not in foreign:
                self._segment(file, index.entries.get(file.name), manifest)
        for file in journals_of(self.root):
            if file.name not in foreign:
                self._journal(file)
        present = {file.name for file in segments_of(self.root)}
        for entry in index.entries.values():
            if not entry.lost and entry.name not in present and entry.name not in self._damaged:
                append_entry(self.root, replace(entry, lost="the file is missing"))
                self.lost += entry.rows
        for leftover in leftovers:
            leftover.unlink(missing_ok=True)
        seal(self.root)

    def _manifest(self, files: list[Path], leftovers: list[Path]) -> Manifest:
        """Return the manifest; make one from the segments, or from what an interrupted start left: perhaps nothing."""
        manifest = read_manifest(self.root)
        if manifest is not None:
            return manifest
        segments = [segment for file in files if (segment := _opened(file)) is not None]
        mine = [segment for segment in segments if segment.metadata.get("trace_id")]
        if mine:
            epochs = [segment.epoch_unix_ns for segment in mine if segment.epoch_unix_ns is not None]
            manifest = Manifest(mine[0].metadata["trace_id"], min(epochs, default=0), None, None)
        elif not segments and not files and (leftovers or not any(self.root.iterdir())):
            manifest = Manifest(f"{0:016x}", 0, None, None)
        else:
            raise TraceFormatError(
                f"{self.root} is not a trace: nothing in it is ops", "give a trace directory"
            )
        write_manifest(self.root, manifest)
        return manifest

    def _segment(self, file: Path, entry: Entry | None, manifest: Manifest) -> None:
        try:
            info = open_file(file)
            damaged = bool(_damage(file, entry))
        except TraceFormatError as error:
            if error.hint == UPGRADE:
                raise
            info, damaged = None, True
        except FileNotFoundError:  # a link to nothing
            info, damaged = None, True
        if not damaged:
            return
        # A journal of the same stem still has the ops: it becomes the segment anew.
        again = any(stem_of(journal) == file.stem for journal in journals_of(self.root))
        intact = [] if info is None or again or not _is_own(info, manifest) else _intact_groups(file)
        rows = sum(len(table) for table in intact)
        if info is not None and intact:
            target = file.with_name(f"{file.stem}-salvaged{SEGMENT_SUFFIX}")
            metadata = {
                f"{META_PREFIX}{key}".encode(): value.encode()
                for key, value in {**info.metadata, "segment": target.stem}.items()
            }
            append_entry(
                self.root, write_segment(target, conform(pa.concat_tables(intact)), metadata, info.counters)
            )
            self.salvaged += rows
        self._damaged.add(file.name)
        whole = entry.rows if entry is not None else info.rows if info is not None else 0
        self._put_aside(file)
        if again:
            return
        lost = Entry(file.name, max(0, whole - rows), 0, "", lost="the file was damaged")
        append_entry(self.root, lost)
        self.lost += lost.rows

    def _journal(self, file: Path) -> None:
        if segment_of(file).exists():  # a crash came between the segment's rename and the journal's removal
            file.unlink()
            return
        try:
            contents = compact(file)
        except TraceFormatError as error:
            if error.hint == UPGRADE:
                raise
            self._put_aside(file)
            return
        except FileNotFoundError:  # a link to nothing
            self._put_aside(file)
            return
        self.journals += 1
        if contents is not None:
            self.salvaged += contents.rows
            self.torn_bytes += contents.torn_bytes
            self.damaged_bytes += contents.damaged_bytes
            if contents.lost_bytes:
                self.set_aside.append(file.name + BROKEN_SUFFIX)

    def _put_aside(self, file: Path) -> None:
        hidden = file.name if file.name.startswith((".", "_")) else f"_{file.name}"
        file.rename(file.with_name(hidden + BROKEN_SUFFIX))
        self.set_aside.append(hidden + BROKEN_SUFFIX)


def _differences(manifest: Manifest, index: Index, files: Iterable[Path]) -> list[tuple[str, str, str]]:
    return index_problems(manifest, index, [each for file in files if (each := _opened(file)) is not None])


def _opened(file: Path) -> SegmentInfo | None:
    """Open a segment or journal; None if it cannot be read. Raises TraceFormatError for a newer version."""
    try:
        return open_segment(file)
    except TraceFormatError as error:
        if error.hint == UPGRADE:
            raise
        return None
    except FileNotFoundError:  # a link to nothing
        return None


def _is_own(info: SegmentInfo, manifest: Manifest) -> bool:
    """Return whether the ops of a damaged segment are those that its name stands for."""
    own, name = info.metadata.get("trace_id"), info.metadata.get("segment", info.path.stem)
    return own in (None, manifest.trace_id) and name == info.path.stem


def _intact_groups(file: Path) -> list[pa.Table]:
    """Return the row groups of `file` whose pages can all be read."""
    found = []
    with open_pages(file) as parquet:
        for group in range(parquet.num_row_groups):
            try:
                with parquet_errors():
                    found.append(parquet.read_row_group(group))
            except (pa.ArrowException, OSError):
                continue
    return found


def _files(root: Path) -> list[Path]:
    """Return the segments of a trace, and the journals that have no segment."""
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise TraceFormatError(f"{root}: no such trace", "give a trace directory or a Parquet file")
    journals, segments = journals_of(root), segments_of(root)
    stems = {file.stem for file in segments}
    return segments + [file for file in journals if stem_of(file) not in stems]


def _unreadable(file: Path, *, alone: bool) -> Finding | None:
    try:
        open_segment(file)
    except TraceFormatError as error:
        if error.hint == UPGRADE or (alone and isinstance(error, NotOpsError)):  # it may well be whole
            raise
        return Finding(file.name, error.message, True)
    except FileNotFoundError:  # finished or removed by a live recorder, unless it is a link to nothing
        return Finding(file.name, "is a link to a file that is missing", True) if file.is_symlink() else None
    return None


def _odd_values(reader: TraceReader) -> list[Finding]:
    """Return what cannot be true of the ops."""
    sql = load_sql("tracekit.store", "verify")
    known = {
        "kinds": list(OP_KINDS),
        "errors": [str(name) for name in ErrorClass],
        "ends": records_ends(reader.segments),
    }
    try:
        with closing(reader.connect()) as connection, value_errors(reader.path):
            rows = connection.execute(sql, known).fetchall()
    except TraceFormatError as error:
        return [Finding("ops", error.message, True)]
    except duckdb.Error as error:  # of a damaged footer that is not sealed
        return [Finding("ops", f"cannot be read: {str(error).splitlines()[0]}", True)]
    return [Finding("ops", what.format(count), bool(broken)) for what, count, broken in rows]


def _damage(file: Path, entry: Entry | None) -> list[Finding]:
    """Compare the digest, if the trace lists one, and read every page; a footer can be whole where data is not."""
    if entry is not None and digest_of(file) != entry.digest:
        return [
            Finding(file.name, "is damaged: its digest is not that of the segment as it was written", True)
        ]
    try:
        with parquet_errors(), open_pages(file) as parquet:
            for _ in parquet.iter_batches(batch_size=262_144):
                pass
    except (pa.ArrowException, OSError) as error:
        return [Finding(file.name, f"is damaged: {str(error).splitlines()[0]}", True)]
    return []
