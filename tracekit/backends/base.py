"""What the loader and the replayer ask of storage, and nothing more.

A backend reads (and, for `materialize`, writes) bytes of one URI scheme. It knows
no traces and no recorder: whoever calls it times the call and records the row.
Backends count what a row cannot show in `counters`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

__all__ = [
    "CACHE_POLICIES",
    "AsyncBackend",
    "Backend",
    "Handle",
    "Hint",
    "HintedHandle",
    "ObjectInfo",
    "WholeObjects",
]

CACHE_POLICIES = ("default", "fadvise_sequential", "fadvise_random", "dontneed", "direct_io")
"""Page-cache policies; identical names on every scheme (object stores accept and ignore hints)."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object or file: its full URI and its size in bytes."""

    uri: str
    size: int


@dataclass(frozen=True, slots=True)
class Hint:
    """One page-cache hint that was applied, with what its `hint` row needs.

    `kind` is `sequential`, `random` or `dontneed`; `t_submit` a monotonic reading, in ns.
    """

    kind: str
    offset: int
    length: int
    t_submit: int
    latency: int


class Handle(Protocol):
    """An open object. `read_into` may be called from many threads at once."""

    uri: str
    size: int

    def read_into(self, offset: int, buffer: memoryview) -> tuple[int, int | None]:
        """Fill `buffer` from byte `offset`; (bytes read, ns to the first byte or None).

        Fewer bytes than asked means the object ended: no exception, the caller judges.
        Raises BackendError with an `error_class` for everything else.
        """
        ...

    def close(self) -> None: ...


@runtime_checkable
class HintedHandle(Protocol):
    """What file-system handles offer besides `Handle`: the hints, so that they can be recorded."""

    open_hint: Hint | None
    """The hint applied to the whole file at open, if the policy has one."""

    def read_hinted(self, offset: int, buffer: memoryview) -> tuple[int, int | None, Hint | None]:
        """As `read_into`, and the hint that followed the read (policy `dontneed`) or None.

        The read ended when the hint began, at its `t_submit`: a hint's time is none of the read's.
        """
        ...


class Backend(Protocol):
    """One URI scheme. Thread-safe."""

    scheme: str
    counters: dict[str, int]
    """What rows cannot show, by name: `hints_applied`, `direct_reads`, `alignment_bytes`,
    `range_gets`, `whole_gets`, `retries`, `throttles`, ..."""

    def preflight(self, uri: str) -> None:
        """Raise BackendError or UsageError in one line if nothing under `uri` can be read this way."""
        ...

    def list(self, uri: str) -> Iterator[ObjectInfo]:
        """Every object under the prefix or directory `uri` (recursive), in URI order."""
        ...

    def stat(self, uri: str) -> ObjectInfo: ...

    def open(self, uri: str, *, cache_policy: str = "default") -> Handle:
        """Open for reading; the policy's per-file hints are applied (and counted) here."""
        ...

    def put(self, uri: str, data: bytes | memoryview, *, overwrite: bool = False) -> int:
        """Write the whole object, appearing whole or not at all; bytes written.

        Raises BackendError class `exists` when it is there and `overwrite` is false.
        """
        ...

    def allocate(self, nbytes: int) -> memoryview:
        """A writable buffer that suits this backend (aligned for O_DIRECT)."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class WholeObjects(Protocol):
    """What object-store backends offer besides `Backend`: a whole object in one request."""

    def get(self, uri: str) -> tuple[memoryview, int | None]:
        """The whole object, and ns to its first byte or None."""
        ...


@runtime_checkable
class AsyncBackend(Protocol):
    """What object-store backends offer besides `Backend`, for the event-loop engine."""

    async def aread_into(self, uri: str, offset: int, buffer: memoryview) -> tuple[int, int | None]:
        """As `Handle.read_into`, on the running event loop."""
        ...

    async def aget(self, uri: str) -> tuple[memoryview, int | None]:
        """The whole object, and ns to its first byte or None."""
        ...

    async def aclose(self) -> None: ...
