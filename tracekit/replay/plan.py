"""The plan of a replay: which ops, on which target, due when. Columns, never objects.

A plan is built from a stream of ops in time order and holds one memory-mapped column a
fact, so that engines read it from many threads and processes without copies and a trace
of any length needs little memory. It touches no storage.
"""

from __future__ import annotations

import mmap
import tempfile
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tracekit.errors import UsageError
from tracekit.replay.mapping import MappingRules
from tracekit.store.merge import ordered_batches
from tracekit.store.reader import TraceReader

__all__ = ["NONE", "Filters", "Plan", "build_plan"]

NONE = np.iinfo(np.int64).min
"""Stands for null in a plan's int64 columns."""

_COLUMNS: dict[str, type[np.generic]] = {
    "due_ns": np.int64, "file": np.int32, "whole": np.bool_, "offset": np.int64, "length": np.int64,
    "sample_id": np.int64, "step": np.int64, "rank": np.int32, "worker": np.int32, "recorded_ns": np.int64,
    "recorded_latency": np.int64, "recorded_bytes": np.int64,
}  # fmt: skip
_REPLAYED = ("read", "get")


@dataclass(frozen=True, slots=True)
class Filters:
    """Which ops of the trace are replayed; None means all. Times are ns since the trace's first op."""

    start_ns: int | None = None
    end_ns: int | None = None
    uri_glob: str | None = None
    ranks: tuple[int, ...] | None = None
    workers: tuple[int, ...] | None = None
    samples: tuple[int, ...] | None = None

    def __bool__(self) -> bool:
        return self != Filters()


@dataclass(slots=True)
class Plan:
    """Ops in order of `due_ns` (ns from the start of the replay), each column of length `ops`.

    `file` indexes `uris` (targets) and `sources` (as recorded). `whole` marks whole-object
    gets. `offset` and `length` are bytes (`length` NONE: to the object's end). `recorded_*`
    are the recording's submit (ns since its epoch) and latency (NONE: unknown).
    """

    ops: int
    uris: tuple[str, ...]
    sources: tuple[str, ...]
    columns: dict[str, np.ndarray]
    skipped: dict[str, int] = field(default_factory=dict)
    assumed_offsets: int = 0
    assumed_lengths: int = 0

    def view(self, name: str) -> memoryview:
        """A column whose items are Python ints: the cheapest to read one at a time."""
        return self.columns[name][: self.ops].data

    @property
    def span_ns(self) -> int:
        """From the first op's due time to the last's."""
        due = self.columns["due_ns"]
        return int(due[self.ops - 1] - due[0]) if self.ops else 0

    @property
    def bytes(self) -> int:
        """Bytes that the plan asks for, where lengths are known."""
        length = self.columns["length"][: self.ops]
        return int(length[length != NONE].sum())

    def needed_sizes(self) -> np.ndarray:
        """For each URI, the smallest size in bytes at which every op of the plan can be served."""
        sizes = np.zeros(len(self.uris), np.int64)
        length = self.columns["length"][: self.ops]
        offset = self.columns["offset"][: self.ops]
        known = length != NONE
        np.maximum.at(sizes, self.columns["file"][: self.ops][known], (offset + length)[known])
        return sizes

    def peak_in_flight(self) -> tuple[int, int]:
        """(ops, bytes) in flight at most, if every op took as long as it did when recorded."""
        latency = self.columns["recorded_latency"][: self.ops]
        known = latency != NONE
        start = self.columns["due_ns"][: self.ops][known]
        length = np.maximum(self.columns["length"][: self.ops][known], 0)
        times = np.concatenate([start, start + latency[known]])
        ops = np.concatenate([np.ones(len(start), np.int64), -np.ones(len(start), np.int64)])
        order = np.lexsort((ops, times))  # at equal times ends go before starts
        if not len(order):
            return 0, 0
        return int(np.cumsum(ops[order]).max()), int(np.cumsum((ops * np.tile(length, 2))[order]).max())


def build_plan(
    reader: TraceReader, rules: MappingRules, *, speed: float = 1.0, filters: Filters | None = None,
    max_gap_ns: int | None = None, loops: int = 1,
) -> Plan:  # fmt: skip
    """The plan that re-drives the reads of `reader`.

    Due times count from the first op kept, divided by `speed`; gaps between submits longer
    than `max_gap_ns` (as recorded) are squeezed to it; `loops` repeats the whole. An op
    without offset is taken to go on where the last op of its file ended, one without length
    to the object's end: both are counted. Raises UsageError for a speed that is not
    positive, or URIs that the rules cannot place.
    """
    if not speed > 0 or not np.isfinite(speed):
        raise UsageError(f"--speed {speed} is not positive", "give a factor such as 0.5, 1 or 10")
    if loops < 1:
        raise UsageError(f"--loop {loops} replays nothing", "give at least 1")
    builder = _Builder(reader.rows * loops)
    for table in ordered_batches(
        reader, ["uri", "op", "offset", "len", "bytes", "latency", "sample_id", "step", "rank", "worker"]
    ):
        builder.add(table, filters or Filters())
    return builder.finish(rules, speed, max_gap_ns, loops)


class _Builder:
    """Fills the columns of a plan batch by batch."""

    def __init__(self, room: int) -> None:
        self.columns = {name: _column(kind, room) for name, kind in _COLUMNS.items()}
        self.ops = 0
        self.codes: dict[str, int] = {}
        self.skipped: dict[str, int] = {}
        self.origin: int | None = None

    def add(self, table: pa.Table, filters: Filters) -> None:
        if self.origin is None:
            self.origin = table.column("t_submit")[0].as_py()
        kept = self._kept(table, filters)
        rows = len(kept)
        if not rows:
            return
        at = slice(self.ops, self.ops + rows)
        length = pc.coalesce(kept.column("len"), kept.column("bytes"))
        for name, values in (
            ("recorded_ns", kept.column("t_submit")), ("recorded_latency", kept.column("latency")),
            ("offset", kept.column("offset")), ("length", length), ("sample_id", kept.column("sample_id")),
            ("step", kept.column("step")), ("recorded_bytes", kept.column("bytes")),
        ):  # fmt: skip
            self.columns[name][at] = pc.fill_null(values, NONE).to_numpy()
        for name in ("rank", "worker"):
            self.columns[name][at] = pc.fill_null(kept.column(name), 0).to_numpy()
        self.columns["whole"][at] = pc.equal(_text(kept.column("op")), "get").to_numpy()
        self.columns["file"][at] = self._files(kept.column("uri"))
        self.ops += rows

    def _kept(self, table: pa.Table, filters: Filters) -> pa.Table:
        kinds = _text(table.column("op"))
        replayed = pc.is_in(kinds, pa.array(_REPLAYED))
        for kind in pc.value_counts(kinds.filter(pc.invert(replayed))).to_pylist():
            self.skipped[kind["values"]] = self.skipped.get(kind["values"], 0) + kind["counts"]
        table = table.filter(replayed)
        keep = np.ones(len(table), bool)
        since = table.column("t_submit").to_numpy() - (self.origin or 0)
        if filters.start_ns is not None:
            keep &= since >= filters.start_ns
        if filters.end_ns is not None:
            keep &= since < filters.end_ns
        for name, wanted in (
            ("rank", filters.ranks),
            ("worker", filters.workers),
            ("sample_id", filters.samples),
        ):
            if wanted is not None:
                keep &= np.isin(pc.fill_null(table.column(name), -1).to_numpy(), np.array(wanted, np.int64))
        if filters.uri_glob is not None:
            uris = _text(table.column("uri")).dictionary_encode().combine_chunks()
            fits = np.array([fnmatchcase(u, filters.uri_glob) for u in uris.dictionary.to_pylist()], bool)
            keep &= fits[uris.indices.to_numpy()] if len(uris) else keep
        return table if keep.all() else table.filter(pa.array(keep))

    def _files(self, uris: pa.ChunkedArray) -> np.ndarray:
        encoded = uris.unify_dictionaries().combine_chunks()
        names = encoded.dictionary.to_pylist()
        codes = np.array([self.codes.setdefault(name, len(self.codes)) for name in names], np.int32)
        found: np.ndarray = codes[encoded.indices.to_numpy()]
        return found

    def finish(self, rules: MappingRules, speed: float, max_gap_ns: int | None, loops: int) -> Plan:
        sources = tuple(self.codes)
        plan = Plan(self.ops, tuple(rules.apply_all(sources)), sources, self.columns, self.skipped)
        _assume(plan)
        recorded = self.columns["recorded_ns"][: self.ops]
        due = self.columns["due_ns"]
        if self.ops:
            gaps = np.diff(recorded, prepend=recorded[0])
            if max_gap_ns is not None:
                np.minimum(gaps, max_gap_ns, out=gaps)
            due[: self.ops] = np.cumsum(gaps) if speed == 1 else np.rint(np.cumsum(gaps) / speed)
        _repeat(plan, loops)
        return plan


def _assume(plan: Plan) -> None:
    """Give an offset to ops that have none: 0 for whole objects, else where the file's last op ended."""
    offset, length = plan.columns["offset"][: plan.ops], plan.columns["length"][: plan.ops]
    whole, file = plan.columns["whole"][: plan.ops], plan.columns["file"][: plan.ops]
    offset[whole & (offset == NONE)] = 0
    plan.assumed_lengths = int(((length == NONE) & ~whole).sum())
    unknown = np.flatnonzero(offset == NONE)
    plan.assumed_offsets = len(unknown)
    if not len(unknown):
        return
    for code in np.unique(file[unknown]):
        rows = np.flatnonzero(file == code)
        cursor = 0
        for row in rows.tolist():
            if offset[row] == NONE:
                offset[row] = cursor
            cursor = int(offset[row]) + max(int(length[row]), 0)


def _repeat(plan: Plan, loops: int) -> None:
    """The plan `loops` times over; each round begins one mean gap after the last op of the one before."""
    ops, due = plan.ops, plan.columns["due_ns"]
    if not ops or loops == 1:
        return
    period = plan.span_ns + max(plan.span_ns // max(ops - 1, 1), 1)
    for round_ in range(1, loops):
        at = slice(round_ * ops, (round_ + 1) * ops)
        for column in plan.columns.values():
            column[at] = column[:ops]
        due[at] += round_ * period
    plan.ops = ops * loops


def _column(kind: type[np.generic], room: int) -> np.ndarray:
    """Room for a column, backed by an unnamed file: shared by forked processes, evictable under pressure."""
    nbytes = max(room, 1) * np.dtype(kind).itemsize
    with tempfile.TemporaryFile(dir=_scratch()) as file:
        file.truncate(nbytes)
        return np.frombuffer(mmap.mmap(file.fileno(), nbytes), kind)


def _scratch() -> Path:
    return Path(tempfile.gettempdir())


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column
