"""Histograms that carry their bucket edges, and merge by adding counts.

Buckets are [lo, hi). Histograms of the same metric have buckets from the same grid, so merging
adds the counts of equal buckets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tracekit.errors import UsageError

__all__ = ["Histogram"]


@dataclass(frozen=True, slots=True, repr=False)
class Histogram:
    """Counts by bucket, ascending, without empty buckets. `lo` and `hi` are in `unit`."""

    unit: str
    lo: tuple[float, ...] = ()
    hi: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()

    @classmethod
    def from_rows(cls, unit: str, rows: Iterable[tuple[float, float, int]]) -> Histogram:
        """Make a histogram of (lo, hi, count) rows in any order; equal buckets add."""
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
        """The number of values in all buckets."""
        return sum(self.counts)

    def merge(self, other: Histogram) -> Histogram:
        """Add another histogram. Raises UsageError if the units differ."""
        if self.unit != other.unit:
            raise UsageError(
                f"cannot merge histograms of {self.unit} and {other.unit}", "merge histograms of one metric"
            )
        return Histogram.from_rows(
            self.unit,
            [
                *zip(self.lo, self.hi, self.counts, strict=True),
                *zip(other.lo, other.hi, other.counts, strict=True),
            ],
        )

    def quantile(self, q: float) -> float | None:
        """The middle of the bucket that holds the value of rank ceil(q * total); None if there are no values.

        The error is at most half the width of the bucket.
        """
        rank = max(-(-self.total * q // 1), 1)
        seen = 0
        for lo, hi, count in zip(self.lo, self.hi, self.counts, strict=True):
            seen += count
            if seen >= rank:
                return (lo + hi) / 2
        return None

    def __repr__(self) -> str:
        edges = f", {self.lo[0]:g} to {self.hi[-1]:g} {self.unit}" if self.counts else f" of {self.unit}"
        return f"<Histogram: {self.total:,} values in {len(self.counts)} buckets{edges}>"

    def _repr_html_(self) -> str:
        most = max(self.counts, default=1)
        rows = "".join(
            f"<tr><td>{lo:g}</td><td>{hi:g}</td><td>{count:,}</td>"
            f'<td><meter min="0" max="{most}" value="{count}"></meter></td></tr>'
            for lo, hi, count in zip(self.lo, self.hi, self.counts, strict=True)
        )
        head = f"<tr><th>from ({self.unit})</th><th>to ({self.unit})</th><th>count</th><th></th></tr>"
        return f"<table>{head}{rows}</table>"

    def to_dict(self) -> dict[str, Any]:
        """The histogram as JSON-able values: the unit and three parallel lists."""
        return {"unit": self.unit, "lo": list(self.lo), "hi": list(self.hi), "counts": list(self.counts)}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Histogram:
        """Rebuild a histogram from the result of `to_dict`."""
        return cls(str(raw["unit"]), tuple(raw["lo"]), tuple(raw["hi"]), tuple(int(n) for n in raw["counts"]))
