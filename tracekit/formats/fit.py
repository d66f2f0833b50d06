"""Describes a trace in a few figures, from which the exporters of configurations make theirs. See `fit.sql`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tracekit.errors import UsageError
from tracekit.metrics.measuring import measuring
from tracekit.sql import load_sql
from tracekit.store.reader import TraceReader
from tracekit.store.statements import select

__all__ = ["Fit", "Sizes", "distance", "fit", "in_percent"]

Sizes = tuple[tuple[int, int], ...]
"""Sizes in bytes with their numbers of ops, by size."""


@dataclass(frozen=True, slots=True)
class Fit:
    """The figures of `fit.sql`; None where the trace does not say."""

    reads: int
    writes: int
    read_bytes: int
    write_bytes: int
    gets: int
    puts: int
    stats: int
    deletes: int
    lists: int
    read_sizes: Sizes
    write_sizes: Sizes
    files: int
    file_bytes: float
    file_bytes_dev: float
    directory: str
    followed: int
    random: int
    tenths: Sizes
    streams: int
    ranks: int
    span_ns: int
    depth: float | None
    samples: int
    steps: int
    samples_per_step: float | None
    step_gap_ns: float | None
    step_gap_dev_ns: float | None

    @property
    def ops(self) -> int:
        """Ops that move data."""
        return self.reads + self.writes

    @property
    def read_percent(self) -> float:
        """The share of reads among ops that move data, in percent."""
        return 100 * self.reads / self.ops

    @property
    def random_percent(self) -> float | None:
        """The share of ops that do not begin where the one before ended, in percent."""
        return 100 * self.random / self.followed if self.followed else None


def fit(trace: TraceReader) -> Fit:
    """Return the figures of `trace`. Raises UsageError if it has no op that moves data."""
    sql = load_sql("tracekit.formats", "fit")
    with measuring(trace, sql) as connection:
        (row,) = select(connection, sql).to_arrow_table().to_pylist()
    if not row["reads"] + row["writes"]:
        raise UsageError(f"{trace.path}: no op moves data", "export a trace with reads or writes")
    for name in ("read_sizes", "write_sizes", "tenths"):
        row[name] = tuple((one["size"], one["ops"]) for one in row[name] or ())
    return Fit(
        **{**row, "file_bytes": row["file_bytes"] or 0.0, "file_bytes_dev": row["file_bytes_dev"] or 0.0}
    )


def in_percent(sizes: Sizes, most: int) -> Sizes:
    """Return at most `most` of `sizes` with whole percents that add up to 100; a rare size counts for its neighbour."""
    total = sum(ops for _, ops in sizes)
    kept = sorted(sorted(sizes, key=lambda one: -one[1])[: min(most, 100)])
    if not total:
        return ()
    weights = dict.fromkeys((size for size, _ in kept), 0)
    for size, ops in sizes:
        weights[min(weights, key=lambda one: abs(one - size))] += ops
    floors = {size: 100 * ops // total for size, ops in weights.items()}
    by_rest = sorted(weights, key=lambda size: floors[size] * total - 100 * weights[size])
    for size in by_rest[: 100 - sum(floors.values())]:
        floors[size] += 1
    return tuple((size, percent) for size, percent in floors.items() if percent)


def distance(first: Sequence[tuple[int, int]], second: Sequence[tuple[int, int]]) -> float:
    """Return the total variation distance of two distributions of sizes: the share of ops that would have to change."""
    if not first or not second:
        return 0.0 if not first and not second else 1.0
    totals = (sum(ops for _, ops in first), sum(ops for _, ops in second))
    shares = [
        {size: ops / total for size, ops in sizes}
        for sizes, total in zip((first, second), totals, strict=True)
    ]
    every = {*shares[0], *shares[1]}
    return sum(abs(shares[0].get(size, 0) - shares[1].get(size, 0)) for size in every) / 2
