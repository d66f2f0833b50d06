"""Cuts a flat list of values, which is what `Recorder.record` extends, into Arrow columns.

The list holds `WIDTH` values for each op, in the order of `_VALUES`; a column is a strided slice.
Few calls into Arrow are made: each call that releases the interpreter lock gives it to a busy caller,
who keeps it for milliseconds.
"""

from __future__ import annotations

from array import array
from functools import lru_cache
from operator import index
from typing import Any

import numpy as np
import pyarrow as pa

from tracekit.errors import UsageError
from tracekit.schema import OPS, check_error_classes
from tracekit.uri import clean

__all__ = ["WIDTH", "flat_to_fitting_batch"]

_VALUES = (
    "t_submit",
    "uri",
    "op",
    "offset",
    "len",
    "bytes",
    "latency",
    "ttfb",
    "tries",
    "wait_ns",
    "sample_id",
    "step",
    "worker",
    "part",
    "to_uri",
    "t_due",
    "error",
)
WIDTH = len(_VALUES)
_TIMES = ("t_submit", "t_due")
_MISFITS = (pa.ArrowException, AttributeError, OverflowError, TypeError, UnicodeError)


def flat_to_fitting_batch(
    values: list[Any], *, epoch_mono_ns: int, rank: int, worker: int
) -> tuple[pa.RecordBatch, UsageError | None]:
    """Return the ops of `values` as the store keeps them, times from the epoch and URIs clean.

    Ops whose values do not fit their columns are left out; the error describes the last one. `rank` is the
    rank of every op, `worker` that of ops without one.
    """

    def cut(some: list[Any]) -> pa.RecordBatch:
        return _flat_to_batch(some, epoch_mono_ns=epoch_mono_ns, rank=rank, worker=worker)

    try:
        return cut(values), None
    except _MISFITS:
        misfit = None
        fitting: list[Any] = []
        for at in range(0, len(values), WIDTH):
            op = values[at : at + WIDTH]
            try:
                cut(op)
                fitting += op
            except _MISFITS as error:
                misfit = _misfit(op, error)
        return cut(fitting), misfit


def _misfit(op: list[Any], error: Exception) -> UsageError:
    named = zip(_VALUES, op, strict=True)
    shown = {name: clean(value) if isinstance(value, str) else value for name, value in named}
    return UsageError(f"values that do not fit the op schema: {shown}", str(error))


def _flat_to_batch(values: list[Any], *, epoch_mono_ns: int, rank: int, worker: int) -> pa.RecordBatch:
    """Return the ops as one batch. Raises one of `_MISFITS` if a value does not fit its column."""
    rows = len(values) // WIDTH
    columns = {name: values[at::WIDTH] for at, name in enumerate(_VALUES)}
    arrays = []
    for field in OPS:
        if field.name == "rank":
            arrays.append(_constant(rank, rows))
        elif pa.types.is_dictionary(field.type):
            arrays.append(_texts(columns[field.name], field))
        elif field.name == "worker" and None in columns["worker"]:
            named = [worker if value is None else value for value in columns["worker"]]
            arrays.append(_integers(named, field, 0))
        else:
            arrays.append(_integers(columns[field.name], field, epoch_mono_ns if field.name in _TIMES else 0))
    return pa.RecordBatch.from_arrays(arrays, schema=OPS)


def _integers(values: list[Any], field: pa.Field, minus: int) -> pa.Array:
    rows = len(values)
    if rows and values[0] is None and field.nullable and values.count(None) == rows:
        return _nulls(field.type, rows)
    try:
        packed = array("q" if field.type == pa.int64() else "i", values)
    except TypeError:
        if not field.nullable:
            raise
        # There is a None, or something that is not an integer. `index` refuses a float, which Arrow would truncate.
        return pa.array([None if v is None else index(v) - minus for v in values], field.type)
    return pa.Array.from_buffers(field.type, rows, [None, pa.py_buffer(_less(packed, minus))])


def _less(packed: array[int], minus: int) -> Any:
    if not minus:
        return packed
    values = np.frombuffer(packed, np.int64)
    less = values - minus
    if ((less < values) != (minus > 0)).any():
        raise OverflowError("a time is out of range")
    return less


def _texts(values: list[Any], field: pa.Field) -> pa.DictionaryArray:
    codes: dict[str | None, int] = {text: code for code, text in enumerate(dict.fromkeys(values))}
    if field.name == "error":
        check_error_classes(codes)
    if None in codes:
        if not field.nullable:
            raise TypeError(f"{field.name} must not be None")
        if len(codes) == 1:
            return _nulls(field.type, len(values))
        if field.name == "to_uri":
            values = [text and clean(text) for text in values]
        return pa.array(values, pa.string()).dictionary_encode()
    texts = [clean(text) if text and field.name in ("uri", "to_uri") else text for text in codes]
    packed = (
        array("i", map(codes.__getitem__, values)) if len(codes) > 1 else array("i", bytes(4 * len(values)))
    )
    indices = pa.Array.from_buffers(pa.int32(), len(values), [None, pa.py_buffer(packed)])
    return pa.DictionaryArray.from_arrays(indices, pa.array(texts, pa.string()), safe=False)


def _constant(value: int, rows: int) -> pa.Array:
    return pa.Array.from_buffers(pa.int32(), rows, [None, pa.py_buffer(array("i", [value]) * rows)])


@lru_cache(maxsize=32)
def _nulls(kind: pa.DataType, rows: int) -> pa.Array:
    return pa.nulls(rows, kind)
