"""Phases of a run: stretches between the points at which its load changes.

The change points are those of ruptures (kernel change-point detection with a linear kernel) on throughput,
rate and queue depth in the windows of the report.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from tracekit.extras import require
from tracekit.reporting.panel import Listing
from tracekit.reporting.source import Source, one_of
from tracekit.schema import DATA_KINDS

__all__ = ["change_points", "phases"]

_MOST = 10
"""Phases at most: more are no help to a reader."""
_IDLE = 0.01
"""Ops in flight on average below which a phase without submits is idle: the last op of the phase before may still end."""
_SIGNALS = ("bytes_per_s", "ops_per_s", "mean_qd")
_COLUMNS = (
    "phase",
    "at_ns",
    "lasted_ns",
    "what",
    "ops",
    "moved_bytes",
    "bytes_per_s",
    "ops_per_s",
    "in_flight",
    "max_ns",
)


def phases(sources: Sequence[Source]) -> list[Listing]:
    """A table of the phases of each trace, without those of a trace that has no ops."""
    made = []
    for index, source in enumerate(sources):
        source.taken()
        found = source.windows("all")
        kinds = source.windows("op")
        if not found:
            continue
        # The end of the run that fills no window is no change of load.
        cuts = [0, *change_points(found[:-1] if source.rest_ns() else found), len(found)]
        rows = tuple(
            _phase(number, found[start:end], kinds, source)
            for number, (start, end) in enumerate(pairwise(cuts), start=1)
        )
        anchor, title = one_of("phases", "Phases", source, index, len(sources))
        about = "Stretches of the run with one kind of load. They begin where throughput, rate or queue depth change."
        note = f"in {source.window()}"
        made.append(Listing(anchor, title, about, _COLUMNS, rows, note, source.taken()))
    return made


def change_points(windows: Sequence[dict[str, Any]]) -> list[int]:
    """The numbers of the windows at which the load changes, ascending."""
    ruptures = require("ruptures", extra="report")
    if len(windows) < 8:
        return []
    known = [name for name in _SIGNALS if any(row[name] for row in windows)]
    signal = np.array([[math.log1p(row[name] or 0.0) for name in known] for row in windows])
    spread = signal.std(axis=0)
    signal = signal[:, spread > 1e-9] / spread[spread > 1e-9]
    if not signal.shape[1]:
        return []
    # The noise between neighbours, which a change must exceed; a load without noise changes at every step.
    noise = float(np.median(np.abs(np.diff(signal, axis=0)), axis=0).sum()) ** 2
    penalty = max(noise, 0.05) * signal.shape[1] * math.log(len(windows)) * 2
    model = ruptures.KernelCPD(kernel="linear", min_size=2).fit(signal)
    while True:
        found: list[int] = model.predict(pen=penalty)[:-1]
        if len(found) < _MOST:
            return found
        penalty *= 1.5


def _phase(
    number: int, windows: Sequence[dict[str, Any]], kinds: Sequence[dict[str, Any]], source: Source
) -> tuple[Any, ...]:
    first, last = windows[0], windows[-1]
    start_s, end_s = max(first["start_s"], 0.0), last["start_s"] + last["window_s"]
    long_s = end_s - start_s
    ops = sum(row["ops"] for row in windows)
    known = [row["bytes"] for row in windows if row["bytes"] is not None]
    moved = sum(known) if known else None
    flying = [row["mean_qd"] * row["window_s"] for row in windows if row["mean_qd"] is not None]
    slowest = max((row["max_us"] for row in windows if row["max_us"] is not None), default=None)
    inside = [row for row in kinds if first["win"] <= row["win"] <= last["win"]]
    return (
        number,
        round((start_s - source.zero_s) * 1e9),
        round(long_s * 1e9),
        _what(inside, ops, sum(flying) / long_s),
        ops,
        moved,
        None if moved is None else moved / long_s,
        ops / long_s,
        sum(flying) / long_s if flying else None,
        None if slowest is None else round(slowest * 1e3),
    )


def _what(inside: Sequence[dict[str, Any]], ops: int, flying: float) -> str:
    """What a phase consists of: the kind with most time in flight, else with most ops."""
    if not ops and flying < _IDLE:
        return "idle"
    weight: dict[str, tuple[float, int]] = {}
    for row in inside:
        busy, n = weight.get(row["key"], (0.0, 0))
        weight[row["key"]] = busy + (row["mean_qd"] or 0.0) * row["window_s"], n + row["ops"]
    kind = max(sorted(weight), key=lambda key: weight[key])
    return kind if kind in DATA_KINDS else f"metadata ({kind})"
