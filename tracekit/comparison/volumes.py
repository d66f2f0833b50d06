"""How much a replay moved, against its plan: request sizes, bytes, and bytes of each step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from tracekit.comparison.distances import total_variation
from tracekit.comparison.planned import NULL, PlannedOps
from tracekit.comparison.table import ParityRow, exact, relative, within

__all__ = ["Volumes"]

STEP_TOLERANCE = 0.05


@dataclass(slots=True)
class Volumes:
    """Adds up sizes and bytes over the parts of a plan."""

    planned_bytes: int = 0
    moved_bytes: int = 0
    short_ops: int = 0
    planned_sizes: Counter[int] = field(default_factory=Counter)
    sizes: Counter[int] = field(default_factory=Counter)
    steps: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    """(rank, step) to the bytes that it should have moved, and those that it moved."""

    def planned(self, part: PlannedOps) -> None:
        """Add a part of the plan, whether its ops were issued or not."""
        _count(self.planned_sizes, part.length)
        self._add_steps(part.rank, part.step, np.where(part.moves == NULL, 0, part.moves), 0)

    def add(
        self, part: PlannedOps, issued: np.ndarray, values: dict[str, np.ndarray], failed: np.ndarray
    ) -> None:
        """Add the ops that were issued; bytes of an op that failed in both runs are not compared."""
        expected, nbytes = part.moves[issued], values["bytes"]
        succeeded = ~failed & (expected > 0)  # syncs, renames and the like move nothing
        self.short_ops += int((succeeded & (nbytes < expected)).sum())  # NULL is less than any size
        known = (expected != NULL) & ~(failed & (part.error[issued] >= 0)) & (nbytes != NULL)
        self.planned_bytes += int(expected[known].sum())
        self.moved_bytes += int(nbytes[known].sum())
        _count(self.sizes, values["len"])
        moved = np.where(known, nbytes, np.where(expected == NULL, 0, expected))
        self._add_steps(values["rank"], values["step"], moved, 1)

    @property
    def largest(self) -> int:
        """The largest request of the replay, in bytes."""
        return max((size for size in self.sizes if size != NULL), default=0)

    def sizes_row(self, *, partial: bool) -> ParityRow:
        """The row on request sizes; of a partial replay only sizes that the plan does not have count."""
        distance = total_variation(self.planned_sizes, self.sizes)
        if partial and self.planned_sizes and self.sizes:
            distance = 1.0 if self.sizes.keys() - self.planned_sizes.keys() else 0.0
        return within("req_bytes_hist", "distance", distance, 0.0)

    def bytes_rows(self, tolerance: float, *, partial: bool) -> Iterable[ParityRow]:
        """The rows on bytes: ops that moved less than they should, or do not say; all bytes; those of each step."""
        yield exact("short_ops", "ops", 0, self.short_ops)
        yield relative("bytes", "bytes", self.planned_bytes, self.moved_bytes, tolerance)
        if not self.steps:
            return
        a, b = (sum(found[side] for found in self.steps.values()) for side in (0, 1))
        apart = sum(abs(found[0] - found[1]) for found in self.steps.values())
        distance = apart / 2 / max(a, b) if max(a, b) else 0.0
        yield ParityRow(
            "bytes_per_step",
            "bytes",
            a / len(self.steps),
            b / len(self.steps),
            distance,
            None if partial else distance <= STEP_TOLERANCE,
            STEP_TOLERANCE,
            "the difference is the share of bytes that moved between steps",
        )

    def _add_steps(self, rank: np.ndarray, step: np.ndarray, nbytes: np.ndarray, side: int) -> None:
        stepped = step != NULL
        if not stepped.any():
            return
        rank, step, nbytes = rank[stepped], step[stepped], nbytes[stepped]
        # Ops of a step mostly stand together: add those up before anything is sorted.
        changes = np.flatnonzero((rank[1:] != rank[:-1]) | (step[1:] != step[:-1])) + 1
        starts = np.concatenate([[0], changes])
        sums = np.add.reduceat(nbytes, starts)
        ranks, which_rank = np.unique(rank[starts], return_inverse=True)
        steps, which_step = np.unique(step[starts], return_inverse=True)
        pairs, which = np.unique(which_step * len(ranks) + which_rank, return_inverse=True)
        totals = np.zeros(len(pairs), np.int64)
        np.add.at(totals, which, sums)
        keys = zip(ranks[pairs % len(ranks)].tolist(), steps[pairs // len(ranks)].tolist(), strict=True)
        for key, total in zip(keys, totals.tolist(), strict=True):
            self.steps.setdefault(key, [0, 0])[side] += total


def _count(into: Counter[int], lengths: np.ndarray) -> None:
    sizes, counts = np.unique(lengths, return_counts=True)
    for size, n in zip(sizes.tolist(), counts.tolist(), strict=True):
        into[size] += n
