"""Open handles, shared by the workers: opened once, closed when the last of them lets go.

With `idle` handles kept, a dataset of records in few large files does not open a file for
each record; with none, every sample opens and closes its file, as loaders of small files do.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable

from tracekit.backends.base import Backend, Handle
from tracekit.errors import BackendError, ErrorClass

__all__ = ["Handles", "Opened"]

Opened = Callable[[int, int, Handle | None, ErrorClass | None], None]
"""Told of each open: t_submit and latency in ns, and the handle or the error's class."""


class _Entry:
    __slots__ = ("handle", "lock", "users")

    def __init__(self) -> None:
        self.handle: Handle | None = None
        self.lock = threading.Lock()
        self.users = 0


class Handles:
    """The open objects of a run. Thread-safe."""

    def __init__(self, backend: Backend, page_cache_mode: str, idle: int) -> None:
        self._backend = backend
        self._page_cache_mode = page_cache_mode
        self._idle = idle
        self._entries: dict[Hashable, _Entry] = {}
        self._lock = threading.Lock()

    def acquire(self, key: Hashable, uri: str, opened: Opened) -> Handle:
        """The handle of `uri` that all who give the same `key` share, to be given back by `release`.

        `opened` is called if it had to be opened. Raises BackendError.
        """
        with self._lock:
            entry = self._entries.pop(key, None) or _Entry()
            self._entries[key] = entry  # at the end: the last one used
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
        closing: list[_Entry] = []
        with self._lock:
            self._entries[key].users -= 1
            if len(self._entries) > self._idle:
                resting = [name for name, entry in self._entries.items() if not entry.users]
                for name in resting[: max(0, len(resting) - self._idle)]:
                    closing.append(self._entries.pop(name))
        for entry in closing:
            if entry.handle is not None:
                entry.handle.close()

    def close(self) -> None:
        """Close every handle; nobody may be using one."""
        with self._lock:
            entries, self._entries = list(self._entries.values()), {}
        for entry in entries:
            if entry.handle is not None:
                entry.handle.close()

    def _open(self, uri: str, opened: Opened) -> Handle:
        began = time.monotonic_ns()
        try:
            handle = self._backend.open(uri, page_cache_mode=self._page_cache_mode)
        except BackendError as error:
            opened(began, time.monotonic_ns() - began, None, error.error_class)
            raise
        opened(began, time.monotonic_ns() - began, handle, None)
        return handle
