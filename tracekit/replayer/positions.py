"""Assumed positions: where ops without an offset begin.

A read or a range write without an offset continues where the last op of its file, direction and
stream ended, as a file position does. Ops on whole objects begin at 0.
"""

from __future__ import annotations

import numpy as np

from tracekit.replayer.kinds import WHOLE_CHANGES, code_of

__all__ = ["Positions"]

_READ, _WRITE = code_of("read"), code_of("write")
_RESETS = np.array([code_of(kind) for kind in WHOLE_CHANGES])


class Positions:
    """Keeps the positions between the parts of a plan; `none` is null in its columns."""

    def __init__(self, none: int) -> None:
        self._none = none
        self._ends: dict[tuple[int, int], np.ndarray] = {}  # by direction and stream, then by file

    def reset(self) -> None:
        """Begin again, as a repeated plan does."""
        self._ends.clear()

    def assume(self, columns: dict[str, np.ndarray], files: int) -> int:
        """Set the missing offsets of ops, in plan order, on files below `files`; return how many."""
        offset, kind = columns["offset"], columns["kind"]
        ranged = (kind == _READ) | (kind == _WRITE)
        offset[~ranged & (offset == self._none)] = 0
        unknown = ranged & (offset == self._none)
        length = np.maximum(columns["length"], 0)
        resets = np.isin(kind, _RESETS)
        stream = columns["rank"].astype(np.int64) << 32 | columns["worker"].view(np.uint32)
        streams, which = np.unique(stream, return_inverse=True)
        for index, name in enumerate(streams.tolist()):
            for direction in (_READ, _WRITE):
                mine = (which == index) & (kind == direction)
                if mine.any():
                    ends = self._of(direction, name, files)
                    if (unknown & mine).any() or resets.any():
                        _walk(columns, length, mine, resets, ends, self._none)
                    ends[columns["file"][mine]] = (offset + length)[mine]
        if resets.any():
            self._forget(columns, resets, ranged)
        return int(np.count_nonzero(unknown))

    def _of(self, direction: int, stream: int, files: int) -> np.ndarray:
        ends = self._ends.get((direction, stream))
        if ends is None or len(ends) < files:
            grown = np.zeros(max(files, 2 * len(ends) if ends is not None else 0), np.int64)
            if ends is not None:
                grown[: len(ends)] = ends
            ends = self._ends[direction, stream] = grown
        return ends

    def _forget(self, columns: dict[str, np.ndarray], resets: np.ndarray, ranged: np.ndarray) -> None:
        """Set the positions to 0 in files that were replaced after their last ranged op."""
        file, rows = columns["file"], np.arange(len(resets))
        last = np.full((2, int(file.max()) + 1), -1)
        for side, chosen in enumerate((resets, ranged)):
            np.maximum.at(last[side], file[chosen], rows[chosen])
        replaced = np.flatnonzero(last[0] > last[1])
        for ends in self._ends.values():
            ends[replaced[replaced < len(ends)]] = 0


def _walk(
    columns: dict[str, np.ndarray], length: np.ndarray, mine: np.ndarray, resets: np.ndarray,
    ends: np.ndarray, none: int,
) -> None:  # fmt: skip
    """Set the missing offsets of one direction of one stream, op by op."""
    file, offset = columns["file"], columns["offset"]
    at: dict[int, int] = {}
    for row in np.flatnonzero(mine | resets).tolist():
        code = int(file[row])
        if resets[row]:
            at[code] = 0
            continue
        if offset[row] == none:
            offset[row] = at[code] if code in at else int(ends[code])
        at[code] = int(offset[row] + length[row])
