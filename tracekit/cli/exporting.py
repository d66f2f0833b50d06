"""`tracekit export`: a trace as another tool's log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import tracekit
from tracekit.cli import screen
from tracekit.cli.arguments import JsonOption, OverwriteOption, TraceArgument, choices, examples, output
from tracekit.formats.registry import exporters
from tracekit.units import format_count
from tracekit.uri import local_file

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command(
        "export",
        epilog=examples(
            "tracekit export fio run.trace -o run.iolog", "tracekit export chrome run.trace -o run.json.gz"
        ),
    )(_export)


def _export(
    format: Annotated[
        str,
        typer.Argument(metavar="FORMAT", help=f"One of {', '.join(exporters())}.", **choices(exporters())),
    ],
    trace: TraceArgument,
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            parser=local_file,
            metavar="DST",
            help="The file, compressed if it ends in .zst, .gz, .bz2, .xz or .lz4; - is standard output.",
        ),
    ],
    object_by: Annotated[
        str,
        typer.Option(
            metavar="range|uri", help="libcachesim: what one cache object is.", **choices(("range", "uri"))
        ),
    ] = "range",
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Write a trace as another tool's log, and say what that format cannot carry."""
    with screen.working("export"):
        done = tracekit.export_trace(format, trace, out, overwrite=overwrite, object_by=object_by)
    screen.emit_outcome(
        {"out": str(out), **done.to_dict()}, f"{format_count(done.ops)} ops in {out}", output(out), json=json
    )
    if not json:
        screen.notes(done.notes)
