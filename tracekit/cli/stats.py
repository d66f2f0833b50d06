"""`tracekit stats`: the metrics of a trace."""

from __future__ import annotations

from typing import Annotated

import typer

import tracekit
from tracekit.cli import screen
from tracekit.cli.arguments import JsonOption, MemoryOption, OutOption, ThreadsOption, TraceArgument, examples
from tracekit.cli.places import HostsOption, OnOption, advising
from tracekit.errors import UsageError
from tracekit.reporting.table import snapshot_tables

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command(
        "stats",
        epilog=examples(
            "tracekit stats run.trace",
            "tracekit stats run.trace --json -o stats.json",
            "tracekit stats s3://bucket/run.trace --on ray",
        ),
    )(_stats)


def _stats(
    trace: TraceArgument,
    json: JsonOption = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV: metric, value, unit.")] = False,
    out: OutOption = None,
    threads: ThreadsOption = None,
    memory: MemoryOption = None,
    on: OnOption = None,
    hosts: HostsOption = None,
) -> None:
    """Print the metrics of a trace; docs/metrics.md defines each. With --on, each host measures a window of the trace."""
    if json and csv:
        raise UsageError("--json and --csv exclude each other", "give one of them")
    opened = tracekit.open_trace(trace)
    with advising(on, lambda: opened.ops, "measures windows of the trace on many"), screen.working("stats"):
        found = opened.snapshot(threads=threads, memory=memory, on=on, hosts=hosts)
    if csv:
        screen.emit_text(found.to_csv(), out)
    elif json or out is not None:
        screen.emit_text(found.to_json(), out)
    else:
        for table in snapshot_tables(found, width=screen.console.width):
            screen.console.print(table)
