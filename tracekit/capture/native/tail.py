"""Reads the engine's logs while their processes write them: each record once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tracekit.capture.native.holes import punch_hole
from tracekit.capture.native.records import (
    CHUNK_BYTES,
    ENTRIES_AT,
    HEADER_BYTES,
    NAMES,
    RECORD,
    RECORDS,
    Header,
    Records,
    add_names,
    are_whole,
    as_batch,
    header_of,
    mapped_names,
    names_by_number,
)
from tracekit.formats.sound import MAX_INT
from tracekit.processes import start_here

__all__ = ["NativeTail"]

_ENTRIES = (CHUNK_BYTES - ENTRIES_AT) // RECORD.itemsize
_RECORDS_AT_ONCE = 65_536
"""A log that is consumed is handed over by the chunk: a trace with a small budget grows in small steps."""

Marks = npt.NDArray[np.bool_]
"""By the record of a chunk."""


@dataclass(slots=True)
class _Log:
    """The log of one process. Its descriptor stays valid when the capture has removed the file."""

    path: Path
    pid: int
    start: int | None
    """When the process started (`start_here`); None if it had ended before its log was seen."""
    clock_offset: int
    parent: str
    file: int = -1
    read: bool = False
    """Whether its process has ended, and everything was read."""
    chunks: int = 0
    """How many chunks the file had."""
    untold: set[int] = field(default_factory=set)
    """Chunks that do not say yet what they hold."""
    taken: dict[int, Marks] = field(default_factory=dict)
    """By the chunk of records that is not full: which of them were handed over."""
    named: dict[int, int] = field(default_factory=dict)
    """By the chunk of names: how many of its bytes were read."""
    names: dict[int, str] = field(default_factory=dict)


class NativeTail:
    """Follows the logs in the directory `folder`.

    If it is `consuming`, what was handed over is removed from the logs, and their disk space is given back.
    """

    def __init__(self, folder: Path, *, consuming: bool = False) -> None:
        self._folder, self._consuming = folder, consuming
        self._logs: dict[str, _Log] = {}
        self.mapped_files: set[str] = set()
        """The URIs of the files that were mapped into memory."""

    def poll(self, before_ns: int = MAX_INT) -> Iterator[tuple[pa.RecordBatch, int]]:
        """Yield the new ops that began before `before_ns` (since the Unix epoch), as `NativeLogs.batches` does; each batch
        with what its times are more than readings of the monotonic clock.

        Ops are consumed when the next batch is asked for. The logs of processes that have ended are closed.
        """
        for path in sorted(self._folder.glob("*.log")):
            if path.name not in self._logs and (header := _header(path)) is not None:
                pid, offset, parent = int(header["pid"]), int(header["clock_offset"]), header["parent"]
                self._logs[path.name] = _Log(path, pid, start_here(pid), offset, parent.decode())
        for log in list(self._logs.values()):
            if log.read or not _opened(log):
                continue
            # Before the reads: then they are of all of it.
            ended = log.start is None or start_here(log.pid) != log.start
            late, at_once = 0, 1 if self._consuming else _RECORDS_AT_ONCE
            for records, places, later in _portions(log, before_ns - log.clock_offset, at_once):
                late += later
                if not len(records):
                    continue
                uris = self._uris_of(log)
                self.mapped_files |= mapped_names(records, uris)
                yield as_batch(records, uris, log.clock_offset, log.pid), log.clock_offset
                if self._consuming:
                    _consume(log, places)
            if ended and not late:
                _read_names(log)
                if self._consuming and log.chunks:
                    _free(log.path, HEADER_BYTES, log.chunks * CHUNK_BYTES)
                _close(log)

    def close(self) -> None:
        """Close the logs."""
        for log in self._logs.values():
            _close(log)

    def _uris_of(self, log: _Log) -> list[str]:
        return names_by_number(
            log.path.name, {name: each.parent for name, each in self._logs.items()}, self._names_of
        )

    def _names_of(self, name: str) -> dict[int, str]:
        log = self._logs.get(name)
        if log is None:
            return {}
        if not log.read and _opened(log):
            _read_names(log)
        return log.names


def _header(path: Path) -> Header | None:
    try:
        return header_of(path)
    except FileNotFoundError:
        return None


def _opened(log: _Log) -> bool:
    """Open the log, and note what its new chunks hold; return whether it is there."""
    if log.file < 0:
        try:
            log.file = os.open(log.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # the capture has removed it: it was not read
            log.read = True
            return False
    chunks = max(os.fstat(log.file).st_size - HEADER_BYTES, 0) // CHUNK_BYTES
    log.untold |= set(range(log.chunks, chunks))
    log.chunks = chunks
    for number in sorted(log.untold):
        kind = int.from_bytes(os.pread(log.file, 4, _place_of(number)), "little")
        if kind == RECORDS:
            log.taken[number] = np.zeros(_ENTRIES, np.bool_)
        elif kind == NAMES:
            log.named[number] = 0
        else:
            continue
        log.untold.discard(number)
    return True


def _close(log: _Log) -> None:
    if log.file >= 0:
        os.close(log.file)
    log.file, log.read = -1, True


def _portions(log: _Log, until: int, at_once: int) -> Iterator[tuple[Records, dict[int, Marks], int]]:
    """Yield the new records that began before `until`, about `at_once` of them; where they stood; and how many are later."""
    held: list[Records] = []
    places: dict[int, Marks] = {}
    later = 0
    for number in list(log.taken):
        found, marks, more = _new_records(log, number, until)
        later += more
        if len(found):
            held.append(found)
            places[number] = marks
        if sum(map(len, held)) >= at_once:
            yield np.concatenate(held), places, later
            held, places, later = [], {}, 0
    if held or later:
        yield np.concatenate([np.empty(0, RECORD), *held]), places, later


def _new_records(log: _Log, chunk: int, until: int) -> tuple[Records, Marks, int]:
    """Return the records of a chunk that are complete now and were not taken before, note that they were taken, and say
    which these are, and how many began at `until` or later, and stay."""
    taken = log.taken[chunk]
    first = int(np.argmin(taken))
    size = (_ENTRIES - first) * RECORD.itemsize
    at = _place_of(chunk) + ENTRIES_AT + first * RECORD.itemsize
    ready = are_whole(np.frombuffer(os.pread(log.file, size, at), RECORD)) & ~taken[first:]
    if not ready.any():
        return np.empty(0, RECORD), ready, 0
    # Read again: a record that was complete then is whole now, even if it was written during the first read.
    records = np.frombuffer(os.pread(log.file, size, at), RECORD)
    marks = np.zeros(_ENTRIES, np.bool_)
    marks[first:] = ready & (records["begin"] < until)
    taken |= marks
    if taken.all():
        del log.taken[chunk]
    return records[marks[first:]], marks, int(ready.sum() - marks.sum())


def _consume(log: _Log, places: dict[int, Marks]) -> None:
    """Remove records from the log."""
    for chunk, marks in places.items():
        if chunk in log.taken:
            records = np.memmap(log.path, RECORD, "r+", _place_of(chunk) + ENTRIES_AT, (_ENTRIES,))
            records["kind"][marks] = 0
        else:
            _free(log.path, _place_of(chunk), CHUNK_BYTES)


def _free(path: Path, offset: int, length: int) -> None:
    """Give disk space of a log back. A file system that cannot keeps it."""
    with path.open("r+b") as file:
        punch_hole(file.fileno(), offset, length)


def _place_of(chunk: int) -> int:
    return HEADER_BYTES + chunk * CHUNK_BYTES


def _read_names(log: _Log) -> None:
    """Take up the new names."""
    for chunk, before in log.named.items():
        at = _place_of(chunk) + ENTRIES_AT + before
        data = os.pread(log.file, CHUNK_BYTES - ENTRIES_AT - before, at)
        log.named[chunk] = before + add_names(log.names, data)
