"""Limits the bytes and ops that are in flight at once.

The gate is first come, first served, and wakes only the waiter that is admitted. It serves threads (`acquire`)
and coroutines (`aacquire`) at the same time, and does not know what the bytes are for.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable

from tracekit.errors import UsageError

__all__ = ["Gate"]


class Gate:
    """Admits ops while their bytes stay within `max_bytes` and their number within `max_ops`.

    None means no cap. An op larger than `max_bytes` is admitted when nothing is in flight, and nothing else
    is admitted until it is done. Raises UsageError for a cap below 1.
    """

    __slots__ = (
        "_lock",
        "_waiting",
        "bytes_in_flight",
        "max_bytes",
        "max_ops",
        "ops_in_flight",
        "peak_bytes",
        "peak_ops",
    )

    def __init__(self, max_bytes: int | None = None, max_ops: int | None = None) -> None:
        for name, cap in (("max_bytes_in_flight", max_bytes), ("max_ops_in_flight", max_ops)):
            if cap is not None and cap < 1:
                raise UsageError(
                    f"{name}: {cap} admits nothing", "give at least 1, or leave it out for no cap"
                )
        self.max_bytes = max_bytes
        self.max_ops = max_ops
        self.bytes_in_flight = 0
        self.ops_in_flight = 0
        self.peak_bytes = 0
        self.peak_ops = 0
        self._lock = threading.Lock()
        self._waiting: deque[tuple[int, Callable[[], object]]] = deque()

    def acquire(self, nbytes: int) -> int:
        """Wait for admission, and return the ns waited (0: admitted at once). Call `release` afterwards."""
        with self._lock:
            if not self._waiting and self._fits(nbytes):
                self._admit(nbytes)
                return 0
            turn = threading.Lock()
            turn.acquire()
            entry = (nbytes, turn.release)
            self._waiting.append(entry)
        began = time.monotonic_ns()
        try:
            turn.acquire()
        except BaseException:  # a signal handler raised: leave the queue, or return what was admitted
            self._withdraw(entry)
            raise
        return time.monotonic_ns() - began

    async def aacquire(self, nbytes: int) -> int:
        """Do as `acquire` in a coroutine of the running loop. Cancellation gives up the place."""
        with self._lock:
            if not self._waiting and self._fits(nbytes):
                self._admit(nbytes)
                return 0
            loop = asyncio.get_running_loop()
            turn: asyncio.Future[None] = loop.create_future()
            entry = (nbytes, lambda: loop.call_soon_threadsafe(_resolve, turn))
            self._waiting.append(entry)
        began = time.monotonic_ns()
        try:
            await turn
        except BaseException:
            self._withdraw(entry)
            raise
        return time.monotonic_ns() - began

    def release(self, nbytes: int) -> None:
        """Report that an admitted op of `nbytes` is done, and admit the next waiters that fit."""
        with self._lock:
            self.bytes_in_flight -= nbytes
            self.ops_in_flight -= 1
            self._admit_waiting()

    def _fits(self, nbytes: int) -> bool:
        if self.max_ops is not None and self.ops_in_flight >= self.max_ops:
            return False
        if self.max_bytes is None or self.bytes_in_flight + nbytes <= self.max_bytes:
            return True
        return self.ops_in_flight == 0

    def _admit(self, nbytes: int) -> None:
        self.bytes_in_flight += nbytes
        self.ops_in_flight += 1
        if self.bytes_in_flight > self.peak_bytes:
            self.peak_bytes = self.bytes_in_flight
        if self.ops_in_flight > self.peak_ops:
            self.peak_ops = self.ops_in_flight

    def _admit_waiting(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            nbytes, wake = self._waiting.popleft()
            self._admit(nbytes)
            wake()

    def _withdraw(self, entry: tuple[int, Callable[[], object]]) -> None:
        with self._lock:
            if entry in self._waiting:
                self._waiting.remove(entry)
            else:
                self.bytes_in_flight -= entry[0]
                self.ops_in_flight -= 1
            self._admit_waiting()


def _resolve(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)
