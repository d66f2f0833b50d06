"""The columns of a plan in anonymous shared memory: filled by one writer, read by many.

Processes attach to the same pages by descriptor. A header of counters says how far the
plan is filled and how far each worker is, so that a long trace streams through: what all
have used is given back. It knows bytes and counters, not what they are for.
"""

from __future__ import annotations

import mmap
import os

import numpy as np

__all__ = ["BUSY", "COMPLETE", "DONE", "LATE", "LOW", "READY", "SLOTS", "STOP", "SharedColumns", "slot"]

READY, COMPLETE, STOP = 0, 1, 2
"""Header counters: ops filled; 1 when there are no more; 1 when all should stop."""
LOW, DONE, LATE, BUSY = 0, 1, 2, 3
"""Counters of a worker's slot: lowest op still needed; ops done; latest lateness, time in requests (ns)."""
SLOTS = 8192
_FIRST, _WIDTH = 8, 4
_PAGE = mmap.PAGESIZE


class SharedColumns:
    """Room for `room` rows of `kinds`; only touched pages take memory. Given `fd`, attaches to another's."""

    def __init__(self, kinds: dict[str, type[np.generic]], room: int, fd: int | None = None) -> None:
        self.room = max(room, 1)
        header = _pages((_FIRST + SLOTS * _WIDTH) * 8)
        at, offsets = header, {}
        for name, kind in kinds.items():
            offsets[name] = at
            at += _pages(self.room * np.dtype(kind).itemsize)
        self.fd = os.memfd_create("tracekit-plan") if fd is None else fd
        if fd is None:
            os.ftruncate(self.fd, at)
        self._map = mmap.mmap(self.fd, at)
        self.header = memoryview(self._map)[:header].cast("q")
        self.columns: dict[str, np.ndarray] = {
            name: np.frombuffer(self._map, kind, self.room, offsets[name]) for name, kind in kinds.items()
        }
        self._extents = {name: (offsets[name], np.dtype(kind).itemsize) for name, kind in kinds.items()}
        self._given_back = 0

    def __del__(self) -> None:
        fd, self.fd = getattr(self, "fd", -1), -1
        if fd >= 0:
            os.close(fd)

    def counters(self, counter: int) -> np.ndarray:
        """One counter of every slot, as it is now."""
        return np.frombuffer(self.header, np.int64)[slot(0, counter) :: _WIDTH]

    def give_back(self, upto: int) -> None:
        """Free the memory of rows before `upto`; they read as zeros from then on."""
        for start, width in self._extents.values():
            first = start + _pages_down(self._given_back * width)
            last = start + _pages_down(upto * width)
            if last > first:
                self._map.madvise(mmap.MADV_REMOVE, first, last - first)
        self._given_back = upto


def slot(worker: int, counter: int) -> int:
    """Index in the header of a worker's counter."""
    return _FIRST + worker * _WIDTH + counter


def _pages(nbytes: int) -> int:
    return -(-nbytes // _PAGE) * _PAGE


def _pages_down(nbytes: int) -> int:
    return nbytes // _PAGE * _PAGE
