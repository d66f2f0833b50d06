"""`tracekit replay`: re-drive a trace, record that, print parity against the recording."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from tracekit.cli import screen
from tracekit.cli.options import (
    AccountOption,
    AnonymousOption,
    ClientOption,
    EndpointOption,
    JsonOption,
    RegionOption,
    RetriesOption,
    TimeoutOption,
    TraceArgument,
    duration,
    examples,
    size,
)
from tracekit.replayer.checks import PlanSummary
from tracekit.replayer.options import Filters, ReplayOptions
from tracekit.replayer.result import ReplayResult
from tracekit.replayer.run import dry_run, replay
from tracekit.reporting.table import parity_table
from tracekit.units import format_count, format_duration, format_size

__all__ = ["register"]

_EXAMPLES = examples(
    "tracekit replay run.trace  # the same files, the recorded cadence",
    "tracekit replay run.trace --map file:///data=direct:///mnt/nvme/data -o nvme.trace",
    "tracekit replay run.trace --pace closed --max-bytes-in-flight 64MiB --json",
    "tracekit replay run.trace --dry-run  # what it would do, and what is missing",
)


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
    workers_model: Annotated[
        str, typer.Option(help="Rule of closed pacing: auto, pool, stream or recorded.")
    ] = "auto",
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
    op: Annotated[
        list[str] | None, typer.Option(help="Only these kinds: read, get, put. Repeatable.")
    ] = None,
    sample: Annotated[list[int] | None, typer.Option(help="Only these sample ids. Repeatable.")] = None,
    sample_rate: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Only this share of the streams (or files), each whole."),
    ] = None,
    sample_by: Annotated[str, typer.Option(help="What --sample-rate samples: stream or file.")] = "stream",
    sample_seed: Annotated[int, typer.Option(help="Which streams or files it takes.")] = 0,
    max_gap: Annotated[
        str | None, typer.Option(metavar="TIME", help="Squeeze longer pauses to this.")
    ] = None,
    loop: Annotated[int, typer.Option(metavar="N", help="Replay the whole N times.")] = 1,
    engine: Annotated[
        str, typer.Option(help="threads, loop (object stores), or auto: what suits the target.")
    ] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Workers a process (loop: requests at once); chosen from the trace unless given.",
        ),
    ] = None,
    processes: Annotated[
        int | None, typer.Option(metavar="N", help="Worker processes; chosen from the rate unless given.")
    ] = None,
    realtime: Annotated[
        bool, typer.Option("--realtime", help="Run the client under SCHED_FIFO (needs the right to).")
    ] = False,
    cold: Annotated[
        bool, typer.Option("--cold", help="Drop the trace's local files from the page cache first.")
    ] = False,
    warm: Annotated[bool, typer.Option("--warm", help="Read them into the page cache first.")] = False,
    allow_writes: Annotated[
        bool, typer.Option("--allow-writes", help="Replay puts too, under mapped targets only.")
    ] = False,
    dry_run_: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and what the target lacks; replay nothing.")
    ] = False,
    tolerance: Annotated[float, typer.Option(help="Parity tolerance, a fraction.")] = 0.15,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace an existing OUT and, with --allow-writes, existing objects."
        ),
    ] = False,
    client: ClientOption = None,
    endpoint: EndpointOption = None,
    region: RegionOption = None,
    account: AccountOption = None,
    anonymous: AnonymousOption = None,
    timeout_s: TimeoutOption = None,
    retries: RetriesOption = None,
    json: JsonOption = False,
) -> None:
    """Re-drive a trace and measure parity. Exit 1 if an op failed or parity does not hold."""
    options = ReplayOptions(
        mapping=tuple(map_ or ()),
        pace=pace,
        workers_model=workers_model,
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
            ops=tuple(op) if op else None,
            sample_rate=sample_rate,
            sample_by=sample_by,
            sample_seed=sample_seed,
        ),
        max_gap_ns=duration("--max-gap", max_gap),
        loops=loop,
        engine=engine,
        threads=threads,
        processes=processes,
        realtime=realtime,
        cold=cold,
        warm=warm,
        allow_writes=allow_writes,
        overwrite_objects=overwrite and allow_writes,
        tolerance=tolerance,
        client=client,
        endpoint=endpoint,
        region=region,
        account=account,
        anonymous=anonymous,
        timeout_s=timeout_s,
        retries=retries,
    )
    if dry_run_:
        _dry_run(dry_run(trace, options), json=json)
        return
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
            f"interrupted: {format_count(result.ops)} of {format_count(result.planned_ops)} ops replayed",
            style="yellow",
        )
    say(parity_table(result.parity))
    _show_times(result)
    for name, there in (("before", result.residency_before), ("after", result.residency_after)):
        if there is not None:
            cached = f"{format_size(there.resident_bytes)} of {format_size(there.bytes)}"
            say(f"page cache {name}: {cached} ({there.share:.0%})")
    for warning in result.warnings:
        say(f"warning: {warning}", style="yellow", soft_wrap=True)
    if result.assumed_offsets:
        say(
            f"{format_count(result.assumed_offsets)} ops had no offset: each was taken to follow the last of its file"
        )
    if result.assumed_lengths:
        say(f"{format_count(result.assumed_lengths)} ops had no length: each read to the end of its file")
    _show_skipped(result.skipped)
    if result.failed_ops:
        say(Text.assemble((f"{format_count(result.failed_ops)} ops failed", "red"), ", first:"))
        for failure in result.failures:
            say(
                f"  {failure['error']}: {failure['uri']} offset {failure['offset']} len {failure['len']}",
                soft_wrap=True,
            )
    if result.out is not None:
        say(f"recorded in {result.out}", soft_wrap=True)


def _show_times(result: ReplayResult) -> None:
    say, timing = screen.console.print, result.timing
    if timing.get("response_p99_ns") is not None:
        say(
            f"p99: service {format_duration(timing['service_p99_ns'])}, response {format_duration(timing['response_p99_ns'])}"
            f" (gate {format_duration(timing['gate_p99_ns'])}, client {format_duration(timing['client_p99_ns'])});"
            f" drift {timing['drift'] or 0:.4%}",
            soft_wrap=True,
        )
    limits = {
        "none": ("the client kept up", "green"),
        "gate": ("the in-flight cap was the limit", "yellow"),
        "workers": ("the number of workers was the limit", "yellow"),
        "client": ("the client was the limit, not the storage", "yellow"),
        "storage": ("the storage was the limit", ""),
    }
    say(Text.assemble(limits[result.verdict.limit], f": {result.verdict.reason}"), soft_wrap=True)


def _show_skipped(skipped: dict[str, int]) -> None:
    others = {kind: n for kind, n in sorted(skipped.items()) if kind not in ("hint", "put")}
    if others:
        told = ", ".join(f"{format_count(n)} {kind}" for kind, n in others.items())
        screen.console.print(f"not replayed: {told}")
    if puts := skipped.get("put"):
        screen.console.print(
            Text.assemble((f"{format_count(puts)} puts refused", "yellow"), ": give --allow-writes")
        )


def _dry_run(summary: PlanSummary, *, json: bool) -> None:
    if json:
        screen.emit_json(summary.to_dict())
        return
    say = screen.console.print
    say(
        f"{format_count(summary.ops)} ops ({format_count(summary.puts)} puts), {format_size(summary.bytes)},"
        f" {format_count(summary.files)} files, over {format_duration(summary.span_ns)}"
    )
    say(
        f"peak in flight: {format_count(summary.peak_ops_in_flight)} ops, {format_size(summary.peak_bytes_in_flight)}"
    )
    for what, uris in (
        ("missing at the target", summary.missing),
        ("too small at the target", summary.too_small),
    ):
        if uris:
            say(
                Text.assemble((f"{format_count(len(uris))} objects {what}", "yellow"), f", first: {uris[0]}"),
                soft_wrap=True,
            )
    if summary.assumed_offsets:
        say(
            f"{format_count(summary.assumed_offsets)} ops have no offset: each will follow the last of its file"
        )
    _show_skipped(summary.skipped)
