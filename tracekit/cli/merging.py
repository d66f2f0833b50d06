"""`tracekit merge`: join the traces of many hosts on one time axis."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tracekit.cli import screen
from tracekit.cli.arguments import JsonOption, examples
from tracekit.cli.arguments import traces as complete
from tracekit.cli.options import takes
from tracekit.scale.merging import Merged, merge
from tracekit.scale_options import MERGE
from tracekit.units import format_count, format_duration

__all__ = ["register"]

_EXAMPLES = examples(
    "tracekit merge h0.trace h1.trace h2.trace -o all.trace",
    "tracekit merge h*.trace -o all.trace --offset h1=-250us --clock-error 20us",
    "tracekit ask all.trace stragglers  # which rank kept the others waiting",
)


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("merge", epilog=_EXAMPLES)(_merge)


@takes(MERGE)
def _merge(
    traces: Annotated[
        list[str],
        typer.Argument(
            metavar="TRACE...",
            help="The traces: directories, Parquet files, or quoted globs of them.",
            autocompletion=complete,
        ),
    ],
    out: Annotated[str, typer.Option("-o", "--out", metavar="ALL", help="Write the merged trace here.")],
    json: JsonOption = False,
    **options: Any,
) -> None:
    """Join the traces of many hosts on one time axis. Nothing is lost; the clock error is kept."""
    with screen.working("merge"):
        done = merge(traces, out, **options)
    if json:
        screen.emit_json(done.to_dict())
    else:
        _show(done)


def _show(done: Merged) -> None:
    screen.say(f"{format_count(done.ops)} ops of {done.traces} traces in {done.out}")
    for host in done.hosts:
        error = "unknown" if host.error_ns is None else f"at most {format_duration(host.error_ns)}"
        sign = "-" if host.offset_ns < 0 else "+"
        screen.say(
            f"  {host.trace} on {host.host or 'an unknown host'}: {format_count(host.ops)} ops, clock "
            f"{sign}{format_duration(abs(host.offset_ns))}, error {error}"
        )
        if host.ranks:
            changed = ", ".join(f"{old} is now {new}" for old, new in sorted(host.ranks.items()))
            screen.say(f"    ranks numbered anew: {changed}")
    if done.unfinished:
        screen.note(f"{done.unfinished} segments were unfinished: being recorded, or left by a crash")
    if done.clock_error_ns is None:
        screen.note(
            "how well the clocks agree is unknown: the order of ops of different hosts is as good as their wall clocks"
        )
