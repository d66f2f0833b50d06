"""`tracekit mcp`: tools for a language model over one trace."""

from __future__ import annotations

from typing import Annotated

import typer

import tracekit
from tracekit.cli.arguments import MemoryOption, ThreadsOption, TraceArgument, examples

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command(
        "mcp",
        epilog=examples(
            "tracekit mcp run.trace  # what a client of MCP starts",
        ),
    )(_mcp)


def _mcp(
    trace: TraceArgument,
    threads: ThreadsOption = None,
    memory: MemoryOption = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print an error at the start as JSON, on standard error.")
    ] = False,
) -> None:
    """Serve read-only tools over a trace to a language model, by the Model Context Protocol on the standard streams."""
    tracekit.mcp(trace, threads=threads, memory=memory)
