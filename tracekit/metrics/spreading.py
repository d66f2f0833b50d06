"""Measure a trace from many hosts: each measures windows of it, and the partial measurements merge to the snapshot of the whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

from tracekit.errors import UsageError
from tracekit.metrics.partial import Partial, Window, partial, windows
from tracekit.metrics.snapshot import MetricsSnapshot
from tracekit.spread import spread
from tracekit.store.fingerprint import fingerprint
from tracekit.store.reader import TraceReader, open_reader, where_it_is

__all__ = ["spread_snapshot"]


@dataclass(frozen=True, slots=True)
class _Part:
    """What one host is told: where the trace is, how to know it, and which window of it to measure."""

    trace: str | list[str]
    fingerprint: str
    window: Window
    threads: int | None
    memory: int | str | None


def spread_snapshot(
    reader: TraceReader,
    *,
    on: str | None,
    hosts: int | None,
    threads: int | None = None,
    memory: int | str | None = None,
) -> MetricsSnapshot:
    """Return the snapshot of `reader`, measured by `hosts` hosts of the place `on`.

    Raises UsageError for a wrong place or number, or if a host does not find the same trace by the same path.
    """
    if on is None:
        raise UsageError(f"hosts={hosts} without a place", "give on=local, on=ray or on=ray://HOST:PORT")
    if hosts is not None and hosts < 1:
        raise UsageError(f"hosts={hosts} is less than 1", "give the number of hosts")
    where, known = where_it_is(reader), fingerprint(reader)

    def parts(number: int) -> Sequence[_Part]:
        return [_Part(where, known, window, threads, memory) for window in windows(reader, number)]

    found = spread(_measured, parts, on=on, hosts=hosts)
    return reduce(Partial.merge, found).snapshot()


def _measured(part: _Part) -> Partial:
    """Measure one window, on the host that has been given it."""
    reader = open_reader(part.trace)
    if fingerprint(reader) != part.fingerprint:
        raise UsageError(
            f"{reader.path} on another host is not the trace that was opened here",
            "put it where all hosts find it by the same path: a shared file system, or s3://",
        )
    return partial(reader, part.window, threads=part.threads, memory=part.memory)
