"""`tracekit replay`: re-drive a trace, record that, print parity against the recording."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from tracekit.cli import screen
from tracekit.cli.arguments import JsonOption, TraceArgument, examples
from tracekit.cli.flags import with_flags
from tracekit.cli.live import LiveOption, watched
from tracekit.cli.options import takes
from tracekit.errors import UsageError
from tracekit.options import DRY_RUN, REPLAY
from tracekit.replayer.checks import PlanSummary
from tracekit.replayer.kinds import CHANGES
from tracekit.replayer.result import ReplayResult
from tracekit.replayer.run import dry_run as summarize_replay
from tracekit.replayer.run import replay
from tracekit.reporting.table import parity_table
from tracekit.units import format_count, format_duration, format_size
from tracekit.uri import local_file

__all__ = ["register"]

_EXAMPLES = examples(
    "tracekit replay run.trace  # the same files, the recorded cadence",
    "tracekit replay run.trace --map file:///data=direct:///mnt/nvme/data -o nvme.trace",
    "tracekit replay run.trace --pace closed --max-bytes-in-flight 64MiB --json",
    "tracekit replay run.trace --dry-run  # what it would do, and what is missing",
)

_NAMES_SHOWN = 20


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("replay", epilog=_EXAMPLES)(_replay)


@takes(DRY_RUN, REPLAY)
def _replay(
    trace: TraceArgument,
    out: Annotated[
        str | None, typer.Option("-o", "--out", metavar="OUT", help="Keep the replay's own trace here.")
    ] = None,
    junit: Annotated[
        Path | None,
        typer.Option(parser=local_file, metavar="FILE", help="Write the judged metrics as JUnit XML."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print the plan and what the target lacks; replay nothing.", metavar=""
        ),
    ] = False,
    live: LiveOption = False,
    json: JsonOption = False,
    **options: Any,
) -> None:
    """Re-drive a trace and measure parity. Exit 1 if an op failed or parity does not hold."""
    if dry_run:
        with screen.working("plan"):
            summary = summarize_replay(trace, **options)
        _show_plan(summary, options.get("skip", ()), json=json)
        return
    if "latency" in options:
        raise UsageError("latency= is an option of dry_run=True", "give both, or neither")
    with ExitStack() as stack:
        if live:
            stack.enter_context(watched(out, live=True))
        advance = None if live else stack.enter_context(screen.progress("replay"))
        result = replay(trace, out=out, junit=junit, watch=advance, **options)
    if json:
        screen.emit_json(result.to_dict())
    else:
        _show(result)
    if result.partial and not result.failed_hosts:
        raise typer.Exit(130)
    if not result.ok:
        raise typer.Exit(1)


def _show(result: ReplayResult) -> None:
    say = screen.console.print
    if result.partial:
        why = "a host failed" if result.failed_hosts else "interrupted"
        say(
            f"{why}: {format_count(result.ops)} of {format_count(result.planned_ops)} ops replayed",
            style="yellow",
        )
    if result.not_issued.ops:
        say(f"not issued: {result.not_issued.in_words()}", style="yellow", soft_wrap=True)
    say(parity_table(result.parity))
    _show_times(result)
    for host in result.hosts:
        say(_host_in_words(host), soft_wrap=True)
    for name, there in (("before", result.residency_before), ("after", result.residency_after)):
        if there is not None:
            cached = f"{format_size(there.resident_bytes)} of {format_size(there.bytes)}"
            say(f"page cache {name}: {cached} ({there.share:.0%})")
    for warning in result.warnings:
        say(f"warning: {with_flags(warning)}", style="yellow", soft_wrap=True)
    if result.assumed_offsets:
        say(
            f"{format_count(result.assumed_offsets)} ops had no offset: each was assumed to follow the last op of its file"
        )
    if result.assumed_lengths:
        say(f"{format_count(result.assumed_lengths)} ops had no length: each read to the end of its file")
    _show_skipped(result.skipped, result.options["skip"])
    if result.failed_ops:
        say(Text.assemble((f"{format_count(result.failed_ops)} ops failed", "red"), ", first:"))
        for failure in result.failures:
            say(
                f"  {failure['error']}: {failure['uri']} offset {failure['offset']} len {failure['len']}",
                soft_wrap=True,
            )
    if result.out is not None:
        say(f"recorded in {result.out}", soft_wrap=True)


def _host_in_words(host: dict[str, Any]) -> str:
    error = host["clock_error_ns"]
    clock = "clock unknown" if error is None else f"clock error at most {format_duration(error)}"
    name = f" ({host['name']})" if host["name"] else ""
    return f"host {host['host']}{name}: {format_count(host['ops'])} ops of {host['streams']} streams, {clock}"


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
        "dependency": ("ops waited for the changes that they follow", "yellow"),
        "gate": ("the in-flight cap was the limit", "yellow"),
        "workers": ("the number of workers was the limit", "yellow"),
        "client": ("the client was the limit, not the storage", "yellow"),
        "storage": ("the storage was the limit", ""),
    }
    say(Text.assemble(limits[result.verdict.limit], f": {result.verdict.reason}"), soft_wrap=True)


def _show_skipped(skipped: dict[str, int], chosen: Sequence[str]) -> None:
    refused = {kind: n for kind, n in skipped.items() if kind in CHANGES and kind not in chosen}
    others = {kind: n for kind, n in sorted(skipped.items()) if kind not in ("hint", *refused)}
    if others:
        counts = ", ".join(f"{format_count(n)} {kind}" for kind, n in others.items())
        screen.console.print(f"not replayed: {counts}")
    if refused:
        counts = ", ".join(f"{format_count(n)} {kind}" for kind, n in sorted(refused.items()))
        screen.console.print(Text.assemble((f"refused: {counts}", "yellow"), ": give --allow-writes"))


def _show_plan(summary: PlanSummary, skip: Sequence[str], *, json: bool) -> None:
    if json:
        screen.emit_json(summary.to_dict())
        return
    say = screen.console.print
    say(
        f"{format_count(summary.ops)} ops ({format_count(sum(summary.changes.values()))} changes), {format_size(summary.bytes)},"
        f" {format_count(summary.files)} files, over {format_duration(summary.span_ns)}"
    )
    if summary.peak_ops_in_flight is None or summary.peak_bytes_in_flight is None:
        say("peak in flight: unknown, the trace has no latencies")
    else:
        say(
            f"peak in flight: {format_count(summary.peak_ops_in_flight)} ops, {format_size(summary.peak_bytes_in_flight)}"
        )
    if summary.predicted_duration_ns is not None:
        rule = f", {summary.loader_model}" if summary.loader_model else ""
        say(f"predicted duration: {format_duration(summary.predicted_duration_ns)}{rule}", soft_wrap=True)
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
            f"{format_count(summary.assumed_offsets)} ops have no offset: each is assumed to follow the last op of its file"
        )
    for what, names in (
        ("created", summary.creates),
        ("replaced", summary.replaces),
        ("renamed", summary.renames),
        ("deleted", summary.deletes),
    ):
        if names:
            say(f"{format_count(len(names))} objects would be {what}:")
            for name in names[:_NAMES_SHOWN]:
                say(Text(f"  {name}"), soft_wrap=True)
            if len(names) > _NAMES_SHOWN:
                say(f"  and {format_count(len(names) - _NAMES_SHOWN)} more (all with --json)")
    _show_skipped(summary.skipped, skip)
