"""Which ops of a replay failed, against which ops failed in the recording."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tracekit.comparison.planned import PlannedOps
from tracekit.comparison.table import ParityRow, shown
from tracekit.errors import ErrorClass

__all__ = ["TRANSIENT", "Outcomes"]

TRANSIENT = frozenset(
    {
        ErrorClass.TIMEOUT,
        ErrorClass.THROTTLED,
        ErrorClass.UNREACHABLE,
        ErrorClass.SERVER_ERROR,
        ErrorClass.CONFLICT,
        ErrorClass.CANCELLED,
        ErrorClass.IO_ERROR,
        ErrorClass.UNKNOWN,
    }
)
"""Error classes that need not recur: an op that failed with one may succeed in the replay."""


@dataclass(slots=True)
class Outcomes:
    """Adds up failures over the parts of a plan."""

    failed: int = 0
    recorded: int = 0
    new: int = 0
    other_class: int = 0
    recovered: int = 0
    transient: int = 0

    def planned(self, part: PlannedOps) -> None:
        """Add a part of the plan, whether its ops were issued or not."""
        self.recorded += int((part.error >= 0).sum())

    def add(self, part: PlannedOps, issued: np.ndarray, found: np.ndarray) -> None:
        """Add the ops that were issued; `found` has each one's error as a code, -1 for success."""
        recorded = part.error[issued]
        self.failed += int((found != -1).sum())
        self.new += int(((found != -1) & (recorded < 0)).sum())
        self.other_class += int(((found != -1) & (recorded >= 0) & (found != recorded)).sum())
        back = (found == -1) & (recorded >= 0)
        passing = [code for code, name in enumerate(part.error_classes) if name in TRANSIENT]
        of_the_moment = np.isin(recorded, passing)
        self.recovered += int((back & ~of_the_moment).sum())
        self.transient += int((back & of_the_moment).sum())

    def table(self, *, expect_failures: bool) -> Iterable[ParityRow]:
        """The rows on failures."""
        if expect_failures:
            wrong = self.new + self.other_class + self.recovered
            told = {
                "failed that had not": self.new,
                "failed with another class": self.other_class,
                "did not fail again": self.recovered,
                "recovered from a transient failure": self.transient,
            }
        else:
            wrong, told = self.failed, {}
        note = ", ".join(f"{n} {what}" for what, n in told.items() if n)
        yield ParityRow("failures", "ops", 0, wrong, None, wrong == 0, 0.0, note)
        yield shown("failed_ops", "ops", self.recorded, self.failed)
