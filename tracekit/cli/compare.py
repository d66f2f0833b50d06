"""`tracekit compare`: judge a replay against its recording, or compare two runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import tracekit
from tracekit.cli import screen
from tracekit.cli.arguments import JsonOption, examples, traces
from tracekit.cli.options import takes
from tracekit.cli.places import HostsOption, OnOption, advising
from tracekit.options import VERDICT
from tracekit.reporting.table import divergence_tables, parity_table
from tracekit.spread import together
from tracekit.uri import local_file

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command(
        "compare",
        epilog=examples(
            "tracekit compare run.trace replay.trace",
            "tracekit compare before.trace after.trace --tolerance 0.05 --json",
            "tracekit compare before.trace after-1.trace after-2.trace after-3.trace",
            "tracekit compare s3://bucket/before.trace s3://bucket/after.trace --on ray",
            "tracekit compare before.trace after.trace --judge 'latency_p99<=1.2x' --junit parity.xml",
        ),
    )(_compare)


@takes(VERDICT)
def _compare(
    a: Annotated[
        str,
        typer.Argument(metavar="A", help="The recording, or the run before.", autocompletion=traces),
    ],
    b: Annotated[
        str, typer.Argument(metavar="B", help="The replay, or the run after.", autocompletion=traces)
    ],
    others: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[B2]...",
            help="More runs or replays like B.",
            show_default=False,
            autocompletion=traces,
        ),
    ] = None,
    speed: Annotated[
        float | None, typer.Option(help="Compare as two runs, with A's times divided by this.")
    ] = None,
    junit: Annotated[
        Path | None,
        typer.Option(parser=local_file, metavar="FILE", help="Write the judged metrics as JUnit XML."),
    ] = None,
    on: OnOption = None,
    hosts: HostsOption = None,
    json: JsonOption = False,
    **options: Any,
) -> None:
    """Compare two traces metric by metric. Exit 1 if one is outside its tolerance or a gate fails.

    With --on, each host answers some of the queries over both runs. A replay is judged op by op on this machine.
    """
    before, after = tracekit.open_trace(a), tracekit.open_trace(b)
    with (
        advising(on, lambda: before.ops + after.ops, "spreads the queries over many"),
        screen.working("compare"),
        together(on, hosts),
    ):
        more = tuple(others or ())
        parity = tracekit.compare(
            before, after, *more, speed=speed, junit=junit, on=on, hosts=hosts, **options
        )
        moved = tracekit.diverge(before, after, on=on, hosts=hosts)
    if json:
        screen.emit_json({"a": a, "b": b, **parity.to_dict(), "moved": moved.to_dict()})
    else:
        names = (before.path.name, after.path.name)
        screen.console.print(parity_table(parity, names=names))
        for table in divergence_tables(moved, names=names):
            screen.console.print(table)
    if not parity.ok:
        raise typer.Exit(1)
