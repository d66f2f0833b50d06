"""Reads and writes one JSON object a line: `{uri, offset, len, t_submit[, sample_id, …]}`.

Keys are columns of the op schema in its units (ns since the Unix epoch, ns, bytes), or what a mapping says;
other keys are kept as extra columns. A block that Arrow refuses is read line by line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pajson

from tracekit.errors import UsageError
from tracekit.formats.base import Carries, ExportOptions, ImportOptions, Lines, Tally
from tracekit.formats.rows import plain
from tracekit.formats.sound import error_class, map_dictionary, op_kinds, sound_batch, uris
from tracekit.formats.text.delimited import TEXT, columns_of
from tracekit.formats.text.lines import Block, ahead, blocks, decoded_lines, in_parallel
from tracekit.formats.text.mapping import Numbering, mapped, parse_mapping, source_types, with_preset
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
        _, options = with_preset(self.name, options)
        found = _mapped(source, tally, options) if options.map_columns else _plain(source, tally, options)
        rows = 0
        for batch in found:
            rows += batch.num_rows
            yield batch
        if not rows:
            raise tally.nothing("give one JSON object a line")

    def write(self, trace: TraceReader, sink: BinaryIO, tally: Tally, options: ExportOptions) -> int:
        """As the protocol says; a null is left out of its line."""
        done = 0
        epoch = trace.epoch_unix_ns or 0
        for batch in trace.batches():
            for name in ("t_submit", "t_due"):
                index = batch.schema.get_field_index(name)
                batch = batch.set_column(index, name, pc.add(batch.column(name), epoch))
            sink.write(_lines(batch))
            done += batch.num_rows
        return done


def _lines(batch: pa.RecordBatch) -> bytes:
    """Return one JSON object a row. Each column becomes `,"name":value` or nothing, and the columns are joined."""
    parts: list[pa.Array] = []
    for name in batch.schema.names:
        column = batch.column(name)
        if column.null_count == len(column):
            continue
        label = f",{json.dumps(name)}:"
        parts.append(pc.fill_null(pc.binary_join_element_wise(label, _values_as_json(column), ""), ""))
    text = pc.binary_join_element_wise(*parts, "")
    text = pc.binary_join_element_wise("{", pc.utf8_slice_codeunits(text, 1), "}\n", "")
    return "".join(text.to_pylist()).encode()


def _values_as_json(column: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        return _values_as_json(column.dictionary).take(column.indices)
    if pa.types.is_integer(column.type):
        return column.cast(pa.string())
    values = (
        None if value is None else json.dumps(plain(value), ensure_ascii=False, separators=(",", ":"))
        for value in column.to_pylist()
    )
    return pa.array(values, pa.string())


def _plain(source: Path, tally: Tally, options: ImportOptions) -> Iterator[pa.RecordBatch]:
    """Yield the ops of a log with keys of the schema."""
    extras: dict[str, pa.DataType] = {}

    def parsed(block: Block) -> tuple[pa.Table, Lines, Tally]:
        part = tally.fresh()
        return *_parse(block, part), part

    for table, lines, part in in_parallel(parsed, blocks(source, tally)):
        tally.add(part)
        yield _ops(table, lines, extras, options, tally)


def _mapped(source: Path, tally: Tally, options: ImportOptions) -> Iterator[pa.RecordBatch]:
    """Yield the ops of a log with other keys. Numbers are kept as they are written, so that decimals are exact."""
    columns = parse_mapping(options.map_columns or "")
    missing = [name for name in ("uri", "t_submit") if name not in {column.name for column in columns}]
    if missing:
        raise UsageError(f"map_columns= has no {' and no '.join(missing)}", "say which keys hold them")
    types = source_types(columns)
    numbering = Numbering(columns, tally)
    paths = {name: name.split(".") for name in types}
    tops = {path[0] for path in paths.values()}
    extras: list[str] = []
    for block in ahead(blocks(source, tally)):
        found: dict[str, str | None]
        rows: list[tuple[int, dict[str, str | None]]] = []
        for number, row in _objects(block, tally):
            found = {name: _text(_inside(row, name, path)) for name, path in paths.items()}
            for key in row.keys() - tops - set(OPS.names):
                found[key] = _text(row[key])
            if any(_lone_surrogate(text) for text in (*found, *found.values())):
                tally.bad(number, "a key or value is not text")
                continue
            extras += [key for key in found if key not in types and key not in extras]
            rows.append((number, found))
        kinds = {**types, **dict.fromkeys(extras, TEXT)}
        raw, lines = columns_of(rows, kinds, tally)
        batch = mapped(
            raw, columns, lines, tally, base=options.base, map_ops=options.map_ops, extras=tuple(extras)
        )
        yield numbering.numbered(batch)


def _objects(block: Block, tally: Tally) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, text in decoded_lines(block, tally):
        try:
            row = json.loads(text, parse_float=Decimal)
        except (ValueError, RecursionError):
            tally.bad(number, "not JSON")
            continue
        if not isinstance(row, dict):
            tally.bad(number, "not a JSON object")
        else:
            yield number, row


def _inside(row: dict[str, Any], name: str, path: list[str]) -> Any:
    """Return the value of the key `name`, or of the key inside the objects that `path` names."""
    if name in row:
        return row[name]
    value: Any = row
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return str(value) if isinstance(value, Decimal) else json.dumps(value, ensure_ascii=False, default=float)


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
    columns["uri"] = _named(arrays["uri"], options.base)
    if arrays["to_uri"].null_count < len(lines):
        columns["to_uri"] = _named(arrays["to_uri"], options.base)
    if arrays["op"].null_count < len(lines):
        op = pc.fill_null(arrays["op"], "read").dictionary_encode()
        columns["op"] = op_kinds(op, lines, tally, options.map_ops)
    if arrays["error"].null_count < len(lines):
        error = arrays["error"].dictionary_encode()
        columns["error"] = map_dictionary(error, [error_class(text) for text in error.dictionary.to_pylist()])
    for name in arrays.keys() - set(OPS.names):
        columns[name] = _extra(name, arrays[name], extras, tally)
    return sound_batch(columns, lines, tally)


def _named(names: pa.Array, base: str | None) -> pa.Array:
    """Return the URIs of a column of names; the empty one stays, for `sound_batch` to refuse."""
    coded = names.dictionary_encode()
    return pa.DictionaryArray.from_arrays(coded.indices, pc.fill_null(uris(coded.dictionary, base), ""))


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
