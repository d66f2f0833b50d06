"""`tracekit watch`: the numbers of a trace while it is being written."""

from __future__ import annotations

import json as json_format
import sys
from collections.abc import Iterable
from contextlib import closing
from typing import Annotated

import typer

from tracekit.cli import screen
from tracekit.cli.arguments import JsonOption, TraceArgument, examples
from tracekit.extras import require
from tracekit.live.export import exporting
from tracekit.live.reading import Reading
from tracekit.live.watching import Watcher, readings
from tracekit.units import format_count, format_duration, format_rate, format_size

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command(
        "watch",
        epilog=examples(
            "tracekit watch run.trace  # the screen; q ends it",
            "tracekit watch run.trace --json  # one line of JSON a second; waits if the recording has not begun",
            "tracekit watch run.trace --prometheus 9464 --otlp http://localhost:4318",
        ),
    )(_watch)


def _watch(
    trace: TraceArgument,
    interval: Annotated[str, typer.Option(metavar="DURATION", help="Length of an interval.")] = "1s",
    wait: Annotated[
        bool,
        typer.Option(
            "--wait", help="Do not show a trace that is complete: wait for the next recording there."
        ),
    ] = False,
    prometheus: Annotated[
        str | None,
        typer.Option(
            metavar="[HOST:]PORT", help="Serve the numbers to Prometheus; on the loopback by default."
        ),
    ] = None,
    otlp: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Send the numbers to an OTLP/HTTP collector, such as http://localhost:4318."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show rates, latency, workers and slow files of a recording or a capture while it runs, until it ends."""
    try:
        if json or not sys.stdout.isatty():
            watcher = Watcher(trace, interval=interval, wait=wait)
            found = readings(
                watcher, prometheus=prometheus, otlp=otlp, said=lambda what: screen.note(f"{trace}: {what}")
            )
            _print(trace, found, json=json)
        else:
            _show(trace, interval=interval, wait=wait, prometheus=prometheus, otlp=otlp)
    except KeyboardInterrupt:  # the usual way to end a watch
        raise typer.Exit(130) from None


def _print(trace: str, found: Iterable[Reading], *, json: bool) -> None:
    reading = None
    for reading in found:
        line = json_format.dumps(reading.to_dict()) if json else _line(reading)
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    if reading is None:
        screen.note(f"{trace}: no op was recorded")


def _line(reading: Reading) -> str:
    moved = [rate for rate in (reading.read_bytes_per_s, reading.write_bytes_per_s) if rate is not None]
    return ", ".join(
        [
            f"{format_count(round(reading.ops_per_s, 1))} ops/s",
            format_rate(sum(moved)) if moved else "bytes unknown",
            "latency unknown"
            if reading.latency is None
            else f"p99 {format_duration(reading.latency.p99_ns)}",
            "in flight unknown" if reading.in_flight is None else f"{reading.in_flight:.2f} in flight",
            f"{format_count(reading.failed_ops)} failed",
            f"{format_count(reading.total_ops)} ops in all",
        ]
    )


def _show(trace: str, *, interval: str, wait: bool, prometheus: str | None, otlp: str | None) -> None:
    require("textual", extra="live")
    from tracekit.live.screen import WatchScreen

    watcher = Watcher(trace, interval=interval, wait=wait)
    with closing(watcher), exporting(watcher.interval_ns, prometheus=prometheus, otlp=otlp) as publish:
        app = WatchScreen(watcher, trace, publish)
        ending = app.run()
    if app.failure is not None:
        raise app.failure
    what = "the recording ended" if ending == "ended" else watcher.waits_for or "still being written"
    if app.last is None:
        screen.say(f"{trace}: no op {'was recorded' if ending == 'ended' else 'yet'}; {what}")
    else:
        moved = "" if app.last.total_bytes is None else f", {format_size(app.last.total_bytes)}"
        screen.say(f"{trace}: {format_count(app.last.total_ops)} ops{moved}; {what}")
    if ending == "interrupted":
        raise typer.Exit(130)
