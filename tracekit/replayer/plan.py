"""The plan of a replay: which ops go to which target, and when they are due. Columns, no objects.

A plan is filled (`planning`) from ops in order of time into columns, which engines read from many threads
without copies. A long plan is filled while it is replayed, and rows
that have been replayed are freed, so that any length needs little memory. This module
touches no storage.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from tracekit.errors import ErrorClass
from tracekit.replayer.columns import COMPLETE, READY, STOP, SharedColumns
from tracekit.replayer.depend import Dependencies
from tracekit.replayer.kinds import DATA, READS, code_of

__all__ = ["COLUMNS", "NONE", "Plan"]

NONE = np.iinfo(np.int64).min
"""Null in the int64 columns of a plan."""

COLUMNS: dict[str, type[np.generic]] = {
    "due_ns": np.int64,
    "file": np.int32,
    "kind": np.int8,
    "offset": np.int64,
    "length": np.int64,
    "sample_id": np.int64,
    "step": np.int64,
    "rank": np.int32,
    "worker": np.int32,
    "recorded_ns": np.int64,
    "recorded_latency": np.int64,
    "recorded_bytes": np.int64,
    "recorded_error": np.int16,
    "part": np.int64,
    "to_file": np.int32,
}

_MOVING = [code_of(kind) for kind in (*READS, *DATA)]
_PAUSE_S = 0.005


@dataclass(slots=True)
class Plan:
    """Ops in order of `due_ns` (ns from the start of the replay).

    `file` and `to_file` (of a rename or a copy, else -1) index `uris` (targets) and `sources` (as
    recorded). `length` NONE means to the object's end. `recorded_*` are the recording's submit (ns since its epoch), latency, bytes
    (NONE: unknown, or failed) and error (an index into `error_classes`; -1 for success). A plan
    that is `streamed` holds only some of its rows at a time.
    """

    shared: SharedColumns
    uris: tuple[str, ...]
    sources: tuple[str, ...]
    skipped: dict[str, int] = field(default_factory=dict)
    assumed_offsets: int = 0
    assumed_lengths: int = 0
    streamed: bool = False
    rounds: int = 1
    max_gap_ns: int | None = None
    error_classes: list[str] = field(default_factory=list)
    failure: BaseException | None = None
    order: Dependencies | None = None
    """Which ops wait for which; None if none does."""

    @property
    def columns(self) -> dict[str, np.ndarray]:
        return self.shared.columns

    @property
    def ops(self) -> int:
        """Number of ops so far; of all ops unless the plan is streamed."""
        return self.shared.header[READY]

    @property
    def room(self) -> int:
        """An upper bound of the number of ops."""
        return self.shared.room

    def column(self, name: str) -> np.ndarray:
        """The rows of a column so far."""
        return self.shared.columns[name][: self.ops]

    def view(self, name: str) -> memoryview:
        """A column as a memoryview, the cheapest way to read single items."""
        return self.shared.columns[name].data

    def wait_for(self, op: int, starved: Callable[[int], None] | None = None) -> bool:
        """Whether the op exists; waits while the plan is being filled.

        `starved` is called with the op before the wait: a streamed plan goes on when workers let go of rows.
        """
        header = self.shared.header
        while op >= header[READY]:
            if header[COMPLETE] or header[STOP]:
                return op < header[READY] and not header[STOP]
            if starved is not None:
                starved(op)
                starved = None
            time.sleep(_PAUSE_S)
        return True

    @property
    def span_ns(self) -> int:
        """From the first op's due time to the last's."""
        due = self.column("due_ns")
        return int(due[-1] - due[0]) if len(due) else 0

    @property
    def bytes(self) -> int:
        """Requested bytes, of ops of known length."""
        length = self.column("length")
        return int(length[(length != NONE) & np.isin(self.column("kind"), _MOVING)].sum())

    def moves(self, rows: slice = slice(None)) -> np.ndarray:
        """Bytes that each op should move: as recorded, or its length where that failed or is unknown."""
        recorded = self.column("recorded_bytes")[rows]
        length = np.maximum(self.column("length")[rows], 0)
        capped = np.where(length == 0, recorded, np.minimum(recorded, length))
        moved: np.ndarray = np.where(recorded == NONE, length, capped)
        moved[~np.isin(self.column("kind")[rows], _MOVING)] = 0
        return moved

    def absent(self, rows: slice = slice(None)) -> np.ndarray:
        """Whether each op failed in the recording because its object did not exist."""
        known = self.error_classes
        code = known.index(ErrorClass.NOT_FOUND) if ErrorClass.NOT_FOUND in known else -2
        found: np.ndarray = self.column("recorded_error")[rows] == code
        return found

    def files_of(self, *kinds: str, existing: bool = False) -> list[int]:
        """Indexes of the URIs that ops of these kinds use; with `existing`, of ops that found their object."""
        chosen = np.isin(self.column("kind"), [code_of(kind) for kind in kinds])
        if existing:
            chosen &= ~self.absent()
        return [int(index) for index in np.unique(self.column("file")[chosen])]

    @property
    def changes(self) -> bool:
        """Whether the plan holds an op that changes what is stored. A streamed plan holds none."""
        return not self.streamed and bool((self.column("kind") >= len(READS)).any())

    def peak_in_flight(self) -> tuple[int, int]:
        """The most (ops, bytes) in flight, if every op took as long as recorded."""
        latency = self.column("recorded_latency")
        known = latency != NONE
        start = self.column("due_ns")[known]
        length = np.maximum(self.column("length")[known], 0)
        times = np.concatenate([start, start + latency[known]])
        ops = np.concatenate([np.ones(len(start), np.int64), -np.ones(len(start), np.int64)])
        order = np.lexsort((ops, times))  # at equal times ends go before starts
        if not len(order):
            return 0, 0
        return int(np.cumsum(ops[order]).max()), int(np.cumsum((ops * np.tile(length, 2))[order]).max())
