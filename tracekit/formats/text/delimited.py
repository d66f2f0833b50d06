"""Parses columns of delimited text: tabs, commas, or any other character; blanks may be repeated.

Arrow parses a block at once. Only a block with a bad line is parsed line by line, so that
each bad line is reported by its number. Both ways read the same values.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from tracekit.formats.base import Lines, Tally
from tracekit.formats.text.lines import Block, decoded_lines

__all__ = [
    "DECIMAL",
    "INTEGER",
    "LINE_ENDS",
    "TEXT",
    "TIMESTAMP",
    "Layout",
    "arrays_of",
    "columns_of",
    "kind_of",
    "one_line",
    "parse",
]

TEXT = pa.dictionary(pa.int32(), pa.string())
INTEGER = pa.int64()
UNSIGNED = pa.uint64()
DECIMAL = pa.decimal128(38, 9)
TIMESTAMP = pa.timestamp("ns", "UTC")
LINE_ENDS = "{} ops left out: a name that holds a line end or a NUL cannot be written"
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:?\d\d)")
_WHOLE = re.compile(r"[+-]?\d{1,20}(\.\d{0,20})?([eE][+-]?\d{1,2})?", re.ASCII)
_HEXADECIMAL = re.compile(r"0[xX][0-9a-fA-F]{1,15}")
_NOTHING = ("NaN", "nan", "NA", "N/A", "null", "NULL", "None", "-", "\\N")
"""What other tools write for a number that there is not."""
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?")


@dataclass(frozen=True, slots=True)
class Layout:
    """How lines are split: `names` of the columns in order, `types` of the wanted ones.

    The last `optional` fields may be missing. A blank as separator stands for one or more. With `gaps`, words
    such as `NaN` stand for a number that there is not.
    """

    names: tuple[str, ...]
    types: Mapping[str, pa.DataType]
    separator: str
    quoted: bool = True
    optional: int = 0
    gaps: bool = False

    @property
    def ragged(self) -> bool:
        """Whether lines may be split in a way that Arrow's reader does not know."""
        return self.separator == " " or self.optional > 0


def parse(block: Block, layout: Layout, tally: Tally) -> tuple[dict[str, pa.Array], Lines]:
    """Return the wanted columns of `block`, and the line number of each row. An empty field is null.

    Blank lines and lines that begin with `#` are skipped; lines with another number
    of fields or a value that cannot be read are counted in `tally`.
    """
    commented = b"#" in block.data and (b"\n#" in block.data or block.data.startswith(b"#"))
    if not (commented or b"\x00" in block.data):
        try:
            columns = _split(block, layout) if layout.ragged else _at_once(block, layout)
        except pa.ArrowException:
            return _line_by_line(block, layout, tally)
        if all(len(column) == block.lines for column in columns.values()):
            return _without_blank_lines(columns, block)
    return _line_by_line(block, layout, tally)


def one_line(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return the ops of `batch` with URIs that fit in a line, which are nearly always all of them."""
    torn = pc.match_substring_regex(batch.column("uri").cast(pa.string()), "[\n\r\\x00]")
    return batch.filter(pc.invert(torn)) if pc.any(torn).as_py() else batch


def columns_of(
    rows: Iterable[tuple[int, Mapping[str, str | None]]], types: Mapping[str, pa.DataType], tally: Tally
) -> tuple[dict[str, pa.Array], Lines]:
    """Return the columns of `rows` (line number, text by name), and the line number of each row.

    A row with a value that cannot be read is counted in `tally`.
    """
    readers = {name: _READERS[kind] for name, kind in types.items()}
    columns: dict[str, list[object]] = {name: [] for name in types}
    numbers: list[int] = []
    for number, row in rows:
        values = {name: _value(row.get(name), reader) for name, reader in readers.items()}
        wrong = next((name for name, value in values.items() if value is _UNREADABLE), None)
        if wrong is not None:
            tally.bad(number, f"its {wrong} cannot be read: {(row[wrong] or '')[:40]!r}")
            continue
        numbers.append(number)
        for name, value in values.items():
            columns[name].append(value)
    return _typed(columns, types), np.array(numbers, np.int64)


def arrays_of(
    columns: Mapping[str, list[str | None]], types: Mapping[str, pa.DataType]
) -> dict[str, pa.Array]:
    """Return columns of text as `types`. The texts must be readable, see `kind_of`."""
    return _typed(
        {name: [_value(text, _READERS[types[name]]) for text in texts] for name, texts in columns.items()},
        types,
    )


def kind_of(text: str, kind: pa.DataType) -> object | None:
    """Return the value of `text` as `kind`, or None if it cannot be read as that."""
    value = _value(text, _READERS[kind])
    return None if value is _UNREADABLE else value


def _without_blank_lines(columns: dict[str, pa.Array], block: Block) -> tuple[dict[str, pa.Array], Lines]:
    """Return the columns of a row for each line of `block`, without those of empty lines, and the numbers of the lines."""
    numbers = np.arange(block.first_line, block.first_line + block.lines, dtype=np.int64)
    if b"\n\n" not in block.data and not block.data.startswith(b"\n"):
        return columns, numbers
    ends = np.flatnonzero(np.frombuffer(block.data, np.uint8) == ord("\n"))
    full = np.diff(ends, prepend=-1) > 1
    return {name: column.filter(pa.array(full)) for name, column in columns.items()}, numbers[full]


def _split(block: Block, layout: Layout) -> dict[str, pa.Array]:
    """Split lines whose last fields may be missing, or whose separator may be repeated."""
    if layout.quoted and b'"' in block.data:
        raise pa.ArrowInvalid("quoted")
    whole = pacsv.read_csv(
        pa.BufferReader(block.data),
        memory_pool=pa.system_memory_pool(),
        read_options=pacsv.ReadOptions(column_names=["line"], block_size=1 << 20, use_threads=False),
        parse_options=pacsv.ParseOptions(delimiter="\x01", quote_char=False, ignore_empty_lines=False),
        convert_options=pacsv.ConvertOptions(column_types={"line": pa.large_string()}),
    )
    lines = _one(whole.column("line"))
    if layout.separator == " ":
        parts = pc.ascii_split_whitespace(pc.ascii_trim_whitespace(lines))
    else:
        parts = pc.split_pattern(lines, layout.separator)
    begin = parts.offsets.to_numpy()[:-1]
    many = np.diff(parts.offsets.to_numpy())
    if len(many) and (many.max() > len(layout.names) or many.min() < len(layout.names) - layout.optional):
        raise pa.ArrowInvalid("fields")
    found = {}
    for name, kind in layout.types.items():
        place = layout.names.index(name)
        texts = parts.values.take(pa.array(begin + place, mask=many <= place))
        texts = pc.if_else(pc.equal(texts, ""), pa.scalar(None, texts.type), texts).cast(pa.string())
        found[name] = (
            texts.dictionary_encode() if kind == TEXT else pc.ascii_trim_whitespace(texts).cast(kind)
        )
    return found


def _at_once(block: Block, layout: Layout) -> dict[str, pa.Array]:
    table = pacsv.read_csv(
        pa.BufferReader(block.data),
        memory_pool=pa.system_memory_pool(),
        read_options=pacsv.ReadOptions(
            column_names=list(layout.names), block_size=1 << 20, use_threads=False
        ),
        parse_options=pacsv.ParseOptions(
            delimiter=layout.separator, quote_char='"' if layout.quoted else False, ignore_empty_lines=False
        ),
        convert_options=pacsv.ConvertOptions(
            column_types=dict(layout.types),
            include_columns=list(layout.types),
            null_values=[""],
            strings_can_be_null=True,
        ),
    )
    return {name: _one(table.column(name)) for name in layout.types}


def _one(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        return column.chunk(0)
    if pa.types.is_dictionary(column.type):
        column = column.unify_dictionaries()
    combined = column.combine_chunks()
    return combined if isinstance(combined, pa.Array) else pa.concat_arrays(combined.chunks)


def _line_by_line(block: Block, layout: Layout, tally: Tally) -> tuple[dict[str, pa.Array], Lines]:
    places = {name: layout.names.index(name) for name in layout.types}
    least = len(layout.names) - layout.optional
    header = [name.lower() for name in layout.names]
    numeric = [name for name, kind in layout.types.items() if kind != TEXT]

    def rows() -> Iterator[tuple[int, dict[str, str | None]]]:
        for number, text in decoded_lines(block, tally):
            if text.startswith("#"):
                continue
            fields = _cut(text, layout)
            if [field.lower() for field in fields] == header:  # of another log behind the first
                continue
            if not least <= len(fields) <= len(layout.names):
                tally.bad(number, f"has {len(fields)} fields, not {len(layout.names)}")
                continue
            row: dict[str, str | None] = {name: fields[at] for name, at in places.items() if at < len(fields)}
            if layout.gaps:
                row.update({name: None for name in numeric if (row.get(name) or "").strip() in _NOTHING})
            yield number, row

    return columns_of(rows(), layout.types, tally)


def _typed(columns: Mapping[str, list[object]], types: Mapping[str, pa.DataType]) -> dict[str, pa.Array]:
    arrays = {name: pa.array(values, _plain(types[name])) for name, values in columns.items()}
    coded = {name: a.dictionary_encode() if pa.types.is_string(a.type) else a for name, a in arrays.items()}
    return {name: a.cast(types[name]) for name, a in coded.items()}


def _cut(text: str, layout: Layout) -> list[str]:
    blanks = layout.separator == " "
    if not (layout.quoted and '"' in text):
        return text.split() if blanks else text.split(layout.separator)
    try:
        return next(
            csv.reader(
                [text.strip() if blanks else text],
                delimiter=layout.separator,
                strict=True,
                skipinitialspace=blanks,
            )
        )
    except csv.Error:
        return []


class _Unreadable:
    pass


_UNREADABLE = _Unreadable()


def _value(text: str | None, reader: Callable[[str], object]) -> object:
    return reader(text) if text else None


def _whole(text: str) -> int | None:
    """Return a whole number: decimal, hexadecimal, or a float without a fraction, as pandas writes a column with gaps."""
    if _HEXADECIMAL.fullmatch(text):
        return int(text, 16)
    found = _WHOLE.fullmatch(text)
    if found is None or not (found[1] or found[2]):
        return None if found is None else int(text)
    value = Decimal(text)
    return int(value) if value == value.to_integral_value() else None


def _integer(text: str) -> object:
    text = text.strip(" \t")
    value = _whole(text)
    return value if value is not None and -(2**63) <= value < 2**63 else _UNREADABLE


def _unsigned(text: str) -> object:
    text = text.strip(" \t")
    value = _whole(text)
    return value if value is not None and 0 <= value < 2**64 else _UNREADABLE


def _decimal(text: str) -> object:
    text = text.strip(" \t")
    try:
        value = Decimal(text) if _NUMBER.fullmatch(text) else None
        return value.quantize(Decimal("1e-9")) if value is not None and abs(value) < 10**18 else _UNREADABLE
    except InvalidOperation:
        return _UNREADABLE


def _timestamp(text: str) -> object:
    if not _RFC3339.fullmatch(text):
        return _UNREADABLE
    try:
        return pa.scalar(text).cast(TIMESTAMP).value
    except pa.ArrowException:
        return _UNREADABLE


_READERS: dict[pa.DataType, Callable[[str], object]] = {
    TEXT: str,
    INTEGER: _integer,
    UNSIGNED: _unsigned,
    DECIMAL: _decimal,
    TIMESTAMP: _timestamp,
}


def _plain(kind: pa.DataType) -> pa.DataType:
    return pa.string() if kind == TEXT else pa.int64() if kind == TIMESTAMP else kind
