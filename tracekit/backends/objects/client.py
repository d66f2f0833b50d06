"""The interface between the object-store backend and a client library: one container.

A client sends one request and reports the answer. It must not retry, count, sleep or
write messages for users: `store` does, in the same way for every library, so that no
retry is hidden inside a latency.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from tracekit.backends.objects.failures import Failure

__all__ = ["PAGE_OBJECTS", "ObjectClient"]

PAGE_OBJECTS = 1000
"""Objects per listing page, on every store."""


class ObjectClient(Protocol):
    """One bucket or container through one library. Safe from many threads and event loops.

    `first` in results is the `time.monotonic_ns()` reading at the first byte (or the
    headers, which arrive with it), None where the library does not show it.
    """

    errors: tuple[type[Exception], ...]
    """The exceptions of this library: those that `failure` classifies."""

    def failure(self, error: Exception) -> Failure: ...

    def read(self, key: str, offset: int, buffer: memoryview) -> tuple[int, int | None]:
        """Send a range GET that fills `buffer` (never empty); return (bytes, first)."""
        ...

    def get(self, key: str, most: int | None) -> tuple[memoryview | None, int | None]:
        """Send a GET; return (data, first). Data is None, and not read, if it is longer than `most` bytes."""
        ...

    async def aread(self, key: str, offset: int, buffer: memoryview) -> tuple[int, int | None]: ...

    async def aget(self, key: str, most: int | None) -> tuple[memoryview | None, int | None]: ...

    def size(self, key: str) -> int: ...

    def pages(self, prefix: str, after: str) -> Iterator[list[tuple[str, int]]]:
        """Yield pages of (key, size) below the folder `prefix` (no trailing slash), after key `after`."""
        ...

    def put(self, key: str, data: bytes | memoryview, overwrite: bool) -> None: ...

    def date(self, key: str) -> str:
        """Return the Date header of an answer; "" if the client does not show it."""
        ...

    def remove(self, key: str) -> bool:
        """Send a DELETE; return False if the client cannot."""
        ...

    def relocate(self, region: str) -> bool:
        """Use this region, which the store names, from now on; return whether the client can."""
        ...

    def close(self) -> None: ...

    async def aclose(self) -> None:
        """Release what belongs to the running event loop."""
        ...
