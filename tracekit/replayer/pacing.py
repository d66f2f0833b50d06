"""Pacers decide which op of a plan goes next, and when. They do no I/O and start no threads.

`recorded` is an open loop: each op goes at its own absolute time whatever the target does, so
errors do not add up. `asap` has no times. `closed` predicts how the recorded client would run
on this target: by the loader's rule if it is known (`modelled`), else stream by stream.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tracekit.errors import UsageError
from tracekit.options import REPLAY
from tracekit.replayer.depend import Waits
from tracekit.replayer.loader_model import LoaderModel
from tracekit.replayer.modelled import ModelPacer
from tracekit.replayer.plan import Plan
from tracekit.replayer.ready import NEVER, ReadyOps

__all__ = [
    "DEPENDENT",
    "UNFINISHED",
    "UNSUBMITTED",
    "AsapPacer",
    "ClosedColumns",
    "ClosedPacer",
    "Pacer",
    "RecordedPacer",
    "closed_columns",
    "closed_pacer",
    "dependencies",
    "make_pacer",
]

UNFINISHED, UNSUBMITTED = 1, 2
"""Why an op of a closed loop cannot go: the op that it waits for has not finished, or its predecessor was not submitted."""
DEPENDENT = 4
"""The same: a change of its object that it depends on has not ended."""


class Pacer(Protocol):
    """Hands out the ops of a plan, each once. Thread-safe.

    Times are ns since the start of the replay. A pacer whose ops wait for each other has an
    attribute `ready`, a `ReadyOps`, for engines that do not block in `take`. An engine lets each op
    wait for its turn in `waits` once it is due, if there are any.
    """

    waits: Waits | None

    def take(self) -> int | None:
        """The next op's index, waiting for it; None when there are no more."""
        ...

    def due(self, op: int) -> int | None:
        """When to submit `op`; None for at once."""
        ...

    def submitted(self, op: int) -> None:
        """Called just before the request is made."""
        ...

    def finished(self, op: int, now_ns: int) -> None:
        """Called when the request has ended, successfully or not."""
        ...

    def stop(self) -> None:
        """Hand out nothing more."""
        ...


class RecordedPacer:
    """Open loop."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._due = plan.view("due_ns")
        self._next = itertools.count().__next__  # atomic under the interpreter lock
        self._stopped = False
        self.waits = Waits(plan.order) if plan.order is not None else None

    def take(self, starved: Callable[[int], None] | None = None) -> int | None:
        op = self._next()
        return int(op) if not self._stopped and self._plan.wait_for(op, starved) else None

    def due(self, op: int) -> int | None:
        return int(self._due[op])

    def submitted(self, op: int) -> None:
        """No op waits for this one's submit."""

    def finished(self, op: int, now_ns: int) -> None:
        if self.waits is not None:
            self.waits.finish(op)

    def stop(self) -> None:
        self._stopped = True
        if self.waits is not None:
            self.waits.stop()


class AsapPacer(RecordedPacer):
    """The plan's order without times: as fast as the target and the gate allow."""

    def due(self, op: int) -> int | None:
        return None


@dataclass(frozen=True, slots=True)
class ClosedColumns:
    """What the ops of a closed loop wait for, by op.

    `waits_for` is the op whose end an op follows (-1: none) after its `think` time; `due` is the
    earliest submit as far as it is known; `successor` the next op of the stream (-1: none);
    `blocked` the bits `UNFINISHED`, `UNSUBMITTED` and `DEPENDENT`. Times are ns since the start.
    """

    due: np.ndarray
    think: np.ndarray
    waits_for: np.ndarray
    successor: np.ndarray
    blocked: np.ndarray


def closed_columns(plan: Plan, speed: float) -> ClosedColumns:
    """The columns of a closed loop per stream, before any op has gone."""
    waits_for, think = dependencies(plan)
    due = plan.column("due_ns").copy()
    due[waits_for >= 0] = 0
    successor, heads = _stream_order(plan, _streams(plan))
    held = np.zeros(plan.ops, bool)
    if plan.order is not None:
        held[[op for op in plan.order.waits_for if op < plan.ops]] = True
    reasons = ((waits_for >= 0, UNFINISHED), (~heads, UNSUBMITTED), (held, DEPENDENT))
    blocked = sum(np.where(found, bit, 0) for found, bit in reasons)
    think = np.rint(think / speed).astype(np.int64)
    return ClosedColumns(due, think, waits_for, successor, np.asarray(blocked, np.int8))


class ClosedPacer:
    """Closed loop per stream: keeps each stream's order and think times.

    An op waits for the op of its stream that had finished last when it was submitted in the
    recording, and then for the recorded time between the two (over `speed`). Ops that
    overlapped wait for the same op, so they overlap again. An op never goes before its
    predecessor in the stream, nor before an op that it depends on has ended. Ops that waited for none go
    at their recorded times.
    """

    def __init__(self, plan: Plan, speed: float = 1.0) -> None:
        self.columns = columns = closed_columns(plan, speed)
        waits_for, blocked = columns.waits_for, columns.blocked
        self._think, self._due, self._successor = columns.think.data, columns.due.data, columns.successor.data
        self._followers: dict[int, list[int]] = defaultdict(list)
        for op in np.flatnonzero(waits_for >= 0).tolist():
            self._followers[int(waits_for[op])].append(op)
        self.waits = Waits(plan.order) if plan.order is not None else None
        self._blocked = bytearray(blocked.tobytes())
        self.planned = len(blocked)
        self.ready = ReadyOps(self.planned)
        for op in np.flatnonzero(blocked == 0).tolist():
            self.ready.add(self._due[op], op)

    def take(self) -> int | None:
        return self.ready.take()

    def due(self, op: int) -> int | None:
        return int(self._due[op])

    def submitted(self, op: int) -> None:
        self._unblock(self._successor[op], UNSUBMITTED)

    def finished(self, op: int, now_ns: int) -> None:
        for follower in self._followers.get(op, ()):
            self._unblock(follower, UNFINISHED, now_ns + self._think[follower])
        for freed in self.waits.finish(op) if self.waits is not None else ():
            self._unblock(freed, DEPENDENT, now_ns)

    def stop(self) -> None:
        self.ready.stop()
        if self.waits is not None:
            self.waits.stop()

    def _unblock(self, op: int, bit: int, not_before_ns: int = 0) -> None:
        if op < 0:
            return
        with self.ready.changed:
            self._due[op] = max(self._due[op], not_before_ns)
            self._blocked[op] &= ~bit
            if not self._blocked[op]:
                self.ready.add(self._due[op], op)


def make_pacer(
    pace: str,
    plan: Plan,
    *,
    speed: float = 1.0,
    model: LoaderModel | None = None,
) -> Pacer:
    """The pacer for `pace`.

    With a `model`, closed pacing follows the recorded loader's rule. Raises UsageError for an
    unknown pace.
    """
    if pace == "recorded":
        return RecordedPacer(plan)
    if pace == "asap":
        return AsapPacer(plan)
    if pace == "closed":
        return closed_pacer(plan, speed=speed, model=model)
    raise UsageError(f"pace={pace!r} is unknown", f"choose from {', '.join(REPLAY['pace'].choices)}")


def closed_pacer(plan: Plan, *, speed: float, model: LoaderModel | None) -> ClosedPacer | ModelPacer:
    """The pacer that predicts: by the rule `model`, or stream by stream without one."""
    return ClosedPacer(plan, speed) if model is None else ModelPacer(plan, model, speed)


def dependencies(plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """For each op, the op of its stream that finished last before its submit (-1: none), and the time between.

    Both are int64 arrays of length `plan.ops`; think times are recorded ns, shortened like the
    plan's gaps. An op of unknown or negative latency counts as finished when it was submitted.
    A stream begins the next round of a repeated plan one mean gap after the end of the last.
    """
    ops = plan.ops
    waits_for, think = np.full(ops, -1, np.int64), np.zeros(ops, np.int64)
    submit = plan.column("recorded_ns")
    end = submit + np.clip(plan.column("recorded_latency"), 0, NEVER)  # NONE is below 0 as well
    clock = _Squeezed(submit[: ops // plan.rounds], plan.max_gap_ns)
    round_ = np.arange(ops) // max(ops // plan.rounds, 1)
    for rows in _streams(plan):
        # Ends and submits share one order of (round, time, index), so that at equal times an op
        # follows the ops before it in the plan, never itself.
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
    """The time within one round, with pauses between submits shortened to the longest allowed."""

    def __init__(self, submits: np.ndarray, max_gap_ns: int | None) -> None:
        self._submits = submits
        self._most = NEVER if max_gap_ns is None else max_gap_ns
        self._elapsed = np.cumsum(np.minimum(np.diff(submits, prepend=submits[:1]), self._most))
        self.mean_gap_ns = max(int(self._elapsed[-1]) // max(len(submits) - 1, 1), 1) if len(submits) else 0

    def at(self, times: np.ndarray) -> np.ndarray:
        last = np.searchsorted(self._submits, times, side="right") - 1
        found: np.ndarray = self._elapsed[last] + np.minimum(times - self._submits[last], self._most)
        return found


def _streams(plan: Plan) -> list[np.ndarray]:
    rank = plan.column("rank").astype(np.int64)
    worker = plan.column("worker").astype(np.int64)
    _, stream = np.unique(np.stack([rank, worker]), axis=1, return_inverse=True)
    stream = stream.reshape(-1)
    order = np.argsort(stream, kind="stable")
    cuts = np.flatnonzero(np.diff(stream[order])) + 1
    return [rows for rows in np.split(order, cuts) if len(rows)]


def _stream_order(plan: Plan, streams: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Each op's successor in its stream (-1: none), and whether it is the first of its stream."""
    successor, heads = np.full(plan.ops, -1, np.int64), np.zeros(plan.ops, bool)
    for rows in streams:
        successor[rows[:-1]] = rows[1:]
        heads[rows[0]] = True
    return successor, heads
