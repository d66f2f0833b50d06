"""Tables for a terminal: parity, snapshots, query results. This module renders; it computes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich.table import Table
from rich.text import Text

from tracekit.comparison.divergence import Divergence
from tracekit.comparison.table import Parity, ParityRow
from tracekit.consumer import readable_counters
from tracekit.metrics.snapshot import MetricsSnapshot
from tracekit.units import format_count, format_duration, format_named, format_rate, format_size

__all__ = [
    "brief",
    "bytes_moved",
    "completeness_in_words",
    "counted",
    "difference",
    "divergence_tables",
    "endings",
    "estimated",
    "in_flight",
    "in_words",
    "known",
    "label",
    "least_width",
    "op_kinds",
    "parity_table",
    "record_table",
    "rows_table",
    "short_names",
    "shown",
    "sizes_title",
    "snapshot_tables",
    "steps",
]


_ABSOLUTE = ("distance", "share")
_BAR = 30
"""Characters of the longest bar of a histogram."""
_FOLDED = 24
"""The least width, in characters, of a column whose text folds."""


def parity_table(parity: Parity, *, names: tuple[str, str] = ("recording", "replay")) -> Table:
    """A table with one line per metric and its verdict."""
    basis = {"replay": "judged op by op", "runs": "compared as two runs"}[parity.kind]
    title = Text.assemble(
        ("\n".join(parity.verdict), "green" if parity.ok else "red"), f"\n{basis}: {parity.reason}"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("metric", no_wrap=True)
    spread = any(row.low is not None for row in parity.rows)
    for name in (*names, "difference", *(["95 % interval"] if spread else []), "allowed"):
        table.add_column(name, justify="right", overflow="fold")
    table.add_column("verdict", overflow="fold")
    for row in (*parity.rows, *parity.gates):
        word = {True: Text("pass", "green"), False: Text("FAIL", "red"), None: Text("-", "dim")}[row.ok]
        table.add_row(
            label(row),
            shown(row.a, row.unit),
            shown(row.b, row.unit),
            difference(row),
            *([_interval(row)] if spread else []),
            _allowed(row),
            word,
        )
    failed = [f"{label(row)}: {row.note}" for row in parity.failed if row.note]
    if failed:
        table.caption, table.caption_justify = Text("\n".join(failed), "dim"), "left"
    return table


def completeness_in_words(kept: Mapping[str, Any]) -> str:
    """What a capture saw, in one line: the share of bytes, and what no count shows."""
    share = kept.get("share")
    programs = kept.get("unseen_programs", ())
    least = "at least " if programs else ""
    words = ["unknown" if share is None else f"{least}{share:.1%} of the bytes moved"]
    if kept.get("native_clients") and kept.get("unrecorded_client_bytes"):
        clients = ", ".join(kept["native_clients"])
        words.append(f"{format_size(kept['unrecorded_client_bytes'])} through {clients} not seen")
    if kept.get("mapped_files"):
        touched = kept.get("fault_bytes")
        seen = "" if touched is None else f" ({format_size(touched)} of them seen by page faults)"
        words.append(f"{format_count(kept['mapped_files'])} files mapped into memory{seen}")
    if kept.get("unhooked_pythons"):
        words.append(f"{format_count(kept['unhooked_pythons'])} Python processes without hooks")
    words += [f"{name} not seen" for name in (*kept.get("unseen", ()), *programs)]
    return "; ".join(words)


def _interval(row: ParityRow) -> str:
    """The interval of the difference over several runs."""
    if row.low is None or row.high is None:
        return "-"
    low, high = (difference(replace(row, difference=value)) for value in (row.low, row.high))
    return f"{low} to {high}"


def _allowed(row: ParityRow) -> str:
    """The tolerance of a judged row, in the unit of its difference."""
    if row.ok is None or row.tolerance is None:
        return "-"
    if row.difference is None or row.unit in _ABSOLUTE:
        return shown(row.tolerance, row.unit)
    return f"{row.tolerance:.0%}"


def rows_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str | None = None) -> Table:
    """A table of any rows, with numeric columns right-aligned."""
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
    """One row with a line per column, for rows too wide for a table."""
    table = Table(show_header=False, box=None, pad_edge=False, title=f"row {number}", title_justify="left")
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for name, value in zip(columns, row, strict=True):
        table.add_row(Text(str(name), "bold"), "" if value is None else str(value))
    return table


def least_width(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> int:
    """The least width of a table of the rows: numbers and column names stay whole, text may fold."""
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
    """Tables of distances, quantile shifts with their intervals, and the windows and files that differ most."""
    distances = rows_table(
        ["distribution", "KS", "Wasserstein"],
        [
            [
                d.metric,
                *(
                    "unknown" if x is None else shown(x, unit)
                    for x, unit in ((d.ks, "distance"), (d.wasserstein, d.unit))
                ),
            ]
            for d in moved.distances
        ],
        title="what moved",
    )
    shifts = rows_table(
        ["latency", *names, "shift, 95 % interval"],
        [
            [
                f"p{q.quantile * 100:g}",
                shown(q.a_ns, "ns"),
                shown(q.b_ns, "ns"),
                f"{shown(q.shift_lo_ns, 'ns')} to {shown(q.shift_hi_ns, 'ns')}",
            ]
            for q in moved.quantiles
        ],
    )
    places = [
        rows_table(
            [kind, "p50 A", "p50 B", "bytes A", "bytes B"],
            [
                [
                    p.where,
                    shown(p.a_p50_ns, "ns"),
                    shown(p.b_p50_ns, "ns"),
                    shown(p.a_bytes, "bytes"),
                    shown(p.b_bytes, "bytes"),
                ]
                for p in found
            ],
        )
        for kind, found in (("window", moved.windows), ("file", moved.files))
        if found
    ]
    return [distances, *([shifts] if moved.quantiles else []), *places]


def snapshot_tables(found: MetricsSnapshot, *, width: int = 80) -> list[Table]:
    """The snapshot for a terminal of `width` columns: the main figures, ops by kind, and request sizes."""
    facts = Table(show_header=False, box=None, pad_edge=False)
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in _facts(found).items():
        facts.add_row(Text(name, "bold"), value)
    for name, count in readable_counters(found.backend_counters).items():
        facts.add_row(Text(in_words(name), "dim"), format_named(name, count))
    ops = rows_table(
        ["scheme", "op", "error", "ops", "bytes"],
        [
            [r["scheme"], r["op"], r["error"], format_count(r["ops"]), shown(r["bytes"], "bytes")]
            for r in found.by_op
        ],
    )
    return [facts, ops, _sizes_table(found, width)]


def _facts(found: MetricsSnapshot) -> dict[str, str]:
    latency_ns = {name: None if us is None else us * 1e3 for name, us in found.latency_us.items()}
    quantiles = ("p50", "p90", "p99", "p99_9", "max")
    facts = {
        "ops": f"{format_count(found.ops)} ({op_kinds(found)}), {endings(found)}",
        "bytes": f"{bytes_moved(found)} of {counted(found.files, 'file')}",
        "duration": format_duration(found.duration_ns),
        "throughput": f"{known(found.throughput_bytes_per_s, 'bytes/s')}, {known(found.ops_per_s, 'ops')} ops/s",
        "latency": "unknown"
        if latency_ns["max"] is None
        else ", ".join(f"{q.replace('_', '.')} {shown(latency_ns[q], 'ns')}" for q in quantiles),
        "in flight": in_flight(found),
    }
    if found.estimates is not None:
        facts["estimated"] = estimated(found.estimates)
    if found.retried_ops:
        facts["retried"] = (
            f"{counted(found.retried_ops, 'op')}; {format_duration(found.wait_sum_ns or 0)} of earlier tries and waits"
        )
    if found.samples:
        facts["samples"] = format_count(found.samples)
    if found.steps:
        facts["steps"] = steps(found)
    return facts


def estimated(estimates: Mapping[str, Any]) -> str:
    """What the whole run did, as far as a sample of its files or streams tells."""
    words = []
    for name in ("ops", "bytes", "files"):
        value, error = estimates[name], estimates[f"{name}_standard_error"]
        if value is not None and error is not None:
            said, off = (
                shown(round(x), "bytes") if name == "bytes" else format_count(round(x))
                for x in (value, error)
            )
            words.append(f"{name} {said} (standard error {off})")
    return f"from {estimates['sample_rate']:.3g} of the {estimates.get('sample_by', 'file')}s: {', '.join(words) or 'nothing is known'}"


def _sizes_table(found: MetricsSnapshot, width: int) -> Table:
    """Return request sizes with bars that fit into `width` columns."""
    histogram = found.req_bytes_hist
    ranges = [
        f"{format_size(lo)} - {format_size(hi)}" for lo, hi in zip(histogram.lo, histogram.hi, strict=True)
    ]
    counts = [format_count(n) for n in histogram.counts]
    title = sizes_title(found)
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


def op_kinds(found: MetricsSnapshot) -> str:
    """The ops by kind, most first: `4,096 read, 8 stat, 1 list`."""
    kinds: dict[str, int] = {}
    for row in found.by_op:
        if row["op"] != "hint":
            kinds[row["op"]] = kinds.get(row["op"], 0) + row["ops"]
    ordered = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{format_count(n)} {kind}" for kind, n in ordered) or "none"


def endings(found: MetricsSnapshot) -> str:
    """How the ops ended: `2 failed, 1 never ended`."""
    parts = [f"{format_count(found.failed_ops)} failed"]
    if found.unfinished_ops is None:
        parts.append(without_latency(found))
    elif found.unfinished_ops:
        parts.append(f"{format_count(found.unfinished_ops)} never ended")
    return ", ".join(parts)


def without_latency(found: MetricsSnapshot) -> str:
    """How many ops have no latency, of a source that does not say whether they ended."""
    known = found.latency_us_hist.total
    return f"{format_count(found.ops - known)} of unknown latency" if known else "the source has no latencies"


def bytes_moved(found: MetricsSnapshot) -> str:
    """The bytes moved, and what is unknown of them."""
    asked = "" if found.requested_bytes is None else f", {format_size(found.requested_bytes)} asked for"
    if found.bytes is None:
        return f"unknown{asked}"
    notes = [f"unknown for {counted(found.unknown_bytes_ops, 'op')}"] if found.unknown_bytes_ops else []
    if found.write_ops and found.read_ops:
        read, written = shown(found.read_bytes, "bytes"), shown(found.write_bytes, "bytes")
        notes.insert(0, f"{read} read, {written} written")
    elif found.write_ops:
        notes.insert(0, "all written")
    noted = f" ({'; '.join(notes)})" if notes else ""
    return f"{format_size(found.bytes)}{noted}"


def in_flight(found: MetricsSnapshot) -> str:
    """The peaks of what was in flight."""
    if found.max_qd is None or found.peak_inflight is None:
        return "unknown"
    peaks = f"{counted(found.max_qd, 'op')}, {format_size(found.peak_inflight)}"
    return f"at most {peaks}" if found.unfinished_ops is not None else f"a peak of at least {peaks}"


def steps(found: MetricsSnapshot) -> str:
    """The number of steps and what each moved."""
    return (
        f"{format_count(found.steps)}, {known(found.bytes_per_step, 'bytes')} each" if found.steps else "none"
    )


def sizes_title(found: MetricsSnapshot) -> str:
    """The heading of a request-size histogram, with the number of ops that have no length."""
    missing = found.ops - found.req_bytes_hist.total
    return f"request size ({counted(missing, 'op')} without a length)" if missing else "request size"


def counted(n: int, noun: str) -> str:
    """A count with its noun: `1 file`, `2 files`."""
    return f"{format_count(n)} {noun}{'' if n == 1 else 's'}"


def known(value: float | None, unit: str) -> str:
    """`shown`, with `unknown` for None."""
    return "unknown" if value is None else shown(value, unit)


def shown(value: float | None, unit: str) -> str:
    """Format a value of `unit` (ns, bytes, bytes/s, distance or a count); None is `-`."""
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
    """The last part of each URI, with as many parts before it as the names need to differ."""
    parts = 1
    while True:
        names = {number: "/".join(uri.split("/")[-parts:]) for number, uri in uris.items()}
        if len(set(names.values())) == len(set(uris.values())):
            return names
        parts += 1


def brief(name: str, most: int = 40) -> str:
    """Shorten a name to `most` characters for a legend: both ends of it, on one line."""
    plain = "".join(c if c.isprintable() else " " for c in name)
    return plain if len(plain) <= most else f"{plain[: most // 2 - 1]}…{plain[-(most // 2) :]}"


def label(row: ParityRow) -> str:
    """The name of the metric for people."""
    return row.metric.removesuffix("_ns").replace("_bytes_per_s", "").replace("_", " ")


def difference(row: ParityRow) -> str:
    """The difference as text."""
    if row.difference is None:
        return "-"
    if row.unit in _ABSOLUTE:
        return f"{row.difference:.3g}"
    return "inf" if row.difference == float("inf") else f"{row.difference:.3%}"
