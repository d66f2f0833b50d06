"""The fingerprint of a recording: a digest that says of which ops a replay is one."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tracekit.store.reader import TraceReader

__all__ = ["fingerprint"]

_NUMBERS = ("t_submit", "offset", "len", "bytes", "latency", "sample_id", "step", "rank", "worker")
_TEXTS = ("uri", "op", "error")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_NULL = -(1 << 62) - 1


def fingerprint(reader: TraceReader) -> str:
    """Return a digest of the ops of a trace, such as `1000-00f3…`: the number of ops and 128 bits.

    It is a sum over ops, so it does not depend on the order of the rows, on the files that
    hold them, or on metadata. Times count from the first submit. It takes one pass over
    the trace. It tells traces apart; it does not protect against forgery.
    """
    first, _ = reader.extent()
    ops, low, high = 0, 0, 0
    for batch in reader.batches((*_NUMBERS, *_TEXTS), ordered=False):
        digests = _digests(batch, first or 0)
        ops += batch.num_rows
        low += int(digests.sum(dtype=np.uint64))
        high += int(_mixed(digests, _FACTOR).sum(dtype=np.uint64))
    return f"{ops}-{high % (1 << 64):016x}{low % (1 << 64):016x}"


def _digests(batch: pa.RecordBatch, first_ns: int) -> np.ndarray:
    """64 bits for each op that depend on all of its values."""
    found = np.full(batch.num_rows, _FACTOR, np.uint64)
    for name in _NUMBERS:
        values = pc.fill_null(batch.column(name).cast(pa.int64()), _NULL).to_numpy(zero_copy_only=False)
        if name == "t_submit":
            values = values - first_ns
        found = _mixed(found, values.view(np.uint64))
    for name in _TEXTS:
        encoded = batch.column(name).dictionary_encode()
        names = [_digest(text) for text in encoded.dictionary.to_pylist()]
        known = np.array([*names, 0], np.uint64)
        found = _mixed(found, known[pc.fill_null(encoded.indices, len(names)).to_numpy(zero_copy_only=False)])
    return found


def _digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest())


def _mixed(state: np.ndarray, values: np.ndarray | np.uint64) -> np.ndarray:
    mixed = (state ^ values) * _FACTOR  # wraps at 64 bits
    mixed ^= mixed >> np.uint64(32)
    mixed *= np.uint64(0xD6E8FEB86659FD93)
    mixed ^= mixed >> np.uint64(29)
    return mixed
