"""Reads logs of one record a line, line by line: for formats whose records need more than a mapping."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from tracekit.formats.base import Tally
from tracekit.formats.sound import batch_of
from tracekit.formats.text.lines import ahead, blocks, decoded_lines
from tracekit.schema import OPS

__all__ = ["Record", "read_records"]

Record = Mapping[str, object]
"""One op: values by column of the schema (or `object_size`); a column that is left out is null."""

_COLUMNS = (*OPS.names, "object_size")
_ALWAYS = ("t_submit", "uri", "op")


def read_records(
    source: Path,
    tally: Tally,
    records: Callable[[int, str], Iterator[Record]],
    *,
    columns: tuple[str, ...],
    rest: Callable[[], Iterator[tuple[int, Record]]] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Yield the ops that `records` makes of each line (its number and text), with `columns` besides the first three.

    A ValueError of `records` counts its line as bad, for the reason that it gives. `rest` gives the ops
    that the log does not see end, with the lines in which they begin.
    """
    names = [name for name in _COLUMNS if name in _ALWAYS or name in columns]
    for block in ahead(blocks(source, tally, block_bytes=4 << 20)):
        rows: list[Record] = []
        lines: list[int] = []
        for number, text in decoded_lines(block, tally):
            try:
                found = list(records(number, text))
            except ValueError as error:
                tally.bad(number, str(error))
                continue
            rows += found
            lines += [number] * len(found)
        yield batch_of({name: [row.get(name) for row in rows] for name in names}, lines, tally)
    if rest is not None:
        left = list(rest())
        columns_left = {name: [row.get(name) for _, row in left] for name in names}
        yield batch_of(columns_left, [number for number, _ in left], tally)
