"""Assumed positions: where ops without an offset begin.

A read or a range write without an offset continues where the last op of its file, direction and
stream ended, as a file position does. Ops on whole objects begin at 0. What is renamed keeps its positions under its new name.
"""

from __future__ import annotations

import numpy as np

from tracekit.replayer.kinds import WHOLE_CHANGES, code_of
from tracekit.store.totals import stream_keys

__all__ = ["Positions"]

_READ, _WRITE, _RENAME, _COPY = map(code_of, ("read", "write", "rename", "copy"))
_RESETS = np.array([code_of(kind) for kind in WHOLE_CHANGES if kind != "copy"])
"""Changes after which the object that they name is another; a copy leaves it as it is."""


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
        stream = stream_keys(columns["rank"], columns["worker"])
        streams, which = np.unique(stream, return_inverse=True)
        if ((kind == _RENAME) | (kind == _COPY)).any():
            self._walk_all(
                columns,
                length,
                resets,
                dict(zip(streams.tolist(), range(len(streams)), strict=True)),
                which,
                files,
            )
            return int(np.count_nonzero(unknown))
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

    def _walk_all(
        self,
        columns: dict[str, np.ndarray],
        length: np.ndarray,
        resets: np.ndarray,
        streams: dict[int, int],
        which: np.ndarray,
        files: int,
    ) -> None:
        """Set the missing offsets of every stream, op by op, where ops give objects to other names."""
        here = {(direction, stream) for stream in streams for direction in (_READ, _WRITE)}
        for direction, stream in sorted(here | self._ends.keys()):
            mine = (which == streams.get(stream, -1)) & (columns["kind"] == direction)
            ends = self._of(direction, stream, files)
            for code, end in _walk(columns, length, mine, resets, ends, self._none).items():
                ends[code] = end

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
    columns: dict[str, np.ndarray],
    length: np.ndarray,
    mine: np.ndarray,
    resets: np.ndarray,
    ends: np.ndarray,
    none: int,
) -> dict[int, int]:
    """Set the missing offsets of one direction of one stream, op by op; return where it has got to in each file."""
    file, offset, kind, to_file = (columns[name] for name in ("file", "offset", "kind", "to_file"))
    at: dict[int, int] = {}
    for row in np.flatnonzero(mine | resets | (kind == _COPY)).tolist():
        code, to = int(file[row]), int(to_file[row])
        if kind[row] == _RENAME and to >= 0 and to != code:
            at[to] = at[code] if code in at else int(ends[code])
        elif kind[row] == _COPY:
            if to >= 0 and to != code:
                at[to] = 0
            continue
        if resets[row] and not (kind[row] == _RENAME and to == code):
            at[code] = 0
            continue
        if offset[row] == none:
            offset[row] = at[code] if code in at else int(ends[code])
        at[code] = int(offset[row] + length[row])
    return at
