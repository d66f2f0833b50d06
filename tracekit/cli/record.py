"""`tracekit record`: run the built-in loader over a dataset and record every op of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from tracekit.cli import screen
from tracekit.cli.options import JsonOption, OverwriteOption, examples
from tracekit.errors import UsageError
from tracekit.loader.options import LOADING_MODES, RANDOM_INDEX_MODES, READER_MODES, LoaderOptions
from tracekit.loader.profiles import PROFILES, profile
from tracekit.loader.record import RecordResult, record
from tracekit.units import format_count, format_duration, format_rate, format_size

__all__ = ["register"]

_EXAMPLES = examples(
    "tracekit record /data/train -o run.trace --profile torch",
    "tracekit record 'file:///data/shards/*.tar' -o run.trace --sample-bytes 128KiB --shuffle --num-workers 8",
    "tracekit record s3://bucket/train -o run.trace --reader-mode range --target-request-bytes 1MiB --max-bytes-in-flight 64MiB",
    "tracekit record direct:///data/train -o run.trace --steps 100 --step-time 50ms",
)
_ORDER, _READING, _STORE = "Which samples, in which order", "How they are read", "Object stores"


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("record", epilog=_EXAMPLES)(_record)


def _flag(help_: str, panel: str, metavar: str | None = None, *names: str) -> Any:
    return typer.Option(*names, help=help_, rich_help_panel=panel, metavar=metavar, show_default=False)


def _one_of(choices: tuple[str, ...]) -> str:
    return " | ".join(choices)


def _record(
    uri: Annotated[str, typer.Argument(metavar="URI", help="A directory, prefix, glob or object: path or file://, direct://, s3://, az://.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="TRACE", help="Where the trace goes.")],
    profile_: Annotated[str | None, typer.Option("--profile", metavar="NAME", help=f"Preset: {', '.join(PROFILES)}. Options given besides win.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Read the dataset this often.")] = 1,
    steps: Annotated[int | None, typer.Option(min=1, help="Stop after this many batches.")] = None,
    step_time: Annotated[str | None, typer.Option(metavar="TIME", help="Think for this long after each batch, such as 50ms.")] = None,
    join: Annotated[bool, typer.Option("--join", help="Add to a trace that other ranks record.")] = False,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    batch_size: Annotated[int | None, _flag("Samples a batch (32).", _ORDER, "N")] = None,
    drop_last: Annotated[bool | None, _flag("Leave out the batch that is not full (no).", _ORDER)] = None,
    shuffle: Annotated[bool | None, _flag("Read in a random order (no).", _ORDER)] = None,
    shuffle_buffer: Annotated[int | None, _flag("Shuffle through a buffer of N samples: close to sequential.", _ORDER, "N")] = None,
    random_index_mode: Annotated[str | None, _flag(f"Draw samples with replacement: {_one_of(RANDOM_INDEX_MODES)} (none).", _ORDER, "MODE")] = None,
    zipf_theta: Annotated[float | None, _flag("How hot the hottest samples are, for zipfian (0.99).", _ORDER, "X")] = None,
    seed: Annotated[int | None, _flag("Of everything random (0).", _ORDER, "N")] = None,
    shard_rank: Annotated[int | None, _flag("Read the share of this rank (0).", _ORDER, "N")] = None,
    shard_world_size: Annotated[int | None, _flag("Of this many ranks (1).", _ORDER, "N")] = None,
    shard_mode: Annotated[str | None, _flag("even | pad | uneven: whether every rank has the same number of batches (even).", _ORDER, "MODE")] = None,
    reshuffle_hot_set: Annotated[bool | None, _flag("With shuffle, zipfian draws prefer other samples in each epoch (no).", _ORDER)] = None,
    sample_bytes: Annotated[str | None, _flag("Cut objects into samples of this size (an object is a sample).", _ORDER, "SIZE")] = None,
    num_workers: Annotated[int | None, _flag("Workers that read (4).", _READING, "N")] = None,
    prefetch: Annotated[int | None, _flag("Batches read ahead (2).", _READING, "N")] = None,
    loading_mode: Annotated[str | None, _flag(f"{_one_of(LOADING_MODES)} (prefetch).", _READING, "MODE")] = None,
    reader_mode: Annotated[str | None, _flag(f"{_one_of(READER_MODES)} (sequential).", _READING, "MODE")] = None,
    target_request_bytes: Annotated[str | None, _flag("Size of a request, or none for whole samples (128KiB).", _READING, "SIZE")] = None,
    on_error: Annotated[str | None, _flag("raise | skip: what to do with a sample that fails (raise).", _READING, "MODE")] = None,
    max_bytes_in_flight: Annotated[str | None, _flag("In-flight cap (none).", _READING, "SIZE")] = None,
    page_cache_mode: Annotated[str | None, _flag("default | fadvise_sequential | fadvise_random | dontneed | direct_io (default).", _READING, "MODE")] = None,
    client: Annotated[str | None, _flag("Client library; see docs/backends.md.", _STORE, "NAME")] = None,
    endpoint: Annotated[str | None, _flag("Endpoint URL.", _STORE, "URL")] = None,
    region: Annotated[str | None, _flag("Region (s3).", _STORE, "NAME")] = None,
    account: Annotated[str | None, _flag("Storage account (az).", _STORE, "NAME")] = None,
    anonymous: Annotated[bool | None, _flag("Sign no request.", _STORE)] = None,
    timeout_s: Annotated[float | None, _flag("Seconds to wait for the next byte.", _STORE, "X", "--timeout-s")] = None,
    retries: Annotated[int | None, _flag("How often a failed request is sent again.", _STORE, "N")] = None,
) -> None:  # fmt: skip
    """Read a dataset with the built-in loader and record every op."""
    given = {name: value for name, value in locals().items() if name in LoaderOptions.__slots__}
    given = {name: value for name, value in given.items() if value is not None}
    given |= _words(given, shuffle, shuffle_buffer)
    options = profile(profile_, **given) if profile_ else LoaderOptions(**given)
    with screen.progress("record") as advance:
        result = record(
            uri,
            out,
            options,
            epochs=epochs,
            steps=steps,
            step_time=step_time or 0,
            overwrite=overwrite,
            join=join,
            watch=advance,
        )
    if json:
        screen.emit_json(result.to_dict())
    else:
        _show(result)
    if result.interrupted:
        raise typer.Exit(130)


def _words(given: dict[str, Any], shuffle: bool | None, shuffle_buffer: int | None) -> dict[str, Any]:
    """Options whose flags say the same in other words."""
    changed: dict[str, Any] = {}
    for name in ("target_request_bytes", "max_bytes_in_flight", "sample_bytes"):
        if str(given.get(name, "")).lower() == "none":
            changed[name] = None
    if shuffle_buffer is not None:
        if shuffle is False:
            raise UsageError("--no-shuffle and --shuffle-buffer exclude each other", "give one")
        changed["shuffle"] = shuffle_buffer
    return changed


def _show(result: RecordResult) -> None:
    say = screen.console.print
    rate = format_rate(result.sample_bytes * 1e9 / max(1, result.duration_ns))
    if result.interrupted:
        say(Text("interrupted: what was recorded is a whole trace", "yellow"))
    say(
        f"{format_count(result.ops)} ops, {format_count(result.steps)} steps, "
        f"{format_count(result.samples)} samples, {format_size(result.sample_bytes)} "
        f"in {format_duration(result.duration_ns)} ({rate})",
        soft_wrap=True,
    )
    say(f"recorded in {result.out}", soft_wrap=True)
