"""`tracekit report` and `tracekit plot`: a page of charts, and single pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import tracekit
from tracekit.cli import screen
from tracekit.cli.arguments import AgainstOption, JsonOption, TraceArgument, choices, examples, output
from tracekit.reporting.plots import KINDS

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verbs to `app`."""
    app.command(
        "report",
        epilog=examples(
            "tracekit report run.trace -o run.html",
            "tracekit report run.trace --against replay.trace -o parity.html",
        ),
    )(_report)
    app.command(
        "plot",
        epilog=examples(
            "tracekit plot offsets run.trace -o offsets.png",
            "tracekit plot latency-cdf run.trace --against replay.trace -o cdf.svg",
        ),
    )(_plot)


def _report(
    trace: TraceArgument,
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FILE.html", help="The page; - is standard output.")
    ],
    against: AgainstOption = None,
    tolerance: Annotated[float, typer.Option(metavar="SHARE", help="Parity tolerance: 0.15 is 15 %.")] = 0.15,
    json: JsonOption = False,
) -> None:
    """Write one self-contained page with a verdict, tables and interactive charts. It works offline."""
    with screen.progress("report"):
        parity = tracekit.report(trace, output(out), against=against, tolerance=tolerance)
    facts = {"out": str(out), "parity": None if parity is None else parity.to_dict()}
    screen.emit_outcome(facts, f"wrote {out}", output(out), json=json)


def _plot(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help=f"One of {', '.join(KINDS)}.", **choices(KINDS))
    ],
    trace: TraceArgument,
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FILE", help="The picture: .png, .svg or .pdf.")
    ],
    against: AgainstOption = None,
    json: JsonOption = False,
) -> None:
    """Draw one picture of a trace."""
    with screen.progress("plot"):
        tracekit.plot(kind, trace, out, against=against)
    screen.emit_outcome({"out": str(out), "kind": kind}, f"wrote {out}", out, json=json)
