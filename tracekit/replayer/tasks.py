"""The ops of a plan as a loader's tasks: what one worker reads without a break, and the times in between.

A task is a sample of a pool, a request of a pool that reads by request, or a batch of a stream. This module
knows a plan and a rule; `modelled` decides when a task begins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracekit.replayer.loader_model import LoaderModel
from tracekit.replayer.plan import NONE, Plan

__all__ = ["RankTasks", "Tasks"]

_LEAST_SHARE = 10
"""The percentile of the pauses of a worker between tasks that stands for one in which it had more to do."""


class Tasks:
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
            RankTasks.of(np.flatnonzero(self.consumer_of == number), step[self.first_op], nbytes)
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
class RankTasks:
    """A rank's tasks in order of their steps, which are numbered from 0."""

    tasks: list[int]
    steps: list[int]
    nbytes: list[int]

    @classmethod
    def of(cls, tasks: np.ndarray, step: np.ndarray, nbytes: np.ndarray) -> RankTasks:
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
