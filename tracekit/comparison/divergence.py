"""How two traces differ: distances between distributions, quantile shifts, and the places that differ most.

Distances come from the mergeable histograms and cost one pass over each trace. Quantile
shifts come with bootstrap intervals over a seeded sample. This module knows only the store
and the metrics, and judges nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from os.path import commonprefix
from typing import Any

import numpy as np

from tracekit.metrics.histogram import Histogram
from tracekit.metrics.measuring import measuring, rows
from tracekit.metrics.spreading import Call, answers
from tracekit.sql import load_sql
from tracekit.store.reader import TraceLike, TraceReader, open_reader

__all__ = ["Distance", "Divergence", "Place", "QuantileShift", "diverge"]

_QUANTILES = (0.5, 0.9, 0.99)
_RESAMPLES = 400
_SAMPLE_ROWS = 20_000
_WINDOWS = 20
_WORST = 5
_SIZES = 65_536


@dataclass(frozen=True, slots=True)
class Distance:
    """How far apart two distributions are.

    `ks` is the Kolmogorov-Smirnov statistic: the largest difference of the two cumulative
    shares, 0 to 1. `wasserstein` is the mean distance between the two distributions, in `unit`.
    Both are None if a trace has no op for which the value is known.
    """

    metric: str
    unit: str
    ks: float | None
    wasserstein: float | None


@dataclass(frozen=True, slots=True)
class QuantileShift:
    """A latency quantile in both traces (ns), and the 95 % bootstrap interval of b - a (percentile method)."""

    quantile: float
    a_ns: float
    b_ns: float
    shift_lo_ns: float
    shift_hi_ns: float


@dataclass(frozen=True, slots=True)
class Place:
    """A window or a file in which the traces differ: median latency (ns) and bytes in each, None if unknown."""

    where: str
    a_ops: int
    b_ops: int
    a_bytes: int | None
    b_bytes: int | None
    a_p50_ns: float | None
    b_p50_ns: float | None


@dataclass(frozen=True, slots=True)
class Divergence:
    """The differences of trace `b` from trace `a`; `windows` and `files` are those that differ most, worst first."""

    distances: tuple[Distance, ...]
    quantiles: tuple[QuantileShift, ...]
    windows: tuple[Place, ...]
    files: tuple[Place, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def diverge(
    a: TraceLike, b: TraceLike, *, seed: int = 0, on: str | None = None, hosts: int | None = None
) -> Divergence:
    """What moved from `a` to `b`. Windows are of equal shares of each trace's own duration; files are
    matched by their URIs or, if the traces share none, by what of them is not common to all of a trace's.

    With `on` (local, ray or ray://HOST:PORT), the queries run on that many `hosts`; the figures are the same.
    """
    calls = [
        Call(ask, (reader,))
        for reader in (open_reader(a), open_reader(b))
        for ask in (_latencies, _sizes, _sample, _windows, _files)
    ]
    found = answers(calls, on=on, hosts=hosts)
    (*times_a, sample_a, windows_a, files_a), (*times_b, sample_b, windows_b, files_b) = found[:5], found[5:]
    both = [*files_a, *files_b] if files_a.keys() & files_b.keys() else None
    return Divergence(
        _distances(times_a, times_b),
        _shifts(sample_a, sample_b, seed),
        _worst(windows_a, windows_b),
        _worst(_named(files_a, both or files_a), _named(files_b, both or files_b)),
    )


def ks(a: Histogram, b: Histogram) -> float:
    """The largest difference of cumulative shares, at the edges of the buckets."""
    edges, share_a, share_b = _cumulative(a, b)
    return float(np.abs(share_a - share_b).max()) if len(edges) else 0.0


def wasserstein(a: Histogram, b: Histogram) -> float:
    """First Wasserstein distance: the integral of |F_a - F_b|, with values spread evenly within buckets."""
    edges, share_a, share_b = _cumulative(a, b)
    if len(edges) < 2:
        return 0.0
    left, right = (share_a - share_b)[:-1], (share_a - share_b)[1:]
    # Between edges both shares are straight lines, so this is exact, also where they cross.
    same = left * right >= 0
    flat = (np.abs(left) + np.abs(right)) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        crossed = (left**2 + right**2) / (2 * (np.abs(left) + np.abs(right)))
    return float((np.where(same, flat, crossed) * np.diff(edges)).sum())


def _cumulative(a: Histogram, b: Histogram) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    edges = np.unique(np.array([*a.lo, *a.hi, *b.lo, *b.hi], float))
    return edges, _share(a, edges), _share(b, edges)


def _share(histogram: Histogram, edges: np.ndarray) -> np.ndarray:
    if not histogram.total:
        return np.zeros(len(edges))
    lo, hi, counts = (np.array(values, float) for values in (histogram.lo, histogram.hi, histogram.counts))
    points = np.stack([lo, hi], axis=1).ravel()
    heights = np.stack([np.cumsum(counts) - counts, np.cumsum(counts)], axis=1).ravel() / histogram.total
    share: np.ndarray = np.interp(edges, points, heights, left=0.0, right=1.0)
    return share


def _distances(a: Sequence[Histogram], b: Sequence[Histogram]) -> tuple[Distance, ...]:
    found = []
    for (metric, unit), x, y in zip((("latency", "ns"), ("req_bytes", "bytes")), a, b, strict=True):
        known = x.total > 0 and y.total > 0
        found.append(
            Distance(metric, unit, ks(x, y) if known else None, wasserstein(x, y) if known else None)
        )
    return tuple(found)


def _latencies(reader: TraceReader) -> Histogram:
    source = "latency_hist('all')"
    with measuring(reader, source) as connection:
        found = rows(connection, source)
    return Histogram.from_rows("ns", [(row["lo"], row["hi"], row["counts"]) for row in found])


def _sizes(reader: TraceReader) -> Histogram:
    """Request sizes by their exact value; the snapshot's buckets would hide small changes."""
    sql = load_sql("tracekit.comparison", "divergence_sizes")
    with measuring(reader, sql) as connection:
        return Histogram.from_rows("bytes", connection.execute(sql, {"many": _SIZES}).fetchall())


def _shifts(x: np.ndarray, y: np.ndarray, seed: int) -> tuple[QuantileShift, ...]:
    if not len(x) or not len(y):
        return ()
    rng = np.random.default_rng(seed)
    resampled = [
        np.quantile(
            values[rng.integers(0, len(values), (_RESAMPLES, len(values)), np.int32)], _QUANTILES, axis=1
        )
        if len(values) * _RESAMPLES <= 2_000_000
        else np.stack(
            [
                np.quantile(values[rng.integers(0, len(values), len(values))], _QUANTILES)
                for _ in range(_RESAMPLES)
            ],
            axis=1,
        )
        for values in (x, y)
    ]
    low, high = np.quantile(resampled[1] - resampled[0], (0.025, 0.975), axis=1)
    return tuple(
        QuantileShift(q, float(np.quantile(x, q)), float(np.quantile(y, q)), float(low[i]), float(high[i]))
        for i, q in enumerate(_QUANTILES)
    )


def _sample(reader: TraceReader) -> np.ndarray:
    sql = load_sql("tracekit.comparison", "divergence")
    with measuring(reader, sql) as connection:
        found = connection.execute(sql, {"n": _SAMPLE_ROWS}).fetchnumpy()["latency"]
    return np.asarray(found, float)


def _windows(reader: TraceReader) -> dict[str, tuple[int, int | None, float | None]]:
    source = "over_windows((SELECT (span_ns + $windows - 1) // $windows FROM run_extent()))"
    with measuring(reader, source) as connection:
        found = rows(connection, source, {"windows": _WINDOWS})
    share = 100 // _WINDOWS
    return {
        f"{row['win'] * share}-{(row['win'] + 1) * share} % of the run": (
            row["ops"],
            row["bytes"],
            _ns(row["p50_us"]),
        )
        for row in found
    }


def _files(reader: TraceReader) -> dict[str, tuple[int, int | None, float | None]]:
    sql = load_sql("tracekit.comparison", "divergence_files")
    with measuring(reader, sql) as connection:
        found = connection.execute(sql).fetchall()
    return {uri: (ops, nbytes, p50) for uri, ops, nbytes, p50 in found}


def _named(found: dict[str, Any], among: Iterable[str]) -> dict[str, Any]:
    """`found` by URI without the folder that all of `among` share."""
    common = commonprefix(list(among)).rpartition("/")[0]  # noqa: RUF071 - cut at a slash here
    return {uri.removeprefix(common).lstrip("/"): place for uri, place in found.items()}


def _worst(a: dict[str, Any], b: dict[str, Any]) -> tuple[Place, ...]:
    nothing = (0, 0, None)
    places = [
        Place(where, x[0], y[0], x[1], y[1], x[2], y[2])
        for where in dict.fromkeys([*a, *b])
        for x, y in [(a.get(where, nothing), b.get(where, nothing))]
    ]
    moved = [place for place in places if _apart(place) > 0]
    return tuple(sorted(moved, key=_apart, reverse=True)[:_WORST])


def _apart(place: Place) -> float:
    """How much a place changed: the larger of the relative change in bytes and the doublings of median latency."""
    a, b = place.a_bytes, place.b_bytes
    total = max(a or 0, b or 0)
    volume = abs(a - b) / total if a is not None and b is not None and total else 0.0
    if not place.a_p50_ns or not place.b_p50_ns:
        return volume
    return max(volume, abs(float(np.log2(place.b_p50_ns / place.a_p50_ns))))


def _ns(us: float | None) -> float | None:
    return None if us is None else us * 1e3
