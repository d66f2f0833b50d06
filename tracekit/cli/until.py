"""Runs a server until a signal ends it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from types import FrameType

__all__ = ["until_ended", "wait_for"]

_LOOK_S = 1.0
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def until_ended() -> Iterator[SimpleQueue[int]]:
    """Put the signals that end a server into a queue; they are its normal end."""
    # A queue is reentrant: to set an Event here would block a thread about to wait.
    ended: SimpleQueue[int] = SimpleQueue()

    def end(number: int, _frame: FrameType | None) -> None:
        ended.put(number)

    before = {number: signal.signal(number, end) for number in _ENDING}
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait_for(ended: SimpleQueue[int]) -> None:
    """Wait for a signal. The system may give it to another thread, which does not wake this one."""
    while True:
        try:
            ended.get(timeout=_LOOK_S)
        except Empty:
            continue
        return
