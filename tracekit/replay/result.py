"""What a replay came to: parity, failures, lateness, and whose fault lateness was."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tracekit.parity import Parity

__all__ = ["ReplayResult"]


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """The outcome of one replay. Times in ns, sizes in bytes.

    `failures` are the first few failed ops (uri, offset, len, error); `skipped` counts ops
    of the trace by kind that a replay does not issue; `assumed_offsets` and
    `assumed_lengths` count ops whose record did not say where or how much.
    """

    out: Path | None
    planned_ops: int
    ops: int
    partial: bool
    failed_ops: int
    failures: tuple[dict[str, Any], ...]
    skipped: dict[str, int]
    assumed_offsets: int
    assumed_lengths: int
    counters: dict[str, int]
    parity: Parity
    timing: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether everything went, nothing failed and parity holds."""
        return not self.partial and self.failed_ops == 0 and self.parity.ok

    def to_dict(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "out": str(self.out) if self.out else None,
            "planned_ops": self.planned_ops,
            "ops": self.ops,
            "partial": self.partial,
            "failed_ops": self.failed_ops,
            "failures": list(self.failures),
            "skipped": self.skipped,
            "assumed_offsets": self.assumed_offsets,
            "assumed_lengths": self.assumed_lengths,
            "backend_counters": self.counters,
            "timing": self.timing,
            "parity": self.parity.to_dict(),
        }
