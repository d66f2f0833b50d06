"""What a plan comes to: its sizes, counts and peaks, added up part by part, so that any length needs little memory.

It knows the plan only: no storage, and nobody who replays it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from tracekit.metrics.sweep import Peaks, sweep
from tracekit.replayer.mapping import MappingRules
from tracekit.replayer.options import ReplayOptions
from tracekit.replayer.plan import KINDS, NONE, Plan, plan_parts
from tracekit.store.reader import TraceReader

__all__ = ["Foresight", "foresee"]

_PUT = KINDS.index("put")


@dataclass(slots=True)
class Foresight:
    """Of a whole plan: ops, puts, bytes asked for, span, and the peaks if every op took as long as recorded.

    `sizes` holds, for each of `plan.uris`, the smallest size in bytes at which every read of the plan
    moves what it moved (a read that came back short, without an error, ended at the object's
    end); `read` and `put` whether ops read and write it. Of `plan` only what is not in rows is there.
    """

    plan: Plan
    ops: int = 0
    puts: int = 0
    bytes: int = 0
    span_ns: int = 0
    peaks: Peaks = field(default_factory=lambda: Peaks(0, 0))
    sizes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    read: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    put: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))


def foresee(reader: TraceReader, rules: MappingRules, options: ReplayOptions | None = None) -> Foresight:
    """Of the plan that `build_plan` would make of the same. Raises UsageError as it does."""
    plan, parts = plan_parts(reader, rules, options or ReplayOptions())
    seen = Foresight(plan)
    seen.peaks = sweep(_added(seen, parts)).peaks
    missing = len(plan.uris) - len(seen.sizes)
    seen.sizes, seen.read, seen.put = (np.pad(x, (0, missing)) for x in (seen.sizes, seen.read, seen.put))
    return seen


def _added(seen: Foresight, parts: Iterator[slice]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Add each part to `seen`; yields its submits, ends and bytes, of ops that are known to have ended."""
    first_ns = None
    for rows in parts:
        columns = {name: values[rows] for name, values in seen.plan.columns.items()}
        due, file, length = columns["due_ns"], columns["file"], columns["length"]
        first_ns = int(due[0]) if first_ns is None else first_ns
        writes = columns["kind"] == _PUT
        seen.ops += len(due)
        seen.puts += int(writes.sum())
        seen.bytes += int(length[length != NONE].sum())
        seen.span_ns = int(due[-1]) - first_ns
        more = max(int(file.max()) + 1 - len(seen.sizes), 0)
        seen.sizes, seen.read, seen.put = (np.pad(x, (0, more)) for x in (seen.sizes, seen.read, seen.put))
        seen.read[file[~writes]] = True
        seen.put[file[writes]] = True
        np.maximum.at(seen.sizes, file[~writes], (columns["offset"] + seen.plan.moves(rows))[~writes])
        latency = columns["recorded_latency"]
        ended = latency != NONE
        submit = due[ended]
        yield submit, submit + np.maximum(latency[ended], 1), np.maximum(length[ended], 0)
