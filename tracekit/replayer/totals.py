"""Totals of a plan: sizes, counts and peaks, added up part by part so that a plan of any length needs little memory.

It knows the plan only: no storage, and nobody who replays it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from tracekit.metrics.sweep import Peaks, sweep
from tracekit.replayer.kinds import CHANGES, KINDS, READS
from tracekit.replayer.mapping import MappingRules
from tracekit.replayer.options import ReplayOptions
from tracekit.replayer.plan import NONE, Plan
from tracekit.replayer.planning import plan_parts
from tracekit.replayer.stored import Stored
from tracekit.store.reader import TraceReader

__all__ = ["PlanTotals", "plan_totals"]


@dataclass(slots=True)
class PlanTotals:
    """Ops, changes by kind, requested bytes and span of a plan, and its peaks if every op took as long as recorded.

    For each of `plan.uris`: `read` says whether it must be there at the start, because ops read it
    before they write it; `sizes` is the smallest size in bytes at which every read moves what it moved
    when recorded (a short read without an error ended at the object's end). An object that was not
    there when it was recorded counts as not read. `stored` follows the objects that ops change. The rows
    of `plan` have been freed.
    """

    plan: Plan
    ops: int = 0
    changes: dict[str, int] = field(default_factory=dict)
    bytes: int = 0
    span_ns: int = 0
    peaks: Peaks = field(default_factory=lambda: Peaks(0, 0))
    sizes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    read: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    used: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    stored: Stored = field(default_factory=Stored)


def plan_totals(reader: TraceReader, rules: MappingRules, options: ReplayOptions | None = None) -> PlanTotals:
    """Add up the plan that `build_plan` makes of the same arguments. Raises what that raises."""
    plan, parts = plan_parts(reader, rules, options or ReplayOptions())
    totals = PlanTotals(plan)
    totals.peaks = sweep(_added(totals, parts)).peaks
    missing = len(plan.uris) - len(totals.sizes)
    totals.sizes, totals.read, totals.used = (
        np.pad(x, (0, missing)) for x in (totals.sizes, totals.read, totals.used)
    )
    codes = {uri: code for code, uri in enumerate(plan.sources)} if totals.stored.needed else {}
    for uri, size in totals.stored.needed.items():
        totals.read[codes[uri]] = True
        totals.sizes[codes[uri]] = max(totals.sizes[codes[uri]], size)
    return totals


def _added(totals: PlanTotals, parts: Iterator[slice]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Add each part to `totals`; yield submits, ends and bytes of its ops of known latency."""
    first_ns = None
    for rows in parts:
        columns = {name: values[rows] for name, values in totals.plan.columns.items()}
        due, file, length = columns["due_ns"], columns["file"], columns["length"]
        first_ns = int(due[0]) if first_ns is None else first_ns
        totals.ops += len(due)
        for code, n in enumerate(np.bincount(columns["kind"], minlength=len(KINDS)).tolist()):
            if n and KINDS[code] in CHANGES:
                totals.changes[KINDS[code]] = totals.changes.get(KINDS[code], 0) + n
        totals.bytes += int(length[length != NONE].sum())
        totals.span_ns = int(due[-1]) - first_ns
        more = max(int(file.max()) + 1 - len(totals.sizes), 0)
        totals.sizes, totals.read, totals.used = (
            np.pad(x, (0, more)) for x in (totals.sizes, totals.read, totals.used)
        )
        totals.used[file[~totals.plan.absent(rows)]] = True
        alone = totals.stored.add(totals.plan, rows)
        reads = alone & (columns["kind"] < len(READS)) & ~totals.plan.absent(rows)
        totals.read[file[reads]] = True
        np.maximum.at(totals.sizes, file[reads], (columns["offset"] + totals.plan.moves(rows))[reads])
        latency = columns["recorded_latency"]
        ended = latency != NONE
        submit = due[ended]
        yield submit, submit + np.maximum(latency[ended], 1), np.maximum(length[ended], 0)
