"""Reads the logs that the engine (`engine.c`) wrote: a file a process, of records of fixed size.

A log is a header, then chunks of either records (64 bytes an op) or names of files. A killed process leaves all
its records, because the file was mapped into its memory. Reading streams: a few MiB are held at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tracekit.capture.native.holes import punch_hole
from tracekit.capture.native.records import (
    CHUNK_BYTES,
    ENTRIES_AT,
    HEADER_BYTES,
    MAPPED,
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
    whole_records,
)
from tracekit.formats.sound import MAX_INT

__all__ = ["NativeLogs", "Process", "measured_overhead"]

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
    ended_ns: int
    """When its log ended; 0 if it did not."""
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
    unseen_programs: tuple[str, ...]
    """Programs that it started in which the engine could not be, each with the reason."""
    recording_ns: int
    """How long recording took, estimated from `measured_calls`."""
    measured_calls: int
    cpu_ns: int | None
    """CPU time of the process while it was recorded; None if it was killed early."""
    parent: str

    @property
    def has_ended(self) -> bool:
        """Whether it is known to write no more: it ran another program next, or has exited."""
        if not self.ended_ns:
            return self.read_bytes is not None
        return not Path(f"/proc/{self.pid}").exists()


class NativeLogs:
    """The logs of one run, in the directory `folder`.

    They may still be written to: `take` returns what is new, and gives its disk space back.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.mapped_files: set[str] = set()
        self.processes = _processes(folder)
        self._names: dict[str, dict[int, str]] = {}
        self._progress: dict[str, _Progress] = {}

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Return the ops, with the columns pid and tid; times are ns since the Unix epoch."""
        for process in self.processes:
            uris = self._uris_of(process)
            for records in self._records(process):
                yield self._batch(records, uris, process)

    def take(self, before_ns: int | None) -> Iterator[tuple[pa.RecordBatch, int]]:
        """Yield the ops that began before `before_ns` (since the Unix epoch; None: all) and were not taken yet, as
        `batches` does, each batch with what its times are more than readings of the monotonic clock.

        Ops are taken when the next batch is asked for.
        """
        self.processes = _processes(self._folder)
        for process in self.processes:
            progress = self._progress.setdefault(process.log, _Progress())
            chunks = None if progress.ended else _chunks(self._folder / process.log, "r+")
            if chunks is None:
                continue
            progress.scan(chunks, self._names.setdefault(process.log, {}))
            uris = self._uris_of(process)
            until = MAX_INT if before_ns is None else before_ns - process.clock_offset
            left = False
            for number in sorted(progress.open):
                records = chunks[number, ENTRIES_AT:].view(RECORD)
                present = are_whole(records)
                new = present & (records["begin"] < until)
                if new.any():
                    yield self._batch(records[new], uris, process), process.clock_offset
                    records["kind"][new] = 0
                left = left or bool((present & ~new).any())
                progress.open[number] += int(new.sum())
                if progress.open[number] == len(records):
                    del progress.open[number]
                    _free(self._folder / process.log, number)
            if not left and process.has_ended:
                progress.ended = True
                _free(self._folder / process.log, None)

    def notes(self) -> Iterator[str]:
        """Yield nothing: what is missing stands in the completeness."""
        yield from ()

    def _batch(self, records: Records, uris: list[str], process: Process) -> pa.RecordBatch:
        for file in np.unique(records["file"][records["kind"] == MAPPED]):
            self.mapped_files.add(uris[min(file, len(uris) - 1)])
        return as_batch(records, uris, process.clock_offset, process.pid)

    def _records(self, process: Process) -> Iterator[Records]:
        """Return the complete records of one log, a few MiB at once."""
        chunks = _chunks(self._folder / process.log, "r")
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
            chunks = _chunks(self._folder / log, "r")
            found = self._names[log] = {} if chunks is None else _names_in(chunks)
        return found

    def _uris_of(self, process: Process) -> list[str]:
        return names_by_number(
            process.log, {each.log: each.parent for each in self.processes}, self._names_of
        )


@dataclass(slots=True)
class _Progress:
    """How much of a log was taken. Chunks that were given back are not touched again: some file systems would allocate
    them anew."""

    scanned: int = 0
    open: dict[int, int] = field(default_factory=dict)
    """How many records were taken of each chunk of records that is not full."""
    last_names: int | None = None
    ended: bool = False

    def scan(self, chunks: npt.NDArray[np.uint8], names: dict[int, str]) -> None:
        """Find the chunks that are new, and add the new names to `names`."""
        if self.last_names is not None:
            add_names(names, chunks[self.last_names, ENTRIES_AT:].tobytes())
        while self.scanned < len(chunks):
            kind = int.from_bytes(chunks[self.scanned, :4].tobytes(), "little")
            if kind == RECORDS:
                self.open[self.scanned] = 0
            elif kind == NAMES:
                self.last_names = self.scanned
                add_names(names, chunks[self.scanned, ENTRIES_AT:].tobytes())
            else:  # it is being made
                return
            self.scanned += 1


def measured_overhead(processes: Sequence[Process]) -> tuple[int, int] | None:
    """The ns that recording took in all processes, and their CPU time; None if no call was measured."""
    known = [(p.recording_ns, p.cpu_ns) for p in processes if p.cpu_ns]
    if not known or not any(p.measured_calls for p in processes):
        return None
    return sum(spent for spent, _ in known), sum(cpu or 0 for _, cpu in known)


def _chunks(log: Path, mode: Literal["r", "r+"]) -> npt.NDArray[np.uint8] | None:
    """The whole chunks of a log, mapped into memory; None if it has none."""
    try:
        whole = (log.stat().st_size - HEADER_BYTES) // CHUNK_BYTES
    except FileNotFoundError:
        return None
    return np.memmap(log, np.uint8, mode, HEADER_BYTES, (whole, CHUNK_BYTES)) if whole > 0 else None


def _numbers(chunks: npt.NDArray[np.uint8], kind: int) -> npt.NDArray[np.intp]:
    return np.flatnonzero(chunks[:, :4].copy().view("<u4")[:, 0] == kind)


def _free(log: Path, number: int | None) -> None:
    """Give the disk space of a chunk back, or of all. A file system that cannot keeps it."""
    offset, length = (HEADER_BYTES, log.stat().st_size - HEADER_BYTES) if number is None else (
        HEADER_BYTES + number * CHUNK_BYTES, CHUNK_BYTES
    )  # fmt: skip
    with log.open("r+b") as file:
        punch_hole(file.fileno(), offset, length)


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
