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
import numpy.typing as npt
import pyarrow as pa

from tracekit.errors import ErrorClass
from tracekit.formats.sound import MAX_INT

__all__ = ["NativeLogs", "Process"]

_HEADER_BYTES, _CHUNK_BYTES = 4096, 65536
_RECORDS, _NAMES = 1, 2
_ENDED = 4
_FLAGS = {1: "io_uring", 2: "io_submit"}
_HEADER = np.dtype(
    [
        ("magic", "S8"),
        ("version", "<u4"),
        ("pid", "<u4"),
        ("parent_pid", "<u4"),
        ("forked", "<u4"),
        ("began", "<i8"),
        ("clock_offset", "<i8"),
        ("ended", "<i8"),
        ("read0", "<u8"),
        ("written0", "<u8"),
        ("read1", "<u8"),
        ("written1", "<u8"),
        ("other_read", "<u8"),
        ("other_written", "<u8"),
        ("socket_read", "<u8"),
        ("socket_written", "<u8"),
        ("connections", "<u8"),
        ("lost", "<u8"),
        ("flags", "<u8"),
        ("storage_read", "<u8"),
        ("storage_written", "<u8"),
        ("objects", "<u8"),
        ("parent", "S64"),
        ("program", "V1024"),
        ("libraries", "S2048"),
    ]
)
_RECORD = np.dtype(
    [
        ("begin", "<i8"),
        ("took", "<i8"),
        ("offset", "<i8"),
        ("length", "<i8"),
        ("moved", "<i8"),
        ("file", "<u4"),
        ("to", "<u4"),
        ("thread", "<u4"),
        ("kind", "u1"),
        ("unused", "V3"),
        ("spare", "<i8"),
    ]
)
_KINDS = ("", "read", "write", "sync", "truncate", "rename", "delete", "hint", "mapped", "stat", "list")
_MAPPED = _KINDS.index("mapped")
_MOVING = (1, 2)
_CHUNKS_AT_ONCE = 64

Records = npt.NDArray[np.void]
Header = np.void


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
            offset = self._clock_offset(process)
            for records in self._records(process):
                yield self._batch(records, uris, offset, process.pid)

    def notes(self) -> Iterator[str]:
        """Yield nothing: what is missing stands in the completeness."""
        yield from ()

    def _batch(self, records: Records, uris: list[str], clock_offset: int, pid: int) -> pa.RecordBatch:
        kinds = records["kind"]
        for file in np.unique(records["file"][kinds == _MAPPED]):
            self.mapped_files.add(uris[min(file, len(uris) - 1)])
        records = records[(kinds != _MAPPED) & (records["file"] < len(uris))]
        moved, moving = records["moved"], np.isin(records["kind"], _MOVING)
        failed = moved < 0
        errors = np.unique(moved[failed])
        classes = pa.array([str(ErrorClass.from_errno(int(-error))) for error in errors], pa.string())
        codes = pa.array(
            np.searchsorted(errors, moved).clip(0, max(len(errors) - 1, 0)).astype(np.int32), mask=~failed
        )
        columns = {
            "t_submit": pa.array(records["begin"] + clock_offset),
            "uri": _coded(records["file"], uris),
            "op": _coded(records["kind"], list(_KINDS)),
            "offset": _known(records["offset"]),
            "len": _known(np.minimum(records["length"], MAX_INT)),
            "bytes": pa.array(np.maximum(moved, 0), mask=~moving),
            "latency": _known(records["took"]),
            "to_uri": _coded(records["to"], uris, mask=records["to"] == 0),
            "error": pa.DictionaryArray.from_arrays(codes, classes),
            "pid": pa.array(np.full(len(records), pid, np.int64)),
            "tid": pa.array(records["thread"].astype(np.int64)),
        }
        return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))

    def _records(self, process: Process) -> Iterator[Records]:
        """Return the complete records of one log, a few MiB at once."""
        log = self._folder / process.log
        parts = (
            np.memmap(log, np.uint8, "r", _HEADER_BYTES)
            if log.stat().st_size > _HEADER_BYTES
            else np.empty(0, np.uint8)
        )
        whole = parts[: len(parts) // _CHUNK_BYTES * _CHUNK_BYTES].reshape(-1, _CHUNK_BYTES)
        if not len(whole):
            return
        numbers = np.flatnonzero(whole[:, :4].copy().view("<u4")[:, 0] == _RECORDS)
        for start in range(0, len(numbers), _CHUNKS_AT_ONCE):
            chunks = whole[numbers[start : start + _CHUNKS_AT_ONCE], _RECORD.itemsize :]
            records = np.ascontiguousarray(chunks).reshape(-1).view(_RECORD)
            records = records[(records["kind"] > 0) & (records["kind"] < len(_KINDS))]
            if len(records):
                yield records

    def _names_of(self, log: str) -> dict[int, str]:
        """The names by number; a forked process knows those of its parent too."""
        found = self._names.get(log)
        if found is None:
            found = {}
            path = self._folder / log
            data = path.read_bytes()[_HEADER_BYTES:] if path.is_file() else b""
            for start in range(0, len(data), _CHUNK_BYTES):
                if data[start : start + 4] == _NAMES.to_bytes(4, "little"):
                    _add_names(found, data[start + 64 : start + _CHUNK_BYTES])
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

    def _clock_offset(self, process: Process) -> int:
        return int(_header(self._folder / process.log)["clock_offset"])


def _add_names(names: dict[int, str], data: bytes) -> None:
    at = 0
    while at + 8 <= len(data):
        number, length = (
            int.from_bytes(data[at : at + 4], "little"),
            int.from_bytes(data[at + 4 : at + 8], "little"),
        )
        if not number:
            return
        names[number] = "file://" + data[at + 8 : at + 8 + length].decode("utf-8", "replace")
        at += 8 + (length + 7 & ~7)


def _header(log: Path) -> Header:
    return np.fromfile(log, _HEADER, 1)[0]  # type: ignore[no-any-return]


def _processes(folder: Path) -> list[Process]:
    """What the headers say, in order of time. A program's end is known too if its process ran another one next."""
    logs = [log for log in folder.glob("*.log") if log.stat().st_size >= _HEADER_BYTES]
    headers = sorted(((_header(log), log.name) for log in logs), key=lambda pair: (pair[0]["began"], pair[1]))
    headers = [pair for pair in headers if pair[0]["magic"] == b"TKNATIVE"]
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


def _coded(
    numbers: npt.NDArray[np.integer], values: list[str], mask: npt.NDArray[np.bool_] | None = None
) -> pa.Array:
    codes = pa.array(numbers.astype(np.int32), mask=mask)
    return pa.DictionaryArray.from_arrays(codes, pa.array(values, pa.string()))


def _known(values: npt.NDArray[np.int64]) -> pa.Array:
    return pa.array(values, mask=values < 0)
