"""Watches a trace: reads what is new from time to time and gives the numbers of each interval."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from tracekit.capture.following import CaptureTail, running_capture
from tracekit.errors import UsageError
from tracekit.keywords import Duration
from tracekit.live.export import exporting
from tracekit.live.reading import Meter, Reading
from tracekit.store.layout import MANIFEST_NAME, is_leftover
from tracekit.store.locate import trace_paths
from tracekit.store.reader import TraceLike, TraceReader, open_reader
from tracekit.store.remote import is_remote
from tracekit.store.tail import COLUMNS, TraceTail, as_ops
from tracekit.validation import Kind, Option, parse

__all__ = ["INTERVAL", "Watcher", "readings", "watch"]

INTERVAL = Option(
    "interval",
    Kind.DURATION,
    "Length of an interval.",
    default=1_000_000_000,
    low=100_000_000,
    high=3600 * 10**9,
)
_LAG_NS = 400_000_000
"""How long after its end an interval is closed: recorders hand ops to the kernel every 250 ms."""
_WAITING_S = 0.1
_LOOK_S = 0.25
"""How long after the last look the next one is due: the end of a run is noticed soon, also within a long interval."""


class Feed(Protocol):
    """Hands over the ops of a run, each once."""

    ended: bool
    skipped_ops: int

    def poll(self) -> list[pa.Table]: ...

    def close(self) -> None: ...


class _Whole:
    """The ops of a trace that nobody writes: Parquet files, or an open trace."""

    skipped_ops = 0

    def __init__(self, reader: TraceReader) -> None:
        self._reader = reader
        self.ended = False

    def poll(self) -> list[pa.Table]:
        if self.ended:
            return []
        self.ended = True
        epoch = self._reader.epoch_unix_ns or 0
        return [as_ops(pa.Table.from_batches([batch]), epoch) for batch in self._reader.batches(COLUMNS)]

    def close(self) -> None:
        """Hold nothing open."""


class Watcher:
    """Watches one trace, which may still be written, or not be there yet. `poll` returns the readings of the intervals
    that have ended.

    A trace that is not there is waited for. With `wait`, one that is complete is not watched either, but what is
    recorded there next. A capture whose command runs is watched by its logs.
    """

    def __init__(self, trace: TraceLike, *, interval: Duration = "1s", wait: bool = False) -> None:
        self.interval_ns: int = parse(INTERVAL, interval)
        self.ended = False
        self._trace = trace
        self._wait = wait
        self._path = _only_path(trace)
        if wait and self._path is None:
            raise UsageError("wait=True needs the path of the trace", "give the path that will be recorded")
        self._meter = Meter(self.interval_ns)
        self._feed: Feed | None = self._begin()
        self._skipped = 0

    @property
    def waiting(self) -> bool:
        """Whether the recording has not begun yet."""
        return self._feed is None

    @property
    def waits_for(self) -> str:
        """What the watch waits for, in words; empty once there was an op."""
        if self.waiting:
            return "waiting for the recording to begin"
        return "" if self._meter.begun else "the recording has begun; waiting for its first op"

    def poll(self) -> list[Reading]:
        """Return the readings of the intervals that have ended since the last call, and whether the run has `ended`.

        Raises TraceFormatError if the trace was removed or is damaged.
        """
        if self._feed is None:
            self._feed = self._begin()
            if self._feed is None:
                return []
        self._meter.add(self._feed.poll())
        self._meter.skip(self._feed.skipped_ops - self._skipped)
        self._skipped = self._feed.skipped_ops
        self.ended = self._feed.ended
        return list(self._meter.close(None if self.ended else time.time_ns() - _LAG_NS))

    def due_s(self) -> float:
        """Return how long it is until the next look at the trace."""
        if self.waiting:
            return _WAITING_S
        return min((self.interval_ns - (time.time_ns() - _LAG_NS) % self.interval_ns) / 1e9, _LOOK_S)

    def close(self) -> None:
        """Close what is open."""
        if self._feed is not None:
            self._feed.close()

    def _begin(self) -> Feed | None:
        """Open what is watched; None if it is still to come."""
        path = self._path
        if path is not None:
            job = running_capture(path)
            if job is not None:
                return CaptureTail(job)
            if not (_is_being_written(path) if self._wait else _is_there(path)):
                return None
        reader = open_reader(self._trace)
        return TraceTail(path) if path is not None and path.is_dir() else _Whole(reader)


def _only_path(trace: TraceLike) -> Path | None:
    """The local path that `trace` names, if it names one and is not open."""
    if isinstance(trace, TraceReader) or hasattr(trace, "reader"):
        return None
    path, *more = trace_paths(trace)
    return None if more or is_remote(path) else Path(os.path.abspath(path))


def _is_being_written(path: Path) -> bool:
    """Whether there is a trace directory that is not complete."""
    return path.is_dir() and (path / MANIFEST_NAME).exists()


def _is_there(path: Path) -> bool:
    """Whether something is at `path` that can be opened, or that is no trace: anything but a directory in the making."""
    return any(not is_leftover(entry.name) for entry in path.iterdir()) if path.is_dir() else path.exists()


def watch(
    trace: TraceLike,
    *,
    interval: Duration = "1s",
    wait: bool = False,
    prometheus: str | int | None = None,
    otlp: str | None = None,
) -> Iterator[Reading]:
    """Yield the numbers of each `interval` of `trace`, which may still be written, until its recording ends.

    Of what was recorded before, the last 60 intervals come first, at once. The intervals begin at round times; an
    interval is read 0.4 s after its end, since recorders flush every 0.25 s. A trace that is not there yet is waited for;
    with `wait`, so is the next one at the path of a complete one. A capture is watched while its command runs.
    `prometheus` is a PORT or HOST:PORT (default host: the loopback) to serve the numbers at; `otlp` the URL of an
    OTLP/HTTP collector, such as `http://localhost:4318`.

    Raises UsageError for an invalid option, TraceFormatError if what is there is no trace, or it is removed.
    """
    return readings(Watcher(trace, interval=interval, wait=wait), prometheus=prometheus, otlp=otlp)


def readings(
    watcher: Watcher,
    *,
    prometheus: str | int | None = None,
    otlp: str | None = None,
    said: Callable[[str], None] | None = None,
) -> Iterator[Reading]:
    """Yield the readings of `watcher` until the recording ends, and close it. `said` is told what is waited for."""
    before = ""
    with closing(watcher), exporting(watcher.interval_ns, prometheus=prometheus, otlp=otlp) as publish:
        while True:
            for reading in watcher.poll():
                publish(reading)
                yield reading
            if watcher.ended:
                return
            if said is not None and watcher.waits_for not in ("", before):
                before = watcher.waits_for
                said(before)
            time.sleep(watcher.due_s())
