"""Who was the limit of a replay: the client, the gate or the storage. From measurements only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tracekit.units import format_duration

__all__ = ["ClientFacts", "Verdict", "judge"]

_KEPT_NS = 1_000_000
_CPU_BOUND = 0.8
_STORAGE_BOUND = 0.7


@dataclass(frozen=True, slots=True)
class ClientFacts:
    """What the client was and used: workers (threads, or requests at once), processes, CPU and wall time.

    `cpu_wait_ns` is how long its workers could have run and had no CPU.
    """

    engine: str
    workers: int
    processes: int
    cpu_ns: int
    cpu_wait_ns: int
    wall_ns: int

    @property
    def cpu_share(self) -> float:
        """Of one core a process, which is what an interpreter can use."""
        return self.cpu_ns / (self.wall_ns * self.processes) if self.wall_ns else 0.0

    @property
    def cpu_bound(self) -> bool:
        """Whether CPU, used or waited for, took most of what the interpreters could have had."""
        wanted = self.cpu_ns + self.cpu_wait_ns
        return bool(self.wall_ns) and wanted > _CPU_BOUND * self.wall_ns * self.processes


@dataclass(frozen=True, slots=True)
class Verdict:
    """`limit` is none, gate, client or storage; `reason` says by what measurement."""

    limit: str
    reason: str


def judge(timing: dict[str, Any], facts: ClientFacts) -> Verdict:
    """The verdict over `timing.sql`'s row.

    Lateness is the sum of three waits: backlog (due, and no worker free), wake-up (the
    worker was free and woke late) and gate. The largest one in sum is asked for its cause:
    a backlog is the storage's when the workers were in requests, the client's when they
    used up their CPU, the gate's when they stood before it.
    """
    if not timing.get("ops"):
        return Verdict("none", "no op ran")
    busy = (timing["service_sum_ns"] or 0) / (facts.wall_ns * facts.workers) if facts.wall_ns else 0.0
    used = (
        f"the client used {facts.cpu_share:.0%} of a core in each of {facts.processes} process(es),"
        f" and waited {format_duration(facts.cpu_wait_ns)} for a CPU"
    )
    in_requests = f"{facts.workers} workers spent {busy:.0%} of the time in requests"
    if timing["lateness_p99_ns"] is None:
        return _untimed(timing, facts, used, in_requests)
    late = timing["lateness_p99_ns"]
    if late <= _KEPT_NS:
        return Verdict("none", f"99 % of ops went within {format_duration(late)} of their time; {used}")
    waits = {name: timing[f"{name}_sum_ns"] or 0 for name in ("gate", "backlog", "wake")}
    largest = max(waits, key=lambda name: waits[name])
    mean = format_duration(waits[largest] / timing["ops"])
    held = (timing["gate_sum_ns"] or 0) / (facts.wall_ns * facts.workers) if facts.wall_ns else 0.0
    if largest == "gate" or (largest == "backlog" and held > max(busy, 1 - _STORAGE_BOUND)):
        mean = format_duration((timing["gate_sum_ns"] or 0) / timing["ops"])
        return Verdict("gate", f"ops waited {mean} on average for the in-flight cap; {in_requests}")
    if largest == "wake":
        return Verdict("client", f"workers woke {mean} late on average (scheduler, interpreter lock); {used}")
    if facts.cpu_bound or busy < _STORAGE_BOUND:
        return Verdict("client", f"ops were {mean} overdue on average before a worker was free; {used}")
    return Verdict("storage", f"ops were {mean} overdue on average before a worker was free; {in_requests}")


def _untimed(timing: dict[str, Any], facts: ClientFacts, used: str, in_requests: str) -> Verdict:
    gate, service = timing["gate_sum_ns"] or 0, timing["service_sum_ns"] or 0
    if gate > service:
        return Verdict("gate", f"ops waited longer for the in-flight cap than for the storage; {in_requests}")
    if facts.cpu_bound:
        return Verdict("client", used)
    return Verdict("storage", f"{in_requests}; {used}")
