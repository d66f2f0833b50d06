"""Follows a trace while it is being written: hands over each op once, soon after it was flushed.

It reads the journals from where it left off, and segments that had been finished before. Nothing is locked and nothing
is written, so that the recorder does not notice.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from tracekit.errors import TraceFormatError
from tracekit.processes import is_alive
from tracekit.schema import META_PREFIX, OPS
from tracekit.store.journal import new_frames
from tracekit.store.layout import (
    JOURNAL_SUFFIX,
    MANIFEST_NAME,
    SEALED_NAME,
    journals_of,
    segments_of,
    stem_of,
)
from tracekit.store.lock import is_held
from tracekit.store.manifest import boot_id, machine, read_manifest
from tracekit.store.opening import SegmentInfo, damage_errors, open_pages, open_segment
from tracekit.store.totals import moved_bytes

__all__ = ["COLUMNS", "HISTORY_OPS", "TraceTail", "as_ops"]

COLUMNS = (
    "t_submit",
    "uri",
    "op",
    "len",
    "bytes",
    "latency",
    "wait_ns",
    "step",
    "rank",
    "worker",
    "t_due",
    "error",
)
"""The columns that are handed over. Times are ns since the Unix epoch; `bytes` is as in the view `ops`."""
HISTORY_OPS = 4_194_304
"""How many ops of what had been recorded before are handed over."""
_EPOCH = f"{META_PREFIX}epoch_unix_ns".encode()
_WRITER = tuple(f"{META_PREFIX}{name}".encode() for name in ("machine", "boot_id", "started", "pid"))


@dataclass(frozen=True, slots=True)
class _Writer:
    """A process that records: its machine, the boot of that, and its number there."""

    machine: str
    boot: str
    started: str
    pid: str

    def has_ended(self) -> bool:
        """Whether it was a process of this machine, of this boot or an earlier one, and is no more."""
        if self.boot != boot_id():
            return _is_here(self.machine)
        return not is_alive(int(self.pid), int(self.started) if self.started else None)


@dataclass(slots=True)
class _Journal:
    """An open journal. Its descriptor stays valid when the recorder has turned the file into a segment."""

    file: int
    at: int = 0
    writer: _Writer | None = None
    """Whoever writes it; None before the first batch."""


class TraceTail:
    """Follows the trace directory `root`. `poll` returns what is new; `ended` says whether more can come.

    Of what had been recorded before, the last `history_ops` ops are handed over; `skipped_ops` counts the others.
    """

    def __init__(self, root: Path, *, history_ops: int = HISTORY_OPS) -> None:
        self.root = root
        self.ended = False
        self.skipped_ops = 0
        self._history_ops = history_ops
        self._journals: dict[str, _Journal] = {}
        self._done: set[str] = set()
        self._begun = False
        self._alone = 0

    def poll(self) -> list[pa.Table]:
        """Return the new ops. Raises TraceFormatError if the trace is gone or a segment is damaged."""
        try:
            complete = self._complete()  # before the listing: then no segment is missing from that
            found = self._new_segments()
            for path in journals_of(self.root):
                stem = stem_of(path)
                if stem not in self._done and stem not in self._journals and path.suffix == JOURNAL_SUFFIX:
                    self._open(path, stem)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise TraceFormatError(f"{self.root}: the trace was removed", "record again") from error
        for stem in list(self._journals):
            found += self._read(stem)
        self.ended = complete or self._abandoned()
        return found

    def close(self) -> None:
        """Close the journals."""
        while self._journals:
            os.close(self._journals.popitem()[1].file)

    def _complete(self) -> bool:
        if (self.root / SEALED_NAME).exists():
            return True
        return not (self.root / MANIFEST_NAME).exists() and not journals_of(self.root)

    def _new_segments(self) -> list[pa.Table]:
        """Return the ops of segments whose journal was not followed, and note that they are done."""
        opened = []
        for path in segments_of(self.root):
            stem = stem_of(path)
            if stem not in self._done and stem not in self._journals:
                self._done.add(stem)
                segment = open_segment(path)
                if segment is not None and segment.rows:
                    opened.append(segment)
        if not self._begun:
            self._begun = True
            opened = self._recent(opened)
        return [_read_segment(segment) for segment in opened]

    def _recent(self, segments: list[SegmentInfo]) -> list[SegmentInfo]:
        """Return the last segments that together have at most `history_ops` ops; count the ops of the others."""
        kept, held = [], 0
        for segment in sorted(segments, key=_last_submit, reverse=True):
            held += segment.rows
            if held <= self._history_ops:
                kept.append(segment)
            else:
                self.skipped_ops += segment.rows
        return kept

    def _open(self, path: Path, stem: str) -> None:
        try:
            self._journals[stem] = _Journal(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except FileNotFoundError:
            return  # it has just become a segment, which the next call reads

    def _read(self, stem: str) -> list[pa.Table]:
        journal = self._journals[stem]
        gone = os.fstat(journal.file).st_nlink == 0  # before the read: then the read is of all of it
        batches, journal.at = new_frames(journal.file, journal.at)
        if batches and journal.writer is None:
            metadata = batches[0].schema.metadata or {}
            said = [metadata.get(key, b"").decode() for key in _WRITER]
            journal.writer = _Writer(*said) if said[-1] else None
        if gone:
            os.close(self._journals.pop(stem).file)
            self._done.add(stem)
        return [
            as_ops(pa.Table.from_batches([batch]), int((batch.schema.metadata or {}).get(_EPOCH, b"0")))
            for batch in batches
            if batch.num_rows
        ]

    def _abandoned(self) -> bool:
        """Return whether all who recorded were processes of this machine that have died."""
        writers = [journal.writer for journal in self._journals.values()]
        known = [writer for writer in writers if writer is not None]
        if not all(writer.has_ended() for writer in known):
            return False
        if known and len(known) == len(writers):
            return True
        # No op says who recorded. Whoever does holds a lock on the trace, since just after it was made: look twice.
        manifest = read_manifest(self.root)
        ours = manifest is not None and (manifest.boot_id == boot_id() or _is_here(manifest.machine))
        alone = ours and is_held(self.root) is False
        self._alone = self._alone + 1 if alone else 0
        return self._alone > 1


def _is_here(of: str | None) -> bool:
    """Whether `of` is this machine. What an older tracekit wrote does not say."""
    return bool(of) and of == machine()


def as_ops(table: pa.Table, epoch_unix_ns: int = 0) -> pa.Table:
    """Return `table`, whose times count from `epoch_unix_ns`, with the columns of COLUMNS and their types."""
    columns = {}
    for name in COLUMNS:
        kind = OPS.field(name).type
        kind = pa.string() if pa.types.is_dictionary(kind) else kind
        column = (
            table.column(name).cast(kind)
            if name in table.column_names
            else pa.chunked_array([pa.nulls(len(table), kind)])
        )
        columns[name] = pc.add(column, epoch_unix_ns) if name in ("t_submit", "t_due") else column
    columns["op"] = pc.fill_null(columns["op"], "read")
    for name in ("rank", "worker"):
        columns[name] = pc.fill_null(columns[name], 0)
    ops = pa.table(columns)
    return ops.set_column(COLUMNS.index("bytes"), "bytes", moved_bytes(ops))


def _last_submit(segment: SegmentInfo) -> int:
    return (segment.epoch_unix_ns or 0) + (segment.last_submit or 0)


def _read_segment(segment: SegmentInfo) -> pa.Table:
    wanted = [name for name in COLUMNS if name in segment.schema.names]
    with damage_errors(segment.path), open_pages(segment.path) as file:
        return as_ops(file.read(columns=wanted), segment.epoch_unix_ns or 0)
