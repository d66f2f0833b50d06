"""Says which column of a text log stands for which column of the op schema: one mapping for csv and JSON lines.

`COLUMN=SOURCE[:UNIT][|SOURCE[:UNIT]...]`, comma-separated. SOURCE is a name of the header or a JSON key (`args.size`
is the key `size` inside `args`), `#N` (from 1) a place in a line without a header, `A+B` joins names for a URI, and
`'TEXT'` is a constant. Of several sources, the first that holds a value counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from tracekit.errors import ErrorClass, UsageError
from tracekit.formats.base import ImportOptions, Lines, Tally
from tracekit.formats.sound import Streams, error_class, map_dictionary, op_kinds, op_map, sound_batch, uris
from tracekit.formats.text.delimited import DECIMAL, INTEGER, TEXT, TIMESTAMP, arrays_of, kind_of
from tracekit.formats.text.presets import FORMATS, PRESETS, Preset
from tracekit.schema import OPS
from tracekit.validation import nearest

__all__ = [
    "SIZES",
    "TIMES",
    "Column",
    "Numbering",
    "Source",
    "mapped",
    "named_columns",
    "parse_mapping",
    "source_types",
    "with_preset",
]

TIMES = {"ns": 1, "100ns": 100, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000, "min": 60_000_000_000}
"""Units of time, in ns."""
SIZES = {
    "bytes": 1,
    "b": 1,
    "sectors": 512,
    "kib": 1024,
    "kb": 1000,
    "mib": 1024**2,
    "mb": 1000**2,
    "pages": 4096,
}
"""Units of size, in bytes."""

_FILETIME_TO_UNIX = 116_444_736_000_000_000
_OP_CODES = {"r0w1": {"0": "read", "1": "write"}, "w0r1": {"0": "write", "1": "read"}}
_ENDS = {"last": 1, "end": 0}
"""Units of `len`: the source is the offset of the last byte, or of the byte after it."""
_TIME_COLUMNS = ("t_submit", "latency", "ttfb", "t_due", "wait_ns")
_SIZE_COLUMNS = ("offset", "len", "bytes", "object_size")
_URI_COLUMNS = ("uri", "to_uri")
_TEXT_COLUMNS = (*_URI_COLUMNS, "op", "error")
_STREAM_COLUMNS = ("rank", "worker")
_NAME = "name"
"""A unit of `rank` and `worker`: the source is any text, numbered in order of appearance."""
_UNTIL = "end-"
"""Before a unit of `latency` or `ttfb`: the source is a time of that unit, from which `t_submit` is subtracted."""
_CLOCKS = (*TIMES, "iso", "filetime")
_NO_ERROR = re.compile(r"(?i:ok|success|succeeded|none|null|false|-|0)|[123]\d\d")
"""Words, and statuses of HTTP, that are no error."""
_COLUMNS = (*OPS.names, "object_size")
_DEFAULT_UNIT = {**dict.fromkeys(_TIME_COLUMNS, "ns"), **dict.fromkeys(_SIZE_COLUMNS, "bytes")}
_DEPENDENT = ("len", "latency", "ttfb")
"""Columns whose values may need those of others, which are therefore made first."""
_WITHOUT_LENGTH = ("stat", "list", "delete", "rename", "copy", "sync", "complete", "abort")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value comes from: a column of the log (for a URI, one or more) in `unit`, or a constant."""

    names: tuple[str, ...]
    unit: str
    constant: str | None = None

    def kind(self, column: str) -> pa.DataType:
        """Return the type that the log's text is parsed as, exact for every unit."""
        if column in _TEXT_COLUMNS or self.unit == _NAME:
            return TEXT
        unit = self.unit.removeprefix(_UNTIL)
        if unit == "iso":
            return TIMESTAMP
        return DECIMAL if unit in ("us", "ms", "s", "min") else INTEGER


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the op schema and its sources; the first that holds a value counts.

    `own`: the log names the column as the schema does, and means the same by it.
    """

    name: str
    sources: tuple[Source, ...]
    own: bool = False


def with_preset(format: str, options: ImportOptions) -> tuple[Preset | None, ImportOptions]:
    """Return the preset that `map_columns` names, if it names one, and the options with what it says.

    What the user gives besides goes before what the preset says. Raises UsageError for a preset of another format.
    """
    preset = PRESETS.get(options.map_columns or "")
    if preset is None:
        return None, options
    if preset.format != format:
        raise UsageError(
            f"map_columns={options.map_columns}: not a preset of {format} logs",
            f"import them as {preset.format}",
        )
    return preset, replace(
        options,
        map_columns=preset.columns,
        base=options.base or preset.base,
        separator=options.separator or preset.separator,
        map_ops={**op_map(preset.ops), **options.map_ops},
    )


def parse_mapping(text: str) -> tuple[Column, ...]:
    """Parse a mapping. Raises UsageError naming the invalid item."""
    found: dict[str, Column] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, rest = item.partition("=")
        if item in FORMATS:
            raise UsageError(f"map_columns={item!r} is a format, not a mapping", f"import it as {item}")
        if not equals or not rest or name not in _COLUMNS or name in found:
            near = nearest(name, (*_COLUMNS, *PRESETS)) if name not in _COLUMNS else ""
            near = f"{near} " if near else ""
            raise UsageError(
                f"map_columns={item!r} is not a mapping",
                f"{near}write COLUMN=SOURCE[:UNIT] once a column, or a preset ({', '.join(PRESETS)}); "
                f"columns are {', '.join(_COLUMNS)}",
            )
        found[name] = Column(name, tuple(_source(item, name, part) for part in rest.split("|")))
    return tuple(found.values())


def named_columns(names: tuple[str, ...], taken: set[str]) -> tuple[Column, ...]:
    """Return the schema columns that a log's own names say, in any case: `len`, or with a unit, `latency_us`."""
    found: dict[str, Column] = {}
    for name in names:
        lower = name.lower()
        for column in _COLUMNS:
            unit = "" if lower == column else lower.removeprefix(f"{column}_")
            if column in taken or column in found or (unit == lower):
                continue
            if not unit or unit in _units(column):
                source = Source((name,), unit or _DEFAULT_UNIT.get(column, ""))
                found[column] = Column(column, (source,), own=True)
    return tuple(found.values())


def source_types(columns: tuple[Column, ...]) -> dict[str, pa.DataType]:
    """Return the type that each source is parsed as; text where two columns read it in different ways."""
    types: dict[str, pa.DataType] = {}
    for column in columns:
        for source in column.sources:
            kind = source.kind(column.name)
            for name in source.names:
                types[name] = kind if types.get(name, kind) == kind else TEXT
    return types


def mapped(
    raw: Mapping[str, pa.Array],
    columns: tuple[Column, ...],
    lines: Lines,
    tally: Tally,
    *,
    base: str | None,
    map_ops: Mapping[str, str],
    extras: tuple[str, ...] = (),
) -> pa.RecordBatch:
    """Return the ops of the columns `raw` of a log, whose rows are the lines `lines`."""
    done: dict[str, pa.Array] = {}
    for column in sorted(columns, key=lambda one: one.name in _DEPENDENT):
        values = None
        for source in column.sources:
            if values is not None and not values.null_count:
                break
            texts = raw if values is None or column.name != "op" else _where_null(values, raw, source.names)
            found = _values(column.name, source, texts, lines, tally, done, base, map_ops)
            values = found if values is None else _coalesced(values, found)
        done[column.name] = values
    if "op" in done and any(column.name == "len" and not column.own for column in columns):
        done["len"] = _length_of_kinds(done["len"], done["op"])
    done = {column.name: done[column.name] for column in columns}
    done.update({name: raw[name] for name in extras})
    return sound_batch(done, lines, tally)


class Numbering:
    """The numbers of ranks and workers that a log calls by name, in order of appearance, over all blocks of it."""

    def __init__(self, columns: tuple[Column, ...], tally: Tally) -> None:
        named = {column.name for column in columns if any(source.unit == _NAME for source in column.sources)}
        self._streams = {name: Streams(tally.clients if name == "rank" else None) for name in named}
        tally.shares_ranks = tally.shares_ranks or "rank" in named

    def numbered(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return `batch`, whose names of ranks and workers become their numbers."""
        for name, streams in self._streams.items():
            place = batch.schema.get_field_index(name)
            batch = batch.set_column(place, name, streams.numbers(batch.column(place)))
        return batch


def _source(item: str, column: str, text: str) -> Source:
    text = text.strip()
    if len(text) >= 2 and text[0] == text[-1] == "'":
        unit = _DEFAULT_UNIT.get(column, "")
        source = Source((), unit, text[1:-1])
        if kind_of(source.constant or "", source.kind(column)) is None:
            raise UsageError(f"map_columns={item!r} has an invalid constant for {column}", "give a number")
        return source
    before, colon, unit = text.rpartition(":")
    if not colon:
        before, unit = text, ""
    names = tuple(before.split("+"))
    if not all(names):
        raise UsageError(f"map_columns={item!r} names no source", "write COLUMN=SOURCE[:UNIT]")
    if len(names) > 1 and column not in _URI_COLUMNS:
        raise UsageError(f"map_columns={item!r} joins columns", "only a uri can be joined from several")
    unit = (unit or _DEFAULT_UNIT.get(column, "")).lower()
    allowed = _units(column)
    if unit not in ("", *allowed):
        raise UsageError(
            f"map_columns={item!r} has an unknown unit for {column}",
            f"there are {', '.join(allowed)}" if allowed else "it has none",
        )
    return Source(names, unit)


def _units(column: str) -> tuple[str, ...]:
    if column in ("t_submit", "t_due"):
        return _CLOCKS
    if column in _TIME_COLUMNS:
        return (*TIMES, *(f"{_UNTIL}{unit}" for unit in (_CLOCKS if column in _DEPENDENT else ())))
    if column in _STREAM_COLUMNS:
        return (_NAME,)
    if column in _SIZE_COLUMNS:
        return (*SIZES, *(_ENDS if column == "len" else ()))
    return tuple(_OP_CODES) if column == "op" else ()


def _values(
    column: str,
    source: Source,
    raw: Mapping[str, pa.Array],
    lines: Lines,
    tally: Tally,
    done: Mapping[str, pa.Array],
    base: str | None,
    map_ops: Mapping[str, str],
) -> pa.Array:
    """Return the values of one column of the schema, from one of its sources; `done` are those before it."""
    kind = source.kind(column)
    if source.constant is not None:
        texts: list[str | None] = [source.constant] * len(lines)
        parts = [arrays_of({"constant": texts}, {"constant": kind})["constant"]]
    else:
        parts = [_as(raw[name], kind) for name in source.names]
    values = parts[0]
    if column in _URI_COLUMNS:
        return _uri(parts, base)
    if column == "error":
        return map_dictionary(values, [_failure(text) for text in values.dictionary.to_pylist()])
    if column == "op":
        return op_kinds(values, lines, tally, {**_OP_CODES.get(source.unit, {}), **map_ops})
    if source.unit == _NAME:
        return values
    if source.unit in _ENDS:
        begin = done.get("offset", pa.nulls(len(values), pa.int64()))
        return pc.add(pc.subtract(values, begin), _ENDS[source.unit])
    if source.unit.startswith(_UNTIL):
        return pc.subtract(_in_base_unit(values, source.unit.removeprefix(_UNTIL)), done["t_submit"])
    return _in_base_unit(values, source.unit)


def _where_null(values: pa.Array, raw: Mapping[str, pa.Array], names: tuple[str, ...]) -> dict[str, pa.Array]:
    """Return the columns `names` where `values` has nothing yet: a word that does not count is not looked up."""
    missing = pc.is_null(values)
    nothing = pa.scalar(None, pa.int32())
    return {
        name: pa.DictionaryArray.from_arrays(
            pc.if_else(missing, raw[name].indices, nothing), raw[name].dictionary
        )
        for name in names
    }


def _in_base_unit(values: pa.Array, unit: str) -> pa.Array:
    """Return times in ns, and sizes in bytes."""
    if unit == "iso":
        return values.cast(pa.int64())
    if unit == "filetime":
        return _scaled(pc.subtract(values, _FILETIME_TO_UNIX), 100)
    return _scaled(values, (TIMES | SIZES).get(unit, 1))


def _failure(text: str | None) -> ErrorClass | None:
    return None if text is None or _NO_ERROR.fullmatch(text.strip()) else error_class(text)


def _as(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return `values` as `kind`: text that stands for two columns is read again; what is no number becomes -1."""
    if values.type == kind:
        return values
    texts: list[str | None] = values.dictionary.to_pylist()
    sure = [text if text is None or kind_of(text, kind) is not None else "-1" for text in texts]
    return arrays_of({"n": sure}, {"n": kind})["n"].take(values.indices)


def _coalesced(values: pa.Array, others: pa.Array) -> pa.Array:
    if not pa.types.is_dictionary(values.type):
        return pc.coalesce(values, others)
    return pc.coalesce(values.cast(pa.string()), others.cast(pa.string())).dictionary_encode()


def _length_of_kinds(length: pa.Array, kinds: pa.Array) -> pa.Array:
    """Return `length`, null for kinds of op that have none: some logs write the object's size there."""
    bare = pa.array([kind in _WITHOUT_LENGTH for kind in kinds.dictionary.to_pylist()], pa.bool_())
    if not pc.any(bare).as_py():
        return length
    return pc.if_else(pc.fill_null(bare.take(kinds.indices), False), pa.scalar(None, pa.int64()), length)


def _scaled(values: pa.Array, scale: int) -> pa.Array:
    """Return `values` times `scale` as integers; a product out of range becomes -1, which is invalid everywhere."""
    if pa.types.is_decimal(values.type):
        exact = pc.multiply(
            values.cast(pa.decimal256(50, 9)), pa.scalar(scale, pa.int64()).cast(pa.decimal256(19, 0))
        )
        whole = pc.round(exact).cast(pa.decimal256(41, 0))
        top = pa.scalar(2**62, pa.int64()).cast(whole.type)
        whole = pc.if_else(pc.greater(pc.abs(whole), top), pa.scalar(-1).cast(whole.type), whole)
        return whole.cast(pa.int64())
    if scale == 1:
        return values
    safe = pc.if_else(
        pc.greater(pc.abs_checked(pc.max_element_wise(values, -(2**63) + 1)), 2**62 // scale), -1, values
    )
    return pc.if_else(pc.less(safe, 0), -1, pc.multiply(safe, scale))


def _uri(parts: list[pa.Array], base: str | None) -> pa.Array:
    first = parts[0]
    if len(parts) > 1:
        texts = [part.cast(pa.string()) for part in parts]
        first = pc.binary_join_element_wise(*texts, "/").dictionary_encode()
    full = uris(first.dictionary, base)
    indices = first.indices.cast(pa.int32())
    if full.null_count:
        indices = pc.if_else(pc.is_valid(full).take(indices), indices, pa.scalar(None, pa.int32()))
    return pa.DictionaryArray.from_arrays(indices, full)
