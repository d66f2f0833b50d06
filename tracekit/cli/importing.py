"""`tracekit import` and `tracekit export`: other tools' logs as traces, and traces as other tools' logs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import tracekit
from tracekit.cli import screen
from tracekit.cli.arguments import JsonOption, OverwriteOption, TraceArgument, choices, examples, output
from tracekit.cli.flags import with_flags
from tracekit.formats.base import WAIT_UNITS
from tracekit.formats.registry import exporters, importers
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
    format: Annotated[
        str,
        typer.Argument(metavar="FORMAT", help=f"One of {', '.join(importers())}.", **choices(importers())),
    ],
    source: Annotated[str, typer.Argument(metavar="SRC", help="The other tool's log; .zst, .gz or plain.")],
    out: Annotated[str, typer.Option("-o", "--out", metavar="TRACE", help="The new trace.")],
    strict: Annotated[
        bool,
        typer.Option("--strict/--lenient", help="Stop at the first bad line, or count bad lines and go on."),
    ] = False,
    map_columns: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="csv: COLUMN=SOURCE[:UNIT],... or a preset (alibaba, tencent, msr, mqsim); #N is the Nth column.",
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(metavar="URI", help="The prefix of names without a scheme, such as s3://bucket/."),
    ] = None,
    separator: Annotated[
        str | None, typer.Option(metavar="CHAR", help="csv: one character, tab or space.")
    ] = None,
    map_ops: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="csv, jsonl, warp, s3dlio: what op words mean, 'WORD=KIND;...'; KIND none leaves them out.",
        ),
    ] = None,
    wait_unit: Annotated[
        str,
        typer.Option(
            metavar="ms|us",
            help="fio v2: waits are ms since the job's start (as fio replays them) or us since the line before.",
            **choices(WAIT_UNITS),
        ),
    ] = "ms",
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Read another tool's log into a trace, which appears whole or not at all."""
    done = tracekit.import_trace(
        format,
        source,
        out,
        strict=strict,
        overwrite=overwrite,
        map_columns=map_columns,
        base=base,
        separator=separator,
        map_ops=map_ops,
        wait_unit=wait_unit,
    )
    if json:
        screen.emit_json({"out": str(out), **done.to_dict()})
        return
    screen.say(f"{format_count(done.ops)} ops in {out}")
    if done.skipped:
        screen.note(f"{format_count(done.skipped)} lines skipped, the first:")
        for example in done.examples:
            screen.note(f"  {example}")
    _notes(done.notes)
    if done.lacking:
        screen.note(f"note: a {format} log does not hold {', '.join(done.lacking)}")


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
            metavar="DST",
            help="The file, compressed if it ends in .zst or .gz; - is standard output.",
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
    done = tracekit.export_trace(format, trace, output(out), overwrite=overwrite, object_by=object_by)
    screen.emit_outcome(
        {"out": str(out), **done.to_dict()}, f"{format_count(done.ops)} ops in {out}", output(out), json=json
    )
    if not json:
        _notes(done.notes)


def _notes(notes: tuple[str, ...]) -> None:
    for note in notes:
        screen.note(f"note: {with_flags(note)}")
