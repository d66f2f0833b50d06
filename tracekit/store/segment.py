"""One finished segment: how ops become Parquet bytes.

The encoding: zstd, dictionaries for text, delta packing for integers, row groups of about a million rows,
sorted by `t_submit`, a checksum on each page, a digest of the footer.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tracekit.schema import OPS, check_error_classes, problems
from tracekit.store.cleaning import cleaned
from tracekit.store.footer import sealed_writer
from tracekit.store.index import Entry, entry_of
from tracekit.store.journal import COUNTERS_KEY
from tracekit.store.totals import DESCRIBED, describe_segment
from tracekit.whole import whole_file

__all__ = ["ROW_GROUP_ROWS", "as_recorded", "check_errors", "conform", "write_segment"]

ROW_GROUP_ROWS = 1_048_576


def conform(batch: pa.RecordBatch | pa.Table) -> pa.Table:
    """Return `batch` with every schema column, in order and type; extra columns follow.

    Missing columns are null, but for `op` (`read`), `rank` and `worker` (0). URIs lose queries and
    user-info. Raises pa.ArrowInvalid for a column of a type that is not read as ops (`schema.problems`),
    or a value that does not fit.
    """
    table = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
    wrong = problems(table.schema, needed=())
    if wrong:
        raise pa.ArrowInvalid("; ".join(wrong))
    columns, fields = [], []
    for field in OPS:
        index = table.schema.get_field_index(field.name)
        column = _as_type(table.column(index), field.type) if index >= 0 else _absent(field, len(table))
        columns.append(cleaned(column) if field.name in ("uri", "to_uri") else column)
        fields.append(field)
    for field in table.schema:
        if OPS.get_field_index(field.name) < 0:
            columns.append(_without_view(table.column(field.name)))
            fields.append(field.with_type(columns[-1].type))
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def check_errors(table: pa.Table) -> None:
    """Raise pa.ArrowInvalid if the `error` column of `table` (conforming) holds anything but error classes."""
    for chunk in table.column("error").chunks:
        try:
            check_error_classes(chunk.dictionary.to_pylist())
        except TypeError as error:
            raise pa.ArrowInvalid(str(error)) from None


def as_recorded(batch: pa.RecordBatch, *, epoch_mono_ns: int, rank: int, worker: int) -> pa.RecordBatch:
    """Return a producer's `batch` as the store keeps it: times from the epoch, URIs clean, the stream set.

    `t_submit` and `t_due` are monotonic readings; `rank` and `worker` are for ops that have none.
    Raises as `conform` does.
    """
    table = conform(batch)
    check_errors(table)
    defaults = {"rank": rank, "worker": worker}
    for index, field in enumerate(OPS):
        column = table.column(index)
        if field.name in ("t_submit", "t_due"):
            column = pc.subtract_checked(column, pa.scalar(epoch_mono_ns, pa.int64()))
        elif field.name in defaults:
            if field.name not in batch.schema.names:
                column = pa.chunked_array([pa.nulls(batch.num_rows, field.type)])
            column = column.fill_null(defaults[field.name])
        else:
            continue
        table = table.set_column(index, table.field(index), column)
    columns = [c.chunk(0) if c.num_chunks == 1 else c.combine_chunks() for c in table.columns]
    return pa.RecordBatch.from_arrays(columns, schema=table.schema)


def write_segment(
    path: Path,
    table: pa.Table,
    metadata: Mapping[bytes, bytes],
    counters: Mapping[str, int],
) -> Entry:
    """Write `table` (conforming) as the segment `path`, whole or not at all, and return its entry for the index."""
    table = table.unify_dictionaries()
    ordered = _sorted_by_submit(table)
    schema = ordered.schema.with_metadata(
        {
            **{key: text for key, text in metadata.items() if key not in DESCRIBED},  # of other ops
            **describe_segment(table),
            COUNTERS_KEY.encode(): json.dumps(dict(counters)).encode(),
        }
    )
    integers = [field.name for field in schema if pa.types.is_integer(field.type)]
    texts = [field.name for field in schema if pa.types.is_dictionary(field.type)]
    with whole_file(path) as aside:
        with sealed_writer(
            aside,
            schema,
            compression="zstd",
            use_dictionary=texts,
            column_encoding=dict.fromkeys(integers, "DELTA_BINARY_PACKED"),
            write_statistics=True,
            write_page_checksum=True,
        ) as writer:
            writer.write_table(ordered.cast(schema), row_group_size=ROW_GROUP_ROWS)
        return entry_of(aside, len(table), name=path.name)


def _sorted_by_submit(table: pa.Table) -> pa.Table:
    submit = table.column("t_submit").to_numpy()
    if not (submit[1:] < submit[:-1]).any():
        return table
    # A stable sort is linear on runs in order, which logs by completion nearly are. Columns are taken
    # from their chunks, and all-null ones are not taken: fresh pages cost more than the copying.
    order = pa.array(np.argsort(submit, kind="stable"))
    columns = [
        pa.chunked_array([pa.nulls(len(table), column.type)])
        if column.null_count == len(table)
        else column.take(order)
        for column in table.columns
    ]
    return pa.Table.from_arrays(columns, schema=table.schema)


def _as_type(column: pa.ChunkedArray, want: pa.DataType) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type) and any(chunk.dictionary.null_count for chunk in column.chunks):
        # Parquet has nulls in the mask only, not among the words.
        column = column.cast(column.type.value_type)
    if column.type == want:
        return column
    if pa.types.is_dictionary(want) and not pa.types.is_dictionary(column.type):
        return column.cast(want.value_type).dictionary_encode()
    return column.cast(want)


def _without_view(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return an extra column in an encoding that Arrow can sort."""
    if pa.types.is_string_view(column.type):
        return column.cast(pa.string())
    return column.cast(pa.binary()) if pa.types.is_binary_view(column.type) else column


def _absent(field: pa.Field, rows: int) -> pa.ChunkedArray:
    if field.name == "op":
        value = pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), rows), pa.array(["read"]))
        return pa.chunked_array([value])
    if field.name in ("rank", "worker"):
        return pa.chunked_array([pa.repeat(pa.scalar(0, pa.int32()), rows)])
    return pa.chunked_array([_nulls(field.type, max(rows, 1 << 16)).slice(0, rows)])


@functools.lru_cache(maxsize=32)
def _nulls(kind: pa.DataType, rows: int) -> pa.Array:
    """Return nulls to slice an absent column from: the same memory each time."""
    return pa.nulls(rows, kind)
