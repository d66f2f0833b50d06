"""`tracekit replay`: re-drive a trace, record that, print parity against the recording."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tracekit.cli import screen
from tracekit.cli.options import JsonOption, OverwriteOption, TraceArgument, duration, size
from tracekit.replay.engine import ReplayOptions, replay
from tracekit.replay.options import Filters
from tracekit.replay.result import ReplayResult
from tracekit.report.table import parity_table
from tracekit.units import format_count, format_duration

__all__ = ["register"]

_EXAMPLES = """Examples:
[bold]tracekit replay run.trace[/bold] (same files, recorded cadence)
[bold]tracekit replay run.trace --map file:///data=direct:///mnt/nvme/data -o nvme.trace[/bold]
[bold]tracekit replay run.trace --pace closed --max-bytes-in-flight 64MiB --json[/bold]"""


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("replay", epilog=_EXAMPLES)(_replay)


def _replay(
    trace: TraceArgument,
    map_: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="FROM=TO",
            help="Rewrite URIs by prefix (longest wins), or ~REGEX=TO. Repeatable.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="OUT", help="Keep the replay's own trace here.")
    ] = None,
    pace: Annotated[
        str, typer.Option(help="recorded (open loop), closed (order and think time) or asap.")
    ] = "recorded",
    speed: Annotated[float, typer.Option(help="Divide recorded times by this.")] = 1.0,
    max_bytes_in_flight: Annotated[
        str | None, typer.Option(metavar="SIZE", help="In-flight cap, such as 64MiB.")
    ] = None,
    max_ops_in_flight: Annotated[int | None, typer.Option(metavar="N", help="In-flight cap in ops.")] = None,
    page_cache_mode: Annotated[
        str, typer.Option(help="default, fadvise_sequential, fadvise_random, dontneed or direct_io.")
    ] = "default",
    start: Annotated[
        str | None, typer.Option(metavar="TIME", help="Skip what came before, such as 30s.")
    ] = None,
    end: Annotated[str | None, typer.Option(metavar="TIME", help="Skip what came after.")] = None,
    uri_glob: Annotated[str | None, typer.Option(metavar="GLOB", help="Only these recorded URIs.")] = None,
    rank: Annotated[list[int] | None, typer.Option(help="Only these ranks. Repeatable.")] = None,
    worker: Annotated[list[int] | None, typer.Option(help="Only these workers. Repeatable.")] = None,
    sample: Annotated[list[int] | None, typer.Option(help="Only these sample ids. Repeatable.")] = None,
    max_gap: Annotated[
        str | None, typer.Option(metavar="TIME", help="Squeeze longer pauses to this.")
    ] = None,
    loop: Annotated[int, typer.Option(metavar="N", help="Replay the whole N times.")] = 1,
    threads: Annotated[
        int | None, typer.Option(metavar="N", help="Worker threads; chosen from the trace unless given.")
    ] = None,
    tolerance: Annotated[float, typer.Option(help="Parity tolerance, a fraction.")] = 0.15,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Re-drive a trace and measure parity. Exit 1 if an op failed or parity does not hold."""
    options = ReplayOptions(
        mapping=tuple(map_ or ()),
        pace=pace,
        speed=speed,
        max_bytes_in_flight=size("--max-bytes-in-flight", max_bytes_in_flight),
        max_ops_in_flight=max_ops_in_flight,
        page_cache_mode=page_cache_mode,
        filters=Filters(
            start_ns=duration("--start", start),
            end_ns=duration("--end", end),
            uri_glob=uri_glob,
            ranks=tuple(rank) if rank else None,
            workers=tuple(worker) if worker else None,
            samples=tuple(sample) if sample else None,
        ),
        max_gap_ns=duration("--max-gap", max_gap),
        loops=loop,
        threads=threads,
        tolerance=tolerance,
    )
    with screen.progress("replay") as advance:
        result = replay(trace, options, out=out, overwrite=overwrite, watch=advance)
    if json:
        screen.emit_json(result.to_dict())
    else:
        _show(result)
    if result.partial:
        raise typer.Exit(130)
    if not result.ok:
        raise typer.Exit(1)


def _show(result: ReplayResult) -> None:
    say = screen.console.print
    if result.partial:
        say(
            f"[yellow]interrupted: {format_count(result.ops)} of {format_count(result.planned_ops)} ops replayed[/yellow]"
        )
    say(parity_table(result.parity))
    timing = result.timing
    if timing.get("response_p99_ns") is not None:
        say(
            f"p99: service {format_duration(timing['service_p99_ns'])}, response {format_duration(timing['response_p99_ns'])}"
            f" (gate {format_duration(timing['gate_p99_ns'])}, client {format_duration(timing['client_p99_ns'])});"
            f" drift {timing['drift'] or 0:.4%}",
            soft_wrap=True,
        )
    if result.assumed_offsets:
        say(
            f"{format_count(result.assumed_offsets)} ops had no offset: each was taken to follow the last of its file"
        )
    if result.assumed_lengths:
        say(f"{format_count(result.assumed_lengths)} ops had no length: each read to the end of its file")
    skipped = {kind: n for kind, n in result.skipped.items() if kind != "hint"}
    if skipped:
        say("not replayed: " + ", ".join(f"{format_count(n)} {kind}" for kind, n in sorted(skipped.items())))
    if result.failed_ops:
        say(f"[red]{format_count(result.failed_ops)} ops failed[/red], first:")
        for failure in result.failures:
            say(
                f"  {failure['error']}: {failure['uri']} offset {failure['offset']} len {failure['len']}",
                soft_wrap=True,
            )
    if result.out is not None:
        say(f"recorded in {result.out}", soft_wrap=True)
