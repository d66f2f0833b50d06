"""A log of ops that outlives its process: each op is in a mapped file before the hooked call returns.

The processes of `tracekit capture` record into it instead of a `Recorder`, whose last quarter of a second dies with
them. It needs neither Arrow nor a thread. A file is a sequence
of frames: a length of 4 bytes, and as many of a value written by `marshal`. The first is a dictionary that
describes the process; a tuple is an op, a pair of name and number a counter, a list several of these pairs.
"""

from __future__ import annotations

import marshal
import mmap
import os
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tracekit.errors import ErrorClass
from tracekit.processes import clock_offset_ns

__all__ = ["OpLog", "OpLogContents", "OpLogTail", "read_oplog"]

_LENGTH = struct.Struct("<I")
_FIRST_BYTES, _LAST_BYTES = 1 << 16, 64 << 20
"""The first part is small: the kernel clears up to some MiB of a part at its first byte, and many processes note little."""
_MOST_BYTES = 1 << 20
_kept: list[object] = []
"""Maps of the parent in a forked child. Closing one would close a descriptor that may be another's by then."""


class OpLog:
    """Records the ops of this process into a new file of the directory `folder`; used like a `Recorder`.

    A forked child continues in a file of its own. Raises OSError if the file cannot grow.
    """

    def __init__(self, folder: Path, *, rank: int | None = None) -> None:
        self._folder = folder
        self._rank = rank
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self.path = self._folder / f"{os.getpid()}-{time.monotonic_ns()}.ops"
        self._pages: Any = None
        self._maps: list[mmap.mmap] = []
        self._at = self._end = self._size = 0

    @property
    def started(self) -> bool:
        """Whether this process has recorded anything."""
        return self._pages is not None

    def record(
        self,
        uri: str,
        offset: int | None,
        len: int | None,
        t_submit: int,
        latency: int | None,
        *,
        op: str = "read",
        bytes: int | None = None,
        ttfb: int | None = None,
        tries: int | None = None,
        wait_ns: int | None = None,
        sample_id: int | None = None,
        step: int | None = None,
        worker: int | None = None,
        part: int | None = None,
        to_uri: str | None = None,
        error: ErrorClass | None = None,
    ) -> None:
        """Record one op, with the parameters of `Recorder.record`. Thread-safe."""
        self._add(
            (
                t_submit,
                uri,
                op,
                offset,
                len,
                bytes,
                latency,
                ttfb,
                tries,
                wait_ns,
                sample_id,
                step,
                worker,
                part,
                to_uri,
                None,
                error and error.value,
            )
        )

    def count(self, name: str, n: int = 1) -> None:
        """Add `n` to a counter."""
        self._add((name, n))

    def count_all(self, numbers: Mapping[str, int]) -> None:
        """Add each of `numbers` to the counter of its name, in one frame."""
        self._add([*numbers.items()])

    def flush(self) -> None:
        """Do nothing: every op is in the file already."""

    def close(self) -> None:
        """Do nothing: what is in the file stays there."""

    def forked(self) -> None:
        """Start afresh in a forked child."""
        self._lock = threading.Lock()
        _kept.append(self._maps)
        self._begin()

    def _add(self, value: Any) -> None:
        data = marshal.dumps(value)
        size = len(data)
        with self._lock:
            at = self._at
            following = at + 4 + size
            if following > self._end:
                self._grow(size)
                at = self._at
                following = at + 4 + size
            self._pages[at + 4 : following] = data
            _LENGTH.pack_into(self._pages, at, size)  # last: a frame without a length was never written
            self._at = following

    def _grow(self, needed: int) -> None:
        """Map the next part of the file that has room. Its blocks are reserved: a full disk is an error here, not a signal later."""
        if needed > _MOST_BYTES:
            raise ValueError(f"an op of {needed} bytes")
        self._map()
        while self._at + _LENGTH.size + needed > self._end:
            self._map()

    def _map(self) -> None:
        part = _part_bytes(len(self._maps))
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(file, self._size, part)
            pages = mmap.mmap(file, part, offset=self._size)
        finally:
            os.close(file)
        self._maps.append(pages)
        self._pages, self._at, self._end = pages, 0, part
        self._size += part
        if len(self._maps) == 1:
            head = marshal.dumps({"pid": os.getpid(), "rank": self._rank, "clock_offset": clock_offset_ns()})
            self._at = _LENGTH.size + len(head)
            pages[_LENGTH.size : self._at] = head
            _LENGTH.pack_into(pages, 0, len(head))


def _part_bytes(number: int) -> int:
    return min(_FIRST_BYTES << min(number, 32), _LAST_BYTES)


@dataclass(slots=True)
class OpLogContents:
    """What one file holds. `values` are the ops one after the other, as `store.flat` wants them."""

    pid: int = 0
    rank: int = 0
    clock_offset: int = 0
    values: list[Any] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)


class OpLogTail:
    """Reads one file, which may still be written: `poll` yields each op once, in portions.

    What a process was writing when it was killed is left out. Raises OSError if there is no such file.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._part = self._start = self._at = 0
        self._process = (0, 0, 0)

    def poll(self, *, ops_at_once: int = 65_536) -> Iterator[OpLogContents]:
        """Yield what was added since the last call."""
        found = OpLogContents(*self._process)
        ops = 0
        for value in self._frames():
            if isinstance(value, dict):
                self._process = (value["pid"], value["rank"] or 0, value["clock_offset"])
                found.pid, found.rank, found.clock_offset = self._process
            elif isinstance(value, list) or len(value) == 2:
                for name, n in value if isinstance(value, list) else (value,):
                    found.counters[name] = found.counters.get(name, 0) + n
            else:
                found.values += value
                ops += 1
                if ops == ops_at_once:
                    yield found
                    found, ops = OpLogContents(*self._process), 0
        yield found

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _frames(self) -> Iterator[Any]:
        size = os.fstat(self._file).st_size
        if not size:  # the disk was full, or the process has only just made it
            return
        with mmap.mmap(self._file, size, access=mmap.ACCESS_READ) as data:
            while True:
                end = min(self._start + _part_bytes(self._part), size)
                while (following := self._following(data, end)) is not None:
                    value = marshal.loads(data[self._at + _LENGTH.size : following])
                    self._at = following
                    yield value
                if end == size:  # more may be written to this part
                    return
                self._start = self._at = end
                self._part += 1

    def _following(self, data: mmap.mmap, end: int) -> int | None:
        """Return where the frame at the present place ends; None if there is none before `end`."""
        begin = self._at + _LENGTH.size
        if begin > end:
            return None
        (size,) = _LENGTH.unpack_from(data, self._at)
        return begin + size if size and begin + size <= end else None


def read_oplog(path: Path, *, ops_at_once: int = 65_536) -> Iterator[OpLogContents]:
    """Yield the contents of a file, in portions; what a process was writing when it was killed is left out."""
    with closing(OpLogTail(path)) as log:
        yield from log.poll(ops_at_once=ops_at_once)
