"""The bytes that a replay writes: the same in every run, and different in every block.

A store that removes duplicates or compresses would look faster with equal blocks, or with zeros.
"""

from __future__ import annotations

import math

import numpy as np

from tracekit.backends.local.files import aligned_buffer
from tracekit.errors import UsageError

__all__ = ["FIRST_KEY", "KEY", "Payload", "compression_of"]

_BLOCK_WORDS = 1 << 14
_BLOCK = 8 * _BLOCK_WORDS
_PAGE_WORDS = 512
FIRST_KEY = 0xD1B54A32D192ED03
KEY = 0x9E3779B97F4A7C15
"""The keys of the ops, and of the blocks of an op, differ by these: odd, so that 2^64 multiples of each differ."""
_MASK = (1 << 64) - 1


def compression_of(write_data: str) -> float:
    """The factor by which the bytes that `write_data` names can be compressed; infinite for zeros.

    Raises UsageError for an unknown name or a ratio below 1.
    """
    known = {"random": 1.0, "zeros": math.inf}
    if write_data in known:
        return known[write_data]
    name, _, ratio = write_data.partition(":")
    try:
        factor = float(ratio) if name == "compressible" else math.nan
    except ValueError:
        factor = math.nan
    if not 1 <= factor < math.inf:
        raise UsageError(
            f"write_data={write_data!r} is not valid",
            "give random, zeros, or compressible:RATIO with a ratio of at least 1, such as compressible:2",
        )
    return factor


class Payload:
    """Makes the bytes of ops. Thread-safe."""

    def __init__(self, write_data: str = "random") -> None:
        factor = compression_of(write_data)
        words = np.random.default_rng(0).integers(0, 1 << 64, _BLOCK_WORDS, dtype=np.uint64)
        kept = math.ceil(_PAGE_WORDS / factor) if factor < math.inf else 0
        words.reshape(-1, _PAGE_WORDS)[:, kept:] = 0
        self._words = words
        self._zeros = None if kept == _PAGE_WORDS else words == 0

    @property
    def seeds(self) -> tuple[np.ndarray, bool]:
        """The seeded words of a block as int64, and whether words that are 0 stay 0."""
        return self._words.view(np.int64), self._zeros is not None

    def fill(self, buffer: memoryview, op: int) -> memoryview:
        """Fill `buffer`, which is aligned to 8 bytes, with the bytes of the op number `op`."""
        data = np.frombuffer(buffer, np.uint8)
        key = (op + 1) * FIRST_KEY & _MASK
        whole = len(data) // _BLOCK * _BLOCK
        for at in range(0, whole, _BLOCK):
            key = (key + KEY) & _MASK
            self._block(key, data[at : at + _BLOCK].view(np.uint64))
        if whole < len(data):
            last = np.empty(_BLOCK_WORDS, np.uint64)
            self._block((key + KEY) & _MASK, last)
            data[whole:] = last.view(np.uint8)[: len(data) - whole]
        return buffer

    def of(self, op: int, nbytes: int) -> memoryview:
        """New bytes for the op. Raises BackendError of class `out_of_memory` if there is no room for them."""
        return self.fill(aligned_buffer(nbytes), op)

    def _block(self, key: int, into: np.ndarray) -> None:
        """One block: the seeded words, each with the key added; zeros stay zeros."""
        np.add(self._words, np.uint64(key), out=into)
        if self._zeros is not None:
            into[self._zeros] = 0
