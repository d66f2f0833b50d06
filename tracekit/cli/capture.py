"""`tracekit capture`: record the storage I/O of an unmodified command."""

from __future__ import annotations

import json as json_format
from typing import Annotated, Any

import typer

import tracekit
from tracekit.capture.command import METHODS
from tracekit.capture.following import check_followed
from tracekit.capture.known import HOOKS
from tracekit.capture.launch import allow_adopting
from tracekit.capture.options import CAPTURE
from tracekit.cli.arguments import choices, examples
from tracekit.cli.flags import with_flags
from tracekit.cli.live import LiveOption, watched
from tracekit.cli.options import takes
from tracekit.errors import UsageError
from tracekit.printable import printable
from tracekit.units import format_count

__all__ = ["register"]

_EXAMPLES = examples(
    "tracekit capture -o run.trace -- python train.py --epochs 1",
    "tracekit capture -o run.trace --include '/data/*' -- ./loader /data",
    "tracekit capture -o run.trace --live -- python train.py  # the screen of tracekit watch meanwhile",
    "tracekit capture -o s3.trace --proxy -- python scan_with_polars.py",
    "tracekit capture -o cp.trace --require-complete 0.99 -- cp big.bin /mnt/",
)


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    settings = {"allow_interspersed_args": False, "ignore_unknown_options": False}
    app.command("capture", epilog=_EXAMPLES, context_settings=settings)(_capture)


@takes(CAPTURE)
def _capture(
    out: Annotated[str, typer.Option("-o", "--out", metavar="TRACE", help="The new trace.")],
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- CMD [ARG]...", help="The command, as it is run without us."),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            "--with",
            metavar="METHOD",
            help=f"What records file I/O: {', '.join(METHODS)}. native costs less than 1 us a call, dftracer about 5,"
            " strace about 120; hooks records Python's object clients and fsspec alone.",
            **choices(METHODS),
        ),
    ] = "auto",
    hooks: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help=f"Python hooks, comma-separated: auto, {', '.join(HOOKS)}; empty for none.",
            **choices(("auto", *HOOKS)),
        ),
    ] = "auto",
    live: LiveOption = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print what was recorded as JSON, on standard error.")
    ] = False,
    **options: Any,
) -> None:
    """Run a command and record its storage I/O. Exits as the command does (128 + N for signal N)."""
    if live:
        if options.get("recover"):
            raise UsageError("recover=True runs no command to watch", "leave out live=True")
        check_followed(method)
    allow_adopting()
    with watched(out, live=live, hold_output=True):
        result = tracekit.capture.run(command or (), out, method=method, hooks=hooks, **options)
    if json:
        typer.echo(json_format.dumps(result.to_dict()), err=True)
    else:
        ops = "1 op" if result.ops == 1 else f"{format_count(result.ops)} ops"
        typer.echo(f"tracekit: {ops} recorded in {result.path} ({result.method})", err=True)
        for note in result.notes:
            typer.echo(printable(f"tracekit: {with_flags(note)}"), err=True)
    raise typer.Exit(result.exit_code or int(not result.complete))
