"""The result of a replay: parity, failures, parts of latency, and what limited it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tracekit.comparison.table import Parity
from tracekit.replayer.missing import NOTHING_MISSING, Missing
from tracekit.replayer.residency import Residency
from tracekit.replayer.verdict import ClientFacts, Verdict

__all__ = ["ReplayResult"]


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """The outcome of one replay. Times in ns, sizes in bytes.

    `failures` are the first few failed ops (uri, offset, len, error); `skipped` counts ops
    of the trace by kind that were not replayed; `assumed_offsets` and `assumed_lengths`
    count ops whose record did not say where or how much. `timing` is `timing.sql`'s row.
    `repeats` holds every replay of several; the other fields are then those of the first, and
    `parity` is of all. The residencies are of the trace's local files in the page cache, right before and
    after the run; None where there are none. `hosts` has a row for each host of a replay from several. `warnings` name requests that could not be met.
    `not_issued` names the ops of the plan that have no row, if the replay is `partial`.
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
    timing: dict[str, Any]
    client: ClientFacts
    verdict: Verdict
    residency_before: Residency | None = None
    residency_after: Residency | None = None
    options: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    repeats: tuple[ReplayResult, ...] = ()
    hosts: tuple[dict[str, Any], ...] = ()
    not_issued: Missing = NOTHING_MISSING

    @property
    def ok(self) -> bool:
        """Whether parity holds: every planned op was issued, and nothing failed that had not failed before."""
        return self.parity.ok

    @property
    def failed_hosts(self) -> bool:
        """Whether a host failed, so that ops that it replayed are not in the result."""
        return any(host["failed"] for host in self.hosts)

    def to_dict(self) -> dict[str, Any]:
        """The result for JSON."""
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
            "client": {**asdict(self.client), "cpu_share": self.client.cpu_share},
            "limit": asdict(self.verdict),
            "warnings": list(self.warnings),
            "residency_before": _residency(self.residency_before),
            "residency_after": _residency(self.residency_after),
            "options": self.options,
            "hosts": list(self.hosts),
            "not_issued": self.not_issued.to_dict(),
            "parity": self.parity.to_dict(),
            "repeats": [each.to_dict() for each in self.repeats],
        }


def _residency(residency: Residency | None) -> dict[str, Any] | None:
    return None if residency is None else {**asdict(residency), "share": residency.share}
