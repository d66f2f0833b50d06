"""Histograms that explain themselves: the edges stand in the data, and counts add up.

Buckets are [lo, hi). Two histograms made by the same query have buckets from the same
grid, so merging is adding the counts of equal buckets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tracekit.errors import UsageError

__all__ = ["Histogram"]


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts by bucket, ascending; empty buckets are left out. `lo` and `hi` are in `unit`."""

    unit: str
    lo: tuple[float, ...] = ()
    hi: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()

    @classmethod
    def from_rows(cls, unit: str, rows: Iterable[tuple[float, float, int]]) -> Histogram:
        """Of (lo, hi, count) rows in any order; equal buckets add."""
        total: dict[tuple[float, float], int] = {}
        for lo, hi, count in rows:
            total[lo, hi] = total.get((lo, hi), 0) + count
        ordered = sorted(total.items())
        return cls(
            unit,
            tuple(lo for (lo, _), _ in ordered),
            tuple(hi for (_, hi), _ in ordered),
            tuple(count for _, count in ordered),
        )

    @property
    def total(self) -> int:
        return sum(self.counts)

    def merge(self, other: Histogram) -> Histogram:
        """Both together. Raises UsageError if the units differ."""
        if self.unit != other.unit:
            raise UsageError(f"histograms of {self.unit} and {other.unit} do not add", "merge equal metrics")
        return Histogram.from_rows(
            self.unit,
            [
                *zip(self.lo, self.hi, self.counts, strict=True),
                *zip(other.lo, other.hi, other.counts, strict=True),
            ],
        )

    def quantile(self, q: float) -> float | None:
        """The middle of the bucket that holds the value of rank ceil(q * total); None if empty.

        At most half a bucket's width off.
        """
        rank = max(-(-self.total * q // 1), 1)
        seen = 0
        for lo, hi, count in zip(self.lo, self.hi, self.counts, strict=True):
            seen += count
            if seen >= rank:
                return (lo + hi) / 2
        return None

    def to_dict(self) -> dict[str, Any]:
        return {"unit": self.unit, "lo": list(self.lo), "hi": list(self.hi), "counts": list(self.counts)}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Histogram:
        return cls(str(raw["unit"]), tuple(raw["lo"]), tuple(raw["hi"]), tuple(int(n) for n in raw["counts"]))
