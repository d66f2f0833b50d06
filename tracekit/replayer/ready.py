"""The ops of a closed-loop plan that may go now, ordered by due time. Thread-safe."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable

__all__ = ["NEVER", "ReadyOps"]

NEVER = 1 << 62
"""The due time of an op that never comes, ns."""


class ReadyOps:
    """A heap of (due time in ns, op). `on_ready` is called when ops have been added."""

    on_ready: Callable[[], None] | None = None

    def __init__(self, planned: int) -> None:
        self._heap: list[tuple[int, int]] = []
        self._left = planned
        self.changed = threading.Condition(threading.RLock())
        """Guards the heap, and the state of the pacer that owns it."""

    def add(self, due_ns: int, op: int) -> None:
        """Make `op` available from `due_ns` on."""
        with self.changed:
            if self._left <= 0:
                return
            heapq.heappush(self._heap, (due_ns, op))
            self.changed.notify()
        if self.on_ready is not None:
            self.on_ready()

    def take(self) -> int | None:
        """The op with the earliest due time, waiting for one; None when all ops have been taken."""
        with self.changed:
            while not self._heap:
                if self._left <= 0:
                    return None
                self.changed.wait(0.2)
            self._left -= 1
            if self._left <= 0:
                self.changed.notify_all()
            return heapq.heappop(self._heap)[1]

    def earliest(self) -> tuple[int, int] | None:
        """(due time, op) of the earliest op; None if none is ready yet, (NEVER, -1) if none ever will be."""
        with self.changed:
            if self._heap:
                return self._heap[0]
            return None if self._left > 0 else (NEVER, -1)

    def waiting(self) -> list[tuple[int, int]]:
        """(due time, op) of all ops that may go now, earliest first."""
        with self.changed:
            return sorted(self._heap)

    def stop(self) -> None:
        """Give out nothing more."""
        with self.changed:
            self._left = 0
            self._heap.clear()
            self.changed.notify_all()
