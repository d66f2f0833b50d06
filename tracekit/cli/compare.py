"""`tracekit compare`: a parity table of two traces."""

from __future__ import annotations

from typing import Annotated

import typer

import tracekit
from tracekit.cli import screen
from tracekit.cli.arguments import JsonOption, examples
from tracekit.reporting.table import divergence_tables, parity_table

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command(
        "compare",
        epilog=examples(
            "tracekit compare run.trace replay.trace",
            "tracekit compare before.trace after.trace --tolerance 0.05 --json",
        ),
    )(_compare)


def _compare(
    a: Annotated[str, typer.Argument(metavar="A", help="The recording, or the run before.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The replay, or the run after.")],
    tolerance: Annotated[
        float, typer.Option(metavar="SHARE", help="The largest relative difference: 0.15 is 15 %.")
    ] = 0.15,
    speed: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="Divide A's times by this. Default: B's own speed, if B is a replay of A."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Compare two traces metric by metric. Exit 1 if a metric is outside the tolerance."""
    before, after = tracekit.open_trace(a), tracekit.open_trace(b)
    parity = tracekit.compare(before, after, tolerance=tolerance, speed=speed)
    moved = tracekit.diverge(before, after)
    if json:
        screen.emit_json({"a": a, "b": b, **parity.to_dict(), "moved": moved.to_dict()})
    else:
        names = (before.path.name, after.path.name)
        screen.console.print(parity_table(parity, names=names))
        for table in divergence_tables(moved, names=names):
            screen.console.print(table)
    if not parity.ok:
        raise typer.Exit(1)
