"""Converts query results to JSON, CSV and Parquet.

JSON has no NaN, CSV no lists, Parquet no intervals, and none of them allows two columns of one
name. Types that a form lacks are converted; the rest stays as it is.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq

__all__ = [
    "as_rows",
    "as_values",
    "for_csv",
    "plain",
    "storable",
    "write_csv",
    "write_json",
    "write_parquet",
]

_FORMULA = r"^\s*[=+\-@\t\r|%＝＋－＠]"
"""What spreadsheets take for the begin of a formula, also in full width, or of a command (DDE)."""


def plain(value: Any) -> Any:
    """Return `value` as JSON can hold it: NaN becomes null, bytes and times become text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, bytes):
        return _bytes(value)
    if isinstance(value, dict):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, pa.MonthDayNano):
        return _interval(value)
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def as_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Rows for JSON; of columns of one name the later ones are numbered."""
    return [{name: plain(value) for name, value in row.items()} for row in _timed(_named(table)).to_pylist()]


def as_values(table: pa.Table) -> list[tuple[Any, ...]]:
    """Rows for eyes: whole numbers as such, NaN as `nan`, bytes and times as text."""
    columns = [[_seen(value) for value in column.to_pylist()] for column in _timed(table).columns]
    return list(zip(*columns, strict=True))


def write_csv(rows: pa.RecordBatchReader, path: Path, *, safe: bool = False) -> None:
    """Write CSV with a header; lists and structs as JSON, bytes and intervals as DuckDB shows them.

    With `safe`, a text that a spreadsheet would take for a formula gets an apostrophe in front.
    """
    shape = _harmless if safe else for_csv
    with (
        path.open("wb") as file,
        arrow_csv.CSVWriter(file, shape(rows.schema.empty_table()).schema) as writer,
    ):
        for table in _tables(rows):
            writer.write_table(shape(table))


def write_json(rows: pa.RecordBatchReader, path: Path) -> None:
    """Write the rows as one JSON array of objects."""
    with path.open("w", encoding="utf-8") as file:
        lead = "[\n"
        for table in _tables(rows):
            if len(table):
                text = json.dumps(as_rows(table), indent=2, allow_nan=False)
                file.write(lead + text[2:-2])
                lead = ",\n"
        file.write("[]\n" if lead == "[\n" else "\n]\n")


def write_parquet(rows: pa.RecordBatchReader, path: Path) -> None:
    """Write the rows as one Parquet file; Arrow would take a relative name, such as `s3:/a`, for a URI."""
    schema = storable(rows.schema.empty_table()).schema
    with pq.ParquetWriter(path.absolute(), schema, compression="zstd") as writer:
        for table in _tables(rows):
            writer.write_table(storable(table))


def _tables(rows: pa.RecordBatchReader) -> Iterator[pa.Table]:
    return (pa.Table.from_batches([batch]) for batch in rows)


def _harmless(table: pa.Table) -> pa.Table:
    """Return what `for_csv` returns, with an apostrophe before text and names that begin a formula."""
    table = for_csv(table)
    for index, field in enumerate(table.schema):
        if not pa.types.is_string(field.type) and not pa.types.is_large_string(field.type):
            continue
        column = table.column(index)
        marked = pc.binary_join_element_wise("'", column, "")
        begins = pc.match_substring_regex(column, _FORMULA)
        table = table.set_column(index, field.name, pc.if_else(begins, marked, column))
    return table.rename_columns([re.sub(_FORMULA, r"'\g<0>", name) for name in table.column_names])


def for_csv(table: pa.Table) -> pa.Table:
    """As CSV can hold it."""
    return _converted(table, _fits_csv, _text)


def storable(table: pa.Table) -> pa.Table:
    """As Parquet can hold it."""
    return _converted(_named(table), lambda kind: not pa.types.is_interval(kind), _text)


def _seen(value: Any) -> Any:
    return value if isinstance(value, float | dict | list) else plain(value)


def _named(table: pa.Table) -> pa.Table:
    """Return the table with unique names: `op`, `op_1`, as DuckDB names them in a subquery."""
    seen: Counter[str] = Counter()
    taken, names = set(table.column_names), []
    for name in table.column_names:
        found = name
        while seen[name] and (found == name or found in taken):
            found = f"{name}_{seen[name]}"
            seen[name] += 1
        seen[name] = max(seen[name], 1)
        taken.add(found)
        names.append(found)
    return table.rename_columns(names)


def _timed(table: pa.Table) -> pa.Table:
    """Return timestamps as text, because Python's have no nanoseconds."""
    return _converted(table, lambda kind: not pa.types.is_timestamp(kind), lambda c: pc.cast(c, pa.string()))


def _converted(
    table: pa.Table,
    fits: Callable[[pa.DataType], bool],
    convert: Callable[[pa.ChunkedArray], pa.ChunkedArray | pa.Array],
) -> pa.Table:
    for index, field in enumerate(table.schema):
        if not fits(field.type):
            table = table.set_column(index, field.name, convert(table.column(index)))
    return table


def _fits_csv(kind: pa.DataType) -> bool:
    return not (pa.types.is_nested(kind) or pa.types.is_interval(kind) or _is_bytes(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    )


def _text(column: pa.ChunkedArray) -> pa.Array:
    values = [plain(value) for value in column.to_pylist()]
    return pa.array(
        [v if v is None or isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in values],
        pa.string(),
    )


def _bytes(value: bytes) -> str:
    return "".join(chr(b) if 32 <= b < 127 and b != 92 else f"\\x{b:02X}" for b in value)


def _interval(value: pa.MonthDayNano) -> str:
    parts = [f"{n} {unit}" for n, unit in ((value.months, "months"), (value.days, "days")) if n]
    return " ".join([*parts, f"{value.nanoseconds / 1e9:g} s"] if value.nanoseconds or not parts else parts)
