"""A plan's columns, files and waits as the arrays that the compiled loop reads, and a worker's own ones."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np

from tracekit.replayer.depend import Dependencies
from tracekit.replayer.engines import words
from tracekit.replayer.engines.changes import Changes
from tracekit.replayer.modelled import ModelPacer, RuleColumns
from tracekit.replayer.pacing import ClosedColumns, ClosedPacer, Pacer
from tracekit.replayer.plan import Plan
from tracekit.uri import scheme_of, to_path

__all__ = [
    "ClosedArrays",
    "FileArrays",
    "OrderArrays",
    "PlanArrays",
    "WorkerArrays",
    "file_arrays",
    "order_arrays",
    "plan_arrays",
]

_MOST_FILES = 512


class PlanArrays(NamedTuple):
    """Columns by op. `due` is that of the plan, or what a closed loop has found out so far."""

    due: np.ndarray
    kind: np.ndarray
    file: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    recorded: np.ndarray


class FileArrays(NamedTuple):
    """By file: where its path begins in `paths`, whether it is read with O_DIRECT, and whether ops change it.

    `made` and `versions` are those of `Changes`.
    """

    paths: np.ndarray
    path_at: np.ndarray
    direct: np.ndarray
    changed: np.ndarray
    made: np.ndarray
    versions: np.ndarray


class ClosedArrays(NamedTuple):
    """A closed loop, by op: think times, followers (from `first[op]` on), successors and blocks; and the heap."""

    think: np.ndarray
    first: np.ndarray
    followers: np.ndarray
    successor: np.ndarray
    blocked: np.ndarray
    heap: np.ndarray


class OrderArrays(NamedTuple):
    """Which ops, and joins of ops (numbered after them), wait for how many others, and who waits for each.

    `link` has a word for each join.
    """

    left: np.ndarray
    first: np.ndarray
    followers: np.ndarray
    link: np.ndarray


class WorkerArrays(NamedTuple):
    """What belongs to one worker: its state, its rows, its open files, and memory for system calls."""

    state: np.ndarray
    ring: np.ndarray
    files: np.ndarray
    writers: np.ndarray
    clock: np.ndarray
    status: np.ndarray

    @classmethod
    def of(cls, rows: int) -> WorkerArrays:
        """The arrays of a worker whose ring has `rows` rows."""
        made = cls(
            np.zeros(words.STATE_WIDTH, np.int64),
            np.zeros((rows, words.ROW_WIDTH), np.int64),
            np.zeros((_MOST_FILES, words.FILE_WIDTH), np.int64),
            np.zeros((_MOST_FILES, words.WRITER_WIDTH), np.int64),
            np.zeros(4, np.int64),
            np.zeros(64, np.uint32),
        )
        made.state[words.CURRENT] = -1
        return made


_NOTHING = np.zeros(1, np.int64)
_NOT_CLOSED = ClosedArrays(_NOTHING, _NOTHING, _NOTHING, _NOTHING, np.zeros(1, np.int8), _NOTHING)
_NO_RULE = RuleColumns(**dict.fromkeys(RuleColumns._fields, _NOTHING))._replace(
    consumers=np.zeros((1, 10), np.int64)
)


def plan_arrays(
    plan: Plan, pacer: Pacer, control: np.ndarray
) -> tuple[PlanArrays, ClosedArrays, RuleColumns]:
    """The columns of the plan that the loop reads, and what its pacing keeps besides."""
    due, closed, rule = plan.shared.columns["due_ns"], _NOT_CLOSED, _NO_RULE
    if isinstance(pacer, ClosedPacer):
        due, closed = pacer.columns.due, _closed_arrays(pacer.columns, control)
    elif isinstance(pacer, ModelPacer):
        rule = pacer.columns()
        due, closed = rule.due, _NOT_CLOSED._replace(heap=_heap_of(pacer, control))
    columns = (plan.shared.columns[name] for name in ("kind", "file", "offset", "length", "recorded_bytes"))
    return PlanArrays(due, *columns), closed, rule


def file_arrays(uris: tuple[str, ...], changes: Changes, *, direct: bool) -> FileArrays:
    """The files of a plan, whose paths are NUL-terminated bytes in one array."""
    names = [os.fsencode(to_path(uri)) + b"\0" for uri in uris]
    starts = np.cumsum([0, *(len(name) for name in names)])[: len(names)].astype(np.int64)
    past_cache = np.fromiter((direct or scheme_of(uri) == "direct" for uri in uris), np.int8, len(names))
    changed = np.zeros(max(len(names), 1), np.int8)
    changed[sorted(changes.files)] = 1
    paths = np.frombuffer(b"".join(names) or b"\0", np.uint8)
    return FileArrays(paths, starts, past_cache, changed, changes.made, changes.versions)


def _closed_arrays(columns: ClosedColumns, control: np.ndarray) -> ClosedArrays:
    """What the compiled closed loop by streams works on."""
    ops, ready = len(columns.due), np.flatnonzero(columns.blocked == 0)
    ready = ready[np.lexsort((ready, columns.due[ready]))]  # an ordered list is a heap
    heap = np.zeros(ops + 1, np.int64)
    heap[: len(ready)] = ready
    control[words.CLOSED], control[words.READY_OPS], control[words.LEFT] = 1, len(ready), ops
    order = np.argsort(columns.waits_for, kind="stable")
    first = np.searchsorted(columns.waits_for[order], np.arange(ops + 1))
    return ClosedArrays(columns.think, first, order, columns.successor, columns.blocked, heap)


def _heap_of(pacer: ModelPacer, control: np.ndarray) -> np.ndarray:
    """The heap of a closed loop by a loader's rule: the ops that go first."""
    ready = [op for _, op in pacer.ready.waiting()]
    heap = np.zeros(pacer.planned + 1, np.int64)
    heap[: len(ready)] = ready
    control[words.CLOSED], control[words.READY_OPS], control[words.LEFT] = 2, len(ready), pacer.planned
    return heap


def order_arrays(order: Dependencies | None, control: np.ndarray) -> OrderArrays:
    """The dependencies between ops as counts and lists of followers."""
    if order is None:
        return OrderArrays(*(np.zeros(1, np.int64) for _ in range(4)))
    control[words.ORDERED] = 1
    joins = max(max(order.waits_for) + 1 - order.ops, 1)
    waiting = np.fromiter(order.waits_for, np.int64, len(order.waits_for))
    counts = np.fromiter(map(len, order.waits_for.values()), np.int64, len(waiting))
    left = np.zeros(order.ops + joins, np.int64)
    left[waiting] = counts
    waits_for = np.fromiter(
        (op for needed in order.waits_for.values() for op in needed), np.int64, counts.sum()
    )
    by_needed = np.argsort(waits_for, kind="stable")
    first = np.searchsorted(waits_for[by_needed], np.arange(len(left) + 1))
    followers = np.repeat(waiting, counts)[by_needed]
    return OrderArrays(left, first, followers, np.zeros(joins, np.int64))
