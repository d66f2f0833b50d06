"""`tracekit stats`: the metrics of a trace."""

from __future__ import annotations

import time
from typing import Annotated

import typer

import tracekit
from tracekit.cli import screen
from tracekit.cli.arguments import (
    JsonOption,
    MemoryOption,
    OutOption,
    ThreadsOption,
    TraceArgument,
    examples,
)
from tracekit.errors import UsageError
from tracekit.reporting.table import snapshot_tables
from tracekit.units import format_count

__all__ = ["register"]

_LONG_S = 60.0
"""From here on, starting a cluster pays: Ray needs some seconds."""


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
    on: Annotated[
        str | None,
        typer.Option(
            "--on",
            metavar="WHERE",
            help="Measure windows of the trace on the nodes of a Ray cluster (ray, ray://HOST:PORT; needs the extra scale) or in "
            "processes of this machine (local). The figures are the same. Default: in this process.",
        ),
    ] = None,
    hosts: Annotated[
        int | None,
        typer.Option(
            "--hosts", metavar="N", help="In this many windows. Default: one for each node or core."
        ),
    ] = None,
) -> None:
    """Print the metrics of a trace; docs/metrics.md defines each."""
    if json and csv:
        raise UsageError("--json and --csv exclude each other", "give one of them")
    opened, began = tracekit.open_trace(trace), time.monotonic()
    with screen.working("stats"):
        found = opened.snapshot(threads=threads, memory=memory, on=on, hosts=hosts)
    took = time.monotonic() - began
    if on is None and took > _LONG_S:
        screen.note(
            f"{format_count(opened.ops)} ops took {took:.0f} s on this machine; --on ray measures windows of the trace on many"
        )
    if csv:
        screen.emit_text(found.to_csv(), out)
    elif json or out is not None:
        screen.emit_text(found.to_json(), out)
    else:
        for table in snapshot_tables(found, width=screen.console.width):
            screen.console.print(table)
