"""`tracekit plot`: a picture of a trace."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import tracekit
from tracekit.cli import screen
from tracekit.cli.arguments import AgainstOption, JsonOption, TraceArgument, choices, examples
from tracekit.reporting.plots import KINDS
from tracekit.uri import local_file

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command(
        "plot",
        epilog=examples(
            "tracekit plot offsets run.trace -o offsets.png",
            "tracekit plot latency-cdf run.trace --against replay.trace -o cdf.svg",
        ),
    )(_plot)


def _plot(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help=f"One of {', '.join(KINDS)}.", **choices(KINDS))
    ],
    trace: TraceArgument,
    out: Annotated[
        Path,
        typer.Option(
            "-o", "--out", parser=local_file, metavar="FILE", help="The picture: .png, .svg or .pdf."
        ),
    ],
    against: AgainstOption = None,
    json: JsonOption = False,
) -> None:
    """Draw one picture of a trace."""
    with screen.working("plot"):
        tracekit.plot(kind, trace, out, against=against)
    screen.emit_outcome({"out": str(out), "kind": kind}, f"wrote {out}", out, json=json)
