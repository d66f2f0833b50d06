"""The interface between storage and its two users, the loader and the replayer.

A backend reads (and, for `materialize`, writes) objects of one URI scheme. It knows
neither traces nor recorders: the caller times each call and records the row.
Backends count in `counters` what rows cannot show.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from tracekit.backends.changing import Changer

__all__ = ["NOTHING_MOVED", "Backend", "Handle", "Hint", "Moved", "ObjectInfo"]


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object or file: its full URI and its size in bytes."""

    uri: str
    size: int


@dataclass(frozen=True, slots=True)
class Hint:
    """One page-cache hint that was given, with the values of its `hint` row.

    `kind` is `sequential`, `random` or `dontneed`; `t_submit` is a monotonic reading, in ns.
    """

    kind: str
    offset: int
    length: int
    t_submit: int
    latency: int


@dataclass(slots=True)
class Moved:
    """What a read did. Not frozen: that would triple the cost of making one (80 to 255 ns).

    `nbytes` is less than requested if the object ended. `ttfb` is the time to the first
    byte in ns, None where it cannot be seen. `hint` is the hint that followed the read
    (page cache mode `dontneed`); the read ended at the hint's `t_submit`. A request was sent
    `tries` times (None: it cannot be sent again, as of a local file); the last time it was sent
    `wait_ns` after the first, and `ttfb` counts from there, as latencies do.
    """

    nbytes: int
    ttfb: int | None = None
    hint: Hint | None = None
    tries: int | None = None
    wait_ns: int = 0


NOTHING_MOVED = Moved(0)
"""The result of a read that failed or had an empty buffer."""


class Handle(Protocol):
    """An open object. Any number of threads may read it at once.

    Every read raises BackendError if it fails. That an object ends early is not an error:
    the caller compares `Moved.nbytes` with the requested length.
    """

    uri: str
    fd: int
    """The file descriptor for callers that read a buffered file themselves, else -1."""
    open_hint: Hint | None
    """The hint for the whole file that was given at open."""

    @property
    def size(self) -> int:
        """Bytes of the object; an object store is asked the first time."""
        ...

    def read_into(self, offset: int, buffer: memoryview) -> Moved:
        """Fill `buffer` from byte `offset` on."""
        ...

    def get(self, most: int | None = None) -> tuple[memoryview, Moved]:
        """Read the whole object, at most its first `most` bytes: in one request, unless it is larger."""
        ...

    async def aread_into(self, offset: int, buffer: memoryview) -> Moved:
        """`read_into` without blocking the running event loop."""
        ...

    async def aget(self, most: int | None = None) -> tuple[memoryview, Moved]:
        """`get` without blocking the running event loop."""
        ...

    def close(self) -> None: ...


class Backend(Protocol):
    """One URI scheme. Thread-safe."""

    scheme: str
    remote: bool
    """An object store: `open` sends no request, `get` is one request, many can be in flight on a loop."""
    counters: dict[str, int]
    """What rows cannot show, by name: `hints_applied`, `direct_reads`, `alignment_bytes`,
    `range_gets`, `whole_gets`, `retries`, `throttles`, ..."""

    @property
    def changer(self) -> Changer:
        """What changes objects of this scheme, other than by whole puts."""
        ...

    def preflight(self, uri: str) -> None:
        """Raise BackendError or UsageError in one line if nothing under `uri` can be read."""
        ...

    def list(self, uri: str) -> Iterator[ObjectInfo]:
        """Yield every object below the prefix or directory `uri` (recursive), in URI order."""
        ...

    def stat(self, uri: str) -> ObjectInfo: ...

    def open(self, uri: str, *, page_cache_mode: str = "default") -> Handle:
        """Open for reading. The mode's hint for the whole file is given, and counted, here."""
        ...

    def put(self, uri: str, data: bytes | memoryview, *, overwrite: bool = False) -> int:
        """Write the whole object, which appears whole or not at all; return its bytes.

        Raises BackendError of class `exists` if it is there and `overwrite` is false.
        """
        ...

    def allocate(self, nbytes: int) -> memoryview:
        """Return a writable buffer that suits this backend (aligned for O_DIRECT).

        Raises BackendError of class `out_of_memory` if there is no room for it.
        """
        ...

    def close(self) -> None: ...

    async def aclose(self) -> None:
        """Release what belongs to the running event loop; the backend stays usable."""
        ...
