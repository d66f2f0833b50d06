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
from collections.abc import Callable
from typing import Protocol

import numpy as np

from tracekit.errors import UsageError
from tracekit.replayer.consumer import Consumer, Steps
from tracekit.replayer.options import PACES
from tracekit.replayer.plan import NONE, Plan

__all__ = ["AsapPacer", "ClosedPacer", "Pacer", "RecordedPacer", "dependencies", "make_pacer"]

RUN_OPS = 64
NEVER = 1 << 62


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
    """Open loop. `part` of `parts` is one process's share of the plan."""

    def __init__(self, plan: Plan, part: int = 0, parts: int = 1) -> None:
        self._plan = plan
        self._due = plan.view("due_ns")
        self.next = itertools.count(part, parts).__next__
        """The next op, whether it is there or not: one step under the interpreter lock."""
        self._runs = itertools.count(part, parts).__next__
        self._stopped = False

    def take(self) -> int | None:
        op = self.next()
        return int(op) if not self._stopped and self._plan.wait_for(op) else None

    def next_run(self) -> tuple[int, int]:
        """Some ops that follow each other, first and end, for loops without due times."""
        first = self._runs() * RUN_OPS
        return first, first + RUN_OPS

    def due(self, op: int) -> int | None:
        return int(self._due[op])

    def submitted(self, op: int) -> None:
        """Nothing waits for it."""

    def finished(self, op: int, now_ns: int) -> None:
        """Nothing waits for it."""

    def stop(self) -> None:
        self._stopped = True


class AsapPacer(RecordedPacer):
    """The plan's order, no times: as fast as the target and the gate let it."""

    def due(self, op: int) -> int | None:
        return None


class ClosedPacer:
    """Per stream, order and think time kept.

    Each op waits for the op of its stream that had finished last when it was submitted in
    the recording, and then for the recorded time between the two (over `speed`). Ops that
    overlapped then wait for the same op and overlap now. An op never goes before its
    predecessor in the stream. Ops that waited for none go at their recorded times. With
    `parts`, this one drives every parts-th stream. `on_ready` is called when ops may have
    become ready, for engines that do not wait in `take`.

    With a `consumer`, the first op of a step in its stream waits until that has asked for
    the step, as in the recording, and then only as long as ops within a step do. A recording
    in which a stream went back to an earlier step has no such order: the consumer is left out.
    """

    on_ready: Callable[[], None] | None = None

    def __init__(
        self, plan: Plan, speed: float = 1.0, part: int = 0, parts: int = 1, consumer: Consumer | None = None
    ) -> None:
        waits_for, think = dependencies(plan)
        self._steps: Steps | None = None
        due = plan.column("due_ns").copy()
        due[waits_for >= 0] = 0
        if consumer is not None and parts == 1 and _in_order_of_steps(plan):
            entries = _entries(plan, waits_for)
            think[entries] = np.minimum(think[entries], _typical(think[~entries & (waits_for >= 0)]))
            self._steps = Steps(plan, consumer, np.flatnonzero(entries), speed)
            due[self._steps.waiting] = 0
        self._think = np.rint(think / speed).astype(np.int64).data
        self._due = due.data
        self._followers: dict[int, list[int]] = defaultdict(list)
        for op in np.flatnonzero(waits_for >= 0).tolist():
            self._followers[int(waits_for[op])].append(op)
        streams = _streams(plan)[part::parts]
        self._successor, heads = _stream_order(plan, streams)
        # bit 1: what it waits for has not ended; bit 2: its predecessor is not submitted; bit 4: nobody asked
        unasked = np.zeros(plan.ops, np.uint8)
        unasked[self._steps.waiting if self._steps is not None else []] = 4
        blocked = np.where(waits_for >= 0, 1, 0) | np.where(heads, 0, 2) | unasked
        self._blocked = bytearray(blocked.astype(np.uint8).tobytes())
        mine = np.concatenate(streams) if streams else np.zeros(0, np.int64)
        self._ready = [(self._due[op], op) for op in mine[blocked[mine] == 0].tolist()]
        heapq.heapify(self._ready)
        self.planned = self._left = len(mine)
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
            return int(heapq.heappop(self._ready)[1])

    def earliest(self) -> tuple[int, int] | None:
        """(due time, op) of the op that is ready first; None if none is now (due time NEVER: or ever)."""
        with self._changed:
            if self._ready:
                return self._ready[0]
            return None if self._left > 0 else (NEVER, -1)

    def due(self, op: int) -> int | None:
        return int(self._due[op])

    def submitted(self, op: int) -> None:
        self._unblock(self._successor[op], 2)

    def finished(self, op: int, now_ns: int) -> None:
        for follower in self._followers.get(op, ()):
            self._unblock(follower, 1, now_ns + self._think[follower])
        if self._steps is not None:
            with self._changed:
                released = self._steps.finished(op, now_ns)
            for entry, asked_ns in released:
                self._unblock(entry, 4, asked_ns)

    def stop(self) -> None:
        with self._changed:
            self._left = 0
            self._ready.clear()
            self._changed.notify_all()

    def _unblock(self, op: int, bit: int, not_before_ns: int = 0) -> None:
        if op < 0:
            return
        with self._changed:
            self._due[op] = max(self._due[op], not_before_ns)
            self._blocked[op] &= ~bit
            if not self._blocked[op] and self._left > 0:
                heapq.heappush(self._ready, (self._due[op], op))
                self._changed.notify()
        if self.on_ready is not None:
            self.on_ready()


def make_pacer(
    pace: str,
    plan: Plan,
    *,
    speed: float = 1.0,
    part: int = 0,
    parts: int = 1,
    consumer: Consumer | None = None,
) -> Pacer:
    """The pacer called `pace`, for one of several processes' share. Raises UsageError for an unknown one."""
    if pace == "recorded":
        return RecordedPacer(plan, part, parts)
    if pace == "asap":
        return AsapPacer(plan, part, parts)
    if pace == "closed":
        return ClosedPacer(plan, speed, part, parts, consumer)
    raise UsageError(f"--pace {pace!r} is unknown", f"choose {', '.join(PACES)}")


def dependencies(plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """For each op, which op of its stream finished last before its submit (-1: none), and how long before.

    Both int64 of length `plan.ops`; think times in recorded ns, squeezed where the plan's gaps
    are. An op of unknown latency, or of one below 0, is taken to have ended when it was
    submitted. A round's ops finished before the next round's: a stream begins it one mean gap
    after it has ended the one before.
    """
    ops = plan.ops
    waits_for, think = np.full(ops, -1, np.int64), np.zeros(ops, np.int64)
    submit = plan.column("recorded_ns")
    end = submit + np.clip(plan.column("recorded_latency"), 0, NEVER)  # NONE is below 0 as well
    clock = _Squeezed(submit[: ops // plan.rounds], plan.max_gap_ns)
    round_ = np.arange(ops) // max(ops // plan.rounds, 1)
    for rows in _streams(plan):
        # Ends and submits as one order of (round, time, index), so that at equal times an op
        # follows those before it in the plan, and never itself.
        local = np.arange(len(rows))
        times, place = np.unique(np.concatenate([end[rows], submit[rows]]), return_inverse=True)
        key = (round_[rows] * len(times) + place.reshape(2, -1)) * len(rows) + local
        by_end = rows[np.argsort(key[0])]
        before = np.searchsorted(np.sort(key[0]), key[1]) - 1
        found = before >= 0
        chosen, mine = by_end[before[found]], rows[found]
        waits_for[mine] = chosen
        since = np.where(round_[chosen] == round_[mine], clock.at(end[chosen]), -clock.mean_gap_ns)
        think[mine] = clock.at(submit[mine]) - since
    return waits_for, think


class _Squeezed:
    """The time of one round, from its first submit on, with no pause between submits longer than allowed."""

    def __init__(self, submits: np.ndarray, max_gap_ns: int | None) -> None:
        self._submits = submits
        self._most = NEVER if max_gap_ns is None else max_gap_ns
        self._elapsed = np.cumsum(np.minimum(np.diff(submits, prepend=submits[:1]), self._most))
        self.mean_gap_ns = max(int(self._elapsed[-1]) // max(len(submits) - 1, 1), 1) if len(submits) else 0

    def at(self, times: np.ndarray) -> np.ndarray:
        last = np.searchsorted(self._submits, times, side="right") - 1
        found: np.ndarray = self._elapsed[last] + np.minimum(times - self._submits[last], self._most)
        return found


def _entries(plan: Plan, waits_for: np.ndarray) -> np.ndarray:
    """Whether an op begins a step in its stream: what it waited for, if anything, was of another."""
    step = plan.column("step")
    begins: np.ndarray = (step != NONE) & ((waits_for < 0) | (step[waits_for] != step))
    return begins


def _typical(think: np.ndarray) -> int:
    """The median, ns; 0 of none."""
    return int(np.median(think)) if len(think) else 0


def _in_order_of_steps(plan: Plan) -> bool:
    """Whether each stream's steps only ever grow: else ops would wait for each other in a circle."""
    step = plan.column("step")
    ordered = (step[rows][step[rows] != NONE] for rows in _streams(plan))
    return all(bool((np.diff(steps) >= 0).all()) for steps in ordered)


def _streams(plan: Plan) -> list[np.ndarray]:
    rank = plan.column("rank").astype(np.int64)
    worker = plan.column("worker").astype(np.int64)
    _, stream = np.unique(np.stack([rank, worker]), axis=1, return_inverse=True)
    stream = stream.reshape(-1)
    order = np.argsort(stream, kind="stable")
    cuts = np.flatnonzero(np.diff(stream[order])) + 1
    return [rows for rows in np.split(order, cuts) if len(rows)]


def _stream_order(plan: Plan, streams: list[np.ndarray]) -> tuple[memoryview, np.ndarray]:
    """Each op's successor in its stream (-1: none), and whether it is its stream's first."""
    successor, heads = np.full(plan.ops, -1, np.int64), np.zeros(plan.ops, bool)
    for rows in streams:
        successor[rows[:-1]] = rows[1:]
        heads[rows[0]] = True
    return successor.data, heads
