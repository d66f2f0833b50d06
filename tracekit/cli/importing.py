"""`tracekit import`: another tool's log as a trace."""

from __future__ import annotations

from typing import Annotated

import typer

import tracekit
from tracekit.cli import screen
from tracekit.cli.arguments import JsonOption, OverwriteOption, choices, examples
from tracekit.formats.base import WAIT_UNITS
from tracekit.formats.registry import importers
from tracekit.formats.text.presets import FORMATS, PRESETS
from tracekit.units import format_count

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command(
        "import",
        epilog=examples(
            "tracekit import dftracer run.pfw.gz -o run.trace",
            "tracekit import csv io.csv --map-columns uri=dev,t_submit=when:us,len=size -o run.trace",
            "tracekit import s3-access-log 'logs/2026-*' --since 2026-01-31T12:00:00Z -o day.trace",
            "zstdcat hm_0.csv.zst | tracekit import csv - --map-columns msr -o hm_0.trace",
        ),
    )(_import)


def _list(wanted: bool) -> None:
    if wanted:
        rows = [(name, preset.format, preset.about) for name, preset in PRESETS.items()]
        rows += [("-", name, about) for name, about in FORMATS.items()]
        screen.show_rows(("preset", "format", "traces"), rows)
        raise typer.Exit


def _import(
    format: Annotated[
        str,
        typer.Argument(metavar="FORMAT", help=f"One of {', '.join(importers())}.", **choices(importers())),
    ],
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="SRC...",
            help="The other tool's logs: files, globs, URIs or - for standard input; compressed or plain.",
        ),
    ],
    out: Annotated[str, typer.Option("-o", "--out", metavar="TRACE", help="The new trace.")],
    strict: Annotated[
        bool,
        typer.Option("--strict/--lenient", help="Stop at the first bad line, or count bad lines and go on."),
    ] = False,
    map_columns: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="csv, jsonl: COLUMN=SOURCE[:UNIT],... or a preset; #N is the Nth column, a.b a key in a JSON object.",
            **choices(PRESETS),
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(metavar="URI", help="The prefix of names without a scheme, such as s3://bucket/."),
    ] = None,
    separator: Annotated[
        str | None, typer.Option(metavar="CHAR", help="csv: one character, tab or space.")
    ] = None,
    map_ops: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="csv, jsonl, warp, s3dlio: what op words mean, 'WORD=KIND,...'; KIND none leaves them out.",
        ),
    ] = None,
    wait_unit: Annotated[
        str,
        typer.Option(
            metavar="ms|us",
            help="fio v2: waits are ms since the job's start (as fio replays them) or us since the line before.",
            **choices(WAIT_UNITS),
        ),
    ] = "ms",
    block_bytes: Annotated[
        str,
        typer.Option(
            metavar="SIZE", help="mooncake: the size of a KV-cache block, for which the log has a hash only."
        ),
    ] = "160MiB",
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Keep ops from this time on: RFC 3339, seconds since 1970, or a time since the first op (90s).",
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Keep ops before this time, given in the same way.")
    ] = None,
    presets: Annotated[
        bool,
        typer.Option(
            "--presets", help="List the presets for --map-columns and exit.", is_eager=True, callback=_list
        ),
    ] = False,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Read another tool's log into a trace, which appears whole or not at all."""
    with screen.working("import"):
        done = tracekit.import_trace(
            format,
            source,
            out,
            strict=strict,
            overwrite=overwrite,
            map_columns=map_columns,
            base=base,
            separator=separator,
            map_ops=map_ops,
            wait_unit=wait_unit,
            block_bytes=block_bytes,
            since=since,
            until=until,
        )
    if json:
        screen.emit_json({"out": str(out), **done.to_dict()})
        return
    screen.say(f"{format_count(done.ops)} ops in {out}")
    if done.skipped:
        screen.note(f"{format_count(done.skipped)} lines skipped, the first:")
        for example in done.examples:
            screen.note(f"  {example}")
    screen.notes(done.notes)
    screen.note(f"note: {done.closing}")
