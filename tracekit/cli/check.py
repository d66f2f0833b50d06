"""`tracekit verify` and `tracekit repair`: check a trace, and salvage what a crash left of one."""

from __future__ import annotations

import typer

import tracekit
from tracekit.cli import screen
from tracekit.cli.arguments import JsonOption, TraceArgument, examples
from tracekit.units import format_count

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verbs to `app`."""
    app.command("verify", epilog=examples("tracekit verify run.trace", "tracekit verify run.trace --json"))(
        _verify
    )
    app.command("repair", epilog=examples("tracekit repair run.trace"))(_repair)


def _verify(trace: TraceArgument, json: JsonOption = False) -> None:
    """Read every page of a trace and print what is wrong with it. Exit 1 if the trace is damaged."""
    with screen.progress("verify") as advance:
        findings = tracekit.verify(trace, watch=advance)
    broken = any(finding.broken for finding in findings)
    if json:
        found = [finding.to_dict() for finding in findings]
        screen.emit_json({"trace": trace, "whole": not broken, "findings": found})
    else:
        for finding in findings:
            screen.say(f"{finding.where}: {finding.what}")
        if broken:
            screen.say(f"{trace} is damaged; `tracekit repair` salvages what it can")
        else:
            screen.say(f"{trace} is whole: {format_count(tracekit.open_trace(trace).ops)} ops")
    if broken:
        raise typer.Exit(1)


def _repair(trace: TraceArgument, json: JsonOption = False) -> None:
    """Make a trace whole: finish its journals, keep what is intact of damaged segments, rename the rest *.broken."""
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
