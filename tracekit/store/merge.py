"""Streams the ops of a trace in order of submit time, in little memory.

Segments are sorted, and those of one process hardly overlap. So the merge holds the current batch of each
segment around one moment: all ops up to the earliest end of these batches are complete; they are sorted
(stably) and yielded. A segment is opened when the merge reaches its first op.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from tracekit.errors import TraceFormatError
from tracekit.store.locate import literal
from tracekit.store.opening import SegmentInfo, damage_errors, journal_table, open_pages
from tracekit.store.reader import TraceReader
from tracekit.store.segment import conform
from tracekit.store.statements import streamed, value_errors

__all__ = ["ordered_batches", "segment_batches"]

_BATCH_ROWS = 65_536


def ordered_batches(
    reader: TraceReader, columns: Sequence[str], *, memory: int | str | None = None
) -> Iterator[pa.Table]:
    """Yield columns (of the op schema) of every op, ascending in `t_submit`, in tables of some 10,000s of rows.

    `t_submit` is always included, counted from the trace's epoch. Memory is a few batches for each
    overlapping segment. Journals are sorted in memory, other tools' Parquet files by DuckDB, which keeps to
    `memory` (default: `memory_bytes()`) and may spill.
    """
    wanted = list(dict.fromkeys(["t_submit", *columns]))
    waiting = [
        (first, index, segment)
        for index, segment in enumerate(reader.segments)
        if segment.rows
        for first in [_first_submit(segment, reader)]
    ]
    heapq.heapify(waiting)
    open_: list[_Source] = []
    while waiting or open_:
        horizon = min((source.last for source in open_), default=None)
        while waiting and (horizon is None or waiting[0][0] <= horizon):
            _, _, segment = heapq.heappop(waiting)
            source = _Source(segment_batches(segment, wanted, reader.shift_of(segment), memory))
            if source.advance():
                open_.append(source)
                horizon = source.last if horizon is None else min(horizon, source.last)
        if horizon is None:
            return
        parts = [part for source in open_ for part in source.take_until(horizon)]
        open_ = [source for source in open_ if source.table is not None or source.advance()]
        if parts:
            yield _merged(parts)


@dataclass(slots=True)
class _Source:
    """One segment being merged: its current batch, and the batches that follow."""

    batches: Iterator[pa.Table]
    table: pa.Table | None = None
    last: int = 0

    def advance(self) -> bool:
        """Take the next batch that has ops; return False at the end."""
        self.table = next((batch for batch in self.batches if len(batch)), None)
        if self.table is not None:
            self.last = self.table.column("t_submit")[-1].as_py()
        return self.table is not None

    def take_until(self, horizon: int) -> list[pa.Table]:
        """Return the ops of the current batch that were submitted up to `horizon`, and drop them from it."""
        if self.table is None:
            return []
        if self.last <= horizon:
            taken, self.table = self.table, None
            return [taken]
        upto = pc.sum(pc.less_equal(self.table.column("t_submit"), horizon)).as_py() or 0
        taken, self.table = self.table.slice(0, upto), self.table.slice(upto)
        return [taken] if upto else []


def _merged(parts: list[pa.Table]) -> pa.Table:
    if len(parts) == 1:
        return parts[0]
    return pa.concat_tables(parts, promote_options="default").sort_by([("t_submit", "ascending")])


def segment_batches(
    segment: SegmentInfo, columns: list[str], shift: int, memory: int | str | None = None
) -> Iterator[pa.Table]:
    """Yield columns of one segment in order of `t_submit`, with times `shift` ns later."""
    needed = [*columns, "offset"] if segment.puts_are_ranges and "op" in columns else columns
    present = [name for name in dict.fromkeys(needed) if name in segment.schema.names]
    if segment.journal:
        whole = _shaped(segment, journal_table(segment).select(present), columns, shift)
        ordered = whole.sort_by([("t_submit", "ascending")])
        for start in range(0, len(ordered), _BATCH_ROWS):
            yield ordered.slice(start, _BATCH_ROWS)
        return
    if not segment.is_sorted:
        for batch in _sorted(segment, present, memory):
            yield _shaped(segment, pa.Table.from_batches([batch]), columns, shift)
        return
    with damage_errors(segment.path), open_pages(segment.path) as file:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=present):
            yield _shaped(segment, pa.Table.from_batches([batch]), columns, shift)


def _sorted(segment: SegmentInfo, columns: list[str], memory: int | str | None) -> Iterator[pa.RecordBatch]:
    """Yield columns of another tool's file in order of time; ops of one time stay in the order of the file.

    DuckDB sorts it, because it may be larger than memory.
    """
    lone = TraceReader(segment.path, (segment,), None, None)
    names = ", ".join(f'"{name}"' for name in columns)
    if not segment.by_name:
        with closing(lone.connect(ordered=True, memory=memory)) as connection, value_errors(segment.path):
            yield from streamed(connection.sql(f"SELECT {names} FROM ops"), _BATCH_ROWS)
        return
    sql = f"SELECT {names} FROM read_parquet($file) ORDER BY t_submit, file_row_number"
    with closing(lone.connect(memory=memory)) as connection, value_errors(segment.path):
        yield from streamed(connection.sql(sql, params={"file": literal(segment.path)}), _BATCH_ROWS)


def _shaped(segment: SegmentInfo, table: pa.Table, columns: list[str], shift: int) -> pa.Table:
    try:
        table = conform(table)
    except pa.ArrowInvalid as error:
        raise TraceFormatError(
            f"{segment.path}: values do not fit the op schema: {error}", "see docs/trace.md"
        ) from error
    if segment.puts_are_ranges:
        table = _upgraded(table)
    for name in ("t_submit", "t_due") if shift else ():
        index = table.schema.get_field_index(name)
        try:
            later = pc.add_checked(table.column(index), pa.scalar(shift, pa.int64()))
        except (pa.ArrowInvalid, OverflowError) as error:
            raise TraceFormatError(
                f"{segment.path}: its times do not fit the time axis: they would be {shift} ns later",
                "look at its epoch, and at the offset that was given",
            ) from error
        table = table.set_column(index, table.field(index), later)
    return table.select(columns)


def _upgraded(table: pa.Table) -> pa.Table:
    """Return conforming ops of schema version 1 with `write` for a `put` of a range, as `op_of_version_1.sql` does."""
    index = table.schema.get_field_index("op")
    op = table.column(index)
    ranges = pc.and_(pc.equal(op, "put"), pc.is_valid(table.column("offset")))
    if not pc.any(ranges).as_py():
        return table
    words = pc.if_else(ranges, "write", op.cast(pa.string())).dictionary_encode()
    return table.set_column(index, table.field(index), words)


def _first_submit(segment: SegmentInfo, reader: TraceReader) -> int:
    first = segment.first_submit
    if first is None:
        first = TraceReader(segment.path, (segment,), None, None).extent()[0]
    if first is None:
        raise TraceFormatError(f"{segment.path}: its ops have no t_submit", "every op needs t_submit and uri")
    return first + reader.shift_of(segment)
