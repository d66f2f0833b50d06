"""Open handles that workers share: opened once, closed when the last user releases them.

With `idle` handles kept, a dataset of records in few large files does not open a file for
each record. With none, each sample opens and closes its file, as loaders of small files do.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable

from tracekit.backends.base import Backend, Handle
from tracekit.errors import BackendError, ErrorClass

__all__ = ["Handles", "Opened"]

Opened = Callable[[int, int, Handle | None, ErrorClass | None], None]
"""Called after each open with t_submit and latency in ns, and the handle or the error class."""


class _Entry:
    __slots__ = ("handle", "lock", "users")

    def __init__(self) -> None:
        self.handle: Handle | None = None
        self.lock = threading.Lock()
        self.users = 0


class Handles:
    """The open objects of a run, at most `most` at once. Thread-safe."""

    def __init__(self, backend: Backend, page_cache_mode: str, *, idle: int, most: int) -> None:
        self._backend = backend
        self._page_cache_mode = page_cache_mode
        self._idle = idle
        self._most = most
        self._entries: dict[Hashable, _Entry] = {}
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiting = 0

    def acquire(self, key: Hashable, uri: str, opened: Opened) -> Handle:
        """Return the handle of `uri` that all callers with the same `key` share; `release` gives it back.

        Waits while `most` handles are in use. Calls `opened` if it had to open one. Raises BackendError.
        """
        with self._lock:
            entry = self._entries.pop(key, None) or self._taken(key)
            self._entries[key] = entry  # last in order: the most recently used
            entry.users += 1
        try:
            with entry.lock:
                if entry.handle is None:
                    entry.handle = self._open(uri, opened)
                return entry.handle
        except BaseException:
            self.release(key)
            raise

    def release(self, key: Hashable) -> None:
        with self._lock:
            self._entries[key].users -= 1
            if len(self._entries) > self._idle:
                resting = [name for name, entry in self._entries.items() if not entry.users]
                for name in resting[: max(0, len(resting) - self._idle)]:
                    self._close(name)
            if self._waiting:
                self._changed.notify()

    def close(self) -> None:
        """Close every handle; none may be in use."""
        with self._lock:
            for key in list(self._entries):
                self._close(key)

    def _taken(self, key: Hashable) -> _Entry:
        """Take the entry of `key` out of the order, or make one when there is room for it."""
        while (entry := self._entries.pop(key, None)) is None:
            if len(self._entries) < self._most:
                return _Entry()
            resting = next((name for name, held in self._entries.items() if not held.users), None)
            if resting is not None:
                self._close(resting)
            else:
                self._waiting += 1
                self._changed.wait()
                self._waiting -= 1
        return entry

    def _close(self, key: Hashable) -> None:
        handle = self._entries.pop(key).handle
        if handle is not None:
            handle.close()

    def _open(self, uri: str, opened: Opened) -> Handle:
        began = time.monotonic_ns()
        try:
            handle = self._backend.open(uri, page_cache_mode=self._page_cache_mode)
        except BackendError as error:
            opened(began, time.monotonic_ns() - began, None, error.error_class)
            raise
        opened(began, time.monotonic_ns() - began, handle, None)
        return handle
