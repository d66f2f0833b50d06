"""Reads the engine's logs while their processes write them: each record once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

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
    names_by_number,
)

__all__ = ["NativeTail"]

_ENTRIES = (CHUNK_BYTES - ENTRIES_AT) // RECORD.itemsize
_RECORDS_AT_ONCE = 65_536


@dataclass(slots=True)
class _Log:
    """The log of one process. Its descriptor stays valid when the capture has removed the file."""

    path: Path
    pid: int
    clock_offset: int
    parent: str
    file: int = -1
    read: bool = False
    """Whether its process has ended, and everything was read."""
    chunks: int = 0
    """How many chunks the file had."""
    untold: set[int] = field(default_factory=set)
    """Chunks that do not say yet what they hold."""
    taken: dict[int, npt.NDArray[np.bool_] | None] = field(default_factory=dict)
    """By the chunk of records that is not full: which of them were handed over."""
    named: dict[int, int] = field(default_factory=dict)
    """By the chunk of names: how many of its bytes were read."""
    names: dict[int, str] = field(default_factory=dict)


class NativeTail:
    """Follows the logs in the directory `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._logs: dict[str, _Log] = {}

    def poll(self) -> Iterator[pa.RecordBatch]:
        """Yield the new ops, as `NativeLogs.batches` does. The logs of processes that have ended are closed."""
        for path in sorted(self._folder.glob("*.log")):
            if path.name not in self._logs and (header := _header(path)) is not None:
                offset, parent = int(header["clock_offset"]), header["parent"].decode()
                self._logs[path.name] = _Log(path, int(header["pid"]), offset, parent)
        for log in list(self._logs.values()):
            if log.read or not _opened(log):
                continue
            ended = not Path(f"/proc/{log.pid}").exists()  # before the reads: then they are of all of it
            for records in _portions(log):
                yield as_batch(records, self._uris_of(log), log.clock_offset, log.pid)
            if ended:
                _read_names(log)
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
        kind = int.from_bytes(os.pread(log.file, 4, HEADER_BYTES + number * CHUNK_BYTES), "little")
        if kind == RECORDS:
            log.taken[number] = None
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


def _portions(log: _Log) -> Iterator[Records]:
    """Yield the new records, some at once."""
    held: list[Records] = []
    for number in list(log.taken):
        found = _new_records(log, number)
        if len(found):
            held.append(found)
        if sum(map(len, held)) >= _RECORDS_AT_ONCE:
            yield np.concatenate(held)
            held.clear()
    if held:
        yield np.concatenate(held)


def _new_records(log: _Log, chunk: int) -> Records:
    """Return the records of a chunk that are complete now and were not before, and note that they were taken."""
    taken = log.taken[chunk]
    if taken is None:
        taken = np.zeros(_ENTRIES, np.bool_)
    first = int(np.argmin(taken))
    size = (_ENTRIES - first) * RECORD.itemsize
    at = HEADER_BYTES + chunk * CHUNK_BYTES + ENTRIES_AT + first * RECORD.itemsize
    ready = are_whole(np.frombuffer(os.pread(log.file, size, at), RECORD)) & ~taken[first:]
    if not ready.any():
        return np.empty(0, RECORD)
    taken[first:] |= ready
    if taken.all():
        del log.taken[chunk]
    else:
        log.taken[chunk] = taken
    # Read again: a record that was complete then is whole now, even if it was written during the first read.
    return np.frombuffer(os.pread(log.file, size, at), RECORD)[ready]


def _read_names(log: _Log) -> None:
    """Take up the new names."""
    for chunk, before in log.named.items():
        at = HEADER_BYTES + chunk * CHUNK_BYTES + ENTRIES_AT + before
        data = os.pread(log.file, CHUNK_BYTES - ENTRIES_AT - before, at)
        log.named[chunk] = before + add_names(log.names, data)
