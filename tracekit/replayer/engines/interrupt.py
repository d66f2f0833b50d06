"""Ends a run between two ops when Ctrl-C is pressed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["ending_on_interrupt"]


@contextmanager
def ending_on_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` on the first Ctrl-C, which raises nothing; a further one raises KeyboardInterrupt.

    An exception could come between the recording of a row and the note that it is recorded. Where the signal is
    ignored, or another thread runs the body, a first KeyboardInterrupt ends the body. `stop` must not take a
    lock that the main thread holds.
    """
    before, stopped = signal.getsignal(signal.SIGINT), False

    def end() -> None:
        nonlocal stopped
        stopped = True
        stop()

    def interrupted(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        end()

    ours = threading.current_thread() is threading.main_thread() and callable(before)
    if ours:
        signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    except KeyboardInterrupt:
        if stopped:
            raise
        end()
    finally:
        if ours:
            signal.signal(signal.SIGINT, before)
