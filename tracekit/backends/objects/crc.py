"""CRC32C and CRC64NVME, which neither Python nor zlib has, by numpy over many lanes at once.

A CRC is linear: that of a body is made of those of its pieces, each moved on by the zeros that stand for what
follows. So a body is cut into lanes of equal length, which advance together, and their CRCs are joined in pairs.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

__all__ = ["crc32c", "crc64nvme"]

_States = npt.NDArray[np.uint64]
_LANE = 256
"""Bytes of a lane; a power of two."""
_BLOCK = 1 << 20
"""Bytes that advance together."""


def crc32c(body: memoryview) -> bytes:
    """Return the CRC32C (Castagnoli) of `body`, most significant byte first."""
    return _Crc.of(0x82F63B78, 32).digest(body)


def crc64nvme(body: memoryview) -> bytes:
    """Return the CRC64NVME of `body`, most significant byte first."""
    return _Crc.of(0x9A6C9329AC4BC9B5, 64).digest(body)


class _Crc:
    """One reflected polynomial, with its tables. A state is a CRC under way, without the final inversion."""

    def __init__(self, polynomial: int, bits: int) -> None:
        self._bits = bits
        steps = np.arange(1 << 16, dtype=np.uint64)
        for _ in range(16):
            steps = (steps >> np.uint64(1)) ^ ((steps & np.uint64(1)) * np.uint64(polynomial))
        self._two_bytes = steps
        single = np.uint64(1) << np.arange(64, dtype=np.uint64)
        shifted = (single & np.uint64(0xFF)).astype(np.intp) << 8  # a zero byte before it: one byte of two
        self._powers = [(single >> np.uint64(8)) ^ steps[shifted]]
        """What 2**n zero bytes make of each single bit of a state."""
        for _ in range(_BLOCK.bit_length() - 1):
            self._powers.append(_applied(self._powers[-1], self._powers[-1]))

    @staticmethod
    @functools.cache
    def of(polynomial: int, bits: int) -> _Crc:
        return _Crc(polynomial, bits)

    def digest(self, body: memoryview) -> bytes:
        ones = (1 << self._bits) - 1
        state = np.array([ones], np.uint64)
        for begin in range(0, len(body), _BLOCK):
            block = body[begin : begin + _BLOCK]
            state = self._after_zeros(state, len(block)) ^ self._of_block(block)
        return (int(state[0]) ^ ones).to_bytes(self._bits // 8, "big")

    def _of_block(self, block: memoryview) -> _States:
        """Return the state after `block`, from state 0, which zeros in front do not change."""
        lanes = 1 << (max(-(-len(block) // _LANE), 1) - 1).bit_length()
        padded = np.zeros(lanes * _LANE, np.uint8)
        padded[len(padded) - len(block) :] = np.frombuffer(block, np.uint8)
        words = np.ascontiguousarray(padded.view("<u2").reshape(lanes, -1).T)
        states = np.zeros(lanes, np.uint64)
        for word in words:
            index = (states & np.uint64(0xFFFF)).astype(np.intp) ^ word
            states = (states >> np.uint64(16)) ^ self._two_bytes[index]
        behind = _LANE
        while len(states) > 1:
            states = self._after_zeros(states[0::2], behind) ^ states[1::2]
            behind *= 2
        return states

    def _after_zeros(self, states: _States, count: int) -> _States:
        """Return the states after `count` further zero bytes."""
        for power in range(count.bit_length()):
            if count >> power & 1:
                states = _applied(self._powers[power], states)
        return states


def _applied(operator: _States, states: _States) -> _States:
    """Return a linear operator, given by what it makes of each bit, of many states."""
    result = np.zeros(len(states), np.uint64)
    for bit in range(64):
        result ^= ((states >> np.uint64(bit)) & np.uint64(1)) * operator[bit]
    return result
