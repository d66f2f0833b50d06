"""The backends of one replay: one for each scheme, and each account that URIs name, created on first use."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any

from tracekit.backends.base import Backend
from tracekit.backends.local.backend import LocalBackend
from tracekit.backends.local.beneath import Fence
from tracekit.backends.objects.uri import account_in
from tracekit.backends.registry import applicable, backend_for
from tracekit.uri import scheme_of

__all__ = ["Backends"]


class Backends:
    """Creates and keeps one backend for each scheme and account. Thread-safe; only creation takes a lock.

    `store_options` (`client`, `endpoint`, ...) are passed to object stores only. Local files are changed only
    below `roots`.
    """

    def __init__(self, store_options: Mapping[str, Any] | None = None, *, roots: Iterable[str] = ()) -> None:
        self.fence = Fence(roots)
        self._store_options = dict(store_options or {})
        self._made: dict[tuple[str, str | None], Backend] = {}
        self._lock = threading.Lock()

    def of(self, uri: str) -> Backend:
        """The backend of `uri`'s scheme. Raises UsageError for an unknown one."""
        place = scheme_of(uri), account_in(uri)
        backend = self._made.get(place)
        if backend is None:
            with self._lock:
                backend = self._made.get(place)
                if backend is None:
                    options = applicable(uri, self._store_options)
                    backend = backend_for(uri, **options)
                    if isinstance(backend, LocalBackend):
                        backend.enclose(self.fence)
                    self._made[place] = backend
        return backend

    def counters(self) -> dict[str, int]:
        """The counters of all backends, summed."""
        total: dict[str, int] = {}
        for backend in self._made.values():
            for name, value in backend.counters.items():
                total[name] = total.get(name, 0) + value
        return total

    def close(self) -> None:
        for backend in self._made.values():
            backend.close()
        self.fence.close()
