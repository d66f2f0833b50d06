"""Writes the scopes of this process to the log of scopes of its capture. `scopes.py` reads it.

All processes of a capture append to one file. A line holds one or more scopes of `SCOPE_FIELDS` each, as the hexadecimal digits of
an array of native 64-bit integers; times are ns since the Unix epoch, -1 stands for unknown. `batch,` is followed by such an array
of `BATCH_FIELDS`, the times at which the samples begin and the last of them ends, and their sample_ids. The line `joined,PID,RANK`
says that the hooks of a process have started, or that it has learnt another rank before its end.
"""

from __future__ import annotations

import os
import threading
from array import array
from binascii import hexlify
from collections.abc import Sequence
from operator import index as as_index
from time import time_ns
from typing import Any

from tracekit.job import rank_and_world_size

__all__ = ["BATCH_FIELDS", "LONGEST_WAIT_NS", "SCOPE_FIELDS", "ScopeLog", "sample_number"]

SCOPE_FIELDS = ("thread", "begin", "end", "sample_id", "step", "worker", "rank")
BATCH_FIELDS = (*SCOPE_FIELDS, "ended", "took", "picked_up", "samples")
"""What comes before the times and the sample_ids of a batch, which is written in parts if it takes long."""
LONGEST_WAIT_NS = 250_000_000
"""What a hook notes in memory waits no longer than this to be written or counted."""


class _Thread(threading.local):
    """The kernel's number of this thread, which takes a system call to learn; 0 if it has not been asked for."""

    number = 0


class ScopeLog:
    """The scopes of this process that have ended. A full disk ends the log: the ops themselves are recorded elsewhere."""

    __slots__ = ("_asked_ns", "_rank", "_thread", "_writing", "_written_ns", "file", "unwritten")

    def __init__(self) -> None:
        self.file: int | None = None
        """The descriptor of the file; None if there is no log."""
        self.unwritten: list[int] = []
        """The `SCOPE_FIELDS` of the scopes that have ended since the log was written last, at `_written_ns`."""
        self._written_ns = 0
        self._thread = _Thread()
        self.forked()

    def forked(self) -> None:
        """Forget what was the parent's, in a forked child."""
        self.unwritten.clear()
        self._thread.number = 0
        self._rank: int | None = None
        """The rank as of the time `_asked_ns`; None if this process has not asked for it yet."""
        self._asked_ns = 0
        self._writing = threading.RLock()
        """Reentrant: the garbage collector may close a generator, and end its scope, while scopes are written."""

    def open(self, path: str) -> None:
        """Append to the file `path` from now on. No other file may be open."""
        self.file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._append(self._joined(time_ns()))

    def close(self) -> None:
        """Write what is left, and end the log."""
        self.end()
        if self.file is not None:
            os.close(self.file)
            self.file = None

    def end(self) -> None:
        """Write what is left, and the rank if it has changed meanwhile."""
        if self.file is None:
            return
        now = time_ns()
        before, self._rank = self._rank, None
        self.write(now)
        if before not in (None, self._rank_at(now)):
            self._append(self._joined(now))

    def add(
        self, begin: int, end: int, sample_id: int | None, step: int | None, worker: int | None, *, last: bool
    ) -> None:
        """Add a scope. While others are open, as a step is around its samples, so that it is not the `last`, it waits for
        `LONGEST_WAIT_NS` at most."""
        self.unwritten.extend(
            (
                self._thread.number or self._number_thread(),
                begin,
                end,
                -1 if sample_id is None else sample_id,
                -1 if step is None else step,
                -1 if worker is None else worker,
                self._rank_at(end) if self._rank is None else self._rank,
            )
        )
        if last or end - self._written_ns > LONGEST_WAIT_NS:
            self.write(end)

    def add_batch(
        self,
        begin: int,
        now: int,
        step: int | None,
        worker: int | None,
        times: Sequence[int],
        sample_ids: Sequence[Any],
        *,
        ended: bool,
        took: int,
        picked_up: int,
    ) -> None:
        """Write a batch, or a part of it: its samples, the times at which they begin, and that at which the last of them ends."""
        head = (
            self._thread.number or self._number_thread(),
            begin,
            now,
            -1,
            -1 if step is None else step,
            -1 if worker is None else worker,
            self._rank_at(now),
            ended,
            took,
            picked_up,
            len(sample_ids),
        )
        try:
            packed = array("q", (*head, *times, *sample_ids))
        except (TypeError, OverflowError):  # keys that are no numbers, or that no trace can hold
            packed = array("q", (*head, *times, *map(_storable, sample_ids)))
        self._append(b"batch," + hexlify(packed))

    def write(self, now: int) -> None:
        """Write the scopes that have ended."""
        self._written_ns = now
        self._rank_at(now)
        with self._writing:
            count = len(self.unwritten)
            scopes = self.unwritten[:count]
            del self.unwritten[:count]
            if packed := _packed(scopes):
                self._append(hexlify(packed))

    def _append(self, line: bytes) -> None:
        if self.file is None:
            return
        try:
            os.write(self.file, line + b"\n")
        except OSError:
            os.close(self.file)
            self.file = None

    def _joined(self, now: int) -> bytes:
        return f"joined,{os.getpid()},{self._rank_at(now)}".encode()

    def _rank_at(self, now: int) -> int:
        """The rank of this process, which it may set while it runs; -1 if unknown. The environment is looked at every quarter of
        a second, because that takes as long as a sample's scope."""
        if self._rank is None or now - self._asked_ns > LONGEST_WAIT_NS:
            rank = rank_and_world_size()[0]
            self._rank, self._asked_ns = -1 if rank is None else rank, now
        return self._rank

    def _number_thread(self) -> int:
        self._thread.number = threading.get_native_id()
        return self._thread.number


def sample_number(key: Any) -> int | None:
    """A key as a sample_id; None if it is no integer."""
    try:
        return as_index(key)
    except TypeError:
        return None


def _storable(key: Any) -> int:
    number = sample_number(key)
    return -1 if number is None or not 0 <= number < 1 << 63 else number


def _packed(scopes: list[int]) -> bytes:
    try:
        return array("q", scopes).tobytes()
    except OverflowError:  # a number that no sample or step can have in a trace
        many = len(SCOPE_FIELDS)
        if len(scopes) == many:
            return b""
        return b"".join(_packed(scopes[at : at + many]) for at in range(0, len(scopes), many))
