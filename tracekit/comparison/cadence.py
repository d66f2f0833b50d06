"""When the ops of a replay went, against when they were due: windows, lateness, concurrency, duration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from tracekit.comparison.distances import depths, dispersion, ks
from tracekit.comparison.table import ParityRow, relative_difference, shown, within
from tracekit.units import format_duration

__all__ = ["WINDOWS_NS", "Cadence", "window_name"]

WINDOWS_NS = (10_000_000, 100_000_000, 1_000_000_000, 10_000_000_000)
MOVED_TOLERANCE = 0.05
DISPERSION_TOLERANCE = 0.10
CONCURRENCY_TOLERANCE = 0.10
LATENESS_FLOOR_NS = 25_000_000
"""An ordinary machine now and then runs a thread this much late."""
LATENESS_MAX_FLOOR_NS = 1_000_000_000
_GAPS = 20
"""Lateness p99 may be this many median gaps, and the latest op ten times that."""
_MARGIN = 10
"""A window is judged if it is this many times as long as lateness p99, and an op may be late by its inverse."""
_MOST_WINDOWS = 2_000_000
_LEAST_WINDOWS = 10
_NULL = np.iinfo(np.int64).min
_KEPT_OPS = 4_000_000


def window_name(window_ns: int) -> str:
    """`10ms`, `100ms`, `1s`, `10s`."""
    return format_duration(window_ns).replace(" ", "")


@dataclass(slots=True)
class _Windows:
    """Counts of ops by window of one length, due and issued, and what moved from its window."""

    length_ns: int
    due: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    issued: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    moved: int = 0
    weight: int = 0
    overflow: bool = False

    def add(self, due: np.ndarray, issued: np.ndarray, weight: np.ndarray) -> None:
        """Add ops by their due and issued times (ns from the start)."""
        planned, real = due // self.length_ns, np.maximum(issued, 0) // self.length_ns
        self.moved += int(weight[planned != real].sum())
        self.weight += int(weight.sum())
        if self.overflow or (len(due) and max(int(planned.max()), int(real.max())) >= _MOST_WINDOWS):
            self.overflow = True
            return
        self.due = _added(self.due, planned)
        self.issued = _added(self.issued, real)

    def missing(self, due: np.ndarray, weight: np.ndarray) -> None:
        """Add ops that were due and never issued: they count as moved."""
        self.moved += int(weight.sum())
        self.weight += int(weight.sum())
        planned = due // self.length_ns
        if not self.overflow and len(due) and int(planned.max()) < _MOST_WINDOWS:
            self.due = _added(self.due, planned)


@dataclass(slots=True)
class Cadence:
    """Adds up the times of a replay's ops. Due times count from the start, in ns.

    `origin_ns` is the start on the clock of the replay's rows, None until it is known.
    """

    origin_ns: int | None = None
    windows: tuple[_Windows, ...] = field(default_factory=lambda: tuple(_Windows(ns) for ns in WINDOWS_NS))
    gaps: list[np.ndarray] = field(default_factory=list)
    lateness: list[np.ndarray] = field(default_factory=list)
    own_lateness: list[np.ndarray] = field(default_factory=list)
    late_max_ns: int | None = None
    kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)
    kept_ops: int = 0
    first_due: int | None = None
    last_due: int | None = None
    planned_end: int | None = None
    first_submit: int | None = None
    last_submit: int | None = None
    end: int | None = None

    def add(
        self,
        due: np.ndarray,
        late: np.ndarray,
        moves: np.ndarray,
        recorded_latency: np.ndarray,
        submit: np.ndarray,
        latency: np.ndarray,
        own_due: np.ndarray,
        *,
        timed: bool,
    ) -> None:
        """Add ops that were issued; `late` is their lateness against the plan, `own_due` the due time in their row."""
        if not len(due):
            return
        self._span(due, recorded_latency)
        self.first_submit = _least(self.first_submit, submit)
        self.last_submit = _most(self.last_submit, submit)
        self.end = _most(self.end, submit + np.maximum(latency, 0))
        every = max(len(late) // 1_000_000, 1)
        has_due = own_due != _NULL
        self.own_lateness.append((submit - own_due)[has_due][::every])
        if not timed:
            return
        weight = np.where(moves == _NULL, 0, moves) + 1
        for window in self.windows:
            on_time = np.where((late >= 0) & (late <= window.length_ns // _MARGIN), 0, late)
            window.add(due, due + on_time, weight)
        self.lateness.append(late[::every])
        self.late_max_ns = _most(self.late_max_ns, late)
        known = recorded_latency >= 0
        if self.kept_ops < _KEPT_OPS:
            self.kept.append((due[known], late[known], recorded_latency[known]))
            self.kept_ops += len(due)

    def missing(self, due: np.ndarray, moves: np.ndarray, recorded_latency: np.ndarray) -> None:
        """Add ops of the plan that were never issued."""
        if not len(due):
            return
        self._span(due, recorded_latency)
        for window in self.windows:
            window.missing(due, np.where(moves == _NULL, 0, moves) + 1)

    def _span(self, due: np.ndarray, recorded_latency: np.ndarray) -> None:
        self.gaps.append(np.diff(np.sort(due))[:: max(len(due) // 1_000_000, 1)])
        self.first_due = _least(self.first_due, due)
        self.last_due = _most(self.last_due, due)
        self.planned_end = _most(self.planned_end, due + np.maximum(recorded_latency, 0))

    @property
    def jitter_ns(self) -> float:
        """The 99th percentile of lateness as the replay's rows have it, ns: what the client's clockwork can do."""
        return _quantile(self.own_lateness, 0.99, "higher") or 0.0

    def table(
        self,
        *,
        timed: bool,
        tolerance: float,
        max_lateness_ns: int | None,
        planned_bytes: int,
        moved_bytes: int,
    ) -> Iterable[ParityRow]:
        """The rows on cadence, lateness, concurrency, duration and throughput."""
        if timed and self.lateness:
            yield from self._window_rows()
            yield from self._lateness_rows(max_lateness_ns)
            yield self._concurrency_row()
        yield from self._duration_rows(timed, tolerance, planned_bytes, moved_bytes)

    def _window_rows(self) -> Iterable[ParityRow]:
        late = self.jitter_ns
        for window in self.windows:
            name = window_name(window.length_ns)
            count = (self.last_due or 0) // window.length_ns
            if window.overflow or count < 2:
                continue
            judged = late * _MARGIN <= window.length_ns
            note = (
                ""
                if judged
                else f"not judged: lateness p99 {format_duration(late)} is more than a tenth of the window"
            )
            moved = window.moved / window.weight if window.weight else 0.0
            yield within(f"cadence_{name}", "share", moved, MOVED_TOLERANCE, judged=judged, note=note)
            if count >= _LEAST_WINDOWS:
                planned, real = (dispersion(_histogram(counts)) for counts in (window.due, window.issued))
                difference = abs(real - planned) / max(planned, 1.0)
                ok = difference <= DISPERSION_TOLERANCE if judged else None
                yield ParityRow(
                    f"dispersion_{name}", "index", planned, real, difference, ok, DISPERSION_TOLERANCE, note
                )

    def _lateness_rows(self, max_lateness_ns: int | None) -> Iterable[ParityRow]:
        gaps = np.concatenate(self.gaps) if self.gaps else np.zeros(0)
        gap = float(np.median(gaps)) if len(gaps) else 0.0
        limit = max(LATENESS_FLOOR_NS, _GAPS * gap)
        latest = max(LATENESS_MAX_FLOOR_NS, 10 * _GAPS * gap)
        if max_lateness_ns is not None:
            limit = latest = max_lateness_ns
        yield shown("lateness_p50_ns", "ns", None, _quantile(self.lateness, 0.5))
        for name, value, most in (
            ("lateness_p99_ns", _quantile(self.lateness, 0.99), limit),
            ("lateness_max_ns", self.late_max_ns, latest),
        ):
            ok = None if value is None else value <= most
            note = f"at most {format_duration(most)}; median gap {format_duration(gap)}"
            yield ParityRow(name, "ns", None, value, None, ok, float(most), note, "client")

    def _concurrency_row(self) -> ParityRow:
        """In flight if each op took what it took in the recording: the client's share of concurrency."""
        due, late, latency = (np.concatenate(part) for part in zip(*self.kept, strict=True))
        if not len(due):
            return ParityRow(
                "in_flight",
                "distance",
                None,
                None,
                None,
                None,
                CONCURRENCY_TOLERANCE,
                "no recorded latency is known",
            )
        slack = WINDOWS_NS[0] // _MARGIN
        long_enough = (self.last_due or 0) - (self.first_due or 0) >= _LEAST_WINDOWS * WINDOWS_NS[0]
        judged = self.jitter_ns <= slack and long_enough
        on_time = np.where((late >= 0) & (late <= slack), 0, late)
        distance = ks(depths(due, latency), depths(due + on_time, latency))
        note = "" if judged else "not judged: lateness p99 is above 1 ms, or the run is shorter than 100 ms"
        return within("in_flight", "distance", distance, CONCURRENCY_TOLERANCE, judged=judged, note=note)

    def _duration_rows(
        self, timed: bool, tolerance: float, planned_bytes: int, moved_bytes: int
    ) -> Iterable[ParityRow]:
        """Duration and throughput, judged without the target's own latency after the last submit."""
        if self.first_due is None or self.last_due is None or self.planned_end is None:
            return
        duration = self.planned_end - self.first_due
        if self.first_submit is None or self.last_submit is None or self.end is None:
            yield ParityRow("duration_ns", "ns", duration, None, None, None)
            return
        real = self.end - self.first_submit
        longer = (self.last_submit - self.first_submit) - (self.last_due - self.first_due)
        apart = max(abs(longer) - LATENESS_FLOOR_NS, 0)
        difference = apart / duration if duration else (0.0 if not apart else float("inf"))
        if not timed:
            yield shown("duration_ns", "ns", duration, real)
            yield shown(
                "throughput_bytes_per_s", "bytes/s", _rate(planned_bytes, duration), _rate(moved_bytes, real)
            )
            return
        note = "the difference is that of the submits' span"
        cause = "client" if abs(longer) <= (self.late_max_ns or 0) else ""
        yield ParityRow(
            "duration_ns", "ns", duration, real, difference, difference <= tolerance, tolerance, note, cause
        )
        held = duration + (apart if longer > 0 else -apart)
        slower = relative_difference(_rate(planned_bytes, duration), _rate(moved_bytes, held))
        yield ParityRow(
            "throughput_bytes_per_s",
            "bytes/s",
            _rate(planned_bytes, duration),
            _rate(moved_bytes, real),
            slower,
            None if slower is None else slower <= tolerance,
            tolerance,
            note,
            cause,
        )


def _quantile(
    parts: Iterable[np.ndarray], quantile: float, method: Literal["lower", "higher"] = "lower"
) -> float | None:
    """A quantile of lateness; ops that went early count as on time. None without ops."""
    values = [part for part in parts if len(part)]
    if not values:
        return None
    return float(np.quantile(np.maximum(np.concatenate(values), 0), quantile, method=method))


def _histogram(counts: np.ndarray) -> Counter[int]:
    values, times = np.unique(counts, return_counts=True)
    return Counter(dict(zip(values.tolist(), times.tolist(), strict=True)))


def _added(counts: np.ndarray, slots: np.ndarray) -> np.ndarray:
    """`counts` with one more at each of `slots`."""
    if not len(slots):
        return counts
    more = np.bincount(slots, minlength=len(counts))
    more[: len(counts)] += counts
    return more


def _least(value: int | None, values: np.ndarray) -> int:
    found = int(values.min())
    return found if value is None else min(value, found)


def _most(value: int | None, values: np.ndarray) -> int:
    found = int(values.max())
    return found if value is None else max(value, found)


def _rate(nbytes: int, duration_ns: float) -> float | None:
    return nbytes * 1e9 / duration_ns if duration_ns > 0 else None
