"""`tracekit info`: what a trace is, read from its footers."""

from __future__ import annotations

import typer
from rich.text import Text

import tracekit
from tracekit.cli import screen
from tracekit.cli.arguments import JsonOption, TraceArgument, examples
from tracekit.consumer import readable_counters
from tracekit.reporting.identity import clock_in_words, set_options, versions
from tracekit.reporting.table import completeness_in_words, in_words
from tracekit.units import format_count, format_duration, format_named, format_size

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("info", epilog=examples("tracekit info run.trace", "tracekit info run.trace --json"))(_info)


def _info(trace: TraceArgument, json: JsonOption = False) -> None:
    """Describe a trace: source, ops, bytes, streams, span, segments, columns, options, counters."""
    facts = tracekit.open_trace(trace).info()
    if json:
        screen.emit_json(facts)
        return
    per_op = facts["file_bytes"] / facts["ops"] if facts["ops"] else 0
    rows = {
        "trace": facts["path"],
        "source": facts["source"],
        "schema": versions(facts["schema_versions"]),
        "ops": format_count(facts["ops"]) + _removed(facts["removed_ops"]),
        "bytes": format_size(facts["bytes"]),
        "streams": format_count(facts["streams"]),
        "span": format_duration((facts["last_submit_ns"] or 0) - (facts["first_submit_ns"] or 0)),
        "segments": f"{facts['segments']} ({format_size(facts['file_bytes'])}, {per_op:.1f} bytes an op)",
        "columns": ", ".join(facts["columns"]),
    }
    if facts["completeness"]:
        rows["completeness"] = completeness_in_words(facts["completeness"])
    if facts["not_issued"]:
        rows["not issued"] = f"{format_count(facts['not_issued']['ops'])} ops of the plan (--json names them)"
    if facts["clock"]:
        rows["clock"] = clock_in_words(facts["clock"])
    if facts["overhead"] is not None:
        rows["overhead"] = f"{facts['overhead']:.2%} of the CPU time of the recorded processes"
    options = {f"option {name}": value for name, value in set_options(facts["options"])}
    counters = {
        f"counter {in_words(name)}": format_named(name, n)
        for name, n in readable_counters(facts["counters"]).items()
    }
    width = max(len(name) for name in (*rows, *options, *counters))
    for name, value in (rows | options | counters).items():
        screen.say(Text.assemble((f"{name:<{width}}  ", "bold"), str(value)))
    if facts["unfinished_segments"]:
        screen.note(
            f"{facts['unfinished_segments']} segments are unfinished: they are being recorded, or a crash left them "
            f"({facts['torn_bytes']} torn bytes). Every op in them is counted above; `tracekit repair` finishes them"
        )


def _removed(ops: int) -> str:
    return f", and {format_count(ops)} in segments that are gone" if ops else ""
