"""Columns with one writer and many readers.

Counters in a header say how far the columns are filled and how far each worker is, so that a
long plan streams through: rows that every worker has passed are freed. This module does not
know what the columns mean.
"""

from __future__ import annotations

import mmap

import numpy as np

__all__ = ["BUSY", "COMPLETE", "DONE", "LATE", "LOW", "READY", "SLOTS", "STOP", "SharedColumns", "slot"]

READY, COMPLETE, STOP = 0, 1, 2
"""Header counters: rows filled; 1 when all are filled; 1 when every worker should stop."""
LOW, DONE, LATE, BUSY = 0, 1, 2, 3
"""Counters of a worker: lowest op still needed; ops done; latest lateness; time in requests (both ns)."""
SLOTS = 8192
_FIRST, _WIDTH = 8, 4
_PAGE = mmap.PAGESIZE


class SharedColumns:
    """Columns of `room` rows with the types `kinds`. Untouched pages take no memory."""

    def __init__(self, kinds: dict[str, type[np.generic]], room: int) -> None:
        self.room = max(room, 1)
        header = _pages((_FIRST + SLOTS * _WIDTH) * 8)
        at, offsets = header, {}
        for name, kind in kinds.items():
            offsets[name] = at
            at += _pages(self.room * np.dtype(kind).itemsize)
        self._map = mmap.mmap(-1, at)  # shared memory: its pages can be freed one by one
        self.header = memoryview(self._map)[:header].cast("q")
        self.columns: dict[str, np.ndarray] = {
            name: np.frombuffer(self._map, kind, self.room, offsets[name]) for name, kind in kinds.items()
        }
        self._extents = {name: (offsets[name], np.dtype(kind).itemsize) for name, kind in kinds.items()}
        self._freed = 0

    def counters(self, counter: int) -> np.ndarray:
        """The current value of one counter for every worker."""
        return np.frombuffer(self.header, np.int64)[slot(0, counter) :: _WIDTH]

    def free_before(self, upto: int) -> None:
        """Free the memory of the rows before `upto`, which then read as zeros."""
        for start, width in self._extents.values():
            first = start + _pages_down(self._freed * width)
            last = start + _pages_down(upto * width)
            if last > first:
                self._map.madvise(mmap.MADV_REMOVE, first, last - first)
        self._freed = upto


def slot(worker: int, counter: int) -> int:
    """Index of a worker's counter in the header."""
    return _FIRST + worker * _WIDTH + counter


def _pages(nbytes: int) -> int:
    return -(-nbytes // _PAGE) * _PAGE


def _pages_down(nbytes: int) -> int:
    return nbytes // _PAGE * _PAGE
