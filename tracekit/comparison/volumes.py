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
            "bytes_per_step", "bytes", a / len(self.steps), b / len(self.steps), distance,
            None if partial else distance <= STEP_TOLERANCE, STEP_TOLERANCE,
            "the difference is the share of bytes that moved between steps",
        )  # fmt: skip

    def _add_steps(self, rank: np.ndarray, step: np.ndarray, nbytes: np.ndarray, side: int) -> None:
        stepped = step != NULL
        if not stepped.any():
            return
        pairs = np.stack([rank[stepped], step[stepped]]).astype(np.int64)
        keys, which = np.unique(pairs, axis=1, return_inverse=True)
        sums = np.bincount(which.reshape(-1), weights=nbytes[stepped])
        for key, total in zip(map(tuple, keys.T.tolist()), sums.tolist(), strict=True):
            self.steps.setdefault(key, [0, 0])[side] += int(total)


def _count(into: Counter[int], lengths: np.ndarray) -> None:
    sizes, counts = np.unique(lengths, return_counts=True)
    for size, n in zip(sizes.tolist(), counts.tolist(), strict=True):
        into[size] += n
