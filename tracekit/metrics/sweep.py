"""Exact queue depth and bytes in flight: a sweep over submits and ends, linear in the ops.

Ops come in order of submit, a batch at a time. Ends of ops still in flight are carried
from batch to batch, so no sort is larger than a batch and what is in flight with it. An op
is in flight from its submit until just before its end (at least 1 ns); one that never
ended, from its submit on. At equal times ends go first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tracekit.store.merge import ordered_batches
from tracekit.store.reader import TraceReader

__all__ = ["Peaks", "peaks", "sweep"]

_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Peaks:
    """The most ops, and the most bytes asked for, in flight at one moment."""

    ops: int
    bytes: int


def peaks(reader: TraceReader) -> Peaks:
    """Peaks over the whole trace. Hints are not in flight; an op without length weighs its bytes moved."""
    return sweep(_columns(table) for table in ordered_batches(reader, ["op", "len", "bytes", "latency"]))


def sweep(batches: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Peaks:
    """Peaks of batches of (submit, end, weight), int64, submits ascending over all of them."""
    open_end, open_weight = np.empty(0, np.int64), np.empty(0, np.int64)
    most_ops = most_bytes = 0
    for submit, end, weight in batches:
        if not len(submit):
            continue
        ends, weights = np.concatenate([open_end, end]), np.concatenate([open_weight, weight])
        order = np.argsort(ends, kind="stable")
        ends, weights = ends[order], weights[order]
        gone = np.searchsorted(ends, submit, side="right")
        gone_bytes = np.concatenate([[0], np.cumsum(weights)])[gone]
        begun = len(open_end) + np.arange(1, len(submit) + 1)
        most_ops = max(most_ops, int((begun - gone).max()))
        most_bytes = max(most_bytes, int((open_weight.sum() + np.cumsum(weight) - gone_bytes).max()))
        left = int(np.searchsorted(ends, submit[-1], side="right"))
        open_end, open_weight = ends[left:], weights[left:]
    return Peaks(most_ops, most_bytes)


def _columns(table: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    kinds = table.column("op").cast(pa.string())
    table = table.filter(pc.not_equal(kinds, "hint"))
    submit = table.column("t_submit").to_numpy()
    latency = table.column("latency")
    ended = np.maximum(pc.fill_null(latency, 1).to_numpy(), 1)
    end = np.where(latency.is_valid().to_numpy(), submit + ended, _NEVER)
    weight = pc.fill_null(pc.coalesce(table.column("len"), table.column("bytes")), 0).to_numpy()
    return submit, end, weight
