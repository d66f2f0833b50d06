"""Records the reads of the files that `obstore.open_reader` returns.

Such a file reads ahead. A row is one fetch from the store, not one read of the program.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from time import monotonic_ns
from typing import Any

from tracekit.capture.outcome import error_class
from tracekit.capture.session import record

__all__ = ["AsyncReader", "Reader"]


class Reader:
    """A `ReadableFile` that records one op for each call that fetches from the store.

    What the reader's buffer serves makes no request and no row. The hook must not call `tell`
    itself, because obstore's `tell` and `seek` discard the buffer.
    """

    def __init__(self, reader: Any, uri: str, capacity: int) -> None:
        self._reader, self._uri = reader, uri
        self._buffer = _ReadAhead(reader.size, capacity)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self._reader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def read(self, size: int | None = None, /) -> Any:
        return self._timed(lambda: self._reader.read(size), functools.partial(self._buffer.read, size))

    def readall(self) -> Any:
        return self._timed(self._reader.readall, functools.partial(self._buffer.read, None))

    def readline(self) -> Any:
        return self._timed(self._reader.readline, self._buffer.read_lines)

    def readlines(self, *hint: int) -> Any:
        return self._timed(lambda: self._reader.readlines(*hint), self._buffer.read_lines)

    def seek(self, *where_to: int) -> int:
        self._buffer.discard(position := int(self._reader.seek(*where_to)))
        return position

    def tell(self) -> int:
        self._buffer.discard(position := int(self._reader.tell()))
        return position

    def _timed(self, call: Callable[[], Any], fetched: Callable[[int], tuple[int, int]]) -> Any:
        submit = monotonic_ns()
        try:
            data = call()
        except BaseException as error:
            self._record(submit, (self._buffer.position, None), error)
            raise
        self._record(submit, fetched(_length(data)), None)
        return data

    def _record(self, submit: int, fetch: tuple[int, int | None], error: BaseException | None) -> None:
        offset, length = fetch
        if length == 0:
            return
        took = monotonic_ns() - submit
        moved, failure = (length, None) if error is None else (0, error_class(error))
        record(self._uri, offset, length, submit, took, "read", moved, None, failure)


class AsyncReader(Reader):
    """The same for an `AsyncReadableFile`."""

    async def read(self, size: int | None = None, /) -> Any:
        return await self._atimed(self._reader.read(size), functools.partial(self._buffer.read, size))

    async def readall(self) -> Any:
        return await self._atimed(self._reader.readall(), functools.partial(self._buffer.read, None))

    async def readline(self) -> Any:
        return await self._atimed(self._reader.readline(), self._buffer.read_lines)

    async def readlines(self, *hint: int) -> Any:
        return await self._atimed(self._reader.readlines(*hint), self._buffer.read_lines)

    async def seek(self, *where_to: int) -> int:  # type: ignore[override]
        self._buffer.discard(position := int(await self._reader.seek(*where_to)))
        return position

    async def tell(self) -> int:  # type: ignore[override]
        self._buffer.discard(position := int(await self._reader.tell()))
        return position

    async def _atimed(self, call: Awaitable[Any], fetched: Callable[[int], tuple[int, int]]) -> Any:
        submit = monotonic_ns()
        try:
            data = await call
        except BaseException as error:
            self._record(submit, (self._buffer.position, None), error)
            raise
        self._record(submit, fetched(_length(data)), None)
        return data


class _ReadAhead:
    """Computes the (offset, length) that obstore's buffered reader fetches for a call, in bytes.

    The reader fetches when its buffer is empty: at least `capacity` bytes, or what a larger
    read asks for, but never beyond the object's size. A length of 0 means that the buffer
    served the call.
    """

    def __init__(self, size: int, capacity: int) -> None:
        self._size, self._capacity = size, capacity
        self.position = 0
        self._ready = 0

    def discard(self, position: int) -> None:
        """A seek to `position`, which empties the buffer."""
        self.position, self._ready = position, 0

    def read(self, size: int | None, moved: int) -> tuple[int, int]:
        """A read of `size` bytes (None: to the end) that returned `moved` bytes."""
        start = self.position + self._ready
        if size is None:
            end = max(start, self.position + moved)
        elif self._ready:
            end = start
        else:
            end = max(start, min(start + max(size, self._capacity), self._size))
        return self._advance(start, end, moved)

    def read_lines(self, moved: int) -> tuple[int, int]:
        """A read of lines that returned `moved` bytes."""
        start = end = self.position + self._ready
        while end < self.position + moved:
            end = min(end + self._capacity, self._size)
        return self._advance(start, end, moved)

    def _advance(self, start: int, end: int, moved: int) -> tuple[int, int]:
        self.position += moved
        self._ready = end - self.position
        return start, end - start


def _length(data: Any) -> int:
    return sum(map(len, data)) if isinstance(data, list) else len(data)
