"""Ask traces from many hosts: each measures a window of a trace, or answers one of many questions about whole traces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from tracekit.errors import UsageError
from tracekit.metrics.partial import Partial, Window, partial, windows
from tracekit.metrics.snapshot import MetricsSnapshot, snapshot
from tracekit.spread import place_of, spread
from tracekit.store.fingerprint import fingerprint
from tracekit.store.reader import TraceReader, open_reader, where_it_is

__all__ = ["Call", "answers", "check_place", "snapshot_on"]


@dataclass(frozen=True, slots=True)
class Call:
    """A question about traces: a function of a module, the traces that it takes, and what it takes besides."""

    ask: Callable[..., Any]
    traces: tuple[TraceReader, ...]
    values: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class _There:
    """Where a host finds a trace, and how it knows that it is the same."""

    trace: str | list[str]
    fingerprint: str

    def open(self) -> TraceReader:
        reader = open_reader(self.trace)
        if fingerprint(reader) != self.fingerprint:
            raise UsageError(
                f"{reader.path} on another host is not the trace that was opened here",
                "put it where all hosts find it by the same path: a shared file system, or s3://",
            )
        return reader


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question as a host is told it."""

    ask: Callable[..., Any]
    traces: tuple[_There, ...]
    values: tuple[Any, ...]


def check_place(on: str | None, hosts: int | None) -> None:
    """Raise UsageError for a place where nothing can work, or a number of hosts without one."""
    if on is None and hosts is not None:
        raise UsageError(f"hosts={hosts} without a place", "give on=local, on=ray or on=ray://HOST:PORT")
    if on is not None:
        place_of(on)
    if hosts is not None and hosts < 1:
        raise UsageError(f"hosts={hosts} is less than 1", "give the number of hosts")


def answers(calls: Sequence[Call], *, on: str | None = None, hosts: int | None = None) -> list[Any]:
    """Return the answers of `calls`, in order: from this process, or from the hosts of the place `on`, a call each.

    Raises what a call raises, and UsageError for a wrong place, or if a host does not find the same traces by the same paths.
    """
    check_place(on, hosts)
    if on is None:
        return [call.ask(*call.traces, *call.values) for call in calls]
    known = {id(reader): reader for call in calls for reader in call.traces}
    there = {key: _There(where_it_is(reader), fingerprint(reader)) for key, reader in known.items()}
    asked = [
        _Asked(call.ask, tuple(there[id(reader)] for reader in call.traces), call.values) for call in calls
    ]
    return spread(_answer, lambda _: asked, on=on, hosts=hosts)


def _answer(asked: _Asked) -> Any:
    return asked.ask(*(there.open() for there in asked.traces), *asked.values)


def snapshot_on(
    reader: TraceReader,
    *,
    on: str | None,
    hosts: int | None,
    threads: int | None = None,
    memory: int | str | None = None,
) -> MetricsSnapshot:
    """Return the snapshot of `reader`, measured by `hosts` hosts of the place `on`, a window each; by this process without a place.

    Raises UsageError for a wrong place or number, or if a host does not find the same trace by the same path.
    """
    check_place(on, hosts)
    if on is None:
        return snapshot(reader, threads=threads, memory=memory)
    there = _There(where_it_is(reader), fingerprint(reader))

    def parts(number: int) -> Sequence[_Asked]:
        return [_Asked(_measured, (there,), (window, threads, memory)) for window in windows(reader, number)]

    found: list[Partial] = spread(_answer, parts, on=on, hosts=hosts)
    return reduce(Partial.merge, found).snapshot()


def _measured(reader: TraceReader, window: Window, threads: int | None, memory: int | str | None) -> Partial:
    """Measure one window, on the host that has been given it."""
    return partial(reader, window, threads=threads, memory=memory)
