"""`tracekit info`: what a trace is, from its footers."""

from __future__ import annotations

from typing import Any

import typer
from rich.table import Table
from rich.text import Text

from tracekit.cli import screen
from tracekit.cli.options import JsonOption, TraceArgument
from tracekit.store.reader import TraceReader, open_reader
from tracekit.units import format_count, format_duration, format_size

__all__ = ["describe", "register"]


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command(
        "info",
        epilog="Examples: [bold]tracekit info run.trace[/bold]   [bold]tracekit info run.trace --json[/bold]",
    )(_info)


def describe(reader: TraceReader) -> dict[str, Any]:
    """What `info` shows, as plain values with units in the names."""
    first, last = reader.extent()
    return {
        "path": str(reader.path),
        "trace_id": reader.trace_id,
        "source": reader.source,
        "ops": reader.rows,
        "epoch_unix_ns": reader.epoch_unix_ns,
        "first_submit_ns": first,
        "last_submit_ns": last,
        "segments": len(reader.segments),
        "unfinished_segments": len(reader.unfinished),
        "torn_bytes": sum(segment.torn_bytes for segment in reader.segments),
        "file_bytes": sum(segment.file_bytes for segment in reader.segments),
        "columns": list(reader.columns),
        "options": reader.options,
        "counters": reader.counters,
    }


def _info(
    trace: TraceArgument,
    json: JsonOption = False,
) -> None:
    """Say what a trace is: source, span, streams, ops, segments, schema."""
    facts = describe(open_reader(trace))
    if json:
        screen.emit_json(facts)
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column()
    table.add_column(overflow="fold")
    per_op = facts["file_bytes"] / facts["ops"] if facts["ops"] else 0
    rows = {
        "trace": facts["path"],
        "source": facts["source"],
        "ops": format_count(facts["ops"]),
        "span": format_duration((facts["last_submit_ns"] or 0) - (facts["first_submit_ns"] or 0)),
        "segments": f"{facts['segments']} ({format_size(facts['file_bytes'])}, {per_op:.1f} bytes an op)",
        "columns": ", ".join(facts["columns"]),
    }
    for name, value in rows.items():
        table.add_row(Text(name, "bold"), value)
    for name, value in facts["options"].items():
        table.add_row(Text(f"option {name}", "dim"), str(value))
    for name, value in facts["counters"].items():
        table.add_row(Text(f"counter {name}", "dim"), format_count(value))
    screen.console.print(table)
    if facts["unfinished_segments"]:
        screen.errors.print(
            f"{facts['unfinished_segments']} segments are journals: being recorded now, or left by a crash "
            f"({facts['torn_bytes']} torn bytes); everything flushed is counted above, tracekit repair tidies up",
            soft_wrap=True,
        )
