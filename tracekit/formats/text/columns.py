"""Reads and writes delimited text with a column mapping: tracekit's own csv, and public block traces."""

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
from tracekit.formats.base import Carries, ExportOptions, ImportOptions, Tally
from tracekit.formats.rows import for_csv
from tracekit.formats.text.delimited import LINE_ENDS, TEXT, Layout, kind_of, one_line, parse
from tracekit.formats.text.lines import Block, blocks, in_parallel
from tracekit.formats.text.mapping import (
    Column,
    Numbering,
    mapped,
    named_columns,
    parse_mapping,
    source_types,
    with_preset,
)
from tracekit.schema import OPS
from tracekit.store.reader import TraceReader

__all__ = ["Csv"]


class Csv:
    """Reads delimited text by a mapping; writes every column of a trace with a header."""

    name = "csv"
    about = "delimited text; map_columns= names the columns, or one of the presets of public traces"
    carries = Carries("any unit", samples="yes", reads="by mapping")

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
        numbering = Numbering(plan.mapping, tally)
        for batch, part in in_parallel(parsed, chain([rest], text)):
            tally.add(part)
            rows += batch.num_rows
            yield numbering.numbered(batch)
        if not rows and tally.skipped:
            raise tally.nothing("say which column is which with map_columns=")

    def write(self, trace: TraceReader, sink: BinaryIO, tally: Tally, options: ExportOptions) -> int:
        """As the protocol says: times in ns, `t_submit` since the Unix epoch; null is an empty field."""
        done = torn = 0
        first = True
        if not trace.rows:  # a header says that it is a log
            sink.write(f"{','.join(OPS.names)}\n".encode())
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
    mapping: tuple[Column, ...]
    base: str
    extras: tuple[str, ...]
    map_ops: Mapping[str, str]


def _plan(source: Path, block: Block, options: ImportOptions) -> tuple[_Plan, Block]:
    """Return the plan that the options and the first line give, and the remaining lines."""
    preset, options = with_preset("csv", options)
    mapping = parse_mapping(options.map_columns or "")
    first, start, line = _first_line(block)
    separator = _separator(options.separator, first)
    if any(name.startswith("#") for name in source_types(mapping)):
        fields = preset.fields if preset is not None else len(_fields(first, separator))
        names: tuple[str, ...] = tuple(f"#{number}" for number in range(1, fields + 1))
        rest = block
        if _is_header(_fields(first, separator), names, source_types(mapping)):
            rest = Block(block.data[start:], line, block.lines - (line - block.first_line))
    else:
        names = tuple(name.strip().strip('"') for name in _fields(first, separator))
        rest = Block(block.data[start:], line, block.lines - (line - block.first_line))
        mapping = mapping + named_columns(names, {item.name for item in mapping})
    types = source_types(mapping)
    known = {item.name for item in mapping}
    missing = [name for name in ("uri", "t_submit") if name not in known]
    absent = sorted(types.keys() - set(names))
    if missing or absent:
        what = f"no column for {' and '.join(missing)}" if missing else f"no column {', '.join(absent)}"
        raise TraceFormatError(
            f"{source}: {what}; its first line has {', '.join(names[:20])[:200]}",
            "name the columns, as map_columns='uri=NAME,t_submit=NAME:us,len=NAME'",
        )
    if len(set(names)) != len(names):
        raise TraceFormatError(f"{source}: its header names a column twice", "rename one")
    named = not names[0].startswith("#")
    extras = tuple(n for n in names if named and n and n not in types and n.lower() not in OPS.names)
    types.update(dict.fromkeys(extras, TEXT))
    layout = Layout(names, types, separator, optional=preset.optional if preset is not None else 0, gaps=True)
    return _Plan(layout, mapping, options.base or "", extras, options.map_ops), rest


def _is_header(fields: list[str], names: tuple[str, ...], types: Mapping[str, pa.DataType]) -> bool:
    """Whether a line has no number where the mapping wants numbers."""
    wanted = [
        (text, types[name])
        for name, text in zip(names, fields, strict=False)
        if types.get(name, TEXT) != TEXT
    ]
    return bool(wanted) and all(kind_of(text, kind) is None for text, kind in wanted)


def _fields(line: str, separator: str) -> list[str]:
    return line.split() if separator == " " else line.split(separator)


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
    separator = words.get(given, given) if given else max("\t,;|", key=first.count)
    if len(separator) != 1 or not separator.isascii() or separator in '"\r\n\x00':
        raise UsageError(f"separator: {given!r} is not one character", "give one, or tab, space")
    return separator


def _ops(block: Block, plan: _Plan, tally: Tally) -> pa.RecordBatch:
    raw, lines = parse(block, plan.layout, tally)
    return mapped(raw, plan.mapping, lines, tally, base=plan.base, map_ops=plan.map_ops, extras=plan.extras)
