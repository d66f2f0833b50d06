"""`tracekit import` and `tracekit export`: other tools' logs as traces, and traces as their logs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tracekit.cli import screen
from tracekit.cli.options import JsonOption, OverwriteOption, TraceArgument, examples
from tracekit.formats.registry import export_trace, exporters, import_trace, importers
from tracekit.units import format_count

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verbs to `app`."""
    app.command(
        "import",
        epilog=examples(
            "tracekit import dftracer run.pfw.gz -o run.trace",
            "tracekit import csv io.csv --map-columns uri=dev,t_submit=when:us,len=size -o run.trace",
        ),
    )(_import)
    app.command(
        "export",
        epilog=examples(
            "tracekit export fio run.trace -o run.iolog", "tracekit export chrome run.trace -o run.json.gz"
        ),
    )(_export)


def _import(
    format_: Annotated[str, typer.Argument(metavar="FORMAT", help=f"One of {', '.join(importers())}.")],
    source: Annotated[Path, typer.Argument(metavar="SRC", help="The other tool's log; .zst, .gz or plain.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="TRACE", help="Where the trace goes.")],
    strict: Annotated[
        bool, typer.Option("--strict/--lenient", help="Stop at the first bad line, or count and skip.")
    ] = False,
    map_columns: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="csv: COLUMN=SOURCE[:UNIT],… or a preset (alibaba, tencent, msr, mqsim); #N counts columns.",
        ),
    ] = None,
    base: Annotated[
        str | None, typer.Option(metavar="URI", help="What goes before names without a scheme: s3://bucket/")
    ] = None,
    separator: Annotated[
        str | None, typer.Option(metavar="CHAR", help="csv: one character, tab or space.")
    ] = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Read another tool's log into a trace, which appears whole or not at all."""
    done = import_trace(
        format_,
        source,
        out,
        strict=strict,
        overwrite=overwrite,
        map_columns=map_columns,
        base=base,
        separator=separator,
    )
    if json:
        screen.emit_json({"out": str(out), **done.to_dict()})
        return
    screen.console.print(f"{format_count(done.ops)} ops in {out}", soft_wrap=True)
    if done.skipped:
        screen.errors.print(f"{format_count(done.skipped)} lines skipped, first:", soft_wrap=True)
        for example in done.examples:
            screen.errors.print(f"  {example}", soft_wrap=True)
    _notes(done.notes)


def _export(
    format_: Annotated[str, typer.Argument(metavar="FORMAT", help=f"One of {', '.join(exporters())}.")],
    trace: TraceArgument,
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="DST", help="The file; .zst or .gz compresses it.")
    ],
    object_by: Annotated[
        str, typer.Option(metavar="range|uri", help="libcachesim: what one cache object is.")
    ] = "range",
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Write a trace as another tool's log; says what that format cannot carry."""
    done = export_trace(format_, trace, out, overwrite=overwrite, object_by=object_by)
    if json:
        screen.emit_json({"out": str(out), **done.to_dict()})
        return
    screen.console.print(f"{format_count(done.ops)} ops in {out}", soft_wrap=True)
    _notes(done.notes)


def _notes(notes: tuple[str, ...]) -> None:
    for note in notes:
        screen.errors.print(f"note: {note}", soft_wrap=True)
