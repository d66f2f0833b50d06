"""Which file, and which offset in it, lies behind an address of a process."""

from __future__ import annotations

import mmap
from bisect import bisect_right
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tracekit.capture.faults.perf import EXECUTED, EXITED, FORKED, MAPPED, Change

__all__ = ["Mapping", "Maps"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Mapping:
    """Bytes `start` to `end` of an address space. `file` is a number that the caller gave, or -1 for no file.

    Reads and writes look alike where a page is `shared` and writable.
    """

    start: int
    end: int
    offset: int
    file: int
    shared: bool = False

    def part(self, start: int, end: int) -> Mapping:
        """The mapping between two addresses inside it."""
        return replace(self, start=start, end=end, offset=self.offset + start - self.start)


class Maps:
    """The mappings of every process, kept up by `apply`. Those without a file stand only for what they replaced."""

    def __init__(self) -> None:
        self._of: dict[int, list[Mapping]] = {}
        self._arrays: dict[int, tuple[Ints, Ints, Ints, Ints]] = {}

    def apply(self, change: Change, file: int = -1) -> None:
        """Take up one change; `file` is the number of a mapped file."""
        if change.kind == MAPPED:
            added = Mapping(
                change.address,
                change.address + change.length,
                change.offset,
                file,
                change.shared and change.writable,
            )
            self._add(change.pid, added)
        elif change.kind == FORKED:
            self._of[change.pid] = list(self._of.get(change.parent, ()))
        elif change.kind in (EXECUTED, EXITED):
            self._of.pop(change.pid, None)
        else:
            return
        self._arrays.pop(change.pid, None)

    def _add(self, pid: int, added: Mapping) -> None:
        kept = self._of.setdefault(pid, [])
        first = max(bisect_right(kept, added.start, key=lambda each: each.start) - 1, 0)
        after = first
        pieces: list[Mapping] = []
        while after < len(kept) and kept[after].start < added.end:
            old = kept[after]
            if old.start < added.start:
                pieces.append(old.part(old.start, min(old.end, added.start)))
            if old.end > added.end:
                pieces.append(old.part(added.end, old.end))
            after += 1
        if added.file >= 0:
            pieces.append(added)
        kept[first:after] = sorted(pieces, key=lambda each: each.start)

    def find(self, pid: int, addresses: Ints) -> tuple[Ints, Ints, Ints]:
        """Return the file (-1 for none), the offset of the page, and 1 where the page is shared and writable."""
        starts, ends, bases, files = self._table(pid)
        if not len(starts):
            nothing = np.full(len(addresses), -1, np.int64)
            return nothing, nothing, np.zeros(len(addresses), np.int64)
        at = np.searchsorted(starts, addresses, side="right") - 1
        inside = (at >= 0) & (addresses < ends[at])
        pages = addresses // mmap.PAGESIZE * mmap.PAGESIZE
        file = np.where(inside, files[at] // 2, -1)
        return file, pages - starts[at] + bases[at], np.where(inside, files[at] % 2, 0)

    def _table(self, pid: int) -> tuple[Ints, Ints, Ints, Ints]:
        found = self._arrays.get(pid)
        if found is None:
            kept = self._of.get(pid, [])
            rows = [(each.start, each.end, each.offset, each.file * 2 + each.shared) for each in kept]
            table = np.array(rows, np.int64).reshape(-1, 4)
            found = self._arrays[pid] = (table[:, 0], table[:, 1], table[:, 2], table[:, 3])
        return found
