"""Reads the logs that the engine (`engine.c`) wrote: a file a process, of records of fixed size.

A log is a header, then chunks of either records (64 bytes an op) or names of files. A killed process leaves all
its records, because the file was mapped into its memory. Reading streams: a few MiB are held at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from tracekit.capture.native.records import (
    CHUNK_BYTES,
    HEADER_BYTES,
    MAPPED,
    NAMES,
    RECORD,
    RECORDS,
    Header,
    Records,
    add_names,
    as_batch,
    header_of,
    whole_records,
)

__all__ = ["NativeLogs", "Process"]

_ENDED = 4
_FLAGS = {1: "io_uring", 2: "io_submit"}
_CHUNKS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Process:
    """One process (or one program that a process ran) and the bytes that it moved, as its log says.

    `read_bytes` and `written_bytes` are what the kernel counted; None if the process was killed. `other_*` is the
    part of them that went through pipes, sockets, terminals and files of the kernel.
    """

    log: str
    pid: int
    program: str
    began_ns: int
    clock_offset: int
    read_bytes: int | None
    written_bytes: int | None
    recorded_read_bytes: int
    recorded_written_bytes: int
    other_read_bytes: int
    other_written_bytes: int
    socket_read_bytes: int
    socket_written_bytes: int
    connections: int
    lost_ops: int
    shared_objects: int
    libraries: tuple[str, ...]
    parent: str


class NativeLogs:
    """The logs of one run, in the directory `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.mapped_files: set[str] = set()
        self.processes = _processes(folder)
        self._names: dict[str, dict[int, str]] = {}

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Return the ops, with the columns pid and tid; times are ns since the Unix epoch."""
        for process in self.processes:
            uris = self._uris_of(process)
            for records in self._records(process):
                for file in np.unique(records["file"][records["kind"] == MAPPED]):
                    self.mapped_files.add(uris[min(file, len(uris) - 1)])
                yield as_batch(records, uris, process.clock_offset, process.pid)

    def notes(self) -> Iterator[str]:
        """Yield nothing: what is missing stands in the completeness."""
        yield from ()

    def _records(self, process: Process) -> Iterator[Records]:
        """Return the complete records of one log, a few MiB at once."""
        log = self._folder / process.log
        parts = (
            np.memmap(log, np.uint8, "r", HEADER_BYTES)
            if log.stat().st_size > HEADER_BYTES
            else np.empty(0, np.uint8)
        )
        whole = parts[: len(parts) // CHUNK_BYTES * CHUNK_BYTES].reshape(-1, CHUNK_BYTES)
        if not len(whole):
            return
        numbers = np.flatnonzero(whole[:, :4].copy().view("<u4")[:, 0] == RECORDS)
        for start in range(0, len(numbers), _CHUNKS_AT_ONCE):
            chunks = whole[numbers[start : start + _CHUNKS_AT_ONCE], RECORD.itemsize :]
            records = whole_records(np.ascontiguousarray(chunks).reshape(-1))
            if len(records):
                yield records

    def _names_of(self, log: str) -> dict[int, str]:
        """The names by number; a forked process knows those of its parent too."""
        found = self._names.get(log)
        if found is None:
            found = {}
            path = self._folder / log
            data = path.read_bytes()[HEADER_BYTES:] if path.is_file() else b""
            for start in range(0, len(data), CHUNK_BYTES):
                if data[start : start + 4] == NAMES.to_bytes(4, "little"):
                    add_names(found, data[start + 64 : start + CHUNK_BYTES])
            self._names[log] = found
        return found

    def _uris_of(self, process: Process) -> list[str]:
        names: dict[int, str] = {}
        parents = {each.log: each.parent for each in self.processes}
        line = [process.log]
        while (parent := parents.get(line[-1])) and parent not in line:
            line.append(parent)
        for log in reversed(line):
            names |= self._names_of(log)
        return [names.get(number, "") for number in range(max(names, default=0) + 1)]


def _processes(folder: Path) -> list[Process]:
    """What the headers say, in order of time. A program's end is known too if its process ran another one next."""
    found = ((header_of(log), log.name) for log in folder.glob("*.log") if log.stat().st_size >= HEADER_BYTES)
    headers = [(header, name) for header, name in found if header is not None]
    headers.sort(key=lambda pair: (pair[0]["began"], pair[1]))
    next_of = {
        (int(header["pid"]), index): after
        for index, (header, _) in enumerate(headers)
        if (after := next((h for h, _ in headers[index + 1 :] if h["pid"] == header["pid"]), None))
        is not None
        and not after["forked"]
    }
    return [
        _process(header, log, next_of.get((int(header["pid"]), index)))
        for index, (header, log) in enumerate(headers)
    ]


def _process(header: Header, log: str, after: Header | None) -> Process:
    read = written = None
    if int(header["flags"]) & _ENDED:
        read, written = int(header["read1"] - header["read0"]), int(header["written1"] - header["written0"])
    elif after is not None:
        read, written = int(after["read0"] - header["read0"]), int(after["written0"] - header["written0"])
    flags = int(header["flags"])
    libraries = header["libraries"].decode("utf-8", "replace").split("\n")
    return Process(
        log=log,
        pid=int(header["pid"]),
        program=os.fsdecode(header["program"].tobytes().rstrip(b"\0").replace(b"\0", b" ")),
        began_ns=int(header["began"] + header["clock_offset"]),
        clock_offset=int(header["clock_offset"]),
        read_bytes=read,
        written_bytes=written,
        recorded_read_bytes=int(header["storage_read"]),
        recorded_written_bytes=int(header["storage_written"]),
        other_read_bytes=int(header["other_read"]),
        other_written_bytes=int(header["other_written"]),
        socket_read_bytes=int(header["socket_read"]),
        socket_written_bytes=int(header["socket_written"]),
        connections=int(header["connections"]),
        lost_ops=int(header["lost"]),
        shared_objects=int(header["objects"]),
        libraries=tuple(
            name for name in (*libraries, *(name for bit, name in _FLAGS.items() if flags & bit)) if name
        ),
        parent=header["parent"].decode(),
    )
