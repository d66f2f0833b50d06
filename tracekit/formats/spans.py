"""Which of a thread's nested spans is the innermost at a time."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

__all__ = ["NOTHING", "innermost"]

NOTHING = -1
"""Stands for no span."""


def innermost(spans: Sequence[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """Return (time, id) of each change of the innermost open span; `spans` are (start, length, id) by start."""
    changes: list[tuple[int, int]] = []
    running: list[tuple[int, int, int]] = []  # (-start, end, id): the latest to begin is the innermost

    def leave(until: int) -> None:
        ends = sorted(end for _, end, _ in running if end < until)
        for end in ends:
            while running and running[0][1] <= end:
                heapq.heappop(running)
            changes.append((end + 1, running[0][2] if running else NOTHING))

    for start, length, span in spans:
        leave(start)
        heapq.heappush(running, (-start, start + length, span))
        while running and running[0][1] < start:
            heapq.heappop(running)
        changes.append((start, running[0][2] if running else NOTHING))
    leave(2**63)
    return changes
