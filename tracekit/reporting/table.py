"""Tables for a terminal: parity, snapshots, query results. They render, and compute nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from tracekit.comparison.divergence import Divergence
from tracekit.comparison.table import Parity, ParityRow
from tracekit.metrics.histogram import Histogram
from tracekit.metrics.snapshot import MetricsSnapshot
from tracekit.units import format_count, format_duration, format_named, format_rate, format_size

__all__ = [
    "brief",
    "difference",
    "divergence_tables",
    "in_words",
    "label",
    "least_width",
    "parity_table",
    "record_table",
    "rows_table",
    "short_names",
    "shown",
    "snapshot_tables",
]


_ABSOLUTE = ("distance", "share")
_BAR = 30
"""Characters of the longest bar of a histogram."""
_FOLDED = 24
"""Characters to which a text may be folded before a table is too narrow for it."""


def parity_table(parity: Parity, *, names: tuple[str, str] = ("recording", "replay")) -> Table:
    """One line a metric, with its verdict."""
    basis = {"replay": "judged op by op", "runs": "compared as two runs"}[parity.kind]
    title = Text.assemble(
        ("\n".join(parity.verdict), "green" if parity.ok else "red"), f"\n{basis}: {parity.reason}"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    for name in (*names, "difference", "allowed"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for row in (*parity.rows, *parity.gates):
        word = {True: Text("pass", "green"), False: Text("FAIL", "red"), None: Text("-", "dim")}[row.ok]
        table.add_row(
            label(row), shown(row.a, row.unit), shown(row.b, row.unit), difference(row), _allowed(row), word
        )
    failed = [f"{label(row)}: {row.note}" for row in parity.failed if row.note]
    if failed:
        table.caption, table.caption_justify = Text("\n".join(failed), "dim"), "left"
    return table


def _allowed(row: ParityRow) -> str:
    """The tolerance of a judged row, in the unit of its difference."""
    if row.ok is None or row.tolerance is None:
        return "-"
    if row.difference is None or row.unit in _ABSOLUTE:
        return shown(row.tolerance, row.unit)
    return f"{row.tolerance:.0%}"


def rows_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str | None = None) -> Table:
    """Any rows, as they are."""
    table = Table(title=title, title_justify="left")
    numeric = [
        bool(rows) and all(isinstance(row[i], int | float | None) for row in rows)
        for i in range(len(columns))
    ]
    for name, right in zip(columns, numeric, strict=True):
        table.add_column(str(name), justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row))
    return table


def record_table(columns: Sequence[str], row: Sequence[Any], number: int) -> Table:
    """One row, a line each column: for rows too wide for a table."""
    table = Table(show_header=False, box=None, pad_edge=False, title=f"row {number}", title_justify="left")
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for name, value in zip(columns, row, strict=True):
        table.add_row(Text(str(name), "bold"), "" if value is None else str(value))
    return table


def least_width(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> int:
    """Characters that a table of the rows needs at least: numbers whole, names whole, texts folded."""
    wide = [
        max(len(str(name)), *(_least(row[i]) for row in rows)) if rows else len(str(name))
        for i, name in enumerate(columns)
    ]
    return sum(wide) + 3 * len(wide) + 1


def _least(value: Any) -> int:
    return (
        min(len(str(value)), _FOLDED) if isinstance(value, str) else 0 if value is None else len(str(value))
    )


def divergence_tables(moved: Divergence, *, names: tuple[str, str]) -> list[Table]:
    """What moved: distances, quantiles with their intervals, and the places that differ most."""
    distances = rows_table(
        ["distribution", "KS", "Wasserstein"],
        [[d.metric, f"{d.ks:.3f}", shown(d.wasserstein, d.unit)] for d in moved.distances],
        title="what moved",
    )
    shifts = rows_table(
        ["latency", *names, "shift, 95 % interval"],
        [
            [f"p{q.quantile * 100:g}", shown(q.a_ns, "ns"), shown(q.b_ns, "ns"),
             f"{shown(q.shift_lo_ns, 'ns')} to {shown(q.shift_hi_ns, 'ns')}"]
            for q in moved.quantiles
        ],
    )  # fmt: skip
    places = [
        rows_table(
            [kind, "p50 A", "p50 B", "bytes A", "bytes B"],
            [
                [p.where, shown(p.a_p50_ns, "ns"), shown(p.b_p50_ns, "ns"), shown(p.a_bytes, "bytes"), shown(p.b_bytes, "bytes")]
                for p in found
            ],
        )
        for kind, found in (("window", moved.windows), ("file", moved.files))
        if found
    ]  # fmt: skip
    return [distances, shifts, *places]


def snapshot_tables(found: MetricsSnapshot, *, width: int = 80) -> list[Table]:
    """Return the snapshot as tables for a terminal of `width` columns."""
    facts = Table(show_header=False, box=None, pad_edge=False)
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in _facts(found).items():
        facts.add_row(Text(name, "bold"), value)
    for name, count in found.backend_counters.items():
        facts.add_row(Text(in_words(name), "dim"), format_named(name, count))
    ops = rows_table(
        ["scheme", "op", "error", "ops", "bytes"],
        [
            [r["scheme"], r["op"], r["error"], format_count(r["ops"]), format_size(r["bytes"])]
            for r in found.by_op
        ],
    )
    return [facts, ops, _sizes_table(found.req_bytes_hist, width)]


def _facts(found: MetricsSnapshot) -> dict[str, str]:
    latency_ns = {name: None if us is None else us * 1e3 for name, us in found.latency_us.items()}
    quantiles = ("p50", "p90", "p99", "p99_9", "max")
    facts = {
        "ops": f"{format_count(found.ops)}, {format_count(found.failed_ops)} failed",
        "bytes": f"{format_size(found.bytes)} of {format_count(found.files)} files",
        "duration": format_duration(found.duration_ns),
        "throughput": f"{shown(found.throughput_bytes_per_s, 'bytes/s')}, {shown(found.ops_per_s, 'ops')} ops/s",
        "latency": ", ".join(f"{q.replace('_', '.')} {shown(latency_ns[q], 'ns')}" for q in quantiles),
        "queue depth": f"{format_count(found.max_qd)} ops, {format_size(found.peak_inflight)} in flight at most",
    }
    if found.samples:
        facts["samples"] = format_count(found.samples)
    if found.steps:
        facts["steps"] = f"{format_count(found.steps)}, {shown(found.bytes_per_step, 'bytes')} each"
    return facts


def _sizes_table(histogram: Histogram, width: int) -> Table:
    """Return request sizes with bars that fit into `width` columns."""
    ranges = [
        f"{format_size(lo)} - {format_size(hi)}" for lo, hi in zip(histogram.lo, histogram.hi, strict=True)
    ]
    counts = [format_count(n) for n in histogram.counts]
    title = "request size"
    taken = max(map(len, (title, *ranges))) + max(map(len, ("ops", *counts))) + 10  # borders and padding
    longest = max(min(_BAR, width - taken), 1)
    most = max(histogram.counts, default=1)
    bars = ["█" * max(round(longest * n / most), 1) for n in histogram.counts]
    return rows_table([title, "ops", ""], list(zip(ranges, counts, bars, strict=True)))


def in_words(name: str) -> str:
    """Return the name of a counter or metric without its unit and underscores: `wait_ns` is `wait`."""
    for unit in ("_ns", "_bytes"):
        name = name.removesuffix(unit) if name != unit[1:] else name
    return name.replace("_", " ")


def shown(value: float | None, unit: str) -> str:
    """A value in words that people read: `1.5 MiB`, `12 ms`, `1,234`."""
    if value is None:
        return "-"
    if unit == "ns":
        return format_duration(value)
    if unit == "bytes":
        return format_size(value)
    if unit == "bytes/s":
        return format_rate(value)
    if unit in _ABSOLUTE or unit == "index":
        return f"{value:.3g}"
    return format_count(value)


def short_names(uris: Mapping[int, str]) -> dict[int, str]:
    """The last part of each URI's path, with as many before it as it takes to tell them apart."""
    parts = 1
    while True:
        names = {number: "/".join(uri.split("/")[-parts:]) for number, uri in uris.items()}
        if len(set(names.values())) == len(set(uris.values())):
            return names
        parts += 1


def brief(name: str, most: int = 40) -> str:
    """A name for a legend: its ends, on one line, if it is longer than `most` characters."""
    plain = "".join(c if c.isprintable() else " " for c in name)
    return plain if len(plain) <= most else f"{plain[: most // 2 - 1]}…{plain[-(most // 2) :]}"


def label(row: ParityRow) -> str:
    """The metric in words."""
    return row.metric.removesuffix("_ns").replace("_bytes_per_s", "").replace("_", " ")


def difference(row: ParityRow) -> str:
    """How far apart, in words."""
    if row.difference is None:
        return "-"
    if row.unit in _ABSOLUTE:
        return f"{row.difference:.3g}"
    return "inf" if row.difference == float("inf") else f"{row.difference:.3%}"
