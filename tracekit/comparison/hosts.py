"""How far the hosts of a replay were apart: their starts, and what is known of their clocks.

A replay from one host gives no rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from tracekit.comparison.table import ParityRow, shown
from tracekit.store.clocks import clocks
from tracekit.store.merge import segment_batches
from tracekit.store.reader import SegmentInfo, TraceReader
from tracekit.store.totals import stream_keys

__all__ = ["StreamHosts", "clock_error_ns", "host_rows", "stream_hosts"]


def clock_error_ns(replay: TraceReader) -> int:
    """Return the error of the clocks of a replay's hosts; 0 for one host, or if it is unknown."""
    return clocks(replay.segments).get("error_ns") or 0


@dataclass(frozen=True, slots=True)
class StreamHosts:
    """Which of `count` hosts replayed which stream: `keys` ascending, made of rank and worker, and the host of each."""

    count: int = 1
    keys: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    hosts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def of(self, rank: np.ndarray, worker: np.ndarray) -> np.ndarray:
        """Return the host of each op."""
        if self.count == 1:
            return np.zeros(len(rank), np.int64)
        at = np.searchsorted(self.keys, stream_keys(rank, worker)).clip(max=len(self.keys) - 1)
        found: np.ndarray = self.hosts[at]
        return found


def stream_hosts(replay: TraceReader) -> StreamHosts:
    """Return which host replayed which stream, from the footers; one host where they do not say."""
    hosts = _segments_by_host(replay)
    pairs: dict[int, int] = {}
    for number, segments in enumerate(hosts):
        for segment in segments:
            streams = json.loads(segment.metadata.get("streams") or "[]")
            if not streams:
                return StreamHosts()
            table = np.array(streams, np.int64)
            pairs.update(dict.fromkeys(stream_keys(table[:, 0], table[:, 1]).tolist(), number))
    if len(hosts) < 2:
        return StreamHosts()
    keys = np.array(sorted(pairs), np.int64)
    return StreamHosts(len(hosts), keys, np.array([pairs[key] for key in keys.tolist()], np.int64))


def _segments_by_host(replay: TraceReader) -> list[list[SegmentInfo]]:
    """Return the segments with ops of each process that recorded."""
    hosts: dict[tuple[str, str], list[SegmentInfo]] = {}
    for segment in replay.segments:
        if segment.rows:
            named = segment.metadata.get("host", ""), segment.metadata.get("pid", "")
            hosts.setdefault(named, []).append(segment)
    return list(hosts.values())


def host_rows(replay: TraceReader, *, timed: bool) -> Iterator[ParityRow]:
    """Yield the rows on the hosts of a replay; none if one process recorded it."""
    hosts = _segments_by_host(replay)
    if len(hosts) < 2:
        return
    if timed:
        late = [found for segments in hosts for found in _first_lateness(replay, segments)]
        skew = max(late) - min(late) if late else None
        note = f"of the first op of {len(hosts)} hosts, against its due time"
        yield shown("start_skew_ns", "ns", None, skew, note=note)
    error = clocks(replay.segments).get("error_ns")
    note = "unknown for a host" if error is None else "at most; due times are judged within it"
    yield shown("clock_error_ns", "ns", None, error, note=note)


def _first_lateness(replay: TraceReader, segments: Sequence[SegmentInfo]) -> Iterator[int]:
    """Yield how late the first op of one host was, ns; nothing if no op had a due time."""
    known = [(segment.first_submit or 0) + replay.shift_of(segment) for segment in segments]
    first = segments[known.index(min(known))]
    for batch in segment_batches(first, ["t_submit", "t_due"], 0):
        submit, due = (batch.column(name)[0].as_py() for name in ("t_submit", "t_due"))
        if due is not None:
            yield submit - due
        return
