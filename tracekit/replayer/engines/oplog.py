"""The results of one worker of a replay, kept in columns and passed to the recorder in batches."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

import numpy as np
import pyarrow as pa

from tracekit.backends.base import Hint, Moved
from tracekit.errors import ErrorClass
from tracekit.recorder import Recorder
from tracekit.replayer.kinds import DATA, KINDS, READS, code_of
from tracekit.replayer.plan import NONE, Plan

__all__ = ["ROWS", "OpLog", "hint_rows", "op_rows", "warm_up"]

ROWS = 4096
_FLUSH_NS = 700_000_000
"""Rows are passed on after this time at the latest."""
_EASE_NS = 250_000_000
_SLACK_NS = 15_000_000
"""After `_EASE_NS`, a worker passes its rows on if its next op is this far off: a flush takes
milliseconds, and flushes in the middle of a burst made every op of the burst late."""
_COLUMNS = 8
_MOVES_BYTES = [code_of(kind) for kind in (*READS, *DATA)]
_AT_OFFSET = [code_of(kind) for kind in (*READS, "write", "part")]


_NO_TRIES: Mapping[int, tuple[int, int]] = MappingProxyType({})


class OpLog:
    """The results of up to 4,096 ops, eight integers each. Used by one thread.

    Besides the op schema's columns, rows carry `gate_wait` (ns waited for admission),
    `backlog` (ns that the op was overdue before a worker was free for it), `dependency` (ns waited for
    ops that it depends on) and `plan_op` (its index in the plan).
    """

    def __init__(self, recorder: Recorder, plan: Plan, number: int = 0) -> None:
        self._recorder = recorder
        self._plan = plan
        self._columns = np.zeros((_COLUMNS, ROWS), np.int64)
        self.op, self.submit, self.latency, self.bytes, self.gate, self.due, self.backlog, self.dependency = (
            row.data for row in self._columns
        )
        self._errors: dict[int, ErrorClass] = {}
        self._ttfb: dict[int, int] = {}
        self._tries: dict[int, tuple[int, int]] = {}
        self._hints: list[tuple[str, Hint]] = []
        self.rows = 0
        self._ease_ns = _EASE_NS + number % 16 * 25_000_000  # workers take turns
        self._set_clocks()

    def has_slack(self, wait_ns: int, now_ns: int) -> bool:
        """Whether to flush now: the next op is `wait_ns` off, and rows have been waiting for a while."""
        return wait_ns > _SLACK_NS and now_ns >= self.ease_at

    def add(
        self,
        op: int,
        submit_ns: int,
        latency_ns: int,
        moved: Moved,
        error: ErrorClass | None,
        *,
        gate_wait_ns: int,
        due_ns: int,
        backlog_ns: int,
        dependency_ns: int = 0,
    ) -> None:
        """Add an op that ended. Times are monotonic readings (`due_ns` 0: none)."""
        row = self.rows
        if error is not None or moved.ttfb is not None or moved.hint is not None or moved.tries is not None:
            self.note(row, op, moved, error)
        self.op[row] = op
        self.submit[row] = submit_ns
        self.latency[row] = latency_ns - moved.wait_ns  # that of the last try
        self.bytes[row] = moved.nbytes
        self.gate[row] = gate_wait_ns
        self.due[row] = due_ns
        self.backlog[row] = backlog_ns
        self.dependency[row] = dependency_ns
        self.rows = row + 1
        if row + 1 == ROWS or submit_ns >= self.flush_at:
            self.flush()

    def note(self, row: int, op: int, moved: Moved, error: ErrorClass | None) -> None:
        """Note what the columns of a row cannot hold: an error, the first byte, the tries, a hint."""
        if error is not None:
            self._errors[row] = error
        if moved.ttfb is not None:
            self._ttfb[row] = moved.ttfb
        if moved.tries is not None:
            self._tries[row] = moved.tries, moved.wait_ns
        if moved.hint is not None:
            self.hint(self._plan.uris[self._plan.columns["file"][op]], moved.hint)

    def hint(self, uri: str, hint: Hint) -> None:
        """Add a row for a page-cache hint."""
        self._hints.append((uri, hint))

    def flush(self) -> None:
        """Pass the rows to the recorder."""
        self._set_clocks()
        if self._hints:
            self._recorder.record_batch(hint_rows(self._hints))
            self._hints.clear()
        if self.rows:
            kept = self._columns[:, : self.rows].copy()
            make = partial(op_rows, self._plan, kept, self._errors, self._ttfb, self._tries)
            if self._plan.streamed:  # whose rows may be freed as soon as this returns
                self._recorder.record_batch(make())
            else:
                self._recorder.record_later(self.rows, make)
            self.rows = 0
            self._errors, self._ttfb, self._tries = {}, {}, {}

    def _set_clocks(self) -> None:
        now = time.monotonic_ns()
        self.flush_at, self.ease_at = now + _FLUSH_NS, now + self._ease_ns


def op_rows(
    plan: Plan,
    kept: np.ndarray,
    errors: Mapping[int, ErrorClass],
    first_bytes: Mapping[int, int],
    tries: Mapping[int, tuple[int, int]] = _NO_TRIES,
) -> pa.RecordBatch:
    """A batch of ops that have ended.

    `kept` has int64 rows: op, submit, latency, bytes, gate wait, due (0: none), backlog and, where ops depend
    on each other, the wait for that; times are ns on the monotonic clock. `errors`, `first_bytes` and `tries`
    (with the wait between them) are by column of `kept`.
    """
    op, submit, latency, moved, gate_wait, due, backlog = kept[:7]
    dependency = kept[7] if len(kept) > 7 else np.zeros(len(op), np.int64)
    kind = plan.columns["kind"][op]
    kinds = pa.DictionaryArray.from_arrays(pa.array(kind.astype(np.int32)), pa.array(KINDS))
    columns = {
        "t_submit": submit,
        "uri": _names(plan, plan.columns["file"][op]),
        "op": kinds,
        "offset": pa.array(plan.columns["offset"][op], mask=~np.isin(kind, _AT_OFFSET)),
        "len": _nullable(plan.columns["length"][op]),
        "bytes": pa.array(moved, mask=~np.isin(kind, _MOVES_BYTES)),
        "latency": latency,
        "sample_id": _nullable(plan.columns["sample_id"][op]),
        "step": _nullable(plan.columns["step"][op]),
        "rank": plan.columns["rank"][op],
        "worker": plan.columns["worker"][op],
        "t_due": pa.array(due, mask=due == 0),
        "gate_wait": gate_wait,
        "backlog": backlog,
        "dependency": dependency,
        "plan_op": op,
    }
    if plan.order is not None or (kind >= len(READS)).any():
        columns["part"] = _nullable(plan.columns["part"][op])
        columns["to_uri"] = _names(plan, plan.columns["to_file"][op])
    if errors:
        columns["error"] = pa.array([errors.get(row) for row in range(len(op))], pa.string())
    if first_bytes:
        columns["ttfb"] = pa.array([first_bytes.get(row) for row in range(len(op))], pa.int64())
    if tries:
        known = [tries.get(row, (None, None)) for row in range(len(op))]
        columns["tries"] = pa.array([number for number, _ in known], pa.int32())
        columns["wait_ns"] = pa.array([waited for _, waited in known], pa.int64())
    return pa.RecordBatch.from_pydict(columns)


def hint_rows(hints: list[tuple[str, Hint]]) -> pa.RecordBatch:
    """Hint rows with the same columns as other batches; with others, the store would begin a new segment."""
    nothing = pa.nulls(len(hints), pa.int64())
    return pa.RecordBatch.from_pydict(
        {
            "t_submit": pa.array([hint.t_submit for _, hint in hints], pa.int64()),
            "uri": pa.array([uri for uri, _ in hints], pa.string()),
            "op": pa.array(["hint"] * len(hints), pa.string()),
            "offset": pa.array([hint.offset for _, hint in hints], pa.int64()),
            "len": pa.array([hint.length for _, hint in hints], pa.int64()),
            "latency": pa.array([hint.latency for _, hint in hints], pa.int64()),
            "gate_wait": nothing,
            "backlog": nothing,
            "dependency": nothing,
            "plan_op": nothing,
        }
    )


def warm_up() -> None:
    """Trigger the imports of Arrow's first conversion, which hold the interpreter lock for half a second."""
    pa.array(np.zeros(1, np.int64), mask=np.zeros(1, bool))


def _names(plan: Plan, files: np.ndarray) -> pa.DictionaryArray:
    """The targets of files by number; null for numbers below 0."""
    codes, which = np.unique(files, return_inverse=True)
    return pa.DictionaryArray.from_arrays(
        pa.array(which.reshape(-1).astype(np.int32), mask=files < 0),
        pa.array([plan.uris[code] if code >= 0 else None for code in codes], pa.string()),
    )


def _nullable(values: np.ndarray) -> pa.Array:
    return pa.array(values, mask=values == NONE)
