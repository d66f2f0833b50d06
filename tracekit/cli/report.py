"""`tracekit report`: a page of charts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import tracekit
from tracekit.cli import screen
from tracekit.cli.arguments import AgainstOption, JsonOption, TraceArgument, examples, output
from tracekit.cli.places import HostsOption, OnOption, advising
from tracekit.uri import local_file

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command(
        "report",
        epilog=examples(
            "tracekit report run.trace -o run.html",
            "tracekit report run.trace --against replay.trace -o parity.html",
            "tracekit report s3://bucket/run.trace -o run.html --on ray",
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
    on: OnOption = None,
    hosts: HostsOption = None,
    json: JsonOption = False,
) -> None:
    """Write one self-contained page with a verdict, tables and interactive charts. It works offline.

    With --on, each host measures a window of the trace, and then queries a chapter. A replay is judged op by op on this machine.
    """
    opened = [tracekit.open_trace(one) for one in (trace, against) if one is not None]
    with (
        advising(on, lambda: sum(one.ops for one in opened), "queries its chapters on many"),
        screen.working("report"),
    ):
        second = opened[1] if against is not None else None
        parity = tracekit.report(
            opened[0], output(out), against=second, tolerance=tolerance, on=on, hosts=hosts
        )
    facts = {"out": str(out), "parity": None if parity is None else parity.to_dict()}
    screen.emit_outcome(facts, f"wrote {out}", output(out), json=json)
