"""Several runs against one: medians over runs with bootstrap intervals, and a verdict by the interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tracekit.comparison.table import Parity, ParityRow

__all__ = ["combine"]

_RESAMPLES = 2000


def combine(runs: Sequence[Parity]) -> Parity:
    """Combine the comparisons of several runs with one recording or run.

    Each metric has the medians over runs of its values and of its difference, and the 95 %
    bootstrap interval of that median (percentile method, seeded). A metric passes if the
    whole interval is within its tolerance; one that must be exact passes if every run does.
    """
    if len(runs) == 1:
        return runs[0]
    first = runs[0]
    kinds = {run.kind for run in runs}
    reason = first.reason if len({run.reason for run in runs}) == 1 else "; ".join(run.reason for run in runs)
    return replace(
        first,
        rows=_combined([run.rows for run in runs]),
        gates=_combined([run.gates for run in runs]),
        kind=first.kind if len(kinds) == 1 else "runs",
        reason=f"{len(runs)} runs, medians with 95 % intervals. {reason}",
    )


def _combined(tables: Sequence[Sequence[ParityRow]]) -> tuple[ParityRow, ...]:
    by_metric: dict[str, list[ParityRow]] = {}
    for table in tables:
        for row in table:
            by_metric.setdefault(row.metric, []).append(row)
    return tuple(_row(rows) for rows in by_metric.values())


def _row(rows: Sequence[ParityRow]) -> ParityRow:
    """One metric over the runs that have it."""
    judged = [row.ok for row in rows if row.ok is not None]
    differences = [row.difference for row in rows if row.difference is not None]
    low, high = _interval(differences)
    notes = dict.fromkeys(row.note for row in rows if row.note)
    tolerance = rows[0].tolerance
    ok: bool | None = None
    if judged:
        by_interval = high is not None and tolerance and rows[0].by_difference
        ok = high <= tolerance if by_interval and high is not None and tolerance else all(judged)
    return replace(
        rows[0],
        a=_median([row.a for row in rows]),
        b=_median([row.b for row in rows]),
        ok=ok,
        difference=float(np.median(differences)) if differences else None,
        low=low,
        high=high,
        note="; ".join(notes),
    )


def _interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """The 95 % bootstrap interval of the median; the value itself of a single one."""
    if not values:
        return None, None
    if not np.isfinite(values).all():
        return min(values), max(values)
    rng = np.random.default_rng(0)
    drawn = np.array(values)[rng.integers(0, len(values), (_RESAMPLES, len(values)))]
    low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
    return float(low), float(high)


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None
