"""The report: one self-contained HTML page that works offline. It puts the chapters in order."""

from __future__ import annotations

import base64
import functools
import gzip
import json
import os
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any

from tracekit.comparison.divergence import diverge
from tracekit.comparison.table import Parity
from tracekit.extras import require
from tracekit.metrics.snapshot import MetricsSnapshot
from tracekit.metrics.spreading import Call, answers, check_place, snapshot_on
from tracekit.replayer.compare import compare
from tracekit.reporting.advice import Finding, advise
from tracekit.reporting.chapters import CHAPTERS, Chapter, fill
from tracekit.reporting.charts import figure
from tracekit.reporting.differences import differences
from tracekit.reporting.html import banner, definitions, safe, section, sql_block
from tracekit.reporting.identity import details, identity
from tracekit.reporting.source import Source, opened, pair_names
from tracekit.reporting.story import paragraph, stalls
from tracekit.reporting.table import bytes_moved, estimated, in_flight, known, op_kinds, steps
from tracekit.spread import together
from tracekit.store.reader import TraceLike, TraceReader, open_reader
from tracekit.units import format_count, format_duration
from tracekit.uri import local_file
from tracekit.version import __version__
from tracekit.whole import whole_file

__all__ = ["outcome", "report"]

_FIGURES_SQL = (
    "FROM totals()",
    "FROM by_op()",
    "FROM latency_hist('all')",
    "SELECT max(qd), max(inflight_bytes) FROM in_flight()",
)
"""The definitions of the main figures."""
_Found = Sequence[tuple[str, MetricsSnapshot]]


def report(
    trace: TraceLike,
    out: str | os.PathLike[str],
    *,
    against: TraceLike | None = None,
    tolerance: float = 0.15,
    on: str | None = None,
    hosts: int | None = None,
) -> Parity | None:
    """Write the page `out`, which appears whole, and return the parity if there is a second trace.

    With two traces, `trace` is the recording or the earlier run, `against` the replay or the
    later run. With `on` (local, ray or ray://HOST:PORT), that many `hosts` measure the traces, which they must find by the same
    paths, and query a chapter each; the page is the same. A replay is judged op by op in this process.

    Raises UsageError if the extra `report` is not installed, or for a wrong place or number of hosts.
    """
    require("plotly.offline", extra="report")
    require("ruptures", extra="report")
    reader = open_reader(trace)
    second = None if against is None else open_reader(against)
    check_place(on, hosts)
    readers = (reader,) if second is None else (reader, second)
    names = pair_names(reader, second)
    parity = moved = None
    with together(on, hosts):
        if second is not None:
            parity = compare(reader, second, tolerance=tolerance, on=on, hosts=hosts)
            moved = diverge(reader, second, on=on, hosts=hosts)
        found = [
            (name, snapshot_on(one, on=on, hosts=hosts)) for name, one in zip(names, readers, strict=False)
        ]
        chapters, missing = _chapters(readers, found, on, hosts)
    verdicts = [_verdict(parity)] if parity is not None else []
    verdicts += [_outcome(name, one) for name, one in found]
    if parity is not None and moved is not None:
        chapters.insert(0, differences(parity, moved, names))
    page = _page(
        reader.path.name or str(reader.path), verdicts, [one for one in chapters if one.panels], missing
    )
    with whole_file(local_file(out)) as aside:
        aside.write_text(page, encoding="utf-8")
    return parity


def _chapters(
    readers: tuple[TraceReader, ...], found: _Found, on: str | None, hosts: int | None
) -> tuple[list[Chapter], list[str]]:
    """Make the chapters, and list what they lack: in this process with one connection, or on the hosts of `on`, a chapter each."""
    parts = ["run", "advice", "stall-figures", *(name for name, _, _ in CHAPTERS)]
    groups = [parts] if on is None else [[part] for part in parts]
    made = answers([Call(_made, readers, (found, group)) for group in groups], on=on, hosts=hosts)
    missing = [title for _, titles in made for title in titles]
    run, advice, figures, *chapters = [chapter for some, _ in made for chapter in some]
    stalls = next(chapter for chapter in chapters if chapter.name == "stalls")
    stalls.panels[:0] = figures.panels  # the figures of storage and consumer before the gaps
    return [run, advice, *chapters], missing


def _made(*given: Any) -> tuple[list[Chapter], list[str]]:
    """Make some parts of a page of the traces that come first in `given`, and list what they lack."""
    *readers, found, parts = given
    missing: list[str] = []
    with opened([(name, reader) for (name, _), reader in zip(found, readers, strict=True)]) as sources:
        chapters = [_part(part, sources, found, missing) for part in parts]
    return chapters, missing


def _part(part: str, sources: list[Source], found: _Found, missing: list[str]) -> Chapter:
    match part:
        case "run":
            return _run(sources, found)
        case "advice":
            return _advice(sources)
        case "stall-figures":
            return _stalls(sources)
    return fill(sources, part, missing)


def _verdict(parity: Parity) -> str:
    words = "; ".join(parity.verdict).capitalize()
    return banner("good" if parity.ok else "bad", words, f" (tolerance {parity.tolerance:.0%})")


def _outcome(name: str, found: MetricsSnapshot) -> str:
    kind, words = outcome(found)
    return banner(kind, f"{name}: {words}" if name else words)


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
        ended = found.latency_us_hist.total
        which, lacks = (
            (f"{format_count(found.ops - ended)} of its {ops}", "they have")
            if ended
            else (f"its {ops}", "it has")
        )
        return (
            "open",
            f"The source of the trace does not say whether {which} ops ended: {lacks} no latencies.",
        )
    if found.unfinished_ops == found.ops:
        return "bad", f"None of the {ops} ops ended."
    if never:
        return "open", f"None of {ops} ops failed, but{never}"
    return "good", f"All {ops} ops ended, and none failed."


def _run(sources: Sequence[Source], found: _Found) -> Chapter:
    """What was run, in one paragraph and in figures."""
    chapter = Chapter("run", "The run")
    texts = []
    for source, (name, one) in zip(sources, found, strict=True):
        source.taken()
        said = " ".join(paragraph(source, one))
        texts.append(f"<p>{f'<strong>{safe(name)}.</strong> ' if name else ''}{safe(said)}</p>")
    sql = sorted({text for source in sources for text in source.taken()})
    _put(
        chapter,
        "in-short",
        "In one paragraph",
        "",
        f'<div class="prose">{"".join(texts)}</div>{sql_block(sql)}',
    )
    figures = definitions([(name, _figures(one)) for name, one in found], kind="facts")
    _put(chapter, "main-figures", "Main figures", "", figures + sql_block(_FIGURES_SQL))
    facts = definitions(
        [
            (source.name, identity(source.reader, one))
            for source, (_, one) in zip(sources, found, strict=True)
        ],
        kind="about-run",
    )
    options = [(source.name, details(source.reader)) for source in sources]
    if any(values for _, values in options):
        facts += f'<details class="more"><summary>Options and counters</summary>{definitions(options, kind="about-run")}</details>'
    _put(chapter, "about", "What this is", "Read from the trace, and from the names in its files.", facts)
    return chapter


def _advice(sources: Sequence[Source]) -> Chapter:
    chapter = Chapter("advice", "Advice")
    for index, source in enumerate(sources):
        found = advise(source)
        todo = [one for one in found if one.advice]
        rest = [one for one in found if not one.advice]
        suffix = "" if index == 0 else f"-{index + 1}"
        items = "".join(_finding(one, suffix) for one in todo)
        nothing = "" if todo else "<p>No rule found anything to change.</p>"
        checked = f'<details class="more"><summary>{len(rest)} more rules, which found nothing</summary><ul class="rules">'
        inner = f'{nothing}<ol class="rules">{items}</ol>{checked}{"".join(_finding(one, suffix) for one in rest)}</ul></details>'
        name = "advice-rules" if len(sources) == 1 else f"advice-rules-{index + 1}"
        title = f"Advice: {source.name}" if source.name else "What to look at first"
        _put(chapter, name, title, "Rules of thumb. Each shows its number and the query behind it.", inner)
    return chapter


def _finding(one: Finding, suffix: str) -> str:
    number = one.number or "the trace does not hold what this rule needs"
    advice = f"<p>{safe(one.advice)}</p>" if one.advice else ""
    return f'<li id="rule-{one.rule}{suffix}"><strong>{safe(one.title)}</strong>: {safe(number)}.{advice}{sql_block(one.sql)}</li>'


def _stalls(sources: Sequence[Source]) -> Chapter:
    """The figures of storage and consumer."""
    for source in sources:
        source.taken()
    figures = definitions([(source.name, stalls(source)) for source in sources], kind="facts")
    sql = sorted({text for source in sources for text in source.taken()})
    about = (
        "Storage is the limit while something is in flight and the consumer waits for it. An ideal loader always has the next "
        "batch ready: it would save the time that the consumer waited, but for its first batch. Without the counters of a "
        "consumer, no loader can save more than the smaller of the time in flight and the rest."
    )
    made = Chapter("", "")
    _put(made, "storage-or-consumer", "Storage and consumer", about, figures + sql_block(sql))
    return made


def _put(chapter: Chapter, name: str, title: str, about: str, inner: str) -> None:
    chapter.panels.append((name, title, section(name, title, about, inner)))


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
        **({} if found.estimates is None else {"the whole run": f"estimated {estimated(found.estimates)}"}),
    }


def _page(title: str, verdicts: Sequence[str], chapters: Sequence[Chapter], missing: Sequence[str]) -> str:
    here = files("tracekit.reporting")
    pictures = [panel for chapter in chapters for panel in chapter.pictures]
    figures = json.dumps(_rounded({panel.name: figure(panel) for panel in pictures}), separators=(",", ":"))
    body = "".join(
        f'<section class="chapter" aria-labelledby="{chapter.name}"><h2 id="{chapter.name}">{safe(chapter.title)}</h2>'
        f"{''.join(html for _, _, html in chapter.panels)}</section>"
        for chapter in chapters
    )
    gone = (
        f'<p class="about">Not shown, since the trace does not hold what they need: {safe(", ".join(missing))}.</p>'
        if missing
        else ""
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{safe(title)} - tracekit</title><link rel="icon" href="data:,">'
        f"<style>{here.joinpath('page.css').read_text(encoding='utf-8')}</style></head>"
        f'<body><a class="skip" href="#main">Skip to the report</a>{_contents(chapters)}'
        f'<main id="main" tabindex="-1"><h1>{safe(title)}</h1><p class="about">The storage requests of a run.</p>'
        f"{''.join(verdicts)}{body}{gone}<noscript>The pictures need JavaScript. The tables are complete without it.</noscript>"
        f"<footer>tracekit {safe(__version__)}</footer></main>"
        f'<script type="application/json" id="page-figures">{figures.replace("</", "<" + chr(92) + "/")}</script>'
        f'<script type="application/gzip" id="page-plotly">{_plotly()}</script>'
        f"<script>{here.joinpath('page.js').read_text(encoding='utf-8')}</script></body></html>\n"
    )


def _contents(chapters: Iterable[Chapter]) -> str:
    items = "".join(
        f'<li><a href="#{chapter.name}">{safe(chapter.title)}</a><ul>'
        + "".join(f'<li><a href="#{name}">{safe(title)}</a></li>' for name, title, _ in chapter.panels)
        + "</ul></li>"
        for chapter in chapters
    )
    return f'<nav aria-label="Contents"><details><summary>Contents</summary><ul>{items}</ul></details></nav>'


@functools.cache
def _plotly() -> str:
    """plotly.js, compressed: it is 4.8 MB of text, most of the page, and 2 MB this way."""
    code = str(require("plotly.offline", extra="report").get_plotlyjs())
    return base64.b64encode(gzip.compress(code.encode(), 9, mtime=0)).decode()


def _rounded(value: Any) -> Any:
    """Figures with numbers of nine digits: more would only make the page larger."""
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list | tuple) else value
