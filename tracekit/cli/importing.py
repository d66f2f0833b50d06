"""`tracekit import`: other tools' logs as traces."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tracekit.cli import screen
from tracekit.cli.options import JsonOption, OverwriteOption
from tracekit.formats.registry import import_trace, importers
from tracekit.units import format_count

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("import", epilog="Example: [bold]tracekit import dftracer run.pfw.gz -o run.trace[/bold]")(
        _import
    )


def _import(
    format_: Annotated[str, typer.Argument(metavar="FORMAT", help=f"One of {', '.join(importers())}.")],
    source: Annotated[Path, typer.Argument(metavar="SRC", help="The other tool's log.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="TRACE", help="Where the trace goes.")],
    strict: Annotated[
        bool, typer.Option("--strict/--lenient", help="Stop at the first bad line, or count and skip.")
    ] = False,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Read another tool's log into a trace, which appears whole or not at all."""
    done = import_trace(format_, source, out, strict=strict, overwrite=overwrite)
    if json:
        screen.emit_json({"out": str(out), **done.to_dict()})
        return
    screen.console.print(f"{format_count(done.ops)} ops in {out}", soft_wrap=True)
    if done.skipped:
        screen.errors.print(f"{format_count(done.skipped)} lines skipped, first:", soft_wrap=True)
        for example in done.examples:
            screen.errors.print(f"  {example}", soft_wrap=True, markup=False)
    for note in done.notes:
        screen.errors.print(f"note: {note}", soft_wrap=True, markup=False)
