"""An event loop for ops that are due at a time: what is urgent runs before what else is ready."""

from __future__ import annotations

import asyncio
import selectors
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import TypeVarTuple, Unpack

__all__ = ["PunctualLoop"]

_Ts = TypeVarTuple("_Ts")


class _Selector(selectors.EpollSelector):
    """Reports the descriptor `first` before all others."""

    first = -1

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(timeout)
        if len(ready) > 1:
            ready.sort(key=lambda each: each[0].fd != self.first)
        return ready


class PunctualLoop(asyncio.SelectorEventLoop):
    """asyncio's loop. While `urgent` is set, what `call_soon` is given runs next, tasks included."""

    _ready: deque[asyncio.Handle]

    def __init__(self) -> None:
        self._reporting = _Selector()
        super().__init__(self._reporting)
        self.urgent = False

    def serve_first(self, descriptor: int) -> None:
        """Call the reader of `descriptor` before others that are ready at once."""
        self._reporting.first = descriptor

    def call_soon(
        self, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle:
        handle = super().call_soon(callback, *args, context=context)
        if self.urgent:
            self._ready.appendleft(self._ready.pop())
        return handle
