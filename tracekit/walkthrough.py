"""The main job from end to end on files made on the spot: what `tracekit demo` does.

It makes a dataset, records a loader over it, replays the trace at its recorded pace on `file://`
and `direct://`, compares, and draws a picture. It can be read as an example.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from tracekit.backends.local.files import make_file
from tracekit.backends.registry import backend_for
from tracekit.errors import BackendError, UsageError
from tracekit.loader.options import LoaderOptions
from tracekit.loader.record import RecordResult, record
from tracekit.metrics.snapshot import MetricsSnapshot
from tracekit.replayer.result import ReplayResult
from tracekit.replayer.run import replay
from tracekit.reporting.plots import draw
from tracekit.store.manifest import read_manifest
from tracekit.trace import open_trace
from tracekit.uri import from_path, local_file

__all__ = ["DEMO_OPTIONS", "DemoResult", "demo"]

_DATASET, _RECORDING, _PICTURE = "dataset", "run.trace", "demo.png"
_TRACES = (_RECORDING, "replay-file.trace", "replay-direct.trace")
_SHARD = re.compile(r"train-\d{5}\.bin")
SHARDS, SHARD_BYTES = 8, 32 << 20
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


class Watch(Protocol):
    """Is called as the demo goes: what is done, of how much, and of what."""

    def __call__(self, done: int, total: int | None = None, note: str = "") -> None: ...


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo made and measured. `replays` and `refused` are keyed by URI scheme.

    `refused` says why a scheme could not be replayed, as `direct://` on a file system without O_DIRECT.
    """

    dataset: Path
    recording: Path
    picture: Path
    recorded: RecordResult
    snapshot: MetricsSnapshot
    replays: dict[str, ReplayResult]
    refused: dict[str, str]

    @property
    def ok(self) -> bool:
        """Whether every replay held parity."""
        return all(result.ok for result in self.replays.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return {
            "ok": self.ok,
            "dataset": str(self.dataset),
            "recording": str(self.recording),
            "picture": str(self.picture),
            "recorded": self.recorded.to_dict(),
            "snapshot": self.snapshot.to_dict(),
            "replays": {scheme: result.to_dict() for scheme, result in self.replays.items()},
            "refused": dict(self.refused),
        }


def demo(
    out: str | os.PathLike[str] = "demo", *, overwrite: bool = False, watch: Watch | None = None
) -> DemoResult:
    """Make a dataset, record a loader over it, measure, replay at the recorded pace, compare, and draw.

    Everything is made in the directory `out` (300 MiB). With `overwrite`, an earlier demo there is
    replaced. Raises UsageError if `out` holds anything else.
    """
    folder = local_file(out)
    _make_room(folder, overwrite=overwrite)
    advance: Watch = watch or (lambda done, total=None, note="": None)
    dataset, recording = folder / _DATASET, folder / _RECORDING
    _make_dataset(dataset, lambda done: advance(done, SHARDS, "dataset"))
    recorded = record(from_path(dataset), recording, DEMO_OPTIONS, step_time="50ms", watch=advance)
    replays: dict[str, ReplayResult] = {}
    refused: dict[str, str] = {}
    for scheme in ("file", "direct"):
        target = from_path(dataset, scheme)
        try:
            backend_for(target).preflight(target)
        except BackendError as error:
            refused[scheme] = str(error)
            continue
        replays[scheme] = replay(
            recording,
            map=f"{from_path(dataset)}={target}",
            out=folder / f"replay-{scheme}.trace",
            watch=partial(_replayed, advance, scheme),
        )
    picture = folder / _PICTURE
    draw(
        ["offsets", "throughput", "latency-cdf"],
        recording,
        picture,
        against=folder / "replay-file.trace",
    )
    snapshot = open_trace(recording).snapshot()
    return DemoResult(dataset, recording, picture, recorded, snapshot, replays, refused)


def _replayed(advance: Watch, scheme: str, done: int, total: int, note: str) -> None:
    advance(done, total, f"replay on {scheme}://: {note}")


def _make_room(folder: Path, *, overwrite: bool) -> None:
    """Remove an earlier demo from `folder`. Raises UsageError if anything else is there."""
    entries = sorted(folder.iterdir()) if folder.is_dir() else [folder] if folder.exists() else []
    foreign = next((entry for entry in entries if not _is_ours(entry)), None)
    if foreign is not None:
        raise UsageError(f"{foreign} is not part of an earlier demo", "choose another out=")
    if entries and not overwrite:
        raise UsageError(f"{folder} is not empty", "choose another out=, or give overwrite=True")
    for entry in entries:
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _is_ours(entry: Path) -> bool:
    if entry.name == _DATASET:
        return entry.is_dir() and all(_SHARD.fullmatch(file.name) for file in entry.iterdir())
    if entry.name in _TRACES:
        return entry.is_dir() and read_manifest(entry) is not None
    return entry.name == _PICTURE and entry.is_file()


def _make_dataset(folder: Path, advance: Callable[[int], None]) -> None:
    """Make shards of seeded random bytes, on the disk and out of the page cache, as before a first epoch."""
    folder.mkdir(parents=True)
    for index in range(SHARDS):
        make_file(from_path(folder / f"train-{index:05d}.bin"), SHARD_BYTES, seed=index)
        advance(index + 1)
