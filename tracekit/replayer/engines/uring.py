"""A ring of Linux's io_uring: made by one thread, which alone submits to it. It does not know ops.

Completions are posted while that thread waits (`IORING_SETUP_DEFER_TASKRUN`, Linux 6.1 or later), so that what
it reads of the ring needs no atomics. The system calls that submit and wait are made by `inflight`.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import NamedTuple

import numpy as np

from tracekit.replayer.engines import words

__all__ = ["RingArrays", "Uring", "refusal"]

_SETUP = 425
"""io_uring_setup; the numbers of calls since 2019 are those of every architecture."""
_SINGLE_ISSUER, _DEFER_TASKRUN = 1 << 12, 1 << 13
_PARAMETERS = 30
_FLAGS, _SQ, _CQ = 2, 10, 20
"""Where 32-bit words of struct io_uring_params begin: flags, and the offsets of both queues."""
_TAIL, _MASK, _ARRAY, _CQ_HEAD, _CQ_ENTRIES = 1, 2, 6, 0, 5
_ENTRIES_AT = 0x10000000


class RingArrays(NamedTuple):
    """What the compiled loop sees of a ring. `shared` are 32-bit words that `queue` has the indexes of.

    `entries` are submissions, `completions` completions; `requests` has a row for each request that may be in
    flight, and `free` those that are not.
    """

    queue: np.ndarray
    shared: np.ndarray
    entries: np.ndarray
    completions: np.ndarray
    requests: np.ndarray
    free: np.ndarray


class Uring:
    """A ring for `depth` requests at once. Raises OSError if the kernel refuses it."""

    def __init__(self, depth: int) -> None:
        found = (ctypes.c_uint32 * _PARAMETERS)()
        found[_FLAGS] = _SINGLE_ISSUER | _DEFER_TASKRUN
        self._fd = ctypes.CDLL(None, use_errno=True).syscall(_SETUP, depth, found)
        if self._fd < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        try:
            self.arrays = self._map(depth, list(found))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the ring. Requests in flight are cancelled, or end later."""
        os.close(self._fd)

    def _map(self, depth: int, found: list[int]) -> RingArrays:
        submissions, completions = found[:2]
        array, first = found[_SQ + _ARRAY] // 4, found[_CQ + _CQ_ENTRIES]
        both = mmap.mmap(self._fd, max(4 * (array + submissions), first + 16 * completions))
        shared = np.frombuffer(both, np.uint32)
        shared[array : array + submissions] = np.arange(submissions)
        queue = np.zeros(words.QUEUE_WIDTH, np.int64)
        queue[words.RING_FD] = self._fd
        queue[words.SQ_TAIL] = found[_SQ + _TAIL] // 4
        queue[words.SQ_MASK] = shared[found[_SQ + _MASK] // 4]
        queue[words.CQ_HEAD] = found[_CQ + _CQ_HEAD] // 4
        queue[words.CQ_TAIL] = found[_CQ + _TAIL] // 4
        queue[words.CQ_MASK] = shared[found[_CQ + _MASK] // 4]
        queue[words.FREE] = depth
        return RingArrays(
            queue,
            shared,
            np.frombuffer(mmap.mmap(self._fd, 64 * submissions, offset=_ENTRIES_AT), np.int64).reshape(-1, 8),
            np.frombuffer(both, np.int32, 4 * completions, first).reshape(-1, 4),
            np.zeros((depth, words.REQUEST_WIDTH), np.int64),
            np.arange(depth)[::-1].copy(),
        )


def refusal(depth: int) -> str | None:
    """Why the kernel gives no ring for `depth` requests; None if it does."""
    try:
        Uring(depth).close()
    except OSError as error:
        return str(error.strerror)
    return None
