"""What the object-store backend asks of a client library: one container, one try each.

A client does one request and says what it saw. It must not retry, count, sleep or word
an error for a user: `object_store` does, the same way for every library, so that no retry
hides inside a latency.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from tracekit.backends.objects.failures import Failure

__all__ = ["PAGE_OBJECTS", "ObjectClient"]

PAGE_OBJECTS = 1000
"""Objects asked for in one listing page, on every store."""


class ObjectClient(Protocol):
    """One bucket or container through one library. Safe from many threads and event loops.

    `first` in results is the `time.monotonic_ns()` reading at the first byte (or the
    headers, which arrive with it), None where the library does not show it.
    """

    errors: tuple[type[Exception], ...]
    """What this library raises; `failure` judges exactly these."""

    def failure(self, error: Exception) -> Failure: ...

    def read(self, key: str, offset: int, buffer: memoryview) -> tuple[int, int | None]:
        """Range GET into `buffer` (never empty): (bytes, first)."""
        ...

    def get(self, key: str) -> tuple[memoryview, int | None]: ...

    async def aread(self, key: str, offset: int, buffer: memoryview) -> tuple[int, int | None]: ...

    async def aget(self, key: str) -> tuple[memoryview, int | None]: ...

    def size(self, key: str) -> int: ...

    def pages(self, prefix: str, after: str) -> Iterator[list[tuple[str, int]]]:
        """(key, size) below the folder `prefix` (no trailing slash), behind key `after`, by key."""
        ...

    def put(self, key: str, data: bytes | memoryview, overwrite: bool) -> None: ...

    def close(self) -> None: ...

    async def aclose(self) -> None:
        """Let go of what belongs to the running event loop."""
        ...
