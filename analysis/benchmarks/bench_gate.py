"""Measure what the gate costs per op: uncontended in a tight loop, and with more threads than it admits."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from results import Table

from tracekit.gate import Gate

OPS = 1_000_000


def uncontended(gate: Gate) -> float:
    """Return ns per acquire and release."""
    acquire, release = gate.acquire, gate.release
    began = time.perf_counter_ns()
    for _ in range(OPS):
        acquire(4096)
        release(4096)
    return (time.perf_counter_ns() - began) / OPS


def contended(threads: int, admitted: int) -> float:
    """Return ns per op over all threads when each op waits for its turn and is handed the gate by another."""
    gate, each = Gate(max_ops=admitted), 20_000 // threads

    def work() -> None:
        for _ in range(each):
            gate.acquire(1)
            gate.release(1)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    began = time.perf_counter_ns()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return (time.perf_counter_ns() - began) / (each * threads)


def main() -> None:
    table = Table("gate", ["case", "ns an op"])
    table.add("no cap", min(uncontended(Gate()) for _ in range(5)))
    table.add("caps that fit", min(uncontended(Gate(1 << 30, 1000)) for _ in range(5)))
    for threads in (2, 16, 64):
        table.add(f"{threads} threads, 1 admitted", min(contended(threads, 1) for _ in range(3)))
    table.finish()


if __name__ == "__main__":
    main()
