"""What a replay changed, against what the recording changed: counts by kind, bytes written, objects left behind.

Counts are exact: a sync, a part or a rename that is missing or failed is another workload.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tracekit.comparison.table import ParityRow, exact, shown

__all__ = ["COMPARED", "OBJECTS", "WRONG_OBJECTS", "ChangeTally"]

OBJECTS = "replay_objects"
"""Counter of a replay: the objects that it changed."""
COMPARED = "replay_compared"
"""Counter of a replay: above 0 if the target was compared with what the recording left behind."""
WRONG_OBJECTS = "replay_objects_wrong"
"""Counter of a replay: those that have another size than after the recording, or should not be there, or are not."""

_METRICS = {
    "put": "puts",
    "write": "writes",
    "part": "parts",
    "complete": "completes",
    "abort": "aborts",
    "sync": "syncs",
    "truncate": "truncates",
    "rename": "renames",
    "copy": "copies",
    "delete": "deletes",
}


@dataclass(slots=True)
class ChangeTally:
    """Adds up successful changes over the parts of a plan: as planned, and in the replay."""

    planned: dict[str, int] = field(default_factory=dict)
    done: dict[str, int] = field(default_factory=dict)
    planned_bytes: int = 0
    bytes: int = 0

    def plan(self, kinds: Sequence[str], kind: np.ndarray, moves: np.ndarray, failed: np.ndarray) -> None:
        """Add planned ops; `failed` tells which failed in the recording."""
        self.planned_bytes += _add(self.planned, kinds, kind, moves, ~failed)

    def rows(self, kinds: Sequence[str], kind: np.ndarray, moved: np.ndarray, failed: np.ndarray) -> None:
        """Add the ops of a replay."""
        self.bytes += _add(self.done, kinds, kind, moved, ~failed)

    def table(self, counters: Mapping[str, int], *, judged: bool) -> Iterator[ParityRow]:
        """The rows of the comparison; none if nothing was to be changed."""
        if not self.planned and not self.done:
            return
        row = exact if judged else shown
        yield row("bytes_written", "bytes", self.planned_bytes, self.bytes)
        for kind, metric in _METRICS.items():
            if kind in self.planned or kind in self.done:
                yield row(metric, "ops", self.planned.get(kind, 0), self.done.get(kind, 0))
        objects = counters.get(OBJECTS, 0 if COMPARED in counters else None)  # counters of 0 are not kept
        if objects is None:
            yield ParityRow(
                "objects",
                "objects",
                None,
                None,
                None,
                False if judged else None,
                0.0,
                "never compared with the target",
            )
        else:
            yield row("objects", "objects", objects, objects - counters.get(WRONG_OBJECTS, 0))


def _add(
    counts: dict[str, int], kinds: Sequence[str], kind: np.ndarray, moved: np.ndarray, ok: np.ndarray
) -> int:
    """Count the successful changes by kind; return their bytes."""
    changes = np.array([kinds.index(name) for name in _METRICS if name in kinds])
    chosen = ok & np.isin(kind, changes)
    codes, found = np.unique(kind[chosen], return_counts=True)
    for code, n in zip(codes.tolist(), found.tolist(), strict=True):
        counts[kinds[code]] = counts.get(kinds[code], 0) + n
    return int(moved[chosen & (moved > 0)].sum())
