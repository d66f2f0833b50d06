"""Carries out the ops of a plan that change what is stored: what the engines share. Thread-safe.

Files stay open between writes. Nothing here decides whether a target may be changed: `checks` has
done that before the replay.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tracekit.backends.base import Backend
from tracekit.backends.changing import FileWriter, Upload
from tracekit.errors import BackendError, ErrorClass
from tracekit.replayer.depend import Families
from tracekit.replayer.engines.gather import series_of
from tracekit.replayer.kinds import DATA, KINDS, READS, code_of
from tracekit.replayer.payload import Payload
from tracekit.replayer.plan import Plan

__all__ = ["Changes"]

_MOST_OPEN = 256
_DATA = frozenset(code_of(kind) for kind in DATA)


@dataclass(slots=True)
class _Open:
    """A file open for writing, and how many ops use it."""

    file: FileWriter
    users: int = 0
    dropped: bool = False


class Changes:
    """The changes of one replay. `overwrite` allows puts to replace objects that were there before."""

    def __init__(
        self, plan: Plan, backend_of: Callable[[str], Backend], *, overwrite: bool, write_data: str
    ) -> None:
        self._plan = plan
        self._backend_of = backend_of
        self._overwrite = overwrite
        self._payload = Payload(write_data)
        self._kind, self._file, self._to, self._offset, self._length = (
            plan.view(name) for name in ("kind", "file", "to_file", "offset", "length")
        )
        self.files: set[int] = set()
        """Files that ops change: what is known of them is not to be kept from one op to the next."""
        self._series, self._parts = {}, _Parts.none()
        if plan.changes:
            self.files = _changed_files(plan)
            self._series = series_of(plan, lambda uri: backend_of(uri).remote)
            self._parts = _Parts.of(plan)
        self._made: set[int] = set()
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._uploads: dict[int, Upload] = {}
        self._lock = threading.Lock()

    def nbytes(self, op: int) -> int:
        """Bytes that the op sends."""
        return max(int(self._length[op]), 0) if self._kind[op] in _DATA else 0

    def prepare(self, op: int) -> memoryview:
        """The bytes that the op sends. Raises BackendError if there is no room for them."""
        series = op in self._series
        return self._payload.of(op, 0 if series else self.nbytes(op))

    def perform(self, op: int, data: memoryview) -> int:
        """Make the request; return the bytes sent. Raises BackendError if it fails."""
        kind, file = KINDS[self._kind[op]], self._file[op]
        uri = self._plan.uris[file]
        backend = self._backend_of(uri)
        if op in self._series:
            moved = self._series[op].write(op, self.nbytes(op), backend, uri, self._payload)
        elif kind == "write":
            moved = self._with_file(uri, backend, lambda opened: opened.write(self._offset[op], data))
        elif kind == "put":
            moved = backend.put(uri, data, overwrite=self._overwrite or file in self._made)
            self._drop(uri)
        elif kind in ("part", "complete", "abort"):
            moved = self._upload(op, kind, uri, backend, data)
        else:
            moved = 0
            self._whole(op, kind, uri, backend)
        self._made.add(file)
        return moved

    def open(self, op: int) -> None:
        """Open what the op writes to, once every op before it has ended. Raises BackendError."""
        kind, uri = KINDS[self._kind[op]], self._plan.uris[self._file[op]]
        if op in self._series:
            return
        if kind == "write":
            self._with_file(uri, self._backend_of(uri), lambda opened: 0)
        elif kind == "part":
            self._uploading(op, uri)

    def close(self) -> None:
        """Close files, and give up uploads that no op completes."""
        with self._lock:
            files, self._open = list(self._open.values()), OrderedDict()
            uploads, self._uploads = list(self._uploads.values()), {}
        for each in files:
            each.file.close()
        for upload in uploads:
            upload.abort()

    def _whole(self, op: int, kind: str, uri: str, backend: Backend) -> None:
        to = self._plan.uris[self._to[op]] if self._to[op] >= 0 else ""
        if kind == "sync":
            backend.changer.sync(uri)
        elif kind == "truncate" and backend.remote:
            backend.put(uri, b"", overwrite=True)
        elif kind == "truncate":
            self._with_file(uri, backend, lambda opened: _truncate(opened, max(self._length[op], 0)))
        elif kind == "delete":
            self._drop(uri)
            backend.changer.delete(uri)
        else:
            self._drop(uri)
            self._drop(to)
            (backend.changer.rename if kind == "rename" else backend.changer.copy)(uri, to)
            self._made.add(self._to[op])

    def _upload(self, op: int, kind: str, uri: str, backend: Backend, data: memoryview) -> int:
        if kind == "part":
            number, offset = self._parts.place[op]
            return self._uploading(op, uri).part(number, offset, data)
        with self._lock:
            upload = self._uploads.pop(op, None)
        if kind == "abort":
            if upload is not None:
                upload.abort()
            return 0
        if upload is None:
            raise BackendError(
                f"{uri}: no part of the upload was sent", "replay its parts, too", ErrorClass.UNSUPPORTED
            )
        upload.complete()
        self._drop(uri)
        return 0

    def _uploading(self, op: int, uri: str) -> Upload:
        """The upload that the part belongs to, begun if it is the first."""
        end = self._parts.end[op]
        with self._lock:
            upload = self._uploads.get(end)
            if upload is None:
                upload = self._uploads[end] = self._backend_of(uri).changer.upload(uri)
        return upload

    def _with_file(self, uri: str, backend: Backend, use: Callable[[FileWriter], int]) -> int:
        """Call `use` with the file, which is opened if it is not yet."""
        with self._lock:
            opened = self._open.get(uri)
            if opened is None:
                opened = self._open[uri] = _Open(backend.changer.open_for_writing(uri))
                self._close_idle()
            opened.users += 1
            self._open.move_to_end(uri)
        try:
            return use(opened.file)
        finally:
            with self._lock:
                opened.users -= 1
                if opened.dropped and not opened.users:
                    opened.file.close()

    def _close_idle(self) -> None:
        """Close the files that were used longest ago, if many are open."""
        idle = [uri for uri, each in self._open.items() if not each.users]
        for uri in idle[: max(len(self._open) - _MOST_OPEN, 0)]:
            self._open.pop(uri).file.close()

    def _drop(self, uri: str) -> None:
        """Forget open files of this name, or below it, which will belong to another object."""
        with self._lock:
            for name in [name for name in self._open if name == uri or name.startswith(uri + "/")]:
                opened = self._open.pop(name)
                opened.dropped = True
                if not opened.users:
                    opened.file.close()


@dataclass(slots=True)
class _Parts:
    """For each part: the op that ends its upload (below 0: none does), its number and its offset."""

    end: dict[int, int]
    place: dict[int, tuple[int, int]]

    @classmethod
    def none(cls) -> _Parts:
        return cls({}, {})

    @classmethod
    def of(cls, plan: Plan) -> _Parts:
        """Find the uploads of a plan: the parts of an object up to its next complete or abort."""
        found = cls.none()
        kind, file = plan.column("kind"), plan.column("file")
        chosen = np.isin(kind, [code_of(name) for name in ("part", "complete", "abort")])
        waiting: dict[int, list[int]] = {}
        for op in np.flatnonzero(chosen).tolist():
            parts = waiting.setdefault(int(file[op]), [])
            if KINDS[kind[op]] == "part":
                parts.append(op)
            else:
                found._add(plan, parts, op)
                parts.clear()
        for code, parts in waiting.items():
            found._add(plan, parts, -1 - code)
        return found

    def _add(self, plan: Plan, parts: list[int], end: int) -> None:
        number, length = plan.column("part"), plan.column("length")
        numbers = {
            op: int(number[op]) if number[op] > 0 else place for place, op in enumerate(parts, start=1)
        }
        size_of = {numbers[op]: max(int(length[op]), 0) for op in parts}
        offsets, at = {}, 0
        for each in sorted(size_of):
            offsets[each] = at
            at += size_of[each]
        for op in parts:
            self.end[op] = end
            self.place[op] = numbers[op], offsets[numbers[op]]


def _changed_files(plan: Plan) -> set[int]:
    """Numbers of the files that ops change, also by renaming a directory above them."""
    kind = plan.column("kind")
    changing = kind >= len(READS)
    to_file = plan.column("to_file")[changing]
    found = {*plan.column("file")[changing].tolist(), *to_file[to_file >= 0].tolist()}
    moved = np.isin(kind, [code_of("rename"), code_of("delete")])
    families = Families(plan.sources)
    for code in {*plan.column("file")[moved].tolist(), *plan.column("to_file")[moved].tolist()}:
        if code >= 0:
            found.update(families.below(code))
    return found


def _truncate(opened: FileWriter, size: int) -> int:
    opened.truncate(size)
    return 0
