"""`tracekit report`: a page of charts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import tracekit
from tracekit.cli import screen
from tracekit.cli.arguments import AgainstOption, JsonOption, TraceArgument, examples, output
from tracekit.uri import local_file

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command(
        "report",
        epilog=examples(
            "tracekit report run.trace -o run.html",
            "tracekit report run.trace --against replay.trace -o parity.html",
        ),
    )(_report)


def _report(
    trace: TraceArgument,
    out: Annotated[
        Path,
        typer.Option(
            "-o", "--out", parser=local_file, metavar="FILE.html", help="The page; - is standard output."
        ),
    ],
    against: AgainstOption = None,
    tolerance: Annotated[float, typer.Option(metavar="SHARE", help="Parity tolerance: 0.15 is 15 %.")] = 0.15,
    json: JsonOption = False,
) -> None:
    """Write one self-contained page with a verdict, tables and interactive charts. It works offline."""
    with screen.working("report"):
        parity = tracekit.report(trace, output(out), against=against, tolerance=tolerance)
    facts = {"out": str(out), "parity": None if parity is None else parity.to_dict()}
    screen.emit_outcome(facts, f"wrote {out}", output(out), json=json)
