"""The consumer of a recorded loader, simulated: when it asks for a batch, and what that lets be read.

A loader reads ahead of its consumer by so many batches and then waits for it. What its
streams show of that is think time, which would be another on another target; what the
loader counted of its consumer says how long it really thought. It knows steps, no requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tracekit.replayer.plan import NONE, Plan

__all__ = ["Consumer", "Steps"]


@dataclass(frozen=True, slots=True)
class Consumer:
    """What a loader counted of its consumer: mean ns from a batch to asking for the next, batches read ahead."""

    think_ns: float
    ahead: int

    @classmethod
    def of(cls, counters: Mapping[str, int]) -> Consumer | None:
        """From a trace's counters; None if whoever recorded it did not count."""
        batches = counters.get("consumer_batches", 0)
        if not batches:
            return None
        ahead = round(counters.get("consumer_ahead_batches", 0) / batches)
        return cls(counters.get("consumer_think_ns", 0) / batches, ahead)


class Steps:
    """Which ops wait for the consumer. Not safe from threads: its owner holds a lock.

    Batch h is handed over when it was asked for and its last op has ended; the consumer
    thinks, and asks for batch h + 1, upon which step h + 1 + `ahead` may be read. `entries`
    are the ops that begin a step in their stream: those wait.
    """

    def __init__(self, plan: Plan, consumer: Consumer, entries: np.ndarray, speed: float) -> None:
        self._think_ns = round(consumer.think_ns / speed)
        self._ahead = consumer.ahead
        rank, step = plan.column("rank").astype(np.int64), plan.column("step")
        pairs, place = np.unique(np.stack([rank, step]), axis=1, return_inverse=True)
        self._step_of = np.where(step == NONE, -1, place.reshape(-1)).tolist()
        self._left = np.bincount(place.reshape(-1), minlength=pairs.shape[1]).tolist()
        self._ended = [0] * len(self._left)
        # Steps are numbered rank by rank: a rank's are those from `_next` to `_end`.
        bounds = np.flatnonzero(np.diff(pairs[0], prepend=pairs[0][:1] - 1)).tolist()
        self._rank_of = np.repeat(np.arange(len(bounds)), np.diff([*bounds, pairs.shape[1]])).tolist()
        self._next = [first + int(pairs[1, first] == NONE) for first in bounds]  # ops of no step sort first
        self._end = [*bounds[1:], pairs.shape[1]]
        self._asked = [0] * len(bounds)
        self._waiting: dict[int, list[int]] = {}
        for op in entries.tolist():
            number = self._step_of[op]
            if number > self._next[self._rank_of[number]] + self._ahead:
                self._waiting.setdefault(number, []).append(op)

    @property
    def waiting(self) -> list[int]:
        """The ops that wait at the start."""
        return [op for ops in self._waiting.values() for op in ops]

    def finished(self, op: int, now_ns: int) -> list[tuple[int, int]]:
        """The ops that may go now that `op` has ended, and from when on: (op, ns since the start)."""
        number = self._step_of[op]
        if number < 0:
            return []
        self._left[number] -= 1
        self._ended[number] = max(self._ended[number], now_ns)
        rank, released = self._rank_of[number], []
        while self._next[rank] < self._end[rank] and not self._left[self._next[rank]]:
            handed = self._next[rank]
            self._asked[rank] = max(self._asked[rank], self._ended[handed]) + self._think_ns
            self._next[rank] = handed + 1
            for waiting in self._waiting.pop(handed + 1 + self._ahead, ()):
                released.append((waiting, self._asked[rank]))
        return released
