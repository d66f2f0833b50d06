"""Distances between distributions. Pure functions of arrays and counts: the order of the counts does not matter."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from math import fsum
from typing import TypeVar

import numpy as np

__all__ = ["depths", "dispersion", "ks", "mean_shift", "total_variation"]

K = TypeVar("K", bound=Hashable)


def total_variation(a: Mapping[K, float], b: Mapping[K, float]) -> float:
    """Half the sum of |share in a - share in b|: 0 for equal shares, 1 for nothing in common."""
    total_a, total_b = sum(a.values()), sum(b.values())
    if not total_a or not total_b:
        return 0.0 if total_a == total_b else 1.0
    return fsum(abs(a.get(key, 0) / total_a - b.get(key, 0) / total_b) for key in a.keys() | b.keys()) / 2


def ks(a: Mapping[int, float], b: Mapping[int, float]) -> float:
    """Kolmogorov-Smirnov distance: the largest difference of the cumulative shares."""
    total_a, total_b = sum(a.values()), sum(b.values())
    if not total_a or not total_b:
        return 0.0 if total_a == total_b else 1.0
    largest = gap = 0.0
    for value in sorted(a.keys() | b.keys()):
        gap += a.get(value, 0) / total_a - b.get(value, 0) / total_b
        largest = max(largest, abs(gap))
    return largest


def mean_shift(a: Mapping[int, float], b: Mapping[int, float]) -> float:
    """Wasserstein distance over the larger mean: by what share of the mean values moved."""
    total_a, total_b = sum(a.values()), sum(b.values())
    if not total_a or not total_b:
        return 0.0 if total_a == total_b else 1.0
    values = sorted(a.keys() | b.keys())
    gap = distance = 0.0
    for value, following in zip(values, [*values[1:], values[-1]], strict=True):
        gap += a.get(value, 0) / total_a - b.get(value, 0) / total_b
        distance += abs(gap) * (following - value)
    means = [
        fsum(value * n for value, n in counts.items()) / total
        for counts, total in ((a, total_a), (b, total_b))
    ]
    return distance / max(means) if max(means) > 0 else 0.0


def dispersion(counts: Mapping[int, float]) -> float:
    """Index of dispersion of a distribution of counts: variance over mean; 0 if all are 0."""
    total = sum(counts.values())
    mean = fsum(value * n for value, n in counts.items()) / total if total else 0.0
    if not mean:
        return 0.0
    return fsum((value - mean) ** 2 * n for value, n in counts.items()) / total / mean


def depths(start_ns: np.ndarray, latency_ns: np.ndarray) -> dict[int, float]:
    """How long (ns) how many ops were in flight, from the first start to the last end."""
    if not len(start_ns):
        return {}
    lasting = np.maximum(latency_ns, 1)
    times = np.concatenate([start_ns, start_ns + lasting])
    change = np.concatenate([np.ones(len(start_ns), np.int64), -np.ones(len(start_ns), np.int64)])
    order = np.lexsort((change, times))  # at equal times ends come first
    level = np.cumsum(change[order])[:-1]
    weights = np.bincount(level, weights=np.diff(times[order]))
    return {depth: float(weight) for depth, weight in enumerate(weights.tolist()) if weight}
