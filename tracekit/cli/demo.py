"""`tracekit demo`: the main job end to end, on real files made on the spot."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from tracekit.cli import screen
from tracekit.cli.options import examples
from tracekit.errors import UsageError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command(
        "demo",
        epilog=examples("tracekit demo", "tracekit demo -o /mnt/nvme/demo --overwrite"),
    )(_demo)


def _demo(
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="DIR", help="Where the dataset, traces and pictures go.")
    ] = Path("demo"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demo in DIR.")] = False,
) -> None:
    """Make a dataset, record a loader over it, measure, replay in cadence, prove parity, draw."""
    from tracekit.demo import MARKER, run_demo

    if out.exists() and any(out.iterdir()):
        if not overwrite:
            raise UsageError(f"{out} is not empty", "choose another -o DIR, or give --overwrite")
        if not (out / MARKER).exists():
            raise UsageError(f"{out} holds something that is no demo", "choose another -o DIR")
        shutil.rmtree(out)
    with screen.progress("demo") as advance:
        ok = run_demo(out, say=lambda thing: screen.console.print(thing, soft_wrap=True), progress=advance)
    if not ok:
        raise typer.Exit(1)
