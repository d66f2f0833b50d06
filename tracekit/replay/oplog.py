"""What one worker of a replay did, kept in columns and handed to the recorder in batches."""

from __future__ import annotations

import time

import numpy as np
import pyarrow as pa

from tracekit.recorder import Recorder
from tracekit.replay.plan import NONE, Plan

__all__ = ["OpLog"]

_ROWS = 4096
_FLUSH_NS = 500_000_000


class OpLog:
    """Results of up to 4,096 ops: four integers each, no object. Used by one thread.

    Besides the op schema's columns, rows carry `gate_wait` (ns waited for admission) and
    `plan_op` (index into the plan).
    """

    def __init__(self, recorder: Recorder, plan: Plan, start_mono_ns: int, *, timed: bool) -> None:
        self._recorder = recorder
        self._plan = plan
        self._start = start_mono_ns
        self._timed = timed
        self._columns = np.empty((6, _ROWS), np.int64)
        self._op, self._submit, self._latency, self._bytes, self._gate, self._due = (
            row.data for row in self._columns
        )
        self._errors: dict[int, str] = {}
        self._ttfb: dict[int, int] = {}
        self._rows = 0
        self._flush_at = time.monotonic_ns() + _FLUSH_NS

    def add(
        self, op: int, submit_ns: int, latency_ns: int, nbytes: int, gate_wait_ns: int, due_ns: int
    ) -> None:
        """One op that ended. Times are monotonic readings (`due_ns` 0: none)."""
        row = self._rows
        self._op[row] = op
        self._submit[row] = submit_ns
        self._latency[row] = latency_ns
        self._bytes[row] = nbytes
        self._gate[row] = gate_wait_ns
        self._due[row] = due_ns
        self._rows = row + 1
        if row + 1 == _ROWS or submit_ns >= self._flush_at:
            self.flush()

    def fail(self, error_class: str) -> None:
        """The op to be added next failed."""
        self._errors[self._rows] = error_class

    def first_byte(self, ttfb_ns: int) -> None:
        """The op to be added next saw its first byte after `ttfb_ns`."""
        self._ttfb[self._rows] = ttfb_ns

    def flush(self) -> None:
        """Hand what is kept to the recorder."""
        self._flush_at = time.monotonic_ns() + _FLUSH_NS
        if self._rows:
            self._recorder.record_batch(self._batch())
            self._rows = 0
            self._errors.clear()
            self._ttfb.clear()

    def _batch(self) -> pa.RecordBatch:
        rows, plan = self._rows, self._plan
        op = self._columns[0, :rows].copy()
        codes, files = np.unique(plan.columns["file"][op], return_inverse=True)
        uris = pa.DictionaryArray.from_arrays(
            pa.array(files.astype(np.int32)), pa.array([plan.uris[code] for code in codes], pa.string())
        )
        kinds = pa.DictionaryArray.from_arrays(
            pa.array(plan.columns["whole"][op].astype(np.int32)), pa.array(["read", "get"])
        )
        due = self._columns[5, :rows].copy()
        columns = {
            "t_submit": self._columns[1, :rows].copy(), "uri": uris, "op": kinds,
            "offset": plan.columns["offset"][op], "len": _nullable(plan.columns["length"][op]),
            "bytes": self._columns[3, :rows].copy(), "latency": self._columns[2, :rows].copy(),
            "sample_id": _nullable(plan.columns["sample_id"][op]),
            "step": _nullable(plan.columns["step"][op]),
            "rank": plan.columns["rank"][op], "worker": plan.columns["worker"][op],
            "t_due": pa.array(due, mask=due == 0) if self._timed else pa.nulls(rows, pa.int64()),
            "gate_wait": self._columns[4, :rows].copy(), "plan_op": op,
        }  # fmt: skip
        if self._errors:
            columns["error"] = pa.array([self._errors.get(row) for row in range(rows)], pa.string())
        if self._ttfb:
            columns["ttfb"] = pa.array([self._ttfb.get(row) for row in range(rows)], pa.int64())
        return pa.RecordBatch.from_pydict(columns)


def _nullable(values: np.ndarray) -> pa.Array:
    return pa.array(values, mask=values == NONE)
