"""`tracekit report` and `tracekit plot`: the page, and single pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tracekit.cli import screen
from tracekit.cli.options import TraceArgument, examples
from tracekit.reporting.plots import KINDS, plot
from tracekit.store.reader import open_reader

__all__ = ["register"]

AgainstOption = Annotated[
    Path | None, typer.Option("--against", metavar="B", help="A second trace: the replay, or the run after.")
]


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
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE.html", help="Where the page goes.")],
    against: AgainstOption = None,
    tolerance: Annotated[float, typer.Option(help="Parity tolerance, a fraction.")] = 0.15,
) -> None:
    """Write one self-contained page: verdict, tables of what hurts, interactive charts. Works offline."""
    from tracekit.reporting.page import write_report

    with screen.progress("report"):
        write_report(
            open_reader(trace), out, against=open_reader(against) if against else None, tolerance=tolerance
        )
    screen.errors.print(f"wrote {out}", soft_wrap=True)


def _plot(
    kind: Annotated[str, typer.Argument(metavar="KIND", help=f"One of {', '.join(KINDS)}.")],
    trace: TraceArgument,
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FILE", help="Where it goes: .png, .svg or .pdf.")
    ],
    against: AgainstOption = None,
) -> None:
    """Draw one picture of a trace."""
    with screen.progress("plot"):
        plot(kind, open_reader(trace), out, against=open_reader(against) if against else None)
    screen.errors.print(f"wrote {out}", soft_wrap=True)
