"""Page faults and new mappings of processes, from the kernel's perf events.

`Events` opens them for a process that runs, or for what the calling thread starts next; they are inherited by its threads
and children. Knows the binary interface of perf_event_open(2), and nothing of files or rows.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import struct
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = [
    "EXECUTED",
    "EXITED",
    "FORKED",
    "LOST",
    "MAPPED",
    "SAMPLE",
    "Change",
    "Events",
    "Samples",
    "mappings_of",
    "no_samples",
    "reason_against",
]

_CALLS = {"x86_64": 298, "aarch64": 241}
_SOFTWARE, _BEGUN, _MINOR, _MAJOR, _CHANGES = 1, 2, 5, 6, 9
_TID, _TIME, _ADDRESS, _ID = 1 << 1, 1 << 2, 1 << 3, 1 << 6
_DISABLED, _INHERIT, _EXCLUDE_KERNEL, _EXCLUDE_HV = 1 << 0, 1 << 1, 1 << 5, 1 << 6
_COMM, _ENABLE_ON_EXEC, _TASK, _WATERMARK, _MMAP_DATA = 1 << 9, 1 << 12, 1 << 13, 1 << 14, 1 << 17
_ID_EVERYWHERE, _MMAP2, _COMM_EXEC, _USE_CLOCK = 1 << 18, 1 << 23, 1 << 24, 1 << 25
_CLOCK_MONOTONIC = 1
_CLOSE_ON_EXEC = 8
_ENABLE, _SET_OUTPUT, _GET_ID = 0x2400, 0x2405, 0x80082407
_ATTRIBUTE_BYTES = 112
_CHANGES_BYTES = 128 * 1024
_FAULTS_BYTES = (2 * 1024 * 1024, 256 * 1024)
"""Sizes of a ring, the first that the kernel allows. A user may lock 516 KiB for each processor, whatever the limits."""
_HEAD, _TAIL = 1024, 1032
_SAMPLE_TYPE = _TID | _TIME | _ADDRESS | _ID

LOST, EXECUTED, EXITED, FORKED, SAMPLE, MAPPED = 2, 3, 4, 7, 9, 10
"""Kinds of records. EXECUTED is a new name of a process, which counts only if a program was executed."""
_EXEC = 1 << 13
_SHARED, _WRITABLE, _EXECUTABLE = 1, 2, 4
_RECORD = np.dtype(
    [
        ("kind", "<u4"),
        ("misc", "<u2"),
        ("size", "<u2"),
        ("pid", "<u4"),
        ("tid", "<u4"),
        ("time", "<u8"),
        ("address", "<u8"),
        ("id", "<u8"),
    ]
)
_MAPPING = struct.Struct("<IIQQQ16x8xII")
"""pid, tid, address, length, offset; device and inode; protection, flags."""

Samples = npt.NDArray[np.void]
"""Faults: the fields `pid`, `tid`, `time` (monotonic ns), `address` and `id`."""


@dataclass(frozen=True, slots=True)
class Change:
    """What changes the mappings of process `pid`: see the kinds of records.

    A new mapping is `length` bytes at `address`, of the file `name` from `offset` on. A forked process has those of
    `parent`. `count` events were LOST.
    """

    kind: int
    time: int
    pid: int = 0
    parent: int = 0
    address: int = 0
    length: int = 0
    offset: int = 0
    name: str = ""
    writable: bool = False
    shared: bool = False
    executable: bool = False
    count: int = 0


class Events:
    """The events of processes on every processor, and the rings that the kernel writes them to.

    `follow` begins with a process; its threads and children to come are followed too. New mappings have rings of their
    own, so that a flood of faults loses none. Raises OSError if the kernel does not allow the events.
    """

    def __init__(self) -> None:
        self._rings: list[_Ring] = []
        self._outputs: list[tuple[int, int, int]] = []
        """By processor: the files whose rings take new mappings, and faults. They stay while processes come and go."""
        self._files: dict[int, list[int]] = {}
        self.begun: set[int] = set()
        """The ids of the events for faults that begin; each is followed by one for its end."""
        self.major: set[int] = set()
        """The ids of the events for faults that ended, and had waited for storage."""
        try:
            for processor in sorted(os.sched_getaffinity(0) | set(range(os.cpu_count() or 1))):
                self._open_rings(processor)
        except BaseException:
            self.close()
            raise

    def _open_rings(self, processor: int) -> None:
        changes = _perf_event_open(_CHANGES, 0, processor, _EXCLUDE_KERNEL | _EXCLUDE_HV, _CHANGES_BYTES)
        self._outputs.append((processor, changes, -1))
        self._rings.append(_Ring(changes, _CHANGES_BYTES))
        faults = _perf_event_open(_CHANGES, 0, processor, _EXCLUDE_KERNEL | _EXCLUDE_HV, _FAULTS_BYTES[-1])
        self._outputs[-1] = processor, changes, faults
        self._rings.append(_largest_ring(faults))

    def follow(self, pid: int) -> list[int]:
        """Follow a process from now on; with 0, the programs that children of the calling thread will run.

        Returns a file for each of its threads, for `release`: it polls as hung up when the thread and its children ended.
        """
        tasks = [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()] if pid else [0]
        opened: dict[int, list[int]] = {}
        try:
            for task in tasks:
                files = self._open_events(task)
                for file in files if task else ():
                    _control(file, _ENABLE, 0)
                opened |= dict.fromkeys(files[:1], files)
        except BaseException:
            for files in opened.values():
                self._close(files)
            raise
        self._files |= opened
        return list(opened)

    def _open_events(self, task: int) -> list[int]:
        """Open the events of a thread; none if it has ended."""
        start = _INHERIT | (0 if task else _ENABLE_ON_EXEC)
        told = _MMAP_DATA | _MMAP2 | _COMM | _COMM_EXEC | _TASK
        files: list[int] = []
        try:
            for processor, changes, faults in self._outputs:
                for kind in (_CHANGES, _BEGUN, _MINOR, _MAJOR):
                    file = _opened(kind, task, processor, start | (told if kind == _CHANGES else 0))
                    files.append(file)
                    _control(file, _SET_OUTPUT, changes if kind == _CHANGES else faults)
                    if kind == _BEGUN:
                        self.begun.add(_id_of(file))
                    if kind == _MAJOR:
                        self.major.add(_id_of(file))
        except ProcessLookupError:
            self._close(files)
            return []
        except BaseException:
            self._close(files)
            raise
        return files

    def release(self, file: int) -> None:
        """End what `follow` began. What has been told of it stays in the rings."""
        self._close(self._files.pop(file))

    def _close(self, files: list[int]) -> None:
        for file in files:
            ended = {_id_of(file)}
            self.begun -= ended
            self.major -= ended
            os.close(file)

    @property
    def following(self) -> bool:
        """Whether there is anything to follow."""
        return bool(self._files)

    @property
    def files(self) -> tuple[int, ...]:
        """What to poll for new records."""
        return tuple(ring.file for ring in self._rings)

    def take(self) -> Iterator[tuple[Samples, list[Change]]]:
        """Yield what each processor has written since the last time, in its order."""
        for ring in self._rings:
            yield _parsed(ring.take())

    def close(self) -> None:
        for file in list(self._files):
            self.release(file)
        for ring in self._rings:
            ring.close()
        for _, *rings in self._outputs:
            for file in rings:
                if file >= 0:
                    os.close(file)
        self._rings, self._outputs = [], []


def mappings_of(pid: int, time: int) -> Iterator[Change]:
    """Yield the files that a process has mapped, as changes at `time`."""
    with Path(f"/proc/{pid}/maps").open("rb") as lines:
        for line in lines:
            span, rights, offset, _, _, *name = line.rstrip(b"\n").split(None, 5)
            if name and name[0].startswith(b"/"):
                start, end = (int(part, 16) for part in span.split(b"-"))
                yield Change(
                    MAPPED,
                    time,
                    pid,
                    address=start,
                    length=end - start,
                    offset=int(offset, 16),
                    name=os.fsdecode(name[0].replace(rb"\012", b"\n")),
                    writable=b"w" in rights,
                    shared=b"s" in rights,
                    executable=b"x" in rights,
                )


class _Ring:
    """A ring buffer of `size` bytes that the kernel writes and we read."""

    def __init__(self, file: int, size: int) -> None:
        self.file = file
        self._size = size
        self._pages = mmap.mmap(file, mmap.PAGESIZE + size)
        # A view of the mapping: its head and tail are read and written as whole words.
        self._ends = np.frombuffer(self._pages, np.uint64, 2, _HEAD)

    def take(self) -> bytes:
        head, tail = int(self._ends[0]), int(self._ends[1])
        length, start = head - tail, tail % self._size
        first = min(length, self._size - start)
        data = self._pages[mmap.PAGESIZE + start : mmap.PAGESIZE + start + first]
        if first < length:
            data += self._pages[mmap.PAGESIZE : mmap.PAGESIZE + length - first]
        self._ends[1] = head
        return data

    def close(self) -> None:
        del self._ends
        self._pages.close()


def _largest_ring(file: int) -> _Ring:
    """Return the largest ring that the user may lock."""
    for size in _FAULTS_BYTES[:-1]:
        try:
            return _Ring(file, size)
        except PermissionError:
            continue
    return _Ring(file, _FAULTS_BYTES[-1])


def _parsed(data: bytes) -> tuple[Samples, list[Change]]:
    """Split records into faults, taken in runs, and the changes of mappings between them."""
    runs: list[Samples] = []
    changes: list[Change] = []
    at, size = 0, _RECORD.itemsize
    while at + 8 <= len(data):
        kind, misc, length = struct.unpack_from("<IHH", data, at)
        if length < 8:
            break
        if kind == SAMPLE and length == size:
            run = np.frombuffer(data, _RECORD, (len(data) - at) // size, at)
            others = np.flatnonzero((run["kind"] != SAMPLE) | (run["size"] != size))
            run = run[: others[0]] if len(others) else run
            runs.append(run)
            at += len(run) * size
            continue
        change = _change(kind, misc, data[at + 8 : at + length])
        if change is not None:
            changes.append(change)
        at += length
    return np.concatenate(runs) if runs else no_samples(), changes


def no_samples() -> Samples:
    """Return no faults."""
    return np.empty(0, _RECORD)


def _change(kind: int, misc: int, body: bytes) -> Change | None:
    time = struct.unpack_from("<Q", body, len(body) - 16)[0] if len(body) >= 24 else 0
    if kind == MAPPED:
        pid, _, address, length, offset, protection, flags = _MAPPING.unpack_from(body)
        name = os.fsdecode(body[_MAPPING.size : -24].rstrip(b"\0"))
        writable, executable = (bool(protection & right) for right in (_WRITABLE, _EXECUTABLE))
        shared = bool(flags & _SHARED)
        return Change(kind, time, pid, 0, address, length, offset, name, writable, shared, executable)
    if kind == EXECUTED:
        return Change(kind, time, struct.unpack_from("<I", body)[0]) if misc & _EXEC else None
    if kind in (FORKED, EXITED):
        pid, parent, tid, _ = struct.unpack_from("<IIII", body)
        if kind == EXITED:
            return Change(kind, time, pid) if pid == tid else None
        return Change(kind, time, pid, parent) if pid != parent else None
    if kind == LOST:
        return Change(kind, time, count=struct.unpack_from("<QQ", body)[1])
    return None


def reason_against() -> str:
    """Return why there are no events here; empty if there are."""
    if platform.system() != "Linux" or platform.machine() not in _CALLS:
        return f"there are no page-fault events on {platform.system()} {platform.machine()}"
    try:
        with closing(Events()) as events:
            events.follow(0)
    except OSError as error:
        setting = Path("/proc/sys/kernel/perf_event_paranoid")
        level = setting.read_text().strip() if setting.is_file() else ""
        hint = f"; kernel.perf_event_paranoid is {level}, and may be at most 2" if level else ""
        return f"perf_event_open: {error.strerror}{hint}"
    return ""


def _opened(event: int, task: int, processor: int, flags: int) -> int:
    """Open one event of a task; with faults inside the kernel's own copying, if that is allowed."""
    try:
        return _perf_event_open(event, task, processor, flags, _FAULTS_BYTES[-1])
    except PermissionError:
        flags |= _EXCLUDE_KERNEL | _EXCLUDE_HV
        return _perf_event_open(event, task, processor, flags, _FAULTS_BYTES[-1])


def _perf_event_open(event: int, task: int, processor: int, flags: int, ring_bytes: int) -> int:
    attributes = bytearray(_ATTRIBUTE_BYTES)
    flags |= _DISABLED | _WATERMARK | _ID_EVERYWHERE | _USE_CLOCK
    struct.pack_into(
        "<IIQQQQQI",
        attributes,
        0,
        _SOFTWARE,
        _ATTRIBUTE_BYTES,
        event,
        1,
        _SAMPLE_TYPE,
        0,
        flags,
        ring_bytes // 2,
    )
    struct.pack_into("<i", attributes, 92, _CLOCK_MONOTONIC)
    buffer = (ctypes.c_char * _ATTRIBUTE_BYTES).from_buffer(attributes)
    file = _libc().syscall(
        ctypes.c_long(_CALLS[platform.machine()]),
        ctypes.byref(buffer),
        ctypes.c_int(task),
        ctypes.c_int(processor),
        ctypes.c_int(-1),
        ctypes.c_ulong(_CLOSE_ON_EXEC),
    )
    if file < 0:
        raise _error()
    return int(file)


def _id_of(file: int) -> int:
    found = ctypes.c_uint64()
    if _libc().ioctl(ctypes.c_int(file), ctypes.c_ulong(_GET_ID), ctypes.byref(found)) < 0:
        raise _error()
    return found.value


def _control(file: int, request: int, argument: int) -> None:
    if _libc().ioctl(ctypes.c_int(file), ctypes.c_ulong(request), ctypes.c_ulong(argument)) < 0:
        raise _error()


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
