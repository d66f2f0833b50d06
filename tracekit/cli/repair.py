"""`tracekit repair`: salvage what a crash left of a trace."""

from __future__ import annotations

import typer

import tracekit
from tracekit.cli import screen
from tracekit.cli.arguments import JsonOption, TraceArgument, examples
from tracekit.units import format_count

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("repair", epilog=examples("tracekit repair run.trace"))(_repair)


def _repair(trace: TraceArgument, json: JsonOption = False) -> None:
    """Make a trace whole: finish its journals, keep what is intact of damaged segments, rename the rest *.broken."""
    with screen.working("repair"):
        done = tracekit.repair(trace)
    if json:
        screen.emit_json({"trace": trace, **done.to_dict()})
        return
    said = [f"{format_count(done.ops_salvaged)} ops salvaged", f"{done.journals} journals read"]
    if done.ops_lost:
        said.append(f"{format_count(done.ops_lost)} ops lost")
    if done.torn_bytes or done.damaged_bytes:
        said.append(f"{done.torn_bytes} torn and {done.damaged_bytes} damaged bytes not read")
    screen.say(f"{trace}: {', '.join(said)}")
    for name in done.set_aside:
        screen.say(f"  kept as {name}")
