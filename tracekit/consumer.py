"""Counts what a loader's consumer does, as counters of a trace.

A loader reads ahead of its consumer and then waits for it. The ops alone do not show how long
the consumer took, so loaders count it: think times, waits, and the loader's structure. Counters
of several processes add up; properties are counted once a batch, so that dividing by the number
of batches gives them back. Closed pacing reads these counters. This module imports nothing of
tracekit.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterable, Mapping
from typing import Protocol

__all__ = [
    "ENGINE_CPU",
    "HOOKS_CPU",
    "PROCESS_CPU",
    "WRITER_CPU",
    "ConsumerClock",
    "histogram_bucket",
    "histogram_bucket_end",
    "overhead_of",
    "readable_counters",
    "think_histogram",
    "worker_counters",
]

HOOKS_CPU, WRITER_CPU, PROCESS_CPU = "overhead_hooks_cpu_ns", "overhead_writer_cpu_ns", "process_cpu_ns"
"""Counters of a capture: CPU time of its hooks, of its recorders' threads, and of the processes in which they ran."""
ENGINE_CPU = "overhead_engine_ns"
"""Counter of a capture: what its preload library took of that time."""
_HISTOGRAM = "consumer_think_ns_hist."
_PER_BATCH = ("loader_workers", "consumer_ahead_batches", "loader_stream_batches")
"""Properties of the loader, counted once a batch."""

_ended: tuple[weakref.ref[object], int] | None = None
"""The trace of the epoch that ended last in this process, and when the consumer learnt of its end."""


class _Counting(Protocol):
    def count(self, name: str, n: int = 1) -> None: ...
    def count_all(self, numbers: Mapping[str, int]) -> None: ...


class ConsumerClock:
    """Counts one epoch of a loader's consumer, which asks for a batch, gets it, and thinks.

    `ahead` batches are read before they are asked for, by `workers` workers; `stream` says that
    a batch belongs to one worker. Not thread-safe: a loader has one consumer.
    """

    def __init__(self, trace: _Counting | None, *, workers: int, ahead: int, stream: bool = False) -> None:
        self._trace = trace
        self._per_batch = {"consumer_batches": 1, "loader_workers": workers, "consumer_ahead_batches": ahead}
        if stream:
            self._per_batch["loader_stream_batches"] = 1
        self._asked_ns = 0
        self._handed_ns: int | None = None
        self._uncounted: dict[str, int] = {}
        self._first = True
        if trace is not None:
            trace.count("consumer_epochs")

    def asked(self, at_ns: int | None = None) -> None:
        """The consumer asks for the next batch, or finds out that there is none. `at_ns` is when (monotonic), if not now."""
        opening = self._asked_ns == 0
        self._asked_ns = time.monotonic_ns() if at_ns is None else at_ns
        if opening and self._trace is not None and _ended is not None and _ended[0]() is self._trace:
            self._uncounted = {
                "consumer_between_epochs": 1,
                "consumer_between_epochs_ns": self._asked_ns - _ended[1],
            }
        if self._handed_ns is None or self._trace is None:
            return
        think_ns = self._asked_ns - self._handed_ns
        self._handed_ns = None
        bucket = f"{_HISTOGRAM}{histogram_bucket(think_ns)}"
        self._uncounted = {**self._per_batch, "consumer_think_ns": think_ns, bucket: 1}

    def ended(self) -> None:
        """There was no next batch. Called as soon as the consumer has asked for it.

        What it takes from here to the first question of the next epoch is counted: workers end, others
        start, and the consumer does what it does between epochs.
        """
        global _ended
        if self._trace is not None:
            _ended = (weakref.ref(self._trace), self._asked_ns)
        self.gave_up()

    def gave_up(self) -> None:
        """There was no next batch, or an error in its place."""
        if self._trace is not None and self._uncounted:
            self._trace.count_all(self._uncounted)
            self._uncounted = {}

    def handed(self, at_ns: int | None = None) -> None:
        """The consumer gets the batch that it asked for. `at_ns` is when (monotonic), if not now."""
        self._handed_ns = time.monotonic_ns() if at_ns is None else at_ns
        if self._trace is not None:
            numbers, self._uncounted = (
                self._uncounted,
                {},
            )
            numbers["consumer_wait_ns"] = wait_ns = self._handed_ns - self._asked_ns
            if self._first:
                numbers["consumer_first_wait_ns"] = wait_ns
            self._trace.count_all(numbers)
        self._first = False


def histogram_bucket(ns: int) -> int:
    """The lower edge of the bucket that holds `ns`. There are two buckets an octave; 0 to 1024 ns is one."""
    if ns < 1024:
        return 0
    octave = 1 << (ns.bit_length() - 1)
    half = octave + octave // 2
    return half if ns >= half else octave


def histogram_bucket_end(low: int) -> int:
    """The upper edge of the bucket that begins at `low` ns."""
    if low < 1024:
        return 1024
    octave = 1 << (low.bit_length() - 1)
    return octave + octave // 2 if low == octave else 2 * octave


def worker_counters(took_ns: Iterable[int], picked_up_ns: Iterable[int]) -> dict[str, int]:
    """Return the counters of batches that a loader's workers took so long for, and began so long after they could; -1 for unknown."""
    counters: dict[str, int] = {}
    for many, ns, times in (
        ("loader_fetches", "loader_fetch_ns", took_ns),
        ("loader_pickups", "loader_pickup_ns", picked_up_ns),
    ):
        known = [time_ns for time_ns in times if time_ns >= 0]
        if known:
            counters |= {many: len(known), ns: sum(known)}
    return counters


def think_histogram(counters: Mapping[str, int]) -> list[tuple[int, int]]:
    """(lower edge in ns, batches) of each bucket of the think times in a trace's counters, ascending."""
    found = (
        (int(name.removeprefix(_HISTOGRAM)), batches)
        for name, batches in counters.items()
        if name.startswith(_HISTOGRAM)
    )
    return sorted(found)


def overhead_of(counters: Mapping[str, int]) -> float | None:
    """Return the share of the CPU time of the recorded processes that recording took; None if it was not measured."""
    whole = counters.get(PROCESS_CPU, 0)
    spent = sum(counters.get(name, 0) for name in (HOOKS_CPU, WRITER_CPU, ENGINE_CPU))
    return spent / whole if whole else None


def readable_counters(counters: Mapping[str, int]) -> dict[str, int]:
    """Return the counters of a trace that mean something on their own, as people read them.

    Properties that are counted once a batch are divided by the batches. Buckets of think times are left out.
    """
    batches = counters.get("consumer_batches", 0)
    return {
        name: round(value / batches) if batches and name in _PER_BATCH else value
        for name, value in counters.items()
        if not name.startswith(_HISTOGRAM)
    }
