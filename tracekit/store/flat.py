"""Ops as one flat list of values, the cheapest thing a caller can append to, cut into columns.

The list holds `WIDTH` values an op, in the order of `VALUES`; a column is a strided slice.
"""

from __future__ import annotations

from array import array
from typing import Any

import pyarrow as pa

from tracekit.schema import OPS

__all__ = ["VALUES", "WIDTH", "flat_to_batch"]

VALUES = ("t_submit", "uri", "op", "offset", "len", "bytes", "latency", "ttfb",
          "sample_id", "step", "worker", "t_due", "error")  # fmt: skip
WIDTH = len(VALUES)
_PLAIN = {
    name: pa.string() if pa.types.is_dictionary(OPS.field(name).type) else OPS.field(name).type
    for name in VALUES
}
_NEEDED = [VALUES.index(name) for name in ("t_submit", "uri", "op")]


def flat_to_batch(values: list[Any]) -> pa.RecordBatch:
    """The ops of `values` as columns.

    Raises pa.ArrowException, TypeError or OverflowError if a value does not fit its column.
    """
    arrays = [_column(name, values[at::WIDTH]) for at, name in enumerate(VALUES)]
    if any(arrays[at].null_count for at in _NEEDED):
        raise TypeError("t_submit, uri and op must not be None")
    return pa.RecordBatch.from_arrays(arrays, names=list(VALUES))


def _column(name: str, values: list[Any]) -> pa.Array:
    """An Arrow array of `values`; the common cases (no nulls, only nulls, one text) are fast."""
    kind, rows = _PLAIN[name], len(values)
    if rows and values[0] is None and values.count(None) == rows:
        return pa.nulls(rows, kind)
    if kind == pa.string():
        texts = set(values)
        if len(texts) == 1:
            indices = pa.repeat(pa.scalar(0, pa.int32()), rows)
            return pa.DictionaryArray.from_arrays(indices, pa.array(texts, kind))
        return pa.array(values, kind)
    try:
        packed = array("q" if kind == pa.int64() else "i", values)
    except TypeError:  # a None among them, or something that is no integer: Arrow tells which
        return pa.array(values, kind)
    return pa.Array.from_buffers(kind, rows, [None, pa.py_buffer(packed)])
