"""Closed pacing in virtual time: how long a replay would take, without touching storage."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from typing import Protocol

from tracekit.replayer.ready import NEVER, ReadyOps

__all__ = ["predict_duration"]


class _Closed(Protocol):
    ready: ReadyOps

    def take(self) -> int | None: ...
    def submitted(self, op: int) -> None: ...
    def finished(self, op: int, now_ns: int) -> None: ...


def predict_duration(
    pacer: _Closed,
    latency_ns: Callable[[int], int],
    *,
    size_of: Callable[[int], int] | None = None,
    max_bytes: int | None = None,
    max_ops: int | None = None,
) -> int:
    """The duration from the first submit to the last end in ns, if op `i` takes `latency_ns(i)`.

    `max_bytes` and `max_ops` cap what is in flight, first come first served; `size_of` gives
    the bytes of an op for that.
    """
    running: list[tuple[int, int]] = []  # (end, op)
    waiting: deque[int] = deque()
    now, first, in_flight = 0, None, 0

    def start(op: int) -> None:
        nonlocal in_flight, first
        in_flight += size_of(op) if size_of is not None else 0
        first = now if first is None else first
        heapq.heappush(running, (now + latency_ns(op), op))
        pacer.submitted(op)

    def admitted(op: int) -> bool:
        if not running:
            return True
        if max_ops is not None and len(running) >= max_ops:
            return False
        return max_bytes is None or size_of is None or in_flight + size_of(op) <= max_bytes

    while True:
        ready = pacer.ready.earliest()
        due = ready[0] if ready is not None else NEVER
        if due < NEVER and (not running or due <= running[0][0]):
            now = max(now, due)
            op = pacer.take()
            if op is None:
                break
            waiting.append(op)
        elif running:
            now, op = heapq.heappop(running)
            in_flight -= size_of(op) if size_of is not None else 0
            pacer.finished(op, now)
        else:
            break
        while waiting and admitted(waiting[0]):
            start(waiting.popleft())
    return now - (first or 0)
