"""Reads and writes delimited text with a column mapping: tracekit's own csv, and public block traces.

`COLUMN=SOURCE[:UNIT]` says where a column of the op schema stands in the file: SOURCE is a
name of the header, or `#N` (from 1) in a file without one; `A+B` joins names for a URI.
Presets are the mappings of well-known public traces.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from tracekit.errors import TraceFormatError, UsageError
from tracekit.formats.base import Carries, ExportOptions, ImportOptions, Lines, Tally
from tracekit.formats.rows import for_csv
from tracekit.formats.sound import error_class, map_dictionary, op_kinds, sound_batch, uris
from tracekit.formats.text.delimited import (
    DECIMAL,
    INTEGER,
    LINE_ENDS,
    TEXT,
    TIMESTAMP,
    Layout,
    one_line,
    parse,
)
from tracekit.formats.text.lines import Block, blocks, in_parallel
from tracekit.schema import OPS
from tracekit.store.reader import TraceReader

__all__ = ["PRESETS", "Csv"]

PRESETS = {
    "alibaba": ("uri=#1,op=#2,offset=#3,len=#4,t_submit=#5:us", ",", 5, "block://alibaba/"),
    "tencent": ("t_submit=#1:s,offset=#2:sectors,len=#3:sectors,op=#4:r0w1,uri=#5", ",", 5, "block://tencent/"),
    "msr": ("t_submit=#1:filetime,uri=#2+#3,op=#4,offset=#5,len=#6,latency=#7:100ns", ",", 7, "block://msr/"),
    "mqsim": ("t_submit=#1,uri=#2,offset=#3:sectors,len=#4:sectors,op=#5:w0r1", " ", 5, "block://mqsim/"),
}  # fmt: skip
"""Name: mapping, separator, fields a line, and what goes before the device's name."""

_TIME_NS = {"ns": 1, "100ns": 100, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000, "min": 60_000_000_000}
_SIZES = {"bytes": 1, "b": 1, "sectors": 512, "kib": 1024, "kb": 1000, "mib": 1024**2, "mb": 1000**2,
          "pages": 4096}  # fmt: skip
_FILETIME_TO_UNIX = 116_444_736_000_000_000
_OP_CODES = {"r0w1": {"0": "read", "1": "put"}, "w0r1": {"0": "put", "1": "read"}}
_TIMES = ("t_submit", "latency", "ttfb", "t_due")
_BYTES = ("offset", "len", "bytes")
_TEXTS = tuple(field.name for field in OPS if pa.types.is_dictionary(field.type))
_DEFAULT_UNIT = {**dict.fromkeys(_TIMES, "ns"), **dict.fromkeys(_BYTES, "bytes")}


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a schema column comes from: a column of the file (for a URI, one or more), in `unit`."""

    column: str
    sources: tuple[str, ...]
    unit: str

    @property
    def kind(self) -> pa.DataType:
        """The type that the file's text is parsed as, exact for every unit."""
        if self.column in _TEXTS:
            return TEXT
        if self.unit == "iso":
            return TIMESTAMP
        return DECIMAL if self.unit in ("us", "ms", "s", "min") else INTEGER


class Csv:
    """Reads delimited text by a mapping; writes every column of a trace with a header."""

    name = "csv"
    about = "delimited text; map_columns= names the columns (presets: " + ", ".join(PRESETS) + ")"
    carries = Carries("any unit", samples="yes")

    def read(self, source: Path, tally: Tally, options: ImportOptions) -> Iterator[pa.RecordBatch]:
        """As the protocol says. Without a mapping, the header must name schema columns."""
        text = blocks(source, tally)
        first = next(text, None)
        if first is None:
            raise TraceFormatError(f"{source} is empty", "is this the right file?")
        plan, rest = _plan(source, first, options)

        def parsed(block: Block) -> tuple[pa.RecordBatch, Tally]:
            part = tally.fresh()
            return _ops(block, plan, part), part

        rows = 0
        for batch, part in in_parallel(parsed, chain([rest], text)):
            tally.add(part)
            rows += batch.num_rows
            yield batch
        if not rows and tally.skipped:
            raise tally.nothing("say which column is which with map_columns=")

    def write(self, trace: TraceReader, sink: BinaryIO, tally: Tally, options: ExportOptions) -> int:
        """As the protocol says: times in ns, `t_submit` since the Unix epoch; null is an empty field."""
        done = torn = 0
        first = True
        epoch = pa.scalar(trace.epoch_unix_ns or 0, pa.int64())
        for batch in trace.batches():
            named = one_line(batch)
            torn += batch.num_rows - named.num_rows
            table = pa.Table.from_batches([named])
            for name in ("t_submit", "t_due"):
                index = table.schema.get_field_index(name)
                table = table.set_column(index, name, pc.add(table.column(name), epoch))
            header = pacsv.WriteOptions(include_header=first)
            first = False
            pacsv.write_csv(for_csv(table), sink, header)
            done += len(table)
        if torn:
            tally.note(LINE_ENDS.format(torn))
        return done


@dataclass(frozen=True, slots=True)
class _Plan:
    layout: Layout
    mapping: tuple[_Source, ...]
    base: str
    extras: tuple[str, ...]
    map_ops: Mapping[str, str]


def _plan(source: Path, block: Block, options: ImportOptions) -> tuple[_Plan, Block]:
    """Return the plan that the options and the first line give, and the remaining lines."""
    text, separator, fields, base = (options.map_columns or "", options.separator, 0, options.base or "")
    if text in PRESETS:
        text, own_separator, fields, own_base = PRESETS[text]
        separator, base = separator or own_separator, base or own_base
    mapping = _mapping(text)
    first, start, line = _first_line(block)
    separator = _separator(separator, first)
    if any(name.startswith("#") for item in mapping for name in item.sources):
        fields = fields or first.count(separator) + 1
        names: tuple[str, ...] = tuple(f"#{number}" for number in range(1, fields + 1))
        rest = block
    else:
        names = tuple(name.strip().strip('"') for name in first.split(separator))
        rest = Block(block.data[start:], line, block.lines - (line - block.first_line))
        mapping = mapping + _named(names, {item.column for item in mapping})
    known = {item.column for item in mapping}
    used = {name for item in mapping for name in item.sources}
    missing = [name for name in ("uri", "t_submit") if name not in known]
    absent = sorted(used - set(names))
    if missing or absent:
        what = f"no column for {' and '.join(missing)}" if missing else f"no column {', '.join(absent)}"
        raise TraceFormatError(
            f"{source}: {what}; its first line has {', '.join(names[:20])[:200]}",
            "name the columns, as map_columns='uri=NAME,t_submit=NAME:us,len=NAME'",
        )
    if len(set(names)) != len(names):
        raise TraceFormatError(f"{source}: its header names a column twice", "rename one")
    named = not names[0].startswith("#")
    extras = tuple(n for n in names if named and n and n not in used and n not in OPS.names)
    types = {name: item.kind for item in mapping for name in item.sources}
    types.update(dict.fromkeys(extras, TEXT))
    return _Plan(Layout(names, types, separator), mapping, base, extras, options.map_ops), rest


def _first_line(block: Block) -> tuple[str, int, int]:
    """Return the first line with content, and where the next line begins, with its number."""
    start, line = 0, block.first_line
    while start < len(block.data):
        end = block.data.index(b"\n", start)
        text = block.data[start:end].decode("utf-8", "replace").lstrip("\ufeff")
        start, line = end + 1, line + 1
        if text.strip() and not text.startswith("#"):
            return text, start, line
    return "", len(block.data), line


def _separator(given: str | None, first: str) -> str:
    words = {"tab": "\t", "\\t": "\t", "space": " ", "comma": ",", "semicolon": ";"}
    separator = words.get(given, given) if given else max("\t,;", key=first.count)
    if len(separator) != 1 or not separator.isascii() or separator in '"\r\n\x00':
        raise UsageError(f"separator: {given!r} is not one character", "give one, or tab, space")
    return separator


def _mapping(text: str) -> tuple[_Source, ...]:
    """Parse a mapping. Raises UsageError naming the invalid item."""
    found: dict[str, _Source] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        column, equals, rest = item.partition("=")
        names, _, unit = rest.partition(":")
        if not equals or not names or column not in OPS.names or column in found:
            raise UsageError(
                f"map_columns: {item!r} is not a mapping",
                f"write COLUMN=SOURCE[:UNIT] once a column, or a preset ({', '.join(PRESETS)}); "
                f"columns are {', '.join(OPS.names)}",
            )
        sources = tuple(names.split("+"))
        if len(sources) > 1 and column != "uri":
            raise UsageError(f"map_columns: {item!r} joins columns", "only a uri can be joined from several")
        found[column] = _Source(column, sources, _unit(item, column, unit))
    return tuple(found.values())


def _unit(item: str, column: str, unit: str) -> str:
    unit = unit or _DEFAULT_UNIT.get(column, "")
    allowed: tuple[str, ...] = ("",)
    if column in _TIMES:
        allowed = (*_TIME_NS, *(("iso", "filetime") if column in ("t_submit", "t_due") else ()))
    elif column in _BYTES:
        allowed = tuple(_SIZES)
    elif column == "op":
        allowed = ("", *_OP_CODES)
    if unit.lower() not in allowed:
        hint = f"there are {', '.join(filter(None, allowed))}" if len(allowed) > 1 else "it has none"
        raise UsageError(f"map_columns: {item!r} has an unknown unit for {column}", hint)
    return unit.lower()


def _named(names: tuple[str, ...], taken: set[str]) -> tuple[_Source, ...]:
    """Return the schema columns that the header names: `len`, or with a unit, `latency_us`."""
    found: dict[str, _Source] = {}
    for name in names:
        for column in OPS.names:
            unit = (
                ""
                if name == column
                else name.removeprefix(f"{column}_").lower()
                if name.startswith(f"{column}_")
                else None
            )
            units = _TIME_NS if column in _TIMES else _SIZES if column in _BYTES else {}
            if column in taken or column in found or unit is None or (unit and unit not in units):
                continue
            found[column] = _Source(column, (name,), unit or _DEFAULT_UNIT.get(column, ""))
    return tuple(found.values())


def _ops(block: Block, plan: _Plan, tally: Tally) -> pa.RecordBatch:
    raw, lines = parse(block, plan.layout, tally)
    columns = {item.column: _column(item, raw, plan, lines, tally) for item in plan.mapping}
    columns.update({name: raw[name] for name in plan.extras})
    return sound_batch(columns, lines, tally)


def _column(item: _Source, raw: dict[str, pa.Array], plan: _Plan, lines: Lines, tally: Tally) -> pa.Array:
    values = raw[item.sources[0]]
    if item.column == "uri":
        return _uri([raw[name] for name in item.sources], plan.base)
    if item.column == "error":
        return map_dictionary(values, [error_class(text) for text in values.dictionary.to_pylist()])
    if item.column == "op":
        codes = _OP_CODES.get(item.unit)
        if codes is not None and not plan.map_ops:
            return map_dictionary(
                values, [codes.get(str(text).strip()) for text in values.dictionary.to_pylist()]
            )
        return op_kinds(values, lines, tally, plan.map_ops)
    if item.unit == "iso":
        return values.cast(pa.int64())
    if item.unit == "filetime":
        return _scaled(pc.subtract(values, _FILETIME_TO_UNIX), 100)
    return _scaled(values, (_TIME_NS | _SIZES).get(item.unit, 1))


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
    if full.null_count:
        indices = pc.if_else(
            pc.is_valid(full).take(first.indices), first.indices, pa.scalar(None, pa.int32())
        )
        return pa.DictionaryArray.from_arrays(indices, full)
    return pa.DictionaryArray.from_arrays(first.indices, full)
