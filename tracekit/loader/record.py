"""Run the loader over a dataset for the sake of its trace: what `tracekit record` does.

Nobody consumes the bytes here, so none are kept; `step_time` stands in for a consumer's
work between batches. An interrupt ends the run early and is no error: what was recorded
is a whole trace.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from tracekit.errors import UsageError
from tracekit.loader.loader import AsyncLoader, create_async_loader
from tracekit.loader.options import LoaderOptions
from tracekit.store.writer import check_target
from tracekit.units import format_size

__all__ = ["RecordResult", "record_loader"]


class Watch(Protocol):
    """Called after each step: steps done, steps in all, and a note."""

    def __call__(self, done: int, total: int | None = None, note: str = "") -> None: ...


@dataclass(frozen=True, slots=True)
class RecordResult:
    """What a recorded run did. `samples`, `steps` and `sample_bytes` are what was handed over."""

    out: str
    ops: int
    steps: int
    samples: int
    sample_bytes: int
    duration_ns: int
    interrupted: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def record_loader(
    uri: str,
    out: str | os.PathLike[str],
    options: LoaderOptions | Mapping[str, Any] | None = None,
    *,
    epochs: int = 1,
    max_steps: int | None = None,
    step_time_ns: int = 0,
    overwrite: bool = False,
    join: bool = False,
    watch: Watch | None = None,
) -> RecordResult:
    """Read the samples at `uri` in batches and record every op into the trace `out`.

    `join` adds to a trace that is there, as other ranks of the same run do. Raises UsageError
    and BackendError as `create_async_loader` does; what was recorded before stays.
    """
    if epochs < 1 or (max_steps is not None and max_steps < 1):
        raise UsageError(f"epochs={epochs}, steps={max_steps}: nothing to do", "give 1 or more")
    chosen = LoaderOptions.of(options)
    target = Path(out)
    if not (join and target.exists()):
        check_target(target, overwrite=overwrite)
    began = time.monotonic_ns()
    run = _Progress(watch, step_time_ns)
    with _replacing(target, overwrite and not join):
        opened = create_async_loader(uri, chosen, target, keep_data=False)
    with opened as loader:
        interrupted = run.read(loader, epochs, max_steps)
    return RecordResult(
        out=str(target),
        ops=0 if loader.recorder is None else loader.recorder.ops_recorded,
        steps=run.steps,
        samples=run.samples,
        sample_bytes=run.bytes,
        duration_ns=time.monotonic_ns() - began,
        interrupted=interrupted,
    )


@contextmanager
def _replacing(target: Path, overwrite: bool) -> Iterator[None]:
    """Make room at `target` for a new trace; the old one goes only when the new one has begun."""
    if not overwrite or not target.exists():
        yield
        return
    aside = target.with_name(f".{target.name}.{secrets.token_hex(4)}.old")
    target.rename(aside)
    try:
        yield
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        aside.rename(target)
        raise
    if aside.is_dir():
        shutil.rmtree(aside)
    else:
        aside.unlink()


class _Progress:
    """Counts what was handed over, and tells who watches."""

    def __init__(self, watch: Watch | None, step_time_ns: int) -> None:
        self._watch = watch
        self._step_time_s = step_time_ns / 1e9
        self.steps = self.samples = self.bytes = 0

    def read(self, loader: AsyncLoader, epochs: int, max_steps: int | None) -> bool:
        """Consume the loader; whether an interrupt ended it."""
        total = len(loader) * epochs if max_steps is None else min(max_steps, len(loader) * epochs)
        try:
            for _ in range(epochs):
                batches = iter(loader)
                for batch in islice(batches, total - self.steps):
                    self.steps += 1
                    self.samples += len(batch.samples)
                    self.bytes += batch.nbytes
                    if self._watch is not None:
                        self._watch(self.steps, total, format_size(self.bytes))
                    if self._step_time_s:
                        time.sleep(self._step_time_s)
                batches.close()
        except KeyboardInterrupt:
            return True
        return False
