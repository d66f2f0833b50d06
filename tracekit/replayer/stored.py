"""What a plan needs to find at its target, and what it leaves behind: objects and their sizes.

The ops of a plan are carried out on names and sizes alone. Ops that failed in the recording change
nothing. This module touches no storage.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from tracekit.replayer.kinds import DATA, KINDS, READS, code_of
from tracekit.replayer.uploads import UPLOAD_KINDS, Uploads

if TYPE_CHECKING:
    from tracekit.replayer.plan import Plan

__all__ = ["Stored"]

_TOUCHING = frozenset({"put", "write", "complete", "truncate", "copy"})
_SYNC = code_of("sync")
_WRITING = [code_of(kind) for kind in (*DATA, "truncate")]


@dataclass(slots=True)
class _Object:
    """An object while the plan runs.

    `base` is the name that it had at the start, empty if the plan made it; its first bytes are then
    unknown up to its size, unless they were cut off (`whole`). `size` is how far the plan wrote it.
    """

    base: str
    size: int = 0
    whole: bool = False


@dataclass(slots=True)
class Stored:
    """Follows the objects of a plan by their recorded URIs.

    `needed` are the objects that must be there at the start, with the bytes that ops read of them;
    `touched` those that ops change.
    """

    needed: dict[str, int] = field(default_factory=dict)
    touched: set[str] = field(default_factory=set)
    renamed: list[tuple[str, str]] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    _objects: dict[str, _Object | None] = field(default_factory=dict)
    _folders: set[str] = field(default_factory=set)
    _uploads: Uploads = field(default_factory=Uploads)
    _parts: dict[int, dict[int, int]] = field(default_factory=dict)

    def add(self, plan: Plan, rows: slice) -> np.ndarray:
        """Carry out a part of a plan; return which rows read objects that no change has touched.

        Those rows are left to the caller, who can add them up at once.
        """
        kind, file = plan.column("kind")[rows], plan.column("file")[rows]
        changing = kind >= len(READS)
        if not changing.any() and not self._objects:
            return np.ones(len(kind), bool)
        sources, to_file = plan.sources, plan.column("to_file")[rows]
        involved = np.union1d(file[changing], to_file[changing & (to_file >= 0)])
        known = [code for code in np.unique(file).tolist() if sources[code] in self._objects]
        families = any(KINDS[code] in ("rename", "delete") for code in np.unique(kind).tolist())
        mine = np.isin(file, np.union1d(involved, known)) if not families else np.ones(len(kind), bool)
        moves, failed = plan.moves(rows), plan.column("recorded_error")[rows] >= 0
        offset, length, first = plan.column("offset")[rows], plan.column("length")[rows], rows.start or 0
        self._uploads.add(plan, rows)
        written = {sources[code] for code in np.unique(file[np.isin(kind, _WRITING)]).tolist()}
        folders = _folders_of(sources) if (kind == _SYNC).any() else set()
        for row in np.flatnonzero(mine & ~failed).tolist():
            name, uri, to = KINDS[kind[row]], sources[file[row]], int(to_file[row])
            if name in UPLOAD_KINDS:
                self._upload(name, uri, first + row, int(moves[row]))
            elif name == "sync":
                if uri not in self._objects and uri not in written and uri.rstrip("/") not in folders:
                    self._require(uri)
            else:
                self._step(
                    name,
                    uri,
                    sources[to] if to >= 0 else "",
                    int(offset[row]),
                    int(moves[row]),
                    int(length[row]),
                )
        rest: np.ndarray = ~mine
        return rest

    def sizes(self, at_start: Mapping[str, int]) -> dict[str, int | None]:
        """The size of every touched object at the end, None for one that is gone.

        `at_start` has the sizes of objects that were there before the plan.
        """
        found: dict[str, int | None] = {}
        for uri in self.touched:
            there = self._objects.get(uri)
            found[uri] = None if there is None else self._size(there, at_start)
        return found

    def _size(self, there: _Object, at_start: Mapping[str, int]) -> int:
        base = 0 if there.whole or not there.base else at_start.get(there.base, 0)
        return max(there.size, base)

    def _step(self, kind: str, uri: str, to: str, offset: int, moved: int, length: int) -> None:
        if kind in READS:
            self._read(uri, offset + moved)
        elif kind == "write":
            there = self._objects.get(uri) or self._make(uri)
            there.size = max(there.size, offset + moved)
        elif kind == "put":
            self._put(uri, moved)
        elif kind == "truncate":
            there = self._objects.get(uri) or self._make(uri)
            there.size, there.whole = max(length, 0), True
        elif kind == "delete":
            self._delete(uri)
        elif kind == "rename":
            self._rename(uri, to)
        elif kind == "copy":
            self._copy(uri, to)
        if kind in _TOUCHING:
            self.touched.add(to if kind == "copy" else uri)

    def _upload(self, kind: str, uri: str, op: int, moved: int) -> None:
        upload = self._uploads.of[op]
        if kind == "part":
            self._parts.setdefault(upload, {})[self._uploads.part[op]] = moved
            return
        parts = self._parts.pop(upload, {})
        if kind == "complete":
            self._put(uri, sum(parts.values()))
            self.touched.add(uri)

    def _set(self, uri: str, there: _Object | None) -> None:
        if uri not in self._objects:
            self._folders.update(_folders_of((uri,)))
        self._objects[uri] = there

    def _make(self, uri: str) -> _Object:
        """An object that the plan writes: new if it was deleted, else perhaps there at the start."""
        made = _Object("" if uri in self._objects else uri)
        self._set(uri, made)
        return made

    def _put(self, uri: str, size: int) -> None:
        self._set(uri, _Object("", size, whole=True))

    def _read(self, uri: str, end: int) -> None:
        there = self._require(uri) if uri not in self._objects else self._objects[uri]
        if there is not None and there.base and not there.whole and end > there.size:
            self.needed[there.base] = max(self.needed.get(there.base, 0), end)

    def _require(self, uri: str) -> _Object:
        """An object that the plan uses before it makes it."""
        self.needed.setdefault(uri, 0)
        made = _Object(uri)
        self._set(uri, made)
        return made

    def _delete(self, uri: str) -> None:
        for each in self._meant(uri):
            if each not in self._objects:
                self._require(each)
            self._set(each, None)
            self.touched.add(each)
        self.deleted.append(uri)

    def _rename(self, uri: str, to: str) -> None:
        for each in self._meant(uri):
            there = self._objects[each] if each in self._objects else self._require(each)
            target = to + each[len(uri) :]
            self.touched.update((each, target))
            if target != each:
                self._set(each, None)
                self._set(target, there)
        self.renamed.append((uri, to))

    def _copy(self, uri: str, to: str) -> None:
        there = self._objects[uri] if uri in self._objects else self._require(uri)
        self._set(to, None if there is None else _Object(there.base, there.size, there.whole))

    def _meant(self, uri: str) -> list[str]:
        """The object `uri`, or what is left below the directory `uri`."""
        name = uri.rstrip("/")
        if name not in self._folders or self._objects.get(uri) is not None:
            return [uri]
        return [
            each for each, there in self._objects.items() if there is not None and each.startswith(f"{name}/")
        ]


def _folders_of(uris: Iterable[str]) -> set[str]:
    """The names of the directories above `uris`."""
    found: set[str] = set()
    for uri in uris:
        above = uri.rstrip("/").rpartition("/")[0]
        while above not in found and not above.endswith("/") and above:
            found.add(above)
            above = above.rpartition("/")[0]
    return found
