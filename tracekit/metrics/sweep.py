"""Exact queue depth and bytes in flight of long traces: a sweep over submits and ends.

The definition is that of the macro `in_flight()`, and a test compares the two: this sweep gives
the peaks without sorting all events. Ops come in order of submit, one batch at a time, and the
ends of ops still in flight are carried from batch to batch. An op is in flight from its submit
until just before its end, and for at least 1 ns; one that never ended, from its submit on; one whose
end is unknown, for 1 ns. At equal times ends come first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tracekit.errors import UsageError
from tracekit.store.merge import ordered_batches
from tracekit.store.opening import records_ends
from tracekit.store.reader import TraceReader

__all__ = ["Flight", "Peaks", "flight", "peaks", "sweep"]

_MANY_OPEN = 65_536
_NEVER = np.iinfo(np.int64).max
_Columns = tuple[np.ndarray, np.ndarray, np.ndarray]
_Levels = tuple[tuple[int, int], ...]
_Pending = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Peaks:
    """The largest number of ops, and of bytes asked for, in flight at one moment."""

    ops: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Flight:
    """What was in flight in a part of a trace, reduced to what merging with its neighbours needs.

    What an earlier part leaves in flight only falls with time. Hence a moment of a later part can
    be the peak of both only if the later part's own level is higher there than ever before: those
    moments are `ops_records` and `bytes_records`, as (ns, level), ascending. `pending` holds (end
    in ns, ops, bytes) of those that outlast the last submit of the part; `never_ops` and
    `never_bytes` count those that never ended.
    """

    first_submit_ns: int | None = None
    last_submit_ns: int | None = None
    ops_records: _Levels = ()
    bytes_records: _Levels = ()
    pending: _Pending = ()
    never_ops: int = 0
    never_bytes: int = 0

    @property
    def peaks(self) -> Peaks:
        """The peaks within this part."""
        ops, weights = (
            (records[-1][1] if records else 0) for records in (self.ops_records, self.bytes_records)
        )
        return Peaks(ops, weights)

    def merge(self, later: Flight) -> Flight:
        """Join the next part to this one. Raises UsageError if it starts before the last submit of this one."""
        if self.last_submit_ns is None or later.first_submit_ns is None or later.last_submit_ns is None:
            return self if later.last_submit_ns is None else later
        if later.first_submit_ns < self.last_submit_ns:
            raise UsageError(
                "cannot merge parts of a trace that overlap in time",
                "cut the trace by time: tracekit.metrics.partial.windows, and merge in order of time",
            )
        ends = np.array([end for end, _, _ in self.pending], np.int64)
        counts = np.cumsum([0, *(count for _, count, _ in self.pending)])
        weights = np.cumsum([0, *(weight for _, _, weight in self.pending)])

        def lifted(records: _Levels, in_ops: bool) -> Iterator[tuple[int, int]]:
            for t, level in records:
                gone = int(np.searchsorted(ends, t, side="right"))
                sums = counts if in_ops else weights
                left = int(sums[-1] - sums[gone])
                yield t, level + left + (self.never_ops if in_ops else self.never_bytes)

        still = int(np.searchsorted(ends, later.last_submit_ns, side="right"))
        return Flight(
            self.first_submit_ns,
            later.last_submit_ns,
            _higher(self.ops_records, lifted(later.ops_records, True)),
            _higher(self.bytes_records, lifted(later.bytes_records, False)),
            _by_end(*self.pending[still:], *later.pending),
            self.never_ops + later.never_ops,
            self.never_bytes + later.never_bytes,
        )


def peaks(reader: TraceReader, *, memory: int | str | None = None) -> Peaks:
    """The peaks of the whole trace. Hints do not count; an op without a length counts the bytes that it moved."""
    return sweep(_windowed(reader, None, None, memory), only_peaks=True).peaks


def flight(
    reader: TraceReader,
    *,
    start_ns: int | None = None,
    stop_ns: int | None = None,
    memory: int | str | None = None,
) -> Flight:
    """Sweep the ops submitted from `start_ns` to before `stop_ns`, in ns since the epoch."""
    return sweep(_windowed(reader, start_ns, stop_ns, memory))


def sweep(batches: Iterable[_Columns], *, only_peaks: bool = False) -> Flight:
    """Sweep batches of (submit, end, weight) arrays, int64, with submits ascending over all batches.

    With `only_peaks`, the records before the peaks and what is pending are left out: the result cannot be merged.
    """
    open_end, open_ops, open_weight = (np.empty(0, np.int64) for _ in range(3))
    never_ops = never_bytes = 0
    first = last = None
    ops_records: _Levels = ()
    bytes_records: _Levels = ()
    for submit, end, weight in batches:
        if not len(submit):
            continue
        ends, weights = np.concatenate([open_end, end]), np.concatenate([open_weight, weight])
        counts = np.concatenate([open_ops, np.ones(len(end), np.int64)])
        order = np.argsort(ends, kind="stable")
        ends, counts, weights = ends[order], counts[order], weights[order]
        at = np.searchsorted(ends, submit, side="right")
        gone = np.concatenate([[0], np.cumsum(counts)])[at]
        gone_bytes = np.concatenate([[0], np.cumsum(weights)])[at]
        begun = never_ops + open_ops.sum() + np.arange(1, len(submit) + 1)
        begun_bytes = never_bytes + open_weight.sum() + np.cumsum(weight)
        add = _peak if only_peaks else _records
        ops_records = add(ops_records, submit, begun - gone)
        bytes_records = add(bytes_records, submit, begun_bytes - gone_bytes)
        first, last = int(submit[0]) if first is None else first, int(submit[-1])
        # Ops that never end are counted, not carried, so that no batch has to sort them again.
        left, ever = int(np.searchsorted(ends, last, side="right")), int(np.searchsorted(ends, _NEVER))
        never_ops += int(counts[ever:].sum())
        never_bytes += int(weights[ever:].sum())
        open_end, open_ops, open_weight = _together(ends[left:ever], counts[left:ever], weights[left:ever])
    open_ = zip(open_end.tolist(), open_ops.tolist(), open_weight.tolist(), strict=True)
    pending = () if only_peaks else _by_end(*open_)
    return Flight(first, last, ops_records, bytes_records, pending, never_ops, never_bytes)


def _together(end: np.ndarray, ops: np.ndarray, weight: np.ndarray) -> _Columns:
    """Add up the ops of equal ends, if there are many ops: else every batch would have to sort them all again."""
    if len(end) < _MANY_OPEN:
        return end, ops, weight
    begins = np.flatnonzero(np.concatenate([[True], end[1:] != end[:-1]]))
    return end[begins], np.add.reduceat(ops, begins), np.add.reduceat(weight, begins)


def _by_end(*pending: tuple[int, int, int]) -> _Pending:
    """Return (end, ops, bytes), one for each end, ascending."""
    ends: dict[int, tuple[int, int]] = {}
    for end, ops, weight in pending:
        before = ends.get(end, (0, 0))
        ends[end] = before[0] + ops, before[1] + weight
    return tuple((end, *sums) for end, sums in sorted(ends.items()))


def _records(before: _Levels, t: np.ndarray, level: np.ndarray) -> _Levels:
    """Append to `before` the times and levels at which `level` is higher than ever; of one time the highest."""
    most = before[-1][1] if before else 0
    if int(level.max()) <= most:
        return before
    so_far = np.maximum.accumulate(np.concatenate([[most], level]))
    at = np.flatnonzero(so_far[1:] > so_far[:-1])
    at = at[np.concatenate([t[at][1:] != t[at][:-1], [True]])]
    if before and before[-1][0] == t[at[0]]:
        before = before[:-1]
    return (*before, *zip(t[at].tolist(), level[at].tolist(), strict=True))


def _peak(before: _Levels, t: np.ndarray, level: np.ndarray) -> _Levels:
    """Return the highest level, and when it was first reached."""
    at = int(level.argmax())
    return ((int(t[at]), int(level[at])),) if not before or level[at] > before[0][1] else before


def _higher(before: _Levels, more: Iterable[tuple[int, int]]) -> _Levels:
    """Append to `before` those of `more` that are higher than all before them."""
    found = list(before)
    for t, level in more:
        if level > (found[-1][1] if found else 0):
            found.append((t, level))
    return tuple(found)


def _windowed(
    reader: TraceReader, start_ns: int | None, stop_ns: int | None, memory: int | str | None
) -> Iterator[_Columns]:
    unknown = records_ends(reader.segments) is False
    for table in ordered_batches(reader, ["op", "len", "bytes", "latency", "wait_ns"], memory=memory):
        times = table.column("t_submit")
        if stop_ns is not None and times[0].as_py() >= stop_ns:
            return
        if start_ns is not None and times[0].as_py() < start_ns:
            table = table.filter(pc.greater_equal(times, start_ns))
        if stop_ns is not None and times[-1].as_py() >= stop_ns:
            table = table.filter(pc.less(table.column("t_submit"), stop_ns))
        yield _columns(table, ends_unknown=unknown)


def _columns(table: pa.Table, *, ends_unknown: bool) -> _Columns:
    kinds = table.column("op")
    if any("hint" in chunk.dictionary.to_pylist() for chunk in kinds.chunks):
        table = table.filter(pc.not_equal(kinds.cast(pa.string()), "hint"))
    submit = table.column("t_submit").to_numpy()
    latency, waited = table.column("latency"), table.column("wait_ns")
    ended = np.maximum(pc.fill_null(latency, 1).to_numpy(), 1)
    if waited.null_count < len(waited):
        ended = ended + pc.fill_null(waited, 0).to_numpy()
    end = np.where(latency.is_valid().to_numpy(), submit + ended, submit + 1 if ends_unknown else _NEVER)
    weight = pc.fill_null(pc.coalesce(table.column("len"), table.column("bytes")), 0).to_numpy()
    return submit, end, weight
