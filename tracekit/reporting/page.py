"""The report: one self-contained HTML page that works offline. It renders what queries and panels hold."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from tracekit.comparison.table import Parity
from tracekit.extras import require
from tracekit.metrics.measuring import measuring, rows
from tracekit.metrics.snapshot import MetricsSnapshot, snapshot
from tracekit.replayer.compare import compare
from tracekit.reporting.charts import figure
from tracekit.reporting.panel import Panel
from tracekit.reporting.series import KINDS, pair_names, panels
from tracekit.reporting.table import bytes_moved, difference, in_flight, known, label, op_kinds, shown, steps
from tracekit.sql import load_sql
from tracekit.store.reader import TraceLike, TraceReader, open_reader
from tracekit.units import format_count, format_duration
from tracekit.version import __version__
from tracekit.whole import whole_file

__all__ = ["outcome", "report"]

_WORST = 10
_Traces = Sequence[tuple[str, TraceReader]]


def report(
    trace: TraceLike,
    out: str | os.PathLike[str],
    *,
    against: TraceLike | None = None,
    tolerance: float = 0.15,
) -> Parity | None:
    """Write the page `out`, which appears whole, and return the parity if there is a second trace.

    With two traces, `trace` is the recording or the earlier run, `against` the replay or the
    later run. Raises UsageError if the extra `report` is not installed.
    """
    plotly = require("plotly.offline", extra="report")
    reader = open_reader(trace)
    second = None if against is None else open_reader(against)
    parity = None if second is None else compare(reader, second, tolerance=tolerance)
    names = pair_names(reader, second)
    traces = [(names[0], reader)] + ([] if second is None else [(names[1], second)])
    found = [(name, snapshot(one)) for name, one in traces]
    drawn = [panel for panel in panels(KINDS, traces) if not panel.empty]
    body = [
        *([] if parity is None else [_verdict(parity)]),
        *(_outcome(name, one) for name, one in found),
        _facts(found),
        *([] if parity is None else [_parity(parity, names)]),
        *(section for name, one in traces for section in _tables(name, one)),
        *(_chart(panel) for panel in drawn),
    ]
    page = _page(reader.path.name or str(reader.path), body, drawn, str(plotly.get_plotlyjs()))
    with whole_file(Path(out)) as aside:
        aside.write_text(page, encoding="utf-8")
    return parity


def _verdict(parity: Parity) -> str:
    words = "; ".join(parity.verdict).capitalize()
    return _banner("good" if parity.ok else "bad", words, f" (tolerance {parity.tolerance:.0%})")


def _outcome(name: str, found: MetricsSnapshot) -> str:
    kind, words = outcome(found)
    return _banner(kind, f"{name}: {words}" if name else words)


def _banner(kind: str, words: str, more: str = "") -> str:
    return f'<p class="verdict {kind}" role="status"><strong>{escape(words)}</strong>{escape(more)}</p>'


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


def _facts(found: Sequence[tuple[str, MetricsSnapshot]]) -> str:
    """Tiles of the main figures, each with the figure of every trace."""
    facts = [(name, _figures(one)) for name, one in found]
    tiles = []
    for title in facts[0][1]:
        values = "".join(
            f"<dd>{f'<span>{escape(name)}</span> ' if name else ''}{escape(figures[title])}</dd>"
            for name, figures in facts
        )
        tiles.append(f"<div><dt>{escape(title)}</dt>{values}</div>")
    return f'<dl class="facts">{"".join(tiles)}</dl>'


def _figures(found: MetricsSnapshot) -> dict[str, str]:
    latency = {name: None if us is None else us * 1e3 for name, us in found.latency_us.items()}
    return {
        "ops": op_kinds(found),
        "bytes moved": bytes_moved(found),
        "duration": format_duration(found.duration_ns),
        "throughput": known(found.throughput_bytes_per_s, "bytes/s"),
        "latency p50": known(latency["p50"], "ns"),
        "latency p99": known(latency["p99"], "ns"),
        "latency max": known(latency["max"], "ns"),
        "in flight": in_flight(found),
        "files": format_count(found.files),
        "steps": steps(found),
    }


def _parity(parity: Parity, names: tuple[str, str]) -> str:
    words = {True: '<span class="pass">pass</span>', False: '<span class="fail">FAIL</span>', None: "-"}
    cells = [
        [escape(label(row)), shown(row.a, row.unit), shown(row.b, row.unit), difference(row), words[row.ok]]
        for row in sorted((*parity.rows, *parity.gates), key=lambda row: row.ok is not False)
    ]
    basis = {"replay": "judged op by op", "runs": "compared as two runs"}[parity.kind]
    columns = ["metric", *map(escape, names), "difference", "verdict"]
    about = f"{basis}: {parity.reason}" if parity.reason else basis
    return _section(
        "Parity", f"{about.capitalize()}. Failures first.", _table(columns, cells, numbers={1, 2, 3})
    )


_WORST_TABLES: tuple[tuple[str, str, str, dict[str, str]], ...] = (
    (
        "failures",
        "Failures",
        "Failed ops by class and kind.",
        {"error": "", "op": "", "ops": "ops", "first_uri": ""},
    ),
    (
        "tail_files",
        "Files in the tail",
        "The files of the slowest 1 % of ops. A lift of 1 is in proportion to the ops of the file.",
        {"uri": "", "tail_ops": "ops", "lift": "x", "worst_ns": "ns"},
    ),
    (
        "slow_steps",
        "Slowest steps",
        "Time from the first submit to the last end of a step, and its slowest op.",
        {"rank": "id", "step": "id", "wall_ns": "ns", "ops": "ops", "slowest_ns": "ns", "slowest_uri": ""},
    ),
    (
        "streams",
        "Streams",
        "Ops by rank and worker, those with the largest p99 latency first.",
        {"stream": "", "ops": "ops", "bytes": "bytes", "p99_ns": "ns"},
    ),
)
"""The query, title and description of each table, and the unit of each column."""


def _tables(name: str, reader: TraceReader) -> list[str]:
    """The tables of one trace, worst rows first, without the empty ones."""
    made = []
    with measuring(reader) as connection:
        for query, title, about, columns in _WORST_TABLES:
            sql = load_sql("tracekit.reporting.queries", query)
            found = rows(connection, f"({sql})", {"most": _WORST})
            if found:
                cells = [[_cell(row[column], unit) for column, unit in columns.items()] for row in found]
                numbers = {i for i, unit in enumerate(columns.values()) if unit}
                heads = [column.removesuffix("_ns").replace("_", " ") for column in columns]
                title = f"{title}: {name}" if name else title
                made.append(_section(title, about, _table(heads, cells, numbers=numbers)))
    return made


def _cell(value: Any, unit: str) -> str:
    if value is None:
        return "-"
    if not unit:
        return escape(str(value))
    if unit == "id":
        return str(value)
    return f"{value:.2f}" if unit == "x" else shown(float(value), unit)


def _chart(panel: Panel) -> str:
    about = f"{panel.about} {panel.note[0].upper()}{panel.note[1:]}." if panel.note else panel.about
    return (
        f'<section><h2 id="h-{panel.name}">{escape(panel.title)}</h2><figure role="img" aria-labelledby="h-{panel.name}" '
        f'aria-describedby="a-{panel.name}"><figcaption id="a-{panel.name}">{escape(about)}</figcaption>'
        f'<div class="chart" id="chart-{panel.name}"></div></figure></section>'
    )


def _section(title: str, about: str, inner: str) -> str:
    return f'<section><h2>{escape(title)}</h2><p class="about">{escape(about)}</p><div class="scroll" tabindex="0">{inner}</div></section>'


def _table(columns: list[str], rows: list[list[str]], *, numbers: set[int]) -> str:
    def kind(index: int) -> str:
        return ' class="n"' if index in numbers else ' class="u"' if columns[index].endswith("uri") else ""

    head = "".join(f'<th scope="col"{kind(i)}>{escape(name)}</th>' for i, name in enumerate(columns))
    body = "".join(
        "<tr>" + "".join(f"<td{kind(i)}>{cell}</td>" for i, cell in enumerate(row)) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _page(title: str, body: Sequence[str], drawn: Sequence[Panel], plotly_js: str) -> str:
    here = files("tracekit.reporting")
    figures = json.dumps({panel.name: figure(panel) for panel in drawn})
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)} - tracekit</title><link rel="icon" href="data:,">'
        f"<style>{here.joinpath('page.css').read_text(encoding='utf-8')}</style></head>"
        f'<body><main><h1>{escape(title)}</h1><p class="about">The storage requests of a run.</p>'
        f"{''.join(body)}<footer>tracekit {escape(__version__)}</footer></main>"
        f'<script type="application/json" id="figures">{figures.replace("</", "<" + chr(92) + "/")}</script>'
        f"<script>{plotly_js}</script>"
        f"<script>{here.joinpath('page.js').read_text(encoding='utf-8')}</script></body></html>\n"
    )
