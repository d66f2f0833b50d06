"""Runs the loader over a dataset only to record it: what `tracekit record` does.

No batch is used here, so no bytes are kept. `step_time` stands in for the work of a consumer
between batches. An interrupt ends the run early and is not an error: the trace is whole.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Protocol, Unpack

from tracekit.errors import UsageError
from tracekit.keywords import Count, Duration, Flag, LoaderKeywords
from tracekit.loader import profiles
from tracekit.loader.dataset import Source
from tracekit.loader.loader import AsyncLoader, create_async_loader
from tracekit.loader.options import LoaderOptions
from tracekit.options import RECORD
from tracekit.store.locate import local_path
from tracekit.store.target import claiming
from tracekit.units import format_size
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
    watch: Watch | None = None,
    **given: Unpack[LoaderKeywords],
) -> RecordResult:
    """Read the dataset at `uri` in batches with the built-in loader, and record every op into the trace `out`.

    Options are a LoaderOptions or a dict, and keywords; keywords win. `profile` names a preset that
    options and keywords override. The dataset is read `epochs` times, or until `steps` batches were
    read; the consumer pauses for `step_time` (ns, or text such as `"50ms"`) after each batch. With
    `join`, ops are added to an existing trace, as the other ranks of a run do.

    Raises UsageError and BackendError as `create_async_loader` does; an existing trace is kept then.
    """
    run_options = parse_all(
        RECORD,
        {"epochs": epochs, "steps": steps, "step_time": step_time, "join": join, "overwrite": overwrite},
    )
    chosen = _options(options, profile, dict(given))
    target = local_path(out)
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
