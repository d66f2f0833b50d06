"""Turns the rows that compiled workers have written into batches for the recorder."""

from __future__ import annotations

import os

import numpy as np

from tracekit.backends.base import Hint
from tracekit.recorder import Recorder
from tracekit.replayer.columns import BUSY, DONE, LATE, LOW, slot
from tracekit.replayer.engines import words
from tracekit.replayer.engines.hand import error_class
from tracekit.replayer.engines.oplog import hint_rows, op_rows
from tracekit.replayer.plan import Plan

__all__ = ["ADVICE", "Rings"]

_FLUSH_ROWS = 1 << 16
"""Rows converted at once, so that progress is reported in between."""
_FLUSH_NS = 500_000_000
ADVICE = {
    "fadvise_sequential": os.POSIX_FADV_SEQUENTIAL,
    "fadvise_random": os.POSIX_FADV_RANDOM,
    "dontneed": os.POSIX_FADV_DONTNEED,
}
"""What `posix_fadvise` is called with in a page cache mode."""
_ADVICE_NAMES = {advice: mode.removeprefix("fadvise_") for mode, advice in ADVICE.items()}


class Rings:
    """Records rows that have waited long enough (if `prompt`), or fill half a ring. Used by one thread.

    `hints` counts the page-cache hints.
    """

    def __init__(self, plan: Plan, recorder: Recorder, *, prompt: bool) -> None:
        self._plan = plan
        self._recorder = recorder
        self._prompt = prompt
        self._flushed_ns: dict[int, int] = {}
        self.hints = 0

    def flush(self, number: int, state: np.ndarray, ring: np.ndarray, *, ended: bool, now_ns: int) -> bool:
        """Record what a worker has written; return whether there is more, or will be.

        `ended` tells that the worker writes no more. It was read before this: what happens in between is then
        seen twice, never missed.
        """
        current = int(state[words.CURRENT])
        head, tail = int(state[words.HEAD]), int(state[words.TAIL])
        old = self._prompt and now_ns - self._flushed_ns.setdefault(number, now_ns) >= _FLUSH_NS
        if head > tail and (ended or old or head - tail >= len(ring) // 2):
            upto = min(head, tail + _FLUSH_ROWS)
            self._record(ring[np.arange(tail, upto) % len(ring)])
            state[words.TAIL] = tail = upto
            self._flushed_ns[number] = now_ns
        low = current if head == tail else min(current, _first_op(ring, tail, head, current))
        self._publish(number, state, 0 if ended and head == tail else max(low, 0) + 1)
        return not ended or tail < head

    def _publish(self, number: int, state: np.ndarray, low: int) -> None:
        """Tell the plan which rows the worker still needs, and `watch` how far it is."""
        header = self._plan.shared.header
        header[slot(number, LOW)] = low
        for counter, word in ((DONE, words.OPS), (BUSY, words.BUSY_NS), (LATE, words.LATE)):
            header[slot(number, counter)] = int(state[word])

    def _record(self, rows: np.ndarray) -> None:
        hints = rows[rows[:, words.OP] < 0]
        if len(hints):
            self.hints += len(hints)
            self._recorder.record_batch(hint_rows([self._hint(row) for row in hints.tolist()]))
        ops = rows[rows[:, words.OP] >= 0]
        if len(ops):
            failed = ops[:, words.ERROR]
            errors = {row: error_class(int(failed[row])) for row in np.flatnonzero(failed).tolist()}
            kept = np.ascontiguousarray(ops[:, : words.ERROR].T)
            self._recorder.record_batch(op_rows(self._plan, kept, errors, {}))

    def _hint(self, row: list[int]) -> tuple[str, Hint]:
        file, submit, latency, offset, length, advice = -row[0] - 1, *row[1:6]
        return self._plan.uris[file], Hint(_ADVICE_NAMES[advice], offset, length, submit, latency)


def _first_op(ring: np.ndarray, tail: int, head: int, current: int) -> int:
    """The first op of the rows that have not been flushed."""
    for row in range(tail, head):
        op = int(ring[row % len(ring), words.OP])
        if op >= 0:
            return op
    return current
