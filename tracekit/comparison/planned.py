"""What a replay had to do, and how it is judged: a part of a plan as arrays, and the rules.

This module knows arrays and options, not how a plan is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["NULL", "PlannedOps", "ReplayRules", "share"]

NULL = np.iinfo(np.int64).min
"""Null in the int64 columns of `PlannedOps`."""


@dataclass(frozen=True, slots=True)
class PlannedOps:
    """A part of a plan as arrays of one length, in plan order. Times in ns, sizes in bytes.

    `targets`, `kinds` and `error_classes` are what `file` and `to_file` (-1: none), `kind` and `error` (-1: the
    recorded op succeeded) index. `moves` are the bytes that an op should move. Columns of
    int64 hold NULL where the value is unknown.
    """

    first: int
    targets: Sequence[str]
    kinds: Sequence[str]
    error_classes: Sequence[str]
    due_ns: np.ndarray
    file: np.ndarray
    kind: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    moves: np.ndarray
    latency: np.ndarray
    sample_id: np.ndarray
    step: np.ndarray
    rank: np.ndarray
    worker: np.ndarray
    part: np.ndarray
    to_file: np.ndarray
    error: np.ndarray

    def __len__(self) -> int:
        return len(self.due_ns)


@dataclass(frozen=True, slots=True)
class ReplayRules:
    """How to judge a replay: what it was told to do, and what the user allows.

    `tolerance` is for duration, throughput and bytes. `expect_failures`: ops that failed in
    the recording fail again with the same class; without it no op may fail. `workers`
    take ops from one queue (`asap` pacing). `clock_error_ns` is by how much the clocks of hosts may disagree.
    """

    pace: str = "recorded"
    max_ops_in_flight: int | None = None
    max_bytes_in_flight: int | None = None
    tolerance: float = 0.15
    max_lateness_ns: int | None = None
    allow_empty: bool = False
    partial: bool = False
    expect_failures: bool = True
    workers: int = 1
    clock_error_ns: int = 0

    @property
    def timed(self) -> bool:
        """Whether ops had due times."""
        return self.pace == "recorded"

    @property
    def capped(self) -> bool:
        return self.max_ops_in_flight is not None or self.max_bytes_in_flight is not None


def share(part: int, whole: int) -> float:
    """`part` of `whole`; 0 of nothing."""
    return part / whole if whole > 0 else 0.0
