"""Runs the loader over a dataset, or writes checkpoints, only to record it: what `tracekit record` does.

No batch is used here, so no bytes are kept. `step_time` stands in for the work of a consumer
between batches. An interrupt ends the run early and is not an error: the trace is whole.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, Unpack

from tracekit.backends.registry import applicable, backend_for
from tracekit.errors import UsageError
from tracekit.keywords import (
    CheckpointLayout,
    CheckpointSync,
    Count,
    Duration,
    Flag,
    LoaderKeywords,
    Size,
)
from tracekit.loader import profiles
from tracekit.loader.checkpoint import Shape, check_place, save
from tracekit.loader.dataset import Source, source_uris
from tracekit.loader.loader import AsyncLoader, create_async_loader
from tracekit.loader.options import LoaderOptions
from tracekit.options import CHECKPOINT, RECORD
from tracekit.recorder import Recorder
from tracekit.store.locate import local_path
from tracekit.store.target import claiming
from tracekit.store_options import STORE
from tracekit.units import format_size
from tracekit.uri import clean
from tracekit.validation import parse_all

__all__ = ["RecordResult", "Watch", "record"]


class Watch(Protocol):
    """Is called after each step with the steps done, the steps in all, and a note."""

    def __call__(self, done: int, total: int | None = None, note: str = "") -> None: ...


@dataclass(frozen=True, slots=True)
class RecordResult:
    """The outcome of a recorded run. `samples`, `steps` and `sample_bytes` count what the consumer got."""

    out: str
    ops: int
    steps: int
    samples: int
    sample_bytes: int
    duration_ns: int
    interrupted: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def record(
    uri: Source | Iterable[Source],
    out: str | os.PathLike[str],
    options: LoaderOptions | Mapping[str, Any] | None = None,
    *,
    profile: str | None = None,
    epochs: Count = 1,
    steps: Count | None = None,
    step_time: Duration = 0,
    join: Flag = False,
    overwrite: Flag = False,
    checkpoint_ranks: Count | None = None,
    checkpoint_bytes: Size | None = None,
    checkpoint_layout: CheckpointLayout | str | None = None,
    checkpoint_sync: CheckpointSync | str | None = None,
    watch: Watch | None = None,
    **given: Unpack[LoaderKeywords],
) -> RecordResult:
    """Read the dataset at `uri` in batches with the built-in loader, and record every op into the trace `out`.

    Options are a LoaderOptions or a dict, and keywords; keywords win. `profile` names a preset that
    options and keywords override. The dataset is read `epochs` times, or until `steps` batches were
    read; the consumer pauses for `step_time` (ns, or text such as `"50ms"`) after each batch. With
    `join`, ops are added to an existing trace, as the other ranks of a run do.

    `profile="checkpoint-save"` writes instead: `epochs` checkpoints below `uri`, each a step, with a pause of
    `step_time` after each. The options `checkpoint_*` and `target_request_bytes` shape them. Nothing that is there is overwritten.

    Raises UsageError and BackendError as `create_async_loader` does; an existing trace is kept then.
    """
    run_options = parse_all(
        RECORD,
        {"epochs": epochs, "steps": steps, "step_time": step_time, "join": join, "overwrite": overwrite},
    )
    shape = {
        "checkpoint_ranks": checkpoint_ranks,
        "checkpoint_bytes": checkpoint_bytes,
        "checkpoint_layout": checkpoint_layout,
        "checkpoint_sync": checkpoint_sync,
    }
    named = {name: value for name, value in shape.items() if value is not None}
    target = local_path(out)
    if profile == profiles.SAVE:
        _refuse_reading({**(options if isinstance(options, Mapping) else {}), **given}, run_options)
        return _save(
            uri, target, LoaderOptions.of(options, **given), parse_all(CHECKPOINT, named), run_options, watch
        )
    if named:
        raise UsageError(f"{next(iter(named))}= is for checkpoints", f'give profile="{profiles.SAVE}", too')
    chosen = _options(options, profile, dict(given))
    began = time.monotonic_ns()
    run = _Consumer(watch, run_options["step_time"])
    with nullcontext() if run_options["join"] else claiming(target, overwrite=run_options["overwrite"]):
        opened = create_async_loader(uri, chosen, target, keep_data=False)
    with opened as loader:
        interrupted = run.read(loader, run_options["epochs"], run_options["steps"])
    return RecordResult(
        out=str(target),
        ops=0 if loader.recorder is None else loader.recorder.ops_recorded,
        steps=run.steps,
        samples=run.samples,
        sample_bytes=run.bytes,
        duration_ns=time.monotonic_ns() - began,
        interrupted=interrupted,
    )


def _refuse_reading(given: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    """Raise UsageError for an option that says how to read."""
    reading = [name for name in given if name not in (*STORE, "target_request_bytes", "seed")]
    reading += [name for name in ("join", "steps") if run[name]]
    if reading:
        raise UsageError(
            f"{reading[0]}= is for reading, and profile={profiles.SAVE} writes",
            "leave it out; epochs= is the number of checkpoints",
        )


def _save(
    uri: Source | Iterable[Source],
    target: Path,
    loader: LoaderOptions,
    shape: Mapping[str, Any],
    run: Mapping[str, Any],
    watch: Watch | None,
) -> RecordResult:
    """Write checkpoints, and record that."""
    folders = source_uris(uri)
    if len(folders) != 1:
        raise UsageError("a checkpoint is written to one place", "give one URI")
    chosen = Shape.of(folders[0], shape, request_bytes=loader.target_request_bytes, seed=loader.seed)
    began, done, written = time.monotonic_ns(), 0, 0
    stop = threading.Event()
    interrupted = False
    noted = {"uri": clean(folders[0]), "profile": profiles.SAVE, **shape, **loader.to_dict()}
    with closing(backend_for(folders[0], **applicable(folders[0], loader.backend_options()))) as backend:
        check_place(backend, folders[0], chosen, run["epochs"])
        with claiming(target, overwrite=run["overwrite"]):
            recorder = Recorder(target, options=noted, world_size=chosen.ranks, rank=0)
        with recorder:
            try:
                for step in range(run["epochs"]):
                    if step and run["step_time"]:
                        time.sleep(run["step_time"] / 1e9)
                    written += save(backend, folders[0], chosen, step, recorder, stop)
                    done += 1
                    if watch is not None:
                        watch(done, run["epochs"], format_size(written))
            except KeyboardInterrupt:
                stop.set()
                interrupted = True
            recorder.set_counters(backend.counters)
    return RecordResult(
        out=str(target),
        ops=recorder.ops_recorded,
        steps=done,
        samples=done * (1 if chosen.shared else chosen.ranks),
        sample_bytes=written,
        duration_ns=time.monotonic_ns() - began,
        interrupted=interrupted,
    )


def _options(
    options: LoaderOptions | Mapping[str, Any] | None, profile: str | None, given: Mapping[str, Any]
) -> LoaderOptions:
    if profile is None:
        return LoaderOptions.of(options, **given)
    if isinstance(options, LoaderOptions):
        raise UsageError(
            f"profile={profile} and a LoaderOptions both set every option", "give the options as keywords"
        )
    return profiles.profile(profile, **{**(options or {}), **given})


class _Consumer:
    """Takes batches as a training loop would, counts them, and reports progress."""

    def __init__(self, watch: Watch | None, pause_ns: int) -> None:
        self._watch = watch
        self._pause_s = pause_ns / 1e9
        self.steps = self.samples = self.bytes = 0

    def read(self, loader: AsyncLoader, epochs: int, steps: int | None) -> bool:
        """Consume the loader; return whether an interrupt ended it."""
        total = len(loader) * epochs if steps is None else min(steps, len(loader) * epochs)
        try:
            for _ in range(epochs):
                batches = iter(loader)
                for batch in islice(batches, total - self.steps):
                    self.steps += 1
                    self.samples += len(batch.samples)
                    self.bytes += batch.nbytes
                    if self._watch is not None:
                        self._watch(self.steps, total, format_size(self.bytes))
                    if self._pause_s:
                        time.sleep(self._pause_s)
                batches.close()
        except KeyboardInterrupt:
            return True
        return False
