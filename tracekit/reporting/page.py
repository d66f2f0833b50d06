"""The report: one self-contained page that works offline. It renders; queries and charts do the rest."""

from __future__ import annotations

import json
import os
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from tracekit.comparison.table import Parity
from tracekit.metrics.snapshot import MetricsSnapshot, measuring, snapshot
from tracekit.replayer.compare import compare
from tracekit.reporting.charts import Chart, charts
from tracekit.reporting.table import bytes_moved, difference, in_flight, label, shown, steps
from tracekit.sql import load_sql
from tracekit.store.reader import TraceLike, TraceReader, open_reader
from tracekit.units import format_count, format_duration
from tracekit.whole import whole_file

__all__ = ["report"]

_WORST = 10


def report(
    trace: TraceLike,
    out: str | os.PathLike[str],
    *,
    against: TraceLike | None = None,
    tolerance: float = 0.15,
) -> Parity | None:
    """Write the page `out`, which appears whole; the parity shown on top if there is a second trace.

    Of two traces, `trace` is the recording (or the run before) and `against` the replay (or
    the run after).
    """
    reader = open_reader(trace)
    against = None if against is None else open_reader(against)
    parity = compare(reader, against, tolerance=tolerance) if against is not None else None
    names = _names(reader, against)
    traces = [(names[0], reader)] + ([(names[1], against)] if against is not None else [])
    found, drawn = snapshot(reader), charts(traces)
    page = _page(
        title=reader.path.name or str(reader.path),
        body=[
            _verdict(parity, found),
            _facts(found),
            *([_parity(parity, names)] if parity is not None else []),
            *(_tables(against or reader, of=names[1])),
            *(_chart(chart) for chart in drawn),
        ],
        drawn=drawn,
    )
    with whole_file(Path(out)) as aside:
        aside.write_text(page, encoding="utf-8")
    return parity


def _names(reader: TraceReader, against: TraceReader | None) -> tuple[str, str]:
    if against is not None and against.source == "replay":
        return "recorded", "replayed"
    return reader.path.name, against.path.name if against is not None else ""


def _verdict(parity: Parity | None, found: MetricsSnapshot) -> str:
    if parity is not None:
        words = "; ".join(parity.verdict).capitalize()
        kind = "good" if parity.ok else "bad"
        return f'<p class="verdict {kind}" role="status"><strong>{escape(words)}</strong> (tolerance {parity.tolerance:.0%}).</p>'
    kind, words = outcome(found)
    return f'<p class="verdict {kind}" role="status"><strong>{escape(words)}</strong></p>'


def outcome(found: MetricsSnapshot) -> tuple[str, str]:
    """Whether the ops succeeded (`good`, `bad` or `open`), and a sentence that says what that rests on."""
    ops, failed, unfinished = (
        "unknown" if n is None else format_count(n)
        for n in (found.ops, found.failed_ops, found.unfinished_ops)
    )
    if not found.ops:
        return "open", "The trace has no ops."
    never = f" {unfinished} never ended." if found.unfinished_ops else ""
    if found.failed_ops:
        return "bad", f"{failed} of {ops} ops failed.{never}"
    if found.unfinished_ops is None:
        return (
            "open",
            f"The source of the trace does not say whether its {ops} ops ended: it has no latencies.",
        )
    if found.unfinished_ops == found.ops:
        return "bad", f"None of the {ops} ops ended."
    if never:
        return "open", f"None of {ops} ops failed, but{never}"
    return "good", f"All {ops} ops ended, and none failed."


def _facts(found: MetricsSnapshot) -> str:
    latency = {name: None if us is None else us * 1e3 for name, us in found.latency_us.items()}
    facts = {
        "ops": format_count(found.ops),
        "bytes moved": bytes_moved(found),
        "duration": format_duration(found.duration_ns),
        "throughput": shown(found.throughput_bytes_per_s, "bytes/s"),
        "latency p50": shown(latency["p50"], "ns"),
        "latency p99": shown(latency["p99"], "ns"),
        "latency max": shown(latency["max"], "ns"),
        "deepest queue": in_flight(found),
        "files": format_count(found.files),
        "steps": steps(found),
    }  # fmt: skip
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items()
    )
    return f'<dl class="facts">{cells}</dl>'


def _parity(parity: Parity, names: tuple[str, str]) -> str:
    words = {True: '<span class="pass">pass</span>', False: '<span class="fail">FAIL</span>', None: "-"}
    rows = [
        [escape(label(row)), shown(row.a, row.unit), shown(row.b, row.unit), difference(row), words[row.ok]]
        for row in sorted(parity.rows, key=lambda row: row.ok is not False)
    ]
    return _section("Parity", "What was held against what, failures first.",
                    _table(["metric", *names, "difference", "verdict"], rows, numbers={1, 2, 3}))  # fmt: skip


def _tables(reader: TraceReader, *, of: str) -> list[str]:
    """What hurts, worst first; `of` names the trace where there are two."""
    with measuring(reader) as connection:
        sql = load_sql("tracekit.reporting.queries", "worst")
        parts = {row[0]: row[1] for row in connection.execute(sql, {"most": _WORST}).fetchall()}
    made = []
    for title, about, columns in _WORST_TABLES:
        rows = json.loads(parts.get(title) or "[]")
        if rows:
            cells = [[_cell(row[name], unit) for name, unit in columns.items()] for row in rows]
            numbers = {i for i, unit in enumerate(columns.values()) if unit}
            names = [name.removesuffix("_ns").removesuffix("_us").replace("_", " ") for name in columns]
            whose = f"{about} Of {of}." if of else about
            made.append(_section(title, whose, _table(names, cells, numbers=numbers)))
    return made


_WORST_TABLES: tuple[tuple[str, str, dict[str, str]], ...] = (
    (
        "Failures",
        "Ops that failed, by class and kind.",
        {"error": "", "op": "", "ops": "ops", "first_uri": ""},
    ),
    (
        "Files that own the tail",
        "Of the slowest 1 % of ops, which files hold how many; lift 1 is a file's fair part.",
        {"uri": "", "tail_ops": "ops", "lift": "x", "worst_ns": "ns"},
    ),
    (
        "Slowest steps",
        "Batches by the time from first submit to last end, and the op that each waited for.",
        {"rank": "id", "step": "id", "wall_ns": "ns", "ops": "ops", "slowest_ns": "ns", "slowest_uri": ""},
    ),
    (
        "Streams",
        "Ops and latency by rank and worker, slowest first.",
        {"stream": "", "ops": "ops", "bytes": "bytes", "p99_ns": "ns"},
    ),
)


def _cell(value: Any, unit: str) -> str:
    if value is None:
        return "-"
    if not unit:
        return escape(str(value))
    if unit == "id":
        return str(value)
    return f"{value:.2f}" if unit == "x" else shown(float(value), unit)


def _chart(chart: Chart) -> str:
    return (
        f'<section><h2 id="h-{chart.name}">{escape(chart.title)}</h2><figure role="img" aria-labelledby="h-{chart.name}" '
        f'aria-describedby="a-{chart.name}"><figcaption id="a-{chart.name}">{escape(chart.about)}</figcaption>'
        f'<div class="chart" id="chart-{chart.name}"></div></figure></section>'
    )


def _section(title: str, about: str, inner: str) -> str:
    return f'<section><h2>{escape(title)}</h2><p class="about">{escape(about)}</p><div class="scroll" tabindex="0">{inner}</div></section>'


def _table(columns: list[str], rows: list[list[str]], *, numbers: set[int]) -> str:
    def kind(index: int) -> str:
        return ' class="n"' if index in numbers else ""

    head = "".join(f'<th scope="col"{kind(i)}>{escape(name)}</th>' for i, name in enumerate(columns))
    body = "".join(
        "<tr>" + "".join(f"<td{kind(i)}>{cell}</td>" for i, cell in enumerate(row)) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _page(*, title: str, body: list[str], drawn: list[Chart]) -> str:
    from tracekit.version import __version__

    here = files("tracekit.reporting")
    figures = json.dumps({chart.name: json.loads(chart.figure.to_json()) for chart in drawn})
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)} - tracekit</title><link rel="icon" href="data:,">'
        f"<style>{here.joinpath('page.css').read_text(encoding='utf-8')}</style></head>"
        f'<body><main><h1>{escape(title)}</h1><p class="about">What a loader asked of storage, op by op.</p>'
        f"{''.join(body)}<footer>tracekit {escape(__version__)}</footer></main>"
        f'<script type="application/json" id="figures">{figures.replace("</", "<" + chr(92) + "/")}</script>'
        f"<script>{get_plotlyjs()}</script>"
        f"<script>{here.joinpath('page.js').read_text(encoding='utf-8')}</script></body></html>\n"
    )
