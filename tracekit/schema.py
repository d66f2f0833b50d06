"""The op schema: one row is one storage request.

Names, Arrow types and units of the columns, and which types of other writers are read as them.
Knows no files and no engine.
"""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from tracekit.errors import ErrorClass

__all__ = [
    "CORE",
    "DATA_KINDS",
    "META_PREFIX",
    "OPS",
    "OP_KINDS",
    "READ_KINDS",
    "SCHEMA_VERSION",
    "WRITE_KINDS",
    "WRITE_VERSION",
    "check_error_classes",
    "problems",
]

SCHEMA_VERSION = 2
"""Version 1 lacked the columns from `tries` to `to_uri` and the kinds between `write` and `copy`."""
WRITE_VERSION = 2
"""The version that told `write` from `put`: before it, a `put` with an offset is a `write`."""
META_PREFIX = "tracekit."

READ_KINDS = ("read", "get")
"""Op kinds that read data: a byte range, a whole object."""
WRITE_KINDS = ("write", "put", "part")
"""Op kinds that write data: a byte range of a file, a whole object, one part of a multipart upload."""
DATA_KINDS = READ_KINDS + WRITE_KINDS
"""Op kinds that move data. The others have no `bytes`."""
OP_KINDS = (
    *DATA_KINDS,
    "complete",
    "abort",
    "sync",
    "truncate",
    "rename",
    "copy",
    "delete",
    "list",
    "stat",
    "hint",
)
"""Op kinds. `complete` and `abort` end a multipart upload, `sync` makes data durable, `hint` is an fadvise."""

_DICT = pa.dictionary(pa.int32(), pa.string())


def _field(name: str, kind: pa.DataType, unit: str, meaning: str, *, null: bool = True) -> pa.Field:
    return pa.field(name, kind, nullable=null, metadata={"unit": unit, "meaning": meaning})


OPS: pa.Schema = pa.schema(
    [
        _field("t_submit", pa.int64(), "ns", "since the trace's epoch, monotonic clock", null=False),
        _field("uri", _DICT, "uri", "full URI with scheme, no query or credential", null=False),
        _field("op", _DICT, "class", "one of " + ", ".join(OP_KINDS), null=False),
        _field("offset", pa.int64(), "bytes", "start of the range; null without a range"),
        _field("len", pa.int64(), "bytes", "asked for; null where the op has no length"),
        _field("bytes", pa.int64(), "bytes", "moved; short or 0 on error"),
        _field(
            "latency", pa.int64(), "ns", "the successful try, submit to last byte; null if it never ended"
        ),
        _field("ttfb", pa.int64(), "ns", "submit to first byte, where the client sees it"),
        _field("tries", pa.int32(), "count", "how often the request was sent; null if unknown"),
        _field("wait_ns", pa.int64(), "ns", "the client waited between tries; not part of latency"),
        _field("sample_id", pa.int64(), "id", "dataset sample that the op served"),
        _field("step", pa.int64(), "id", "batch that the op served"),
        _field("rank", pa.int32(), "id", "process rank: with worker, the stream"),
        _field("worker", pa.int32(), "id", "worker of the rank: with rank, the stream"),
        _field("part", pa.int32(), "number", "part of a multipart upload, from 1"),
        _field("to_uri", _DICT, "uri", "target of a rename or a copy"),
        _field("t_due", pa.int64(), "ns", "replays only: when the plan wanted it, same epoch"),
        _field("error", _DICT, "class", "null = success, else one class of errors.ErrorClass"),
    ]
)
"""Every column, in order, with Arrow type; unit and meaning in the field metadata."""

CORE = ("uri", "offset", "len", "t_submit", "sample_id", "latency")
"""A Parquet file with only these columns is a valid trace."""


_ERROR_VALUES: frozenset[str | None] = frozenset((None, *ErrorClass))


def check_error_classes(values: Iterable[str | None]) -> None:
    """Raise TypeError if one of `values` is neither None nor an `ErrorClass`."""
    for value in values:
        if value not in _ERROR_VALUES:
            raise TypeError(f"error={value!r} is not an ErrorClass")


def problems(schema: pa.Schema, *, needed: Iterable[str] = CORE) -> list[str]:
    """Return what keeps columns of `schema` from being read as ops, and which of `needed` are missing.

    This is the one rule for files and batches of any origin. An integer column may have any width; a text
    column may be string, large_string or string_view, plain or a dictionary of any index type. A float,
    timestamp or duration is refused, because its unit and precision would be a guess. Unknown columns are kept.
    """
    found = [f"column {name} is missing" for name in needed if schema.get_field_index(name) < 0]
    for field in schema:
        index = OPS.get_field_index(field.name)
        if index >= 0 and not _readable_as(field.type, OPS.field(index).type):
            want = "text" if pa.types.is_dictionary(OPS.field(index).type) else "integer"
            unit = OPS.field(index).metadata[b"unit"].decode()
            found.append(f"column {field.name} is {field.type}, not {want} ({unit})")
    return found


def _readable_as(have: pa.DataType, want: pa.DataType) -> bool:
    if pa.types.is_null(have):
        return True
    if pa.types.is_dictionary(want):
        value = have.value_type if pa.types.is_dictionary(have) else have
        return bool(
            pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_string_view(value)
        )
    return bool(pa.types.is_integer(have))
