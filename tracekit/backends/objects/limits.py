"""The limit of a whole request, for clients whose library has none of its own or does not tell it apart."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

__all__ = ["TooLong", "passing", "timed", "within"]


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


def passing(total_s: float | None) -> Callable[[], bool]:
    """Return what tells whether `total_s` seconds have passed since now; they never do without a limit."""
    end = math.inf if total_s is None else time.monotonic() + total_s
    return lambda: time.monotonic() >= end


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
