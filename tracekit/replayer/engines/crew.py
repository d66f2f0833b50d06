"""The worker threads of an engine, started as they are needed.

An open loop must have a free worker whenever an op is due, however long the target takes.
A worker is free unless it is in a request. When few are free, more are started, up to a
limit. This module knows threads, not ops.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import threading
import time
from collections import deque
from collections.abc import Callable

from tracekit.errors import TracekitError
from tracekit.replayer.engines.interrupt import ending_on_interrupt

__all__ = ["Crew", "raise_file_limit"]

_NAP_S = 0.2
_SPARE = 2
"""Free workers below which more are started."""
_SECOND_LOOK_S = 0.0002
"""Requests to cached files end within this: a shortage that does not last is none."""
_LONGEST_PAUSE_S = 0.005
_KEPT_DESCRIPTORS = 64
"""Descriptors left to the rest of the process."""


def raise_file_limit(files: int) -> tuple[int, int]:
    """Raise the soft limit of open files so that `files` fit, if the hard one permits; return the limits before."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = files + _KEPT_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(raised, soft), hard))
    _grow_descriptor_table(wanted)
    return soft, hard


def _grow_descriptor_table(files: int) -> None:
    """Make the kernel's table of descriptors large enough now.

    It grows by doubling when a higher descriptor is opened. In a process with threads that waits for an RCU
    grace period (some 10 ms), and every thread that opens a file waits with it.
    """
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    highest = (files if soft == resource.RLIM_INFINITY else min(files, soft)) - 1
    lowest = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.close(fcntl.fcntl(lowest, fcntl.F_DUPFD_CLOEXEC, highest))
    except OSError as error:
        if error.errno != errno.EMFILE:  # else the highest is open, so the table is large enough
            raise
    finally:
        os.close(lowest)


class Crew:
    """Runs `work(index)` in threads: `first` at the start, at most `most`. One run each.

    A worker calls `begin` right before a request and `end` after it.
    """

    def __init__(self, work: Callable[[int], None], *, first: int, most: int) -> None:
        self._work = work
        self._first = first
        self._most = max(first, most)
        self._threads: list[threading.Thread] = []
        self._ended: deque[None] = deque()
        self._wake = threading.Event()
        self._pause_s = 0.0
        self.free: deque[None] = deque()
        self.spare = _SPARE if self._most > first else 0
        """`short` is to be called if fewer workers are free than this; 0 when no more can be started."""

    @property
    def size(self) -> int:
        """Threads started."""
        return len(self._threads)

    @property
    def at_limit(self) -> bool:
        """Whether no more threads could be started."""
        return not self.spare

    def begin(self) -> None:
        """A worker is about to make a request."""
        self.free.pop()
        if len(self.free) < self.spare:
            self.short()

    def end(self) -> None:
        """A worker is free again."""
        self.free.append(None)

    def short(self) -> None:
        """Say that few workers are free."""
        if not self._wake.is_set():
            self._wake.set()

    def run(self, watch: Callable[[], None], stop: Callable[[], None]) -> None:
        """Run until all workers have ended. `watch` is called now and then; Ctrl-C calls `stop`, which has them end.

        Raises TracekitError if not even the first threads can be started; the others end then.
        """
        with ending_on_interrupt(stop):
            while self.size < self._first:
                if not self._start():
                    stop()
                    self._join()
                    raise TracekitError(
                        f"only {self.size} of {self._first} threads could be started",
                        "give a smaller threads=",
                    )
            self._supervise(watch)
        self._join()

    def _supervise(self, watch: Callable[[], None]) -> None:
        watched = time.monotonic()
        while len(self._ended) < self.size:
            if self._wake.wait(_NAP_S) and len(self._ended) < self.size:
                self._wake.clear()  # first: whoever is short from now on wakes us again
                time.sleep(_SECOND_LOOK_S + self._pause_s)
                self._grow()
            if time.monotonic() - watched >= _NAP_S:
                watch()
                watched = time.monotonic()

    def _grow(self) -> None:
        """Start threads if workers are still short; otherwise look less often for a while."""
        lacking = self.spare - len(self.free)
        if lacking <= 0:
            self._pause_s = min(max(self._pause_s * 2, _SECOND_LOOK_S), _LONGEST_PAUSE_S)
            return
        self._pause_s = 0.0
        for _ in range(max(lacking, self.size // 8)):
            if self.size >= self._most or not self._start():
                self.spare = 0
                return

    def _start(self) -> bool:
        """Start one thread; False if the system refuses."""
        index = self.size
        thread = threading.Thread(
            target=self._run, args=(index,), name=f"tracekit-replay-{index}", daemon=True
        )
        self.free.append(None)
        self._threads.append(thread)
        try:
            thread.start()
        except RuntimeError:
            self._threads.pop()
            self.free.pop()
            return False
        return True

    def _run(self, index: int) -> None:
        try:
            self._work(index)
        finally:
            self._ended.append(None)
            self._wake.set()

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()
