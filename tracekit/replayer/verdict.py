"""What limited a replay: the client, the gate or the storage. Decided from measurements only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tracekit.units import format_duration

__all__ = ["ClientFacts", "Verdict", "judge"]

_KEPT_NS = 1_000_000
_CPU_BOUND = 0.8
_WORKER_BOUND = 0.7


@dataclass(frozen=True, slots=True)
class ClientFacts:
    """The client of a replay: workers (threads, or requests at once), CPU and wall time.

    `cpu_wait_ns` is how long its workers were ready to run without a CPU; `at_limit` whether
    no more workers could be started; `fallback` why the interpreter drove the plan and not the
    compiled engine, which is faster; `cores` how many cores its workers can use at once;
    `ring` whether one thread made all requests through io_uring; `spun_ns` how much of `cpu_ns` it spent looking for completions.
    """

    engine: str
    workers: int
    cpu_ns: int
    cpu_wait_ns: int
    wall_ns: int = 0
    at_limit: bool = False
    fallback: str | None = None
    cores: int = 1
    ring: bool = False
    spun_ns: int = 0

    @property
    def cpu_share(self) -> float:
        """CPU used, as a share of the cores that the client can use."""
        return self.cpu_ns / (self.wall_ns * self.cores) if self.wall_ns else 0.0

    @property
    def cpu_bound(self) -> bool:
        """Whether CPU time, used or waited for, took most of what the client could use."""
        wanted = self.cpu_ns - self.spun_ns + self.cpu_wait_ns
        return bool(self.wall_ns) and wanted > _CPU_BOUND * self.wall_ns * self.cores


@dataclass(frozen=True, slots=True)
class Verdict:
    """`limit` is none, gate, dependency, client, workers or storage; `reason` gives the measurement."""

    limit: str
    reason: str


def judge(timing: dict[str, Any], facts: ClientFacts, needed_workers: int | None = None) -> Verdict:
    """Judge the row of `timing.sql`.

    Lateness is the sum of four waits: backlog (the op was due and no worker was free),
    wake-up (a worker was free and woke late), dependency (the changes that it follows had not ended) and gate. The largest sum decides. A backlog is
    due to the gate if workers waited there, to the number of workers if its limit was reached
    and they were in requests, and else to the client. It is never due to the storage: an open
    loop submits ops however long the storage takes. `needed_workers` is the peak of ops in
    flight if each had gone when it was due.
    """
    if not timing.get("ops"):
        return Verdict("none", "no op ran")
    busy = (timing["service_sum_ns"] or 0) / (facts.wall_ns * facts.workers) if facts.wall_ns else 0.0
    engine = f"{facts.engine} with io_uring" if facts.ring else facts.engine
    if facts.fallback is not None:
        engine += f", because {facts.fallback}"
    used = (
        f"the client ({engine}) used {facts.cpu_share:.0%} of {facts.cores} core(s)"
        f" and waited {format_duration(facts.cpu_wait_ns)} for a CPU"
    )
    in_requests = f"{facts.workers} workers spent {busy:.0%} of the time in requests"
    if timing["lateness_p99_ns"] is None:
        return _untimed(timing, facts, used, in_requests)
    late = timing["lateness_p99_ns"]
    if late <= _KEPT_NS:
        return Verdict("none", f"99 % of ops went within {format_duration(late)} of their time; {used}")
    waits = {name: timing.get(f"{name}_sum_ns") or 0 for name in ("gate", "dependency", "backlog", "wake")}
    largest = max(waits, key=lambda name: waits[name])
    mean = format_duration(waits[largest] / timing["ops"])
    held = (timing["gate_sum_ns"] or 0) / (facts.wall_ns * facts.workers) if facts.wall_ns else 0.0
    if largest == "gate" or (largest == "backlog" and held > max(busy, 1 - _WORKER_BOUND)):
        mean = format_duration((timing["gate_sum_ns"] or 0) / timing["ops"])
        return Verdict("gate", f"ops waited {mean} on average for the in-flight cap; {in_requests}")
    if largest == "dependency":
        return Verdict(
            "dependency", f"ops waited {mean} on average for changes of their objects; {in_requests}"
        )
    if largest == "wake":
        return Verdict("client", f"workers woke {mean} late on average (scheduler, interpreter lock); {used}")
    overdue = f"ops were {mean} overdue on average before a worker was free"
    if facts.at_limit and not facts.cpu_bound and busy >= _WORKER_BOUND:
        needed = f"; {needed_workers} would have been needed" if needed_workers is not None else ""
        return Verdict("workers", f"{overdue}; {in_requests}{needed}")
    return Verdict("client", f"{overdue}; {used}")


def _untimed(timing: dict[str, Any], facts: ClientFacts, used: str, in_requests: str) -> Verdict:
    gate, service = timing["gate_sum_ns"] or 0, timing["service_sum_ns"] or 0
    if gate > service:
        return Verdict("gate", f"ops waited longer for the in-flight cap than for the storage; {in_requests}")
    if facts.cpu_bound:
        return Verdict("client", used)
    return Verdict("storage", f"{in_requests}; {used}")
