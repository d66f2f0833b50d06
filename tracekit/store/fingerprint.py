"""The fingerprint of a recording: a digest that says of which ops a replay is one."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
import pyarrow as pa

from tracekit.store.reader import TraceReader

__all__ = ["FINGERPRINT", "fingerprint", "fingerprint_of"]

FINGERPRINT = "fingerprint"
"""The metadata key under which a segment keeps the fingerprint of its ops."""
_NUMBERS = ("t_submit", "offset", "len", "bytes", "latency", "sample_id", "step", "rank", "worker", "part")
_TEXTS = ("uri", "op", "error", "to_uri")
_ABSENT_NUMBERS = {"rank": 0, "worker": 0}
_ABSENT_TEXTS = {"op": "read"}
"""What readers take for a null."""
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(32)
_BLOCK = 1 << 15
_WORD = 1 << 64


def fingerprint(reader: TraceReader) -> str:
    """Return a digest of the ops of a trace, such as `1000-00f3…`: the number of ops and 128 bits.

    It is a sum over ops, so it does not depend on the order of the rows, on the files that
    hold them, or on other metadata. Segments with a seal keep their share of it, so that only files
    without one are read. It tells traces apart; it does not protect against forgery.
    """
    kept = [
        segment.metadata.get(FINGERPRINT) if segment.sealed and not reader.shift_of(segment) else None
        for segment in reader.segments
        if segment.rows
    ]
    known = [each for each in kept if each is not None]
    if len(known) == len(kept):
        return _sum(known)
    batches = reader.batches((*_NUMBERS, *_TEXTS), ordered=False)
    return _sum(fingerprint_of(pa.Table.from_batches([batch])) for batch in batches)


def fingerprint_of(ops: pa.Table) -> str:
    """Return the fingerprint of the rows of `ops` (conforming), with times as they are and `bytes` as the view has it."""
    rows = len(ops)
    numbers = [_numbers(ops, name) for name in _NUMBERS]
    columns = [*numbers, *(_names(ops.column(name), _ABSENT_TEXTS.get(name)) for name in _TEXTS)]
    low = high = 0
    for first in range(0, rows, _BLOCK):
        block = slice(first, min(first + _BLOCK, rows))
        digests = np.full(block.stop - first, _FACTOR, np.uint64)
        for salt, column in enumerate(columns, 1):
            if column is None:  # nulls alone: a null changes nothing, and no value does so
                continue
            values, absent = column
            before = digests.copy() if absent is not None else digests
            _mix(digests, values[block] ^ np.uint64(salt * int(_FACTOR) % _WORD))
            if absent is not None:
                np.copyto(digests, before, where=absent[block])
        _mix(digests, _FACTOR)
        low += int(digests.sum(dtype=np.uint64))
        _mix(digests, ~_FACTOR)
        high += int(digests.sum(dtype=np.uint64))
    return _text(rows, high, low)


def _sum(parts: Iterable[str]) -> str:
    rows = high = low = 0
    for part in parts:
        count, digits = part.split("-")
        rows += int(count)
        high += int(digits[:16], 16)
        low += int(digits[16:], 16)
    return _text(rows, high, low)


def _text(rows: int, high: int, low: int) -> str:
    return f"{rows}-{high % _WORD:016x}{low % _WORD:016x}"


def _numbers(ops: pa.Table, name: str) -> tuple[np.ndarray, np.ndarray | None] | None:
    column = ops.column(name)
    if name in _ABSENT_NUMBERS:
        column = column.fill_null(_ABSENT_NUMBERS[name])
    if column.null_count == len(column):
        return None
    absent = column.is_null().to_numpy() if column.null_count else None
    values = column.cast(pa.int64()).fill_null(0).to_numpy()
    return values.view(np.uint64), absent


def _names(column: pa.ChunkedArray, default: str | None) -> tuple[np.ndarray, np.ndarray | None] | None:
    """Return a digest of the text of each row, made once for each distinct text."""
    if column.null_count == len(column) and default is None:
        return None
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    encoded = column.unify_dictionaries().combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.chunk(0)
    names = [default if name is None else name for name in encoded.dictionary.to_pylist()]
    known = np.array([0 if name is None else _digest(name) for name in (*names, default)], np.uint64)
    indices = encoded.indices.cast(pa.int64()).fill_null(len(names)).to_numpy()
    absent = (
        encoded.is_null().to_numpy(zero_copy_only=False) if default is None and encoded.null_count else None
    )
    return known[indices], absent


def _digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest())


def _mix(state: np.ndarray, values: np.ndarray | np.uint64) -> None:
    state ^= values
    state *= _FACTOR  # wraps at 64 bits
    state ^= state >> _SHIFT
