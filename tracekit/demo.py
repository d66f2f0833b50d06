"""The main job end to end, on real files made on the spot: what `tracekit demo` shows.

Dataset, recorded loader run, snapshot, replay in cadence against `file://` and
`direct://`, parity, picture. It uses public functions only; users may read it as a script.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.text import Text

from tracekit.backends.local.files import make_file
from tracekit.backends.registry import backend_for
from tracekit.errors import BackendError
from tracekit.loader.options import LoaderOptions
from tracekit.loader.record import record_loader
from tracekit.replayer.run import ReplayOptions, replay
from tracekit.reporting.plots import draw
from tracekit.reporting.table import parity_table, snapshot_tables
from tracekit.store.reader import open_reader
from tracekit.trace import open_trace
from tracekit.uri import from_path

__all__ = ["DEMO_OPTIONS", "MARKER", "run_demo"]

MARKER = "dataset"
SHARDS, SHARD_BYTES = 8, 32 << 20
STEP_TIME_NS = 50_000_000
DEMO_OPTIONS = LoaderOptions(
    batch_size=16,
    num_workers=4,
    prefetch=2,
    shuffle=True,
    seed=7,
    sample_bytes=256 << 10,
    reader_mode="range",
    target_request_bytes=64 << 10,
    max_bytes_in_flight=4 << 20,
)
"""256 KiB samples of shards, shuffled, by range reads of 64 KiB, 4 MiB in flight at most."""


def run_demo(
    folder: Path, *, say: Callable[[Any], None], progress: Callable[[int, int | None, str], None]
) -> bool:
    """Run the demo in `folder`; whether every replay held parity. `say` takes text and rich tables."""
    dataset = folder / MARKER
    _make_dataset(dataset, lambda done: progress(done, SHARDS, "dataset"))
    say(_line("dataset", f"{SHARDS} shards of {SHARD_BYTES >> 20} MiB in {dataset}"))

    recording = folder / "run.trace"
    done = record_loader(
        from_path(dataset), recording, DEMO_OPTIONS, step_time_ns=STEP_TIME_NS,
        watch=lambda done, total=None, note="": progress(done, total, "record"),
    )  # fmt: skip
    say(
        _line(
            "recorded",
            f"{done.ops:,} ops of a shuffled loader with 4 workers, {done.steps} steps, in {recording}\n",
        )
    )
    for table in snapshot_tables(open_trace(recording).snapshot()):
        say(table)

    whole = True
    for scheme in ("file", "direct"):
        target = from_path(dataset, scheme)
        try:
            backend_for(target).preflight(target)
        except BackendError as error:
            say(Text.assemble((f"\nno replay on {scheme}://", "yellow"), f": {error}"))
            continue
        out = folder / f"replay-{scheme}.trace"
        result = replay(
            recording, ReplayOptions(mapping=(f"{from_path(dataset)}={target}",)), out=out,
            watch=partial(_watch, progress, scheme),
        )  # fmt: skip
        whole = whole and result.ok
        say("")
        say(_line("replayed", f"on {scheme}://, in cadence, recorded in {out}"))
        say(parity_table(result.parity))

    picture = folder / "demo.png"
    draw(["offsets", "throughput", "latency-cdf"], open_reader(recording), picture,
         against=open_reader(folder / "replay-file.trace"))  # fmt: skip
    say("")
    say(_line("picture", str(picture)))
    say(_line("next", f'tracekit query {recording} "SELECT uri, count(*) AS ops FROM ops GROUP BY uri"'))
    return whole


def _line(what: str, told: str) -> Text:
    return Text.assemble((f"{what:<10}", "bold"), told)


def _watch(
    progress: Callable[[int, int | None, str], None], scheme: str, done: int, total: int, note: str
) -> None:
    progress(done, total, f"replay {scheme}: {note}")


def _make_dataset(folder: Path, advance: Callable[[int], None]) -> None:
    """Shards of seeded random bytes, on the disk and out of the page cache: a loader's first epoch."""
    folder.mkdir(parents=True)
    for index in range(SHARDS):
        make_file(from_path(folder / f"train-{index:05d}.bin"), SHARD_BYTES, seed=index)
        advance(index + 1)
