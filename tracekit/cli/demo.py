"""`tracekit demo`: the main job from end to end, on files made on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from tracekit.cli import screen
from tracekit.cli.arguments import JsonOption, examples
from tracekit.reporting.table import parity_table, snapshot_tables
from tracekit.units import format_count

if TYPE_CHECKING:
    from tracekit.walkthrough import DemoResult
from tracekit.uri import local_file

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("demo", epilog=examples("tracekit demo", "tracekit demo -o /mnt/nvme/demo --overwrite"))(
        _demo
    )


def _demo(
    out: Annotated[
        Path,
        typer.Option(
            "-o", "--out", parser=local_file, metavar="DIR", help="Where the dataset, traces and picture go."
        ),
    ] = Path("demo"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demo in DIR.")] = False,
    json: JsonOption = False,
) -> None:
    """Make a dataset, record a loader over it, replay the trace, compare, and draw. Exit 1 if parity fails."""
    from tracekit.walkthrough import demo

    with screen.progress("demo") as advance:
        result = demo(out, overwrite=overwrite, watch=advance)
    if json:
        screen.emit_json(result.to_dict())
    else:
        _show(result)
    if not result.ok:
        raise typer.Exit(1)


def _show(result: DemoResult) -> None:
    def say(thing: object) -> None:
        screen.console.print(thing, soft_wrap=True)

    def line(title: str, text: str) -> None:
        say(Text.assemble((f"{title:<10}", "bold"), text))

    recorded = result.recorded
    line("dataset", str(result.dataset))
    line(
        "recorded",
        f"{format_count(recorded.ops)} ops of a shuffled loader with 4 workers, {recorded.steps} steps, in {result.recording}\n",
    )
    for table in snapshot_tables(result.snapshot, width=screen.console.width):
        say(table)
    for scheme, replayed in result.replays.items():
        say("")
        line("replayed", f"on {scheme}://, at the recorded pace, in {replayed.out}")
        say(parity_table(replayed.parity))
    for scheme, why in result.refused.items():
        say(Text.assemble((f"\nnot replayed on {scheme}://", "yellow"), f": {why}"))
    say("")
    line("picture", str(result.picture))
    line("next", f'tracekit query {result.recording} "SELECT uri, count(*) AS ops FROM ops GROUP BY uri"')
