"""`tracekit compare`: a parity table of two traces; exit 1 outside tolerance."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tracekit.cli import screen
from tracekit.cli.options import JsonOption, examples
from tracekit.comparison.divergence import diverge
from tracekit.comparison.parity import compare
from tracekit.reporting.table import divergence_tables, parity_table
from tracekit.store.reader import open_reader

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
    a: Annotated[Path, typer.Argument(metavar="A", help="The recording, or the run before.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The replay, or the run after.")],
    tolerance: Annotated[float, typer.Option(help="A fraction: 0.15 is 15 %.")] = 0.15,
    speed: Annotated[
        float | None, typer.Option(help="Divide A's times by this; taken from B if it is a replay of A.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Compare two traces metric by metric. Exit 1 if one is outside the tolerance: a CI gate."""
    before, after = open_reader(a), open_reader(b)
    parity = compare(before, after, tolerance=tolerance, speed=speed)
    moved = diverge(before, after)
    if json:
        screen.emit_json({"a": str(a), "b": str(b), **parity.to_dict(), "moved": moved.to_dict()})
    else:
        screen.console.print(parity_table(parity, names=(a.name, b.name)))
        for table in divergence_tables(moved, names=(a.name, b.name)):
            screen.console.print(table)
    if not parity.ok:
        raise typer.Exit(1)
