"""Watches a trace: reads what is new from time to time and gives the numbers of each interval."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from tracekit.errors import UsageError
from tracekit.keywords import Duration
from tracekit.live.export import exporting
from tracekit.live.reading import Meter, Reading
from tracekit.store.layout import MANIFEST_NAME
from tracekit.store.locate import trace_paths
from tracekit.store.reader import TraceLike, TraceReader, open_reader
from tracekit.store.tail import COLUMNS, TraceTail, as_ops
from tracekit.validation import Kind, Option, parse

__all__ = ["INTERVAL", "Watcher", "watch"]

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
    """Watches one trace, which may still be written. `poll` returns the readings of the intervals that have ended.

    With `wait`, the trace need not be there yet: one that is complete already is not watched, but what is recorded
    there next.
    """

    def __init__(self, trace: TraceLike, *, interval: Duration = "1s", wait: bool = False) -> None:
        self.interval_ns: int = parse(INTERVAL, interval)
        self.ended = False
        self._trace = trace
        self._meter = Meter(self.interval_ns)
        self._feed: Feed | None = None if wait and not self._is_being_written() else self._open()
        self._skipped = 0

    @property
    def waiting(self) -> bool:
        """Whether the trace has not begun yet."""
        return self._feed is None

    def poll(self) -> list[Reading]:
        """Return the readings of the intervals that have ended since the last call, and whether the run has `ended`.

        Raises TraceFormatError if the trace was removed or is damaged.
        """
        if self._feed is None:
            if not self._is_being_written():
                return []
            self._feed = self._open()
        self._meter.add(self._feed.poll())
        self._meter.skip(self._feed.skipped_ops - self._skipped)
        self._skipped = self._feed.skipped_ops
        self.ended = self._feed.ended
        return list(self._meter.close(None if self.ended else time.time_ns() - _LAG_NS))

    def due_s(self) -> float:
        """Return how long it is until the next interval can be read."""
        if self.waiting:
            return _WAITING_S
        return (self.interval_ns - (time.time_ns() - _LAG_NS) % self.interval_ns) / 1e9

    def close(self) -> None:
        """Close what is open."""
        if self._feed is not None:
            self._feed.close()

    def _is_being_written(self) -> bool:
        """Whether there is a trace directory that is not complete."""
        if isinstance(self._trace, TraceReader) or hasattr(self._trace, "reader"):
            raise UsageError("wait=True needs the path of the trace", "give the path that will be recorded")
        (path, *more) = trace_paths(self._trace)
        return path.is_dir() and not more and (path / MANIFEST_NAME).exists()

    def _open(self) -> Feed:
        if isinstance(self._trace, TraceReader) or hasattr(self._trace, "reader"):
            return _of(open_reader(self._trace).path, self._trace)
        paths = trace_paths(self._trace)
        return _of(paths[0], self._trace) if len(paths) == 1 else _Whole(open_reader(self._trace))


def _of(path: Path, trace: TraceLike) -> Feed:
    """Follow the trace directory `path`; read other traces whole. Raises as `open_reader` does."""
    reader = open_reader(trace)
    return TraceTail(path) if path.is_dir() else _Whole(reader)


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
    interval is read 0.4 s after its end, since recorders flush every 0.25 s. With `wait`, a trace that is not
    there yet, or is complete, is waited for. `prometheus` is a PORT or HOST:PORT (default host: the loopback) to
    serve the numbers at; `otlp` the URL of an OTLP/HTTP collector, such as `http://localhost:4318`.

    Raises UsageError for an invalid option, TraceFormatError if there is no trace or it is removed.
    """
    watcher = Watcher(trace, interval=interval, wait=wait)
    return _readings(watcher, prometheus, otlp)


def _readings(watcher: Watcher, prometheus: str | int | None, otlp: str | None) -> Iterator[Reading]:
    with closing(watcher), exporting(watcher.interval_ns, prometheus=prometheus, otlp=otlp) as publish:
        while True:
            for reading in watcher.poll():
                publish(reading)
                yield reading
            if watcher.ended:
                return
            time.sleep(watcher.due_s())
