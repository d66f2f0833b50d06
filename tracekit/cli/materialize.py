"""`tracekit materialize`: make the objects that a trace reads, where they are lacking."""

from __future__ import annotations

from typing import Any

import typer

from tracekit.cli import screen
from tracekit.cli.arguments import JsonOption, TraceArgument, examples
from tracekit.cli.options import takes
from tracekit.options import MATERIALIZE
from tracekit.replayer.materialize import materialize
from tracekit.units import format_count, format_size

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command(
        "materialize",
        epilog=examples("tracekit materialize run.trace --map file:///lustre/data=file:///mnt/nvme/data"),
    )(_materialize)


@takes(MATERIALIZE)
def _materialize(trace: TraceArgument, json: JsonOption = False, **options: Any) -> None:
    """Make objects of the sizes that a trace reads. An object that is large enough is kept."""
    with screen.progress("materialize") as advance:
        done = materialize(trace, watch=advance, **{"map": (), **options})
    if json:
        screen.emit_json(done.to_dict())
    else:
        screen.console.print(
            f"made {format_count(done.made)} objects of {format_size(done.bytes)}, kept {format_count(done.kept)}"
        )
