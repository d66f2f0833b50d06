"""Threads that perform blocking reads for an event loop, which is woken once for several results.

A library that bridges to asyncio wakes the loop through its self-pipe for every await, and
that costs more than a small GET. Here, results that arrive close together share one wake-up.
The pool refuses work when all its threads are busy, so that it is neither a hidden queue
nor a limit: the caller then awaits the library itself.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

__all__ = ["ReaderPool"]

_JOIN_S = 5.0
_Job = tuple["_Mailbox", "asyncio.Future[Any]", Callable[[], Any]]


class ReaderPool:
    """At most `threads` threads, each started when it is needed for the first time."""

    def __init__(self, threads: int) -> None:
        self._limit = threads
        self._busy = 0
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._mailboxes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Mailbox] = (
            weakref.WeakKeyDictionary()
        )

    def submit(self, call: Callable[[], Any]) -> asyncio.Future[Any] | None:
        """Return a future of the running loop for the result of `call`; None if all threads are busy."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._busy >= self._limit:
                return None
            self._busy += 1
            if self._busy > len(self._threads):
                if not self._threads:
                    atexit.register(self.close)  # no thread may be inside the library when Python ends
                thread = threading.Thread(target=self._work, name="tracekit-reader", daemon=True)
                self._threads.append(thread)
                thread.start()
            mailbox = self._mailboxes.get(loop)
            if mailbox is None:
                mailbox = self._mailboxes[loop] = _Mailbox(loop)
        future = loop.create_future()
        self._jobs.put((mailbox, future, call))
        return future

    def close(self) -> None:
        """End the threads; wait for what they are reading, but not for long."""
        with self._lock:
            threads, self._threads = self._threads, []
        for _ in threads:
            self._jobs.put(None)
        give_up_at = time.monotonic() + _JOIN_S
        for thread in threads:
            thread.join(timeout=max(give_up_at - time.monotonic(), 0))
        atexit.unregister(self.close)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            mailbox, future, call = job
            del job
            result, error = None, None
            try:
                result = call()
            except BaseException as raised:  # noqa: BLE001 - raised again in the waiter: a Rust panic too
                error = raised
            del call
            with self._lock:
                self._busy -= 1
            mailbox.post(future, result, error)
            del mailbox, future, result, error


class _Mailbox:
    """Results for one loop that it has not received yet."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._ended: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._woken = False

    def post(self, future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        self._ended.append((future, result, error))
        if self._woken:
            return
        self._woken = True
        loop = self._loop()
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop was closed: there are no waiters
                loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._woken = False  # before the deque is emptied: later results wake the loop again
        while self._ended:
            future, result, error = self._ended.popleft()
            if future.cancelled():
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
