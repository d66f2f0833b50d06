"""`tracekit record`: run the built-in loader over a dataset, or write checkpoints, and record every op."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from tracekit.cli import screen
from tracekit.cli.arguments import JsonOption, choices, examples
from tracekit.cli.options import takes
from tracekit.loader.profiles import PROFILES, SAVE
from tracekit.loader.record import RecordResult, record
from tracekit.options import CHECKPOINT, LOADER, RECORD
from tracekit.reporting.table import counted
from tracekit.units import format_duration, format_rate, format_size

__all__ = ["register"]

_EXAMPLES = examples(
    "tracekit record /data/train -o run.trace --profile torch",
    "tracekit record 'file:///data/shards/*.tar' -o run.trace --sample-bytes 128KiB --shuffle --num-workers 8",
    "tracekit record s3://bucket/train -o run.trace --reader-mode range --target-request-bytes 1MiB --max-bytes-in-flight 64MiB",
    "tracekit record direct:///data/train -o run.trace --steps 100 --step-time 50ms",
    "tracekit record /mnt/ckpt -o save.trace --profile checkpoint-save --checkpoint-ranks 8 --checkpoint-bytes 1GiB --epochs 3 --step-time 10s",
    "tracekit record /mnt/ckpt -o load.trace --profile checkpoint-load --num-workers 8",
)


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("record", epilog=_EXAMPLES)(_record)


@takes(RECORD, CHECKPOINT, LOADER)
def _record(
    uri: Annotated[
        str, typer.Argument(metavar="URI", help="A directory, prefix, glob or object: a path or a URI.")
    ],
    out: Annotated[str, typer.Option("-o", "--out", metavar="TRACE", help="Write the trace here.")],
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"A preset that other options override: {', '.join(PROFILES)}; or {SAVE}, which writes.",
            **choices((*PROFILES, SAVE)),
        ),
    ] = None,
    json: JsonOption = False,
    **options: Any,
) -> None:
    """Read a dataset with the built-in loader, or write checkpoints, and record every op."""
    with screen.progress("record") as advance:
        result = record(uri, out, profile=profile, watch=advance, **options)
    if json:
        screen.emit_json(result.to_dict())
    else:
        _show(result)
    if result.interrupted:
        raise typer.Exit(130)


def _show(result: RecordResult) -> None:
    say = screen.console.print
    rate = format_rate(result.sample_bytes * 1e9 / max(1, result.duration_ns))
    if result.interrupted:
        say(Text("interrupted: what was recorded is a whole trace", "yellow"))
    say(
        f"{counted(result.ops, 'op')}, {counted(result.steps, 'step')}, {counted(result.samples, 'sample')}, "
        f"{format_size(result.sample_bytes)} "
        f"in {format_duration(result.duration_ns)} ({rate})",
        soft_wrap=True,
    )
    say(f"recorded in {result.out}", soft_wrap=True)
