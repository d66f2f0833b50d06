"""Reads the logs that the engine (`engine.c`) wrote: a file a process, of records of fixed size.

A log is a header, then chunks of either records (64 bytes an op) or names of files. A killed process leaves all
its records, because the file was mapped into its memory. Reading streams: a few MiB are held at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tracekit.capture.native.libraries import PYTHON
from tracekit.capture.native.records import (
    CHUNK_BYTES,
    ENTRIES_AT,
    HEADER_BYTES,
    NAMES,
    RECORDS,
    Header,
    Records,
    add_names,
    as_batch,
    header_of,
    mapped_names,
    names_by_number,
    whole_records,
)
from tracekit.formats.syscalls.names import GPU_DIRECT, IO_SUBMIT, IO_URING

__all__ = ["Caller", "NativeLogs", "Process", "measured_overhead"]

_ENDED = 4
_FLAGS = {1: IO_URING, 2: IO_SUBMIT, 8: GPU_DIRECT}
_CHUNKS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Caller:
    """A library that connected to other hosts, or to this one, and what went through its sockets, both ways.

    `library` is its file name with that of its directory, `program` for the program itself, and empty if it is not known who connected.
    """

    library: str
    connections: int
    bytes: int

    @property
    def name(self) -> str:
        """The file name alone."""
        return os.path.basename(self.library)


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
    ended_ns: int
    """When its log ended; 0 if it did not."""
    clock_offset: int
    read_bytes: int | None
    written_bytes: int | None
    recorded_read_bytes: int
    recorded_written_bytes: int
    queued_read_bytes: int
    """Moved by libaio and io_uring, which the kernel does not count."""
    queued_written_bytes: int
    other_read_bytes: int
    other_written_bytes: int
    callers: tuple[Caller, ...]
    ports: tuple[int, ...]
    """The ports of other hosts, or of this one, that it connected to."""
    lost_ops: int
    shared_objects: int
    libraries: tuple[str, ...]
    unseen_programs: tuple[str, ...]
    """Programs that it started in which the engine could not be, each with the reason."""
    recording_ns: int
    """How long recording took, estimated from `measured_calls`."""
    measured_calls: int
    cpu_ns: int | None
    """CPU time of the process while it was recorded; None if it was killed early."""
    parent: str

    @property
    def is_python(self) -> bool:
        """Whether it ran Python, or a program with Python in it."""
        program = os.path.basename(self.program.split(" ")[0])
        return program.startswith("python") or any(PYTHON in name for name in self.libraries)


class NativeLogs:
    """The logs of one run, in the directory `folder`, when nothing is added to them any more."""

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
                self.mapped_files |= mapped_names(records, uris)
                yield as_batch(records, uris, process.clock_offset, process.pid)

    def notes(self) -> Iterator[str]:
        """Yield nothing: what is missing stands in the completeness."""
        yield from ()

    def _records(self, process: Process) -> Iterator[Records]:
        """Return the complete records of one log, a few MiB at once."""
        chunks = _chunks(self._folder / process.log)
        if chunks is None:
            return
        numbers = _numbers(chunks, RECORDS)
        for start in range(0, len(numbers), _CHUNKS_AT_ONCE):
            part = chunks[numbers[start : start + _CHUNKS_AT_ONCE], ENTRIES_AT:]
            records = whole_records(np.ascontiguousarray(part).reshape(-1))
            if len(records):
                yield records

    def _names_of(self, log: str) -> dict[int, str]:
        found = self._names.get(log)
        if found is None:
            chunks = _chunks(self._folder / log)
            found = self._names[log] = {} if chunks is None else _names_in(chunks)
        return found

    def _uris_of(self, process: Process) -> list[str]:
        return names_by_number(
            process.log, {each.log: each.parent for each in self.processes}, self._names_of
        )


def measured_overhead(processes: Sequence[Process]) -> tuple[int, int] | None:
    """The ns that recording took in all processes, and their CPU time; None if no call was measured."""
    known = [(p.recording_ns, p.cpu_ns) for p in processes if p.cpu_ns]
    if not known or not any(p.measured_calls for p in processes):
        return None
    return sum(spent for spent, _ in known), sum(cpu or 0 for _, cpu in known)


def _chunks(log: Path) -> npt.NDArray[np.uint8] | None:
    """The whole chunks of a log, mapped into memory; None if it has none."""
    try:
        whole = (log.stat().st_size - HEADER_BYTES) // CHUNK_BYTES
    except FileNotFoundError:
        return None
    return np.memmap(log, np.uint8, "r", HEADER_BYTES, (whole, CHUNK_BYTES)) if whole > 0 else None


def _numbers(chunks: npt.NDArray[np.uint8], kind: int) -> npt.NDArray[np.intp]:
    return np.flatnonzero(chunks[:, :4].copy().view("<u4")[:, 0] == kind)


def _names_in(chunks: npt.NDArray[np.uint8]) -> dict[int, str]:
    found: dict[int, str] = {}
    for number in _numbers(chunks, NAMES).tolist():
        add_names(found, chunks[number, ENTRIES_AT:].tobytes())
    return found


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


def _ports(bits: bytes) -> tuple[int, ...]:
    if not any(bits):
        return ()
    return tuple(np.flatnonzero(np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")).tolist())


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
        ended_ns=int(header["ended"] + header["clock_offset"]) if header["ended"] else 0,
        clock_offset=int(header["clock_offset"]),
        read_bytes=read,
        written_bytes=written,
        recorded_read_bytes=int(header["storage_read"]),
        recorded_written_bytes=int(header["storage_written"]),
        queued_read_bytes=int(header["queued_read"]),
        queued_written_bytes=int(header["queued_written"]),
        other_read_bytes=int(header["other_read"]),
        other_written_bytes=int(header["other_written"]),
        callers=tuple(
            Caller(library.decode("utf-8", "replace"), connections, moved)
            for moved, connections, library in header["callers"].tolist()
            if moved or connections
        ),
        ports=_ports(header["ports"].tobytes()),
        lost_ops=int(header["lost"]),
        shared_objects=int(header["objects"]),
        libraries=tuple(
            name for name in (*libraries, *(name for bit, name in _FLAGS.items() if flags & bit)) if name
        ),
        unseen_programs=tuple(
            f"{name} ({reason})"
            for line in header["unseen"].decode("utf-8", "replace").splitlines()
            for reason, _, name in (line.partition("\t"),)
        ),
        recording_ns=int(header["recording"]),
        measured_calls=int(header["measured"]),
        cpu_ns=int(header["cpu1"] - header["cpu0"]) if header["cpu1"] else None,
        parent=header["parent"].decode(),
    )
