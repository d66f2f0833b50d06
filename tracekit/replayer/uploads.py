"""Which upload each part, completion and abort of a plan belongs to.

A trace does not name uploads, and several uploads of one object may be in progress at once. A part
number that all open uploads of the object have already is the first part of another one, unless the
plan has more parts of that number than uploads still need: then it was sent again. This module
knows a plan and no storage.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from tracekit.replayer.kinds import KINDS, code_of

__all__ = ["UPLOAD_KINDS", "Uploads"]

UPLOAD_KINDS = ("part", "complete", "abort")
_CODES = [code_of(kind) for kind in UPLOAD_KINDS]
_Stream = tuple[int, int]


class PlanOfUploads(Protocol):
    """What this module needs of a plan."""

    def column(self, name: str) -> np.ndarray: ...


@dataclass(slots=True)
class _Open:
    """An upload that has not ended: its parts by number, with the length of each, and who sent them."""

    number: int
    lengths: dict[int, int] = field(default_factory=dict)
    streams: set[_Stream] = field(default_factory=set)


@dataclass(slots=True)
class Uploads:
    """Follows the uploads of a plan. `of` has the upload of each op, `part` the part number of each part.

    `at_once` holds the objects of which several uploads were in progress at once.
    """

    of: dict[int, int] = field(default_factory=dict)
    part: dict[int, int] = field(default_factory=dict)
    at_once: set[int] = field(default_factory=set)
    _open: defaultdict[int, list[_Open]] = field(default_factory=lambda: defaultdict(list))
    _begun: int = 0

    def add(self, plan: PlanOfUploads, rows: slice) -> None:
        """Go through a part of the plan."""
        kind = plan.column("kind")[rows]
        chosen = np.flatnonzero(np.isin(kind, _CODES))
        if not len(chosen):
            return
        names = ("file", "part", "length", "rank", "worker", "recorded_error")
        columns = {name: plan.column(name)[rows][chosen].tolist() for name in names}
        kinds = [KINDS[code] for code in kind[chosen].tolist()]
        ended = [
            name != "part" and error < 0 for name, error in zip(kinds, columns["recorded_error"], strict=True)
        ]
        ends = Counter(file for file, end in zip(columns["file"], ended, strict=True) if end)
        left = Counter(
            (file, part)
            for file, part, name, error in zip(
                columns["file"], columns["part"], kinds, columns["recorded_error"], strict=True
            )
            if name == "part" and error < 0
        )
        first = rows.start or 0
        for at, row in enumerate(chosen.tolist()):
            file, part = columns["file"][at], columns["part"][at]
            stream = (columns["rank"][at], columns["worker"][at])
            if kinds[at] != "part":
                self._end(first + row, file, stream, really=ended[at])
                ends[file] -= ended[at]
                continue
            worked = columns["recorded_error"][at] < 0
            surplus = left[file, part] > ends[file] - len(self._open[file])
            self._part(first + row, file, part, columns["length"][at], stream, worked=worked, again=surplus)
            left[file, part] -= worked

    def places(self, plan: PlanOfUploads) -> dict[int, tuple[int, int]]:
        """The number and the offset of each part of a plan that was added as a whole."""
        length = plan.column("length")
        sizes: defaultdict[int, dict[int, int]] = defaultdict(dict)
        for op, number in self.part.items():
            sizes[self.of[op]][number] = max(int(length[op]), 0)
        offsets: dict[tuple[int, int], int] = {}
        for upload, known in sizes.items():
            at = 0
            for number in sorted(known):
                offsets[upload, number] = at
                at += known[number]
        return {op: (number, offsets[self.of[op], number]) for op, number in self.part.items()}

    def _part(
        self, op: int, file: int, number: int, length: int, stream: _Stream, *, worked: bool, again: bool
    ) -> None:
        known = self._open[file]
        lacking = [each for each in known if number <= 0 or number not in each.lengths]
        if lacking:
            upload = max(lacking, key=lambda each: (stream in each.streams, length in each.lengths.values()))
        elif known and again:
            upload = next((each for each in known if stream in each.streams), known[-1])
        else:
            upload = self._begin(file)
        chosen = number if number > 0 else len(upload.lengths) + 1
        if worked:
            upload.lengths[chosen] = length
            upload.streams.add(stream)
        self.of[op], self.part[op] = upload.number, chosen

    def _end(self, op: int, file: int, stream: _Stream, *, really: bool) -> None:
        known = self._open[file]
        upload = next((each for each in known if stream in each.streams), known[0] if known else None)
        if upload is None:
            upload = self._begin(file)
        if really:
            known.remove(upload)
        self.of[op] = upload.number

    def _begin(self, file: int) -> _Open:
        begun = _Open(self._begun)
        self._begun += 1
        self._open[file].append(begun)
        if len(self._open[file]) > 1:
            self.at_once.add(file)
        return begun
