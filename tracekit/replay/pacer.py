"""Pacers: which op of a plan goes next, and when. They do no I/O and know no threads.

`recorded` is an open loop: each op at its own absolute time, whatever the target does, so
errors never add up. `asap` has no times. `closed` is what a real client would do on this
target: an op goes when the op that it waited for has finished, its think time later.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import defaultdict
from typing import Protocol

import numpy as np

from tracekit.errors import UsageError
from tracekit.replay.plan import NONE, Plan

__all__ = ["PACES", "AsapPacer", "ClosedPacer", "Pacer", "RecordedPacer", "dependencies", "make_pacer"]

PACES = ("recorded", "closed", "asap")


class Pacer(Protocol):
    """Hands out the ops of a plan, each once. Safe from many threads."""

    def take(self) -> int | None:
        """The next op's index; None when there is no more. May wait until there is one."""
        ...

    def due(self, op: int) -> int | None:
        """When `op` is to be submitted, ns since the start of the replay; None: at once."""
        ...

    def submitted(self, op: int) -> None:
        """Said just before the request is made."""
        ...

    def finished(self, op: int, now_ns: int) -> None:
        """Said when it has ended, well or not, `now_ns` after the start of the replay."""
        ...

    def stop(self) -> None:
        """Hand out nothing more."""
        ...


class RecordedPacer:
    """Open loop. `first` and `stride` give one of several processes its share of the plan."""

    def __init__(self, plan: Plan, first: int = 0, stride: int = 1) -> None:
        self._due = plan.view("due_ns")
        self._ops = plan.ops
        self._next = itertools.count(first, stride).__next__  # one step under the interpreter lock

    def take(self) -> int | None:
        op = self._next()
        return op if op < self._ops else None

    def due(self, op: int) -> int | None:
        return int(self._due[op])

    def submitted(self, op: int) -> None:
        """Nothing waits for it."""

    def finished(self, op: int, now_ns: int) -> None:
        """Nothing waits for it."""

    def stop(self) -> None:
        self._ops = 0


class AsapPacer(RecordedPacer):
    """The plan's order, no times: as fast as the target and the gate let it."""

    def due(self, op: int) -> int | None:
        return None


class ClosedPacer:
    """Per stream, order and think time kept.

    Each op waits for the op of its stream that had finished last when it was submitted in
    the recording, and then for the recorded time between the two (over `speed`). Ops that
    overlapped then wait for the same op and overlap now. An op never goes before its
    predecessor in the stream. Ops that waited for none go at their recorded times.
    """

    def __init__(self, plan: Plan, speed: float = 1.0) -> None:
        waits_for, think = dependencies(plan)
        self._think = np.rint(think / speed).astype(np.int64).data
        self._due = plan.columns["due_ns"][: plan.ops].copy().data
        self._followers: dict[int, list[int]] = defaultdict(list)
        for op in np.flatnonzero(waits_for >= 0).tolist():
            self._followers[int(waits_for[op])].append(op)
        self._successor, heads = _stream_order(plan)
        self._blocked = bytearray(
            plan.ops
        )  # bit 1: what it waits for runs; bit 2: its predecessor is not submitted
        for op in np.flatnonzero(waits_for >= 0).tolist():
            self._blocked[op] |= 1
        for op in range(plan.ops):
            if not heads[op]:
                self._blocked[op] |= 2
        self._ready = [(self._due[op], op) for op in range(plan.ops) if not self._blocked[op]]
        heapq.heapify(self._ready)
        self._left = plan.ops
        self._changed = threading.Condition(threading.Lock())

    def take(self) -> int | None:
        with self._changed:
            while not self._ready:
                if self._left <= 0:
                    return None
                self._changed.wait(0.2)
            self._left -= 1
            if self._left <= 0:
                self._changed.notify_all()
            return heapq.heappop(self._ready)[1]

    def due(self, op: int) -> int | None:
        return int(self._due[op])

    def submitted(self, op: int) -> None:
        self._unblock(self._successor[op], 2)

    def finished(self, op: int, now_ns: int) -> None:
        for follower in self._followers.get(op, ()):
            self._due[follower] = now_ns + self._think[follower]
            self._unblock(follower, 1)

    def stop(self) -> None:
        with self._changed:
            self._left = 0
            self._ready.clear()
            self._changed.notify_all()

    def _unblock(self, op: int, bit: int) -> None:
        if op < 0:
            return
        with self._changed:
            self._blocked[op] &= ~bit
            if not self._blocked[op] and self._left > 0:
                heapq.heappush(self._ready, (self._due[op], op))
                self._changed.notify()


def make_pacer(pace: str, plan: Plan, *, speed: float = 1.0, first: int = 0, stride: int = 1) -> Pacer:
    """The pacer called `pace`. Raises UsageError for an unknown one."""
    if pace == "recorded":
        return RecordedPacer(plan, first, stride)
    if pace == "asap":
        return AsapPacer(plan, first, stride)
    if pace == "closed":
        if stride != 1:
            raise UsageError("--pace closed runs in one process", "leave out --processes")
        return ClosedPacer(plan, speed)
    raise UsageError(f"--pace {pace!r} is unknown", f"choose {', '.join(PACES)}")


def dependencies(plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """For each op, which op of its stream finished last before its submit (-1: none), and how long before.

    Both int64 of length `plan.ops`; think times in recorded ns. An op of unknown latency is
    taken to have ended when it was submitted.
    """
    ops = plan.ops
    waits_for, think = np.full(ops, -1, np.int64), np.zeros(ops, np.int64)
    submit = plan.columns["recorded_ns"][:ops]
    latency = plan.columns["recorded_latency"][:ops]
    end = submit + np.where(latency == NONE, 0, latency)
    for rows in _streams(plan):
        by_end = rows[np.argsort(end[rows], kind="stable")]
        before = np.searchsorted(end[by_end], submit[rows], side="right") - 1
        found = before >= 0
        chosen = by_end[before[found]]
        mine = rows[found]
        earlier = chosen < mine  # an op of no length may end as it begins: it never waits for itself
        waits_for[mine[earlier]] = chosen[earlier]
        think[mine[earlier]] = submit[mine[earlier]] - end[chosen[earlier]]
    return waits_for, think


def _streams(plan: Plan) -> list[np.ndarray]:
    rank = plan.columns["rank"][: plan.ops].astype(np.int64)
    worker = plan.columns["worker"][: plan.ops].astype(np.int64)
    _, stream = np.unique(np.stack([rank, worker]), axis=1, return_inverse=True)
    order = np.argsort(stream, kind="stable")
    cuts = np.flatnonzero(np.diff(stream[order])) + 1
    return [rows for rows in np.split(order, cuts) if len(rows)]


def _stream_order(plan: Plan) -> tuple[memoryview, np.ndarray]:
    """Each op's successor in its stream (-1: none), and whether it is its stream's first."""
    successor, heads = np.full(plan.ops, -1, np.int64), np.zeros(plan.ops, bool)
    for rows in _streams(plan):
        successor[rows[:-1]] = rows[1:]
        heads[rows[0]] = True
    return successor.data, heads
