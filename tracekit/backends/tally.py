"""How often requests were sent, for callers that see one op where a backend sends several requests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ["Tally", "note_tries", "tally_of_tries"]


@dataclass(slots=True)
class Tally:
    """`tries` is None until a request has ended that can be sent again; else one, and one for each repetition.

    `wait_ns` adds up, over the requests, the time from the first submit to the last.
    """

    tries: int | None = None
    wait_ns: int = 0


_current: ContextVar[Tally | None] = ContextVar("tracekit_tally", default=None)


@contextmanager
def tally_of_tries() -> Iterator[Tally]:
    """Yield a tally of the requests that end within the block, in this thread or task."""
    tally = Tally()
    token = _current.set(tally)
    try:
        yield tally
    finally:
        _current.reset(token)


def note_tries(number: int, wait_ns: int) -> None:
    """Note a request that succeeded after it was sent `number` times."""
    tally = _current.get()
    if tally is not None:
        tally.tries = (tally.tries or 1) + number - 1
        tally.wait_ns += wait_ns
