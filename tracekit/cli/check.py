"""`tracekit verify` and `tracekit repair`: is a trace whole; salvage what a crash left."""

from __future__ import annotations

from dataclasses import asdict

import typer

from tracekit.cli import screen
from tracekit.cli.options import JsonOption, TraceArgument, examples
from tracekit.store.check import repair, verify
from tracekit.store.reader import open_reader
from tracekit.units import format_count

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verbs of this module to `app`."""
    app.command("verify", epilog=examples("tracekit verify run.trace"))(_verify)
    app.command("repair", epilog=examples("tracekit repair run.trace"))(_repair)


def _verify(trace: TraceArgument, json: JsonOption = False) -> None:
    """Read every page of a trace and say what is wrong with it. Exit 1 if it is not whole."""
    with screen.progress("verify") as advance:
        findings = verify(trace, progress=advance)
    broken = any(finding.broken for finding in findings)
    if json:
        screen.emit_json(
            {"trace": str(trace), "whole": not broken, "findings": [asdict(f) for f in findings]}
        )
    else:
        for finding in findings:
            screen.console.print(f"{finding.where}: {finding.what}", soft_wrap=True)
        if broken:
            screen.console.print(
                f"{trace} is not whole; tracekit repair salvages what can be", soft_wrap=True
            )
        else:
            screen.console.print(
                f"{trace} is whole: {format_count(open_reader(trace).rows)} ops", soft_wrap=True
            )
    if broken:
        raise typer.Exit(1)


def _repair(trace: TraceArgument, json: JsonOption = False) -> None:
    """Turn what a crash left into whole segments; unreadable files are renamed, no op is deleted."""
    done = repair(trace)
    if json:
        screen.emit_json({"trace": str(trace), **asdict(done)})
        return
    screen.console.print(
        f"{trace}: {format_count(done.ops_salvaged)} ops salvaged from {done.journals} journals, "
        f"{done.torn_bytes} torn bytes dropped, {len(done.set_aside)} files set aside",
        soft_wrap=True,
    )
    for name in done.set_aside:
        screen.console.print(f"  {name} -> {name}.broken")
