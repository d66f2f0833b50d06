"""`tracekit verify`: check a trace."""

from __future__ import annotations

import typer

import tracekit
from tracekit.cli import screen
from tracekit.cli.arguments import JsonOption, TraceArgument, examples
from tracekit.store.locate import local_path
from tracekit.units import format_count

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("verify", epilog=examples("tracekit verify run.trace", "tracekit verify run.trace --json"))(
        _verify
    )


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
            remedy = "; `tracekit repair` salvages what it can" if local_path(trace).is_dir() else ""
            screen.say(f"{trace} is damaged{remedy}")
        else:
            screen.say(f"{trace} is whole: {format_count(tracekit.open_trace(trace).ops)} ops")
    if broken:
        raise typer.Exit(1)
