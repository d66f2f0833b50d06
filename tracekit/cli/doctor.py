"""`tracekit doctor`: what stands between this machine and a store."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

import tracekit
from tracekit.cli import screen
from tracekit.cli.arguments import JsonOption, examples
from tracekit.cli.flags import with_flags
from tracekit.cli.options import takes
from tracekit.store_options import STORE
from tracekit.units import format_duration, format_size

__all__ = ["register"]

_MARKS = {True: ("ok", "green"), False: ("FAILED", "red"), None: ("-", "dim")}


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command(
        "doctor",
        epilog=examples(
            "tracekit doctor s3://bucket/data", "tracekit doctor s3://bucket/scratch --allow-writes --json"
        ),
    )(_doctor)


@takes(STORE)
def _doctor(
    uri: Annotated[str, typer.Argument(metavar="URI", help="A bucket, prefix, object, file or URL.")],
    allow_writes: Annotated[
        bool, typer.Option("--allow-writes", help="Write one object below the URI, and delete it again.")
    ] = False,
    json: JsonOption = False,
    **options: Any,
) -> None:
    """Check a store: identity, endpoint, clock, list, read, ranges, round trip; exit 1 if a check fails."""
    with screen.working("doctor"):
        found = tracekit.doctor(uri, allow_writes=allow_writes, **options)
    if json:
        screen.emit_json(found.to_dict())
    else:
        for check in found.checks:
            word, style = _MARKS[check.ok]
            screen.say(
                Text.assemble((f"{check.name:<12}", "bold"), (f"{word:<8}", style), with_flags(check.detail))
            )
        for size, took in found.latency_ns.items():
            label = format_size(size) if size else "no data"
            screen.say(Text.assemble(("latency     ", "bold"), f"{'':<8}{label}: {format_duration(took)}"))
    if not found.ok:
        raise typer.Exit(1)
