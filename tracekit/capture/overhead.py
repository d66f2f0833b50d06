"""Measures, while a program runs, how much of its CPU time recording takes.

One call in `EACH` is timed. The times are CPU times of the calling thread, so that waiting for other threads does not count.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from time import process_time_ns, thread_time_ns
from typing import Protocol

from tracekit.consumer import HOOKS_CPU, PROCESS_CPU, WRITER_CPU

__all__ = ["EACH", "ENOUGH_NS", "Meter"]

_log = logging.getLogger("tracekit.capture")
EACH = 64
ENOUGH_NS = 1_000_000_000
"""CPU time of the process below which the share says little."""


class _Counting(Protocol):
    def count_all(self, numbers: Mapping[str, int]) -> None: ...


class Meter:
    """The overhead in one process. Logs once that it is more than the share `most` of the process's CPU time."""

    __slots__ = ("_all_ns", "_hooks_ns", "_seen_ns", "_warned", "_writer_ns", "most")

    def __init__(self, most: float) -> None:
        self.most = most
        self._warned = False
        self._hooks_ns = self._writer_ns = self._all_ns = 0
        self._seen_ns = process_time_ns()

    def add(self, recorder: _Counting, began_ns: int) -> None:
        """Count a timed call that began at `began_ns` of the thread's CPU time, for all those that are not timed."""
        hooks = EACH * (thread_time_ns() - began_ns)
        now = process_time_ns()
        spent, self._seen_ns = max(now - self._seen_ns, 0), now
        numbers = {HOOKS_CPU: hooks, PROCESS_CPU: spent}
        writer = getattr(recorder, "writer_cpu_ns", 0)
        if writer > self._writer_ns:
            numbers[WRITER_CPU] = writer - self._writer_ns
            self._writer_ns = writer
        recorder.count_all(numbers)
        self._hooks_ns += hooks
        self._all_ns += spent
        share = (self._hooks_ns + self._writer_ns) / max(self._all_ns, 1)
        if share > self.most and self._all_ns >= ENOUGH_NS and not self._warned:
            self._warned = True
            _log.warning(
                "recording takes %.1f %% of the CPU time of this process, more than max_overhead=%g; record fewer"
                " files (sample_rate=, include=)",
                100 * share,
                self.most,
            )
