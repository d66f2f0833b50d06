"""The limit of a whole request, for clients whose library has none of its own or does not tell it apart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

__all__ = ["COPY_LIMIT_S", "CopyLimit", "TooLong", "timed", "within"]

COPY_LIMIT_S = 3600.0
"""Of a copy within a store, no byte comes here that would show that it goes on."""


class TooLong(Exception):
    """A request took longer than total_timeout_s."""


@asynccontextmanager
async def within(total_s: float | None) -> AsyncIterator[None]:
    """Cancel the block after `total_s` seconds and raise TooLong."""
    scope = asyncio.timeout(total_s)
    try:
        async with scope:
            yield
    except TimeoutError:
        if scope.expired():
            raise TooLong from None
        raise


class CopyLimit:
    """How long a copy that the store makes may take: `total_s`, or without it `COPY_LIMIT_S` without progress."""

    def __init__(self, total_s: float | None) -> None:
        self._total_s = total_s
        self._end = time.monotonic() + self.longest_s
        self._progress = ""

    @property
    def longest_s(self) -> float:
        return COPY_LIMIT_S if self._total_s is None else self._total_s

    @property
    def broken(self) -> str:
        """What a copy did that is over the limit."""
        if self._total_s is None:
            return f"the copy made no progress for {COPY_LIMIT_S:,.0f} s"
        return "the copy took longer than total_timeout_s"

    def over(self, progress: str) -> bool:
        """Return whether the limit is passed. `progress` is how far the store says that the copy is."""
        if self._total_s is None and progress != self._progress:
            self._progress, self._end = progress, time.monotonic() + self.longest_s
        return time.monotonic() >= self._end


@contextmanager
def timed(total_s: float | None, errors: tuple[type[Exception], ...]) -> Iterator[None]:
    """Raise TooLong in place of one of `errors` after `total_s` seconds; the library itself ends the request."""
    began = time.monotonic()
    try:
        yield
    except errors:
        if total_s is not None and time.monotonic() - began >= total_s:
            raise TooLong from None
        raise
