"""Closed pacing by a loader's rule: workers take samples as the recorded loader would on this target.

A worker that is free takes the next released task; the consumer, with its think times, releases batches. This
module knows a rule and the tasks of a plan, no storage.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from tracekit.replayer.depend import Waits
from tracekit.replayer.loader_model import LoaderModel
from tracekit.replayer.plan import Plan
from tracekit.replayer.ready import ReadyOps
from tracekit.replayer.tasks import RankTasks, Tasks

__all__ = ["ModelPacer", "RuleColumns"]

(
    FIRST_TASK,
    TASKS,
    FIRST_STEP,
    COUNT,
    FILLING,
    SUBMITTED,
    BYTES_AHEAD,
    HANDED,
    ASKED_NS,
    THOUGHTS,
) = range(10)
"""Columns of `RuleColumns.consumers`: its first entry in `tasks`, how many they are, its first step in `left`,
`bytes_of` and `ready_ns`, how many they are, and how far the consumer is."""
AHEAD, ANY_ORDER, ON_HANDOVER, CAP_BYTES, STEPS_PER_EPOCH, BETWEEN_NS = range(6)
"""Words of `RuleColumns.settings`: those of a `LoaderModel`; no cap is -1, no epochs are 0."""


@dataclass(slots=True)
class _Servers:
    """The workers that share a queue of tasks: all of a rank's pool, or one stream."""

    free: int
    tasks: deque[tuple[int, int]] = field(default_factory=deque)
    """(task, ns from which on it may begin), in order."""


class RuleColumns(NamedTuple):
    """The whole state of a `ModelPacer` in arrays, for code that cannot use its objects.

    By op: `due` so far, `gap`, `next_op` (-1: the task's last) and `task_of`. By task: `first_op`, `server_of`, `consumer_of`
    (-1: none), `step_of`, `nbytes`, and its place in a queue: `from_ns` and `link` (-1: the last). By server: `free`
    workers, and the `head` (-1: none) and `tail` of its queue. `tasks` are those of each consumer in order, `left`,
    `bytes_of` and `ready_ns` (-1: not yet) by step of each. Times are ns since the start.
    """

    due: np.ndarray
    gap: np.ndarray
    next_op: np.ndarray
    task_of: np.ndarray
    first_op: np.ndarray
    server_of: np.ndarray
    consumer_of: np.ndarray
    step_of: np.ndarray
    nbytes: np.ndarray
    from_ns: np.ndarray
    link: np.ndarray
    free: np.ndarray
    head: np.ndarray
    tail: np.ndarray
    tasks: np.ndarray
    left: np.ndarray
    bytes_of: np.ndarray
    ready_ns: np.ndarray
    consumers: np.ndarray
    think_ns: np.ndarray
    settings: np.ndarray


class ModelPacer:
    """Hands out the ops of `plan` as a loader with the rule `model` would issue them.

    Times between the ops of a task are the recorded ones, over `speed`. Thread-safe.
    """

    waits: Waits | None = None
    """A plan whose ops depend on each other is not a loader's."""

    def __init__(self, plan: Plan, model: LoaderModel, speed: float = 1.0) -> None:
        self.model = model
        self._speed = speed
        tasks = Tasks(plan, model)
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

    def columns(self) -> RuleColumns:
        """The state before the first op is taken."""
        count = len(self._first_op)
        step, nbytes, from_ns, link = (np.full(count, value, np.int64) for value in (-1, 0, 0, -1))
        for consumer in self._consumers:
            step[consumer.tasks], nbytes[consumer.tasks] = consumer.steps, consumer.nbytes
        ends = np.full((2, len(self._servers)), -1, np.int64)
        for number, server in enumerate(self._servers):
            queue = [task for task, _ in server.tasks]
            from_ns[queue] = [at for _, at in server.tasks]
            link[queue[:-1]] = queue[1:]
            ends[:, number] = (queue[0], queue[-1]) if queue else -1
        model = self.model
        settings = [
            model.ahead,
            model.any_order,
            model.release_on_handover,
            -1 if model.cap_bytes is None else model.cap_bytes,
            model.steps_per_epoch or 0,
            round(model.between_ns / self._speed),
        ]
        first_task = first_step = 0
        consumers = []
        for consumer in self._consumers:
            consumers.append(consumer.row(first_task, first_step))
            first_task, first_step = first_task + len(consumer.tasks), first_step + len(consumer.left)
        tasks, left, bytes_of = (
            _ints(value for consumer in self._consumers for value in getattr(consumer, name))
            for name in ("tasks", "left", "bytes_of")
        )
        return RuleColumns(
            due=_ints(self._due),
            gap=_ints(self._gap),
            next_op=_ints(self._next_op),
            task_of=_ints(self._task_of),
            first_op=_ints(self._first_op),
            server_of=_ints(self._server_of),
            consumer_of=_ints(self._consumer_of),
            step_of=step,
            nbytes=nbytes,
            from_ns=from_ns,
            link=link,
            free=_ints(server.free for server in self._servers),
            head=ends[0],
            tail=ends[1],
            tasks=tasks,
            left=left,
            bytes_of=bytes_of,
            ready_ns=np.full(len(left), -1, np.int64),
            consumers=np.array(consumers, np.int64).reshape(-1, 10),
            think_ns=_ints(_think_over(model, self._speed)),
            settings=_ints(settings),
        )

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


class _Consumer:
    """A rank's consumer: takes batches in order, thinks, and so releases the next ones."""

    def __init__(self, rank_tasks: RankTasks, model: LoaderModel, speed: float) -> None:
        self.tasks, self.steps, self.nbytes = rank_tasks.tasks, rank_tasks.steps, rank_tasks.nbytes
        self._model = model
        self._think = itertools.cycle(_think_over(model, speed))
        self._between_ns = round(model.between_ns / speed)
        self._count = (self.steps[-1] + 1) if self.steps else 0
        self.left = np.bincount(self.steps, minlength=self._count).tolist() if self.steps else []
        self.bytes_of = (
            np.bincount(self.steps, weights=self.nbytes, minlength=self._count).tolist() if self.steps else []
        )
        self._step_of = dict(zip(self.tasks, self.steps, strict=True))
        self._ready_ns: list[int | None] = [None] * self._count
        self._filling = 0  # the batch that the next finished task goes to, for batches of any order
        self._submitted = 0
        self._bytes_ahead = 0
        self._handed = 0
        self._asked_ns = 0

    def row(self, first_task: int, first_step: int) -> tuple[int, ...]:
        """The consumer's row in `RuleColumns.consumers`."""
        return (
            first_task,
            len(self.tasks),
            first_step,
            self._count,
            self._filling,
            self._submitted,
            self._bytes_ahead,
            self._handed,
            self._asked_ns,
            0,
        )

    def start(self) -> list[tuple[int, int]]:
        """The tasks released when the consumer asks for the first batch."""
        return self._submit(0)

    def finished(self, task: int, now_ns: int) -> list[tuple[int, int]]:
        """The tasks released because `task` has finished, each with the time from which it may begin."""
        step = self._filling if self._model.any_order else self._step_of[task]
        self.left[step] -= 1
        if self.left[step]:
            return []
        self._ready_ns[step] = now_ns
        if self._model.any_order:
            self._filling += 1
        released: list[tuple[int, int]] = []
        while self._handed < self._count and (ready := self._ready_ns[self._handed]) is not None:
            handed_ns = max(self._asked_ns, ready)
            self._bytes_ahead -= int(self.bytes_of[self._handed])
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
        while self._submitted < len(self.tasks) and self.steps[self._submitted] < window:
            nbytes = self.nbytes[self._submitted]
            over = model.cap_bytes is not None and self._bytes_ahead + nbytes > model.cap_bytes
            if over and self.steps[self._submitted] >= asked:
                break
            self._bytes_ahead += nbytes
            released.append((self.tasks[self._submitted], now_ns))
            self._submitted += 1
        return released


def _think_over(model: LoaderModel, speed: float) -> list[int]:
    """The consumer's think times over `speed`."""
    return [round(think / speed) for think in model.think_ns]


def _ints(values: Iterable[float]) -> np.ndarray:
    """The values as int64."""
    return np.array(list(values), np.int64)
