"""Closed pacing by a loader's rule: workers take samples as the recorded loader would on this target.

A task is what one worker reads without a break: a sample of a pool, a request of a pool that
reads by request, or a batch of a stream. A worker that is free takes the next released task; the
consumer, with its think times, releases batches. This module knows a plan and a rule, no storage.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from tracekit.replayer.depend import Waits
from tracekit.replayer.loader_model import LoaderModel
from tracekit.replayer.plan import NONE, Plan
from tracekit.replayer.ready import ReadyOps

__all__ = ["ModelPacer"]


_LEAST_SHARE = 10
"""The percentile of the pauses of a worker between tasks that stands for one in which it had more to do."""


@dataclass(slots=True)
class _Servers:
    """The workers that share a queue of tasks: all of a rank's pool, or one stream."""

    free: int
    tasks: deque[tuple[int, int]] = field(default_factory=deque)
    """(task, ns from which on it may begin), in order."""


class ModelPacer:
    """Hands out the ops of `plan` as a loader with the rule `model` would issue them.

    Times between the ops of a task are the recorded ones, over `speed`. Thread-safe.
    """

    waits: Waits | None = None
    """A plan whose ops depend on each other is not a loader's."""

    def __init__(self, plan: Plan, model: LoaderModel, speed: float = 1.0) -> None:
        self.model = model
        tasks = _Tasks(plan, model)
        self.planned = plan.ops
        self._gap = np.rint(tasks.gap_ns / speed).astype(np.int64).tolist()
        self._task_of = tasks.task_of.tolist()
        self._next_op = tasks.next_op.tolist()
        self._first_op = tasks.first_op.tolist()
        self._server_of = tasks.server_of.tolist()
        self._servers = [_Servers(free) for free in tasks.server_sizes]
        self._due = [0] * plan.ops
        self.workers = sum(tasks.server_sizes)
        """How many ops can be in flight at once."""
        self.ready = ReadyOps(plan.ops)
        self._consumers = [_Consumer(rank_tasks, model, speed) for rank_tasks in tasks.by_rank]
        self._consumer_of = tasks.consumer_of.tolist()
        for consumer in self._consumers:
            self._release(consumer.start(), 0)
        self._release([(task, 0) for task in tasks.unstepped.tolist()], 0)

    def take(self) -> int | None:
        """The next op; waits until one is ready. None when there are no more."""
        return self.ready.take()

    def due(self, op: int) -> int | None:
        """When `op` is to be submitted, ns since the start of the replay."""
        return self._due[op]

    def submitted(self, op: int) -> None:
        """Nothing waits for a submission."""

    def finished(self, op: int, now_ns: int) -> None:
        """Continue the op's task, or have its worker take the next one."""
        with self.ready.changed:
            following = self._next_op[op]
            if following >= 0:
                self._issue(following, now_ns)
                return
            task = self._task_of[op]
            servers = self._servers[self._server_of[task]]
            servers.free += 1
            consumer = self._consumer_of[task]
            if consumer >= 0:
                self._release(self._consumers[consumer].finished(task, now_ns), now_ns)
            self._begin(servers, now_ns)

    def stop(self) -> None:
        """Hand out nothing more."""
        self.ready.stop()

    def _release(self, tasks: list[tuple[int, int]], now_ns: int) -> None:
        for task, from_ns in tasks:
            servers = self._servers[self._server_of[task]]
            servers.tasks.append((task, from_ns))
            self._begin(servers, now_ns)

    def _begin(self, servers: _Servers, now_ns: int) -> None:
        while servers.free and servers.tasks:
            task, from_ns = servers.tasks.popleft()
            servers.free -= 1
            self._issue(self._first_op[task], max(now_ns, from_ns))

    def _issue(self, op: int, now_ns: int) -> None:
        self._due[op] = now_ns + self._gap[op]
        self.ready.add(self._due[op], op)


class _Tasks:
    """The plan's ops as tasks. Arrays by op: `task_of`, `next_op` (-1: the task's last), `gap_ns`.

    Arrays by task: `first_op`, `server_of`, `consumer_of` (-1: of no step). `by_rank` has for each
    rank its tasks with their step and bytes, in order.
    """

    def __init__(self, plan: Plan, model: LoaderModel) -> None:
        ops = plan.ops
        rank = plan.column("rank").astype(np.int64)
        worker = plan.column("worker").astype(np.int64)
        step, sample = _steps_of_rounds(plan), plan.column("sample_id")
        streams = model.assignment == "stream"
        if model.by_request:
            self.task_of = np.arange(ops)
            self.first_op = np.arange(ops)
        else:
            parts = [rank, worker, step] if streams else [rank, worker, step, sample]
            _, first, task_of = np.unique(np.stack(parts), axis=1, return_index=True, return_inverse=True)
            # Tasks are numbered in the order in which their first ops stand in the plan.
            order = np.argsort(first)
            number = np.empty(len(order), np.int64)
            number[order] = np.arange(len(order))
            self.task_of, self.first_op = number[task_of.reshape(-1)], first[order]
        by_task = np.argsort(self.task_of, kind="stable")
        same = np.diff(self.task_of[by_task]) == 0
        self.next_op = np.full(ops, -1, np.int64)
        self.next_op[by_task[:-1][same]] = by_task[1:][same]
        self.gap_ns = _gaps(plan, model, step, self.first_op)
        rank_of, place = np.unique(rank, return_inverse=True)
        if streams:
            _, servers = np.unique(np.stack([rank, worker]), axis=1, return_inverse=True)
            servers = servers.reshape(-1)
            self.server_sizes = [1] * (int(servers.max()) + 1 if ops else 0)
        else:
            servers = place.reshape(-1)
            self.server_sizes = [model.workers] * len(rank_of)
        self.server_of = servers[self.first_op]
        stepped = step[self.first_op] != NONE
        self.consumer_of = np.where(stepped, place.reshape(-1)[self.first_op], -1)
        self.unstepped = np.flatnonzero(~stepped)
        moved = np.clip(plan.column("length"), 0, None)
        nbytes = np.bincount(self.task_of, weights=moved, minlength=len(self.first_op)).astype(np.int64)
        self.by_rank = [
            _RankTasks.of(np.flatnonzero(self.consumer_of == number), step[self.first_op], nbytes)
            for number in range(len(rank_of))
        ]


def _steps_of_rounds(plan: Plan) -> np.ndarray:
    """Each op's step. In a repeated plan, the steps of a round follow those of the round before."""
    step = plan.column("step")
    known = step != NONE
    if plan.rounds == 1 or not known.any():
        return step
    span = int(step[known].max() - step[known].min()) + 1
    round_of = np.arange(plan.ops) // max(plan.ops // plan.rounds, 1)
    return np.where(known, step + round_of * span, NONE)


@dataclass(frozen=True, slots=True)
class _RankTasks:
    """A rank's tasks in order of their steps, which are numbered from 0."""

    tasks: list[int]
    steps: list[int]
    nbytes: list[int]

    @classmethod
    def of(cls, tasks: np.ndarray, step: np.ndarray, nbytes: np.ndarray) -> _RankTasks:
        _, number = np.unique(step[tasks], return_inverse=True)
        order = np.argsort(number, kind="stable")
        tasks = tasks[order]
        return cls(tasks.tolist(), number[order].tolist(), nbytes[tasks].tolist())


def _gaps(plan: Plan, model: LoaderModel, step: np.ndarray, first_op: np.ndarray) -> np.ndarray:
    """The time before each op that its worker did not spend in requests, ns.

    Within a task it is the recorded time since the end of the op before. Before a task it is
    what the worker needs from one task to the next. The loader may have counted that (`pickup_ns`);
    else it is the recorded time if the worker was busy, and at most the typical one otherwise. A
    worker was busy if its task before was of the same step, unless a cap may have held that step
    back. The first task of a worker in an epoch begins as late after the epoch's first op as it was
    recorded, for workers that start one by one.
    """
    rank, worker = plan.column("rank").astype(np.int64), plan.column("worker").astype(np.int64)
    submit = plan.column("recorded_ns")
    end = submit + np.clip(plan.column("recorded_latency"), 0, None)
    order = np.lexsort((np.arange(plan.ops), worker, rank))
    same = (np.diff(rank[order]) == 0) & (np.diff(worker[order]) == 0)
    gap, previous = np.zeros(plan.ops, np.int64), np.full(plan.ops, -1, np.int64)
    before, after = order[:-1][same], order[1:][same]
    gap[after] = np.maximum(submit[after] - end[before], 0)
    previous[after] = before
    firsts = np.zeros(plan.ops, bool)
    firsts[first_op] = True
    followed = firsts & (previous >= 0)
    busy = followed & (step[previous] == step)
    measured = gap[busy] if busy.any() else gap[followed]
    share = 50 if busy.any() and model.cap_bytes is None else _LEAST_SHARE
    typical = int(np.percentile(measured, share)) if len(measured) else 0
    kept = busy if model.cap_bytes is None else np.zeros(plan.ops, bool)
    idle = firsts & ~kept
    gap[idle] = np.where(previous[idle] >= 0, np.minimum(gap[idle], typical), typical)
    if model.pickup_ns is not None:
        gap[firsts] = model.pickup_ns
    if model.assignment == "stream":
        _add_starts(gap, np.flatnonzero(firsts), model, (rank, worker, step, submit))
    return gap if plan.max_gap_ns is None else np.minimum(gap, plan.max_gap_ns)


def _add_starts(
    gap: np.ndarray, firsts: np.ndarray, model: LoaderModel, columns: tuple[np.ndarray, ...]
) -> None:
    """Set `gap` of the first op of each (rank, worker) in each epoch to when the worker had started."""
    rank, worker, step, submit = (values[firsts] for values in columns)
    known = step != NONE
    firsts, rank, worker, step, submit = (values[known] for values in (firsts, rank, worker, step, submit))
    _, rank_place = np.unique(rank, return_inverse=True)
    epoch = np.zeros(len(firsts), np.int64)
    if model.steps_per_epoch:
        for number in range(int(rank_place.max(initial=-1)) + 1):
            mine = rank_place == number
            epoch[mine] = np.unique(step[mine], return_inverse=True)[1] // model.steps_per_epoch
    _, begin = np.unique(np.stack([rank, epoch]), axis=1, return_inverse=True)
    opening = np.full(int(begin.max(initial=-1)) + 1, np.iinfo(np.int64).max)
    np.minimum.at(opening, begin.reshape(-1), submit)
    _, started = np.unique(np.stack([rank, epoch, worker]), axis=1, return_index=True)
    gap[firsts[started]] = model.start_ns + submit[started] - opening[begin.reshape(-1)[started]]


class _Consumer:
    """A rank's consumer: takes batches in order, thinks, and so releases the next ones."""

    def __init__(self, rank_tasks: _RankTasks, model: LoaderModel, speed: float) -> None:
        self._tasks, self._steps, self._nbytes = rank_tasks.tasks, rank_tasks.steps, rank_tasks.nbytes
        self._model = model
        self._think = itertools.cycle(round(think / speed) for think in model.think_ns)
        self._between_ns = round(model.between_ns / speed)
        self._count = (self._steps[-1] + 1) if self._steps else 0
        self._left = np.bincount(self._steps, minlength=self._count).tolist() if self._steps else []
        self._sizes = list(self._left)
        self._bytes_of = (
            np.bincount(self._steps, weights=self._nbytes, minlength=self._count).tolist()
            if self._steps
            else []
        )
        self._step_of = dict(zip(self._tasks, self._steps, strict=True))
        self._ready_ns: list[int | None] = [None] * self._count
        self._done = 0  # tasks that have finished, for batches of any order
        self._filling = 0  # the batch that the next finished task goes to, for batches of any order
        self._submitted = 0
        self._bytes_ahead = 0
        self._handed = 0
        self._asked_ns = 0

    def start(self) -> list[tuple[int, int]]:
        """The tasks released when the consumer asks for the first batch."""
        return self._submit(0)

    def finished(self, task: int, now_ns: int) -> list[tuple[int, int]]:
        """The tasks released because `task` has finished, each with the time from which it may begin."""
        step = self._filling if self._model.any_order else self._step_of[task]
        self._left[step] -= 1
        if self._left[step]:
            return []
        self._ready_ns[step] = now_ns
        if self._model.any_order:
            self._filling += 1
        released: list[tuple[int, int]] = []
        while self._handed < self._count and (ready := self._ready_ns[self._handed]) is not None:
            handed_ns = max(self._asked_ns, ready)
            self._bytes_ahead -= int(self._bytes_of[self._handed])
            self._handed += 1
            released += self._submit(handed_ns, asked=self._handed)
            self._asked_ns = handed_ns + next(self._think)
            if self._model.steps_per_epoch and self._handed % self._model.steps_per_epoch == 0:
                self._asked_ns += self._between_ns
            released += self._submit(self._asked_ns)
        return released

    def _submit(self, now_ns: int, asked: int | None = None) -> list[tuple[int, int]]:
        """What the window and the cap let the loader submit; `asked` batches have been asked for."""
        asked = self._handed + 1 if asked is None else asked
        model = self._model
        window = asked + model.ahead
        if model.release_on_handover:
            window = self._handed + max(model.ahead, 1)
        if model.steps_per_epoch:
            # The next epoch begins when the consumer asks for its first batch.
            epoch = (asked - 1) // model.steps_per_epoch
            window = min(window, (epoch + 1) * model.steps_per_epoch)
        released = []
        while self._submitted < len(self._tasks) and self._steps[self._submitted] < window:
            nbytes = self._nbytes[self._submitted]
            over = model.cap_bytes is not None and self._bytes_ahead + nbytes > model.cap_bytes
            if over and self._steps[self._submitted] >= asked:
                break
            self._bytes_ahead += nbytes
            released.append((self._tasks[self._submitted], now_ns))
            self._submitted += 1
        return released
