"""Reads and writes one JSON object a line: `{uri, offset, len, t_submit[, sample_id, …]}`.

Keys are columns of the op schema in its units (ns since the Unix epoch, ns, bytes); other
keys are kept as extra columns. A block that Arrow refuses is read line by line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pajson

from tracekit.formats.base import Carries, ExportOptions, ImportOptions, Lines, Tally
from tracekit.formats.sound import error_class, map_dictionary, op_kinds, sound_batch, uris
from tracekit.formats.text.lines import Block, blocks, decoded_lines, in_parallel
from tracekit.schema import OPS
from tracekit.store.reader import TraceReader

__all__ = ["Jsonl"]

_INTEGERS = tuple(field.name for field in OPS if pa.types.is_integer(field.type))
_TEXTS = tuple(field.name for field in OPS if not pa.types.is_integer(field.type))
_SCHEMA = pa.schema([(name, pa.int64()) for name in _INTEGERS] + [(name, pa.string()) for name in _TEXTS])


class Jsonl:
    """Reads and writes JSON lines."""

    name = "jsonl"
    about = "one JSON object a line, keys as in the op schema; other keys kept"
    carries = Carries("ns, absolute", samples="yes")

    def read(self, source: Path, tally: Tally, options: ImportOptions) -> Iterator[pa.RecordBatch]:
        """As the protocol says."""
        rows = 0
        extras: dict[str, pa.DataType] = {}

        def parsed(block: Block) -> tuple[pa.Table, Lines, Tally]:
            part = tally.fresh()
            return *_parse(block, part), part

        for table, lines, part in in_parallel(parsed, blocks(source, tally)):
            tally.add(part)
            batch = _ops(table, lines, extras, options, tally)
            rows += batch.num_rows
            yield batch
        if not rows:
            raise tally.nothing("give one JSON object a line")

    def write(self, trace: TraceReader, sink: BinaryIO, tally: Tally, options: ExportOptions) -> int:
        """As the protocol says; a null is left out of its line."""
        done = 0
        epoch = trace.epoch_unix_ns or 0
        for batch in trace.batches():
            frame = pl.DataFrame(batch).with_columns(pl.col("t_submit", "t_due") + epoch)
            empty = [name for name in frame.columns if frame[name].null_count() == frame.height]
            sink.write(_without_nulls(frame.drop(empty)))
            done += frame.height
        return done


def _without_nulls(frame: pl.DataFrame) -> bytes:
    text = frame.write_ndjson().encode()
    if b":null" not in text:
        return text
    lines = (json.loads(line) for line in text.splitlines())
    kept = ({key: value for key, value in row.items() if value is not None} for row in lines)
    return b"".join(
        json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n" for row in kept
    )


def _parse(block: Block, tally: Tally) -> tuple[pa.Table, Lines]:
    if not _is_utf8(block.data):  # Arrow would take it as it is
        return _line_by_line(block, tally)
    try:
        table = pajson.read_json(
            pa.BufferReader(block.data),
            read_options=pajson.ReadOptions(block_size=4 << 20),
            parse_options=pajson.ParseOptions(explicit_schema=_SCHEMA, unexpected_field_behavior="infer"),
        )
    except pa.ArrowException:
        return _line_by_line(block, tally)
    if len(table) != block.lines:
        return _line_by_line(block, tally)
    return table, np.arange(block.first_line, block.first_line + len(table), dtype=np.int64)


def _is_utf8(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _line_by_line(block: Block, tally: Tally) -> tuple[pa.Table, Lines]:
    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    for number, text in decoded_lines(block, tally):
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            tally.bad(number, "not JSON")
            continue
        why = _unfit(row)
        if why:
            tally.bad(number, why)
            continue
        rows.append(row)
        numbers.append(number)
    keys = list(dict.fromkeys(key for row in rows for key in row))
    columns = {key: _values([row.get(key) for row in rows], key) for key in keys}
    columns.update({f.name: pa.nulls(len(rows), f.type) for f in _SCHEMA if f.name not in columns})
    return pa.table(columns), np.array(numbers, np.int64)


def _unfit(row: object) -> str | None:
    """Return why `row` is not an op, or None; floats that are whole numbers become integers in place."""
    if not isinstance(row, dict):
        return "not a JSON object"
    for name in _INTEGERS:
        value = row.get(name)
        if isinstance(value, float) and math.isfinite(value) and value.is_integer() and abs(value) < 2**53:
            row[name] = value = int(value)
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**63
        ):
            return f"its {name} is not an integer: {str(value)[:40]}"
    if any(_lone_surrogate(key) for key in row):
        return "a key is not text"
    wrong = next(
        (n for n in _TEXTS if not isinstance(row.get(n), str | None) or _lone_surrogate(row.get(n))), None
    )
    return f"its {wrong} is not text" if wrong else None


def _lone_surrogate(text: str | None) -> bool:
    return text is not None and any("\ud800" <= letter <= "\udfff" for letter in text)


def _values(values: list[Any], key: str) -> pa.Array:
    if key in _INTEGERS:
        return pa.array(values, pa.int64())
    if key in _TEXTS:
        return pa.array(values, pa.string())
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError, UnicodeError):
        return pa.array([None if v is None else json.dumps(v) for v in values], pa.string())


def _ops(
    table: pa.Table, lines: Lines, extras: dict[str, pa.DataType], options: ImportOptions, tally: Tally
) -> pa.RecordBatch:
    arrays = {name: _one(table.column(name)) for name in table.column_names}
    columns = {
        name: arrays[name] for name in _INTEGERS if arrays[name].null_count < len(lines) or name == "t_submit"
    }
    coded = arrays["uri"].dictionary_encode()
    full = uris(coded.dictionary, options.base)
    columns["uri"] = pa.DictionaryArray.from_arrays(
        coded.indices, full if not full.null_count else pc.fill_null(full, "")
    )
    if arrays["op"].null_count < len(lines):
        op = pc.fill_null(arrays["op"], "read").dictionary_encode()
        columns["op"] = op_kinds(op, lines, tally, options.map_ops)
    if arrays["error"].null_count < len(lines):
        error = arrays["error"].dictionary_encode()
        columns["error"] = map_dictionary(error, [error_class(text) for text in error.dictionary.to_pylist()])
    for name in arrays.keys() - set(OPS.names):
        columns[name] = _extra(name, arrays[name], extras, tally)
    return sound_batch(columns, lines, tally)


def _one(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    return combined if isinstance(combined, pa.Array) else pa.concat_arrays(combined.chunks)


def _extra(name: str, values: pa.Array, extras: dict[str, pa.DataType], tally: Tally) -> pa.Array:
    """Return an extra column in the type of its first block, so that all segments agree."""
    if pa.types.is_nested(values.type) or pa.types.is_timestamp(values.type) or pa.types.is_null(values.type):
        values = pa.array(
            [None if v is None else json.dumps(v, default=str) for v in values.to_pylist()], pa.string()
        )
    want = extras.setdefault(name, values.type)
    try:
        return values.cast(want)
    except (pa.ArrowException, UnicodeError):
        tally.note(
            f"the extra column {name} changes its type from {want} to {values.type}: such values are null"
        )
        return pa.nulls(len(values), want)
