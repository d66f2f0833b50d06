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

from tracekit.backends.base import Backend, Moved
from tracekit.backends.changing import LEAST_PART, FileWriter, Upload
from tracekit.backends.tally import tally_of_tries
from tracekit.errors import BackendError, ErrorClass
from tracekit.replayer.depend import Families
from tracekit.replayer.engines.gather import Series, series_of, small_uploads
from tracekit.replayer.kinds import DATA, KINDS, READS, code_of
from tracekit.replayer.payload import Payload
from tracekit.replayer.plan import Plan
from tracekit.replayer.uploads import Uploads
from tracekit.uri import scheme_of

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
        self._moves: np.ndarray = np.zeros(0, np.int64)
        self.files: set[int] = set()
        """Files that ops change: what is known of them is not to be kept from one op to the next."""
        self._series: dict[int, Series] = {}
        self._uploads = Uploads()
        self._places: dict[int, tuple[int, int]] = {}
        self._folders: set[int] = set()
        self._written: set[int] = set()
        self._families, self._targets = Families(plan.sources), Families(plan.uris)
        if plan.changes:
            self.files = _changed_files(plan, self._families)
            self._folders = _folders(plan, self._families)
            self._written = set(plan.files_of(*DATA, "truncate"))
            self._moves = plan.moves()  # a short write is as short again
            self._series = series_of(plan, lambda uri: backend_of(uri).remote)
            self._uploads.add(plan, slice(0, plan.ops))
            self._places = self._uploads.places(plan)
            self._series |= small_uploads(plan, self._uploads, lambda uri: LEAST_PART.get(scheme_of(uri), 0))
        self.made = np.zeros(max(len(plan.uris), 1), np.int8)
        """Whether ops have made or changed each object, which a put may then replace."""
        self.versions = np.zeros(max(len(plan.uris), 1), np.int64)
        """How often each name has come to stand for another object: files open under it are then of another one."""
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._begun: dict[int, Upload] = {}
        self._lock = threading.Lock()

    @property
    def seeds(self) -> tuple[np.ndarray, bool]:
        """What the bytes of ops are made from, as `Payload.seeds`."""
        return self._payload.seeds

    def nbytes(self, op: int) -> int:
        """Bytes that the op sends."""
        return max(int(self._moves[op]), 0) if self._kind[op] in _DATA else 0

    def prepare(self, op: int) -> memoryview:
        """The bytes that the op sends. Raises BackendError if there is no room for them."""
        series = op in self._series
        return self._payload.of(op, 0 if series else self.nbytes(op))

    def perform(self, op: int, data: memoryview) -> Moved:
        """Make the request; return what it sent, and how often. Raises BackendError if it fails."""
        with tally_of_tries() as tally:
            nbytes = self._perform(op, data)
        return Moved(nbytes, tries=tally.tries, wait_ns=tally.wait_ns)

    def _perform(self, op: int, data: memoryview) -> int:
        kind, file = KINDS[self._kind[op]], self._file[op]
        uri = self._plan.uris[file]
        backend = self._backend_of(uri)
        if op in self._series and kind == "abort":
            moved = 0
            self._series[op].give_up()
        elif op in self._series:
            moved = self._series[op].write(op, self.nbytes(op), backend, uri, self._payload)
        elif kind == "write":
            moved = self._with_file(uri, backend, lambda opened: opened.write(self._offset[op], data))
        elif kind == "put":
            moved = backend.put(uri, data, overwrite=self._overwrite or bool(self.made[file]))
            self._drop(file)
        elif kind in ("part", "complete", "abort"):
            moved = self._upload(op, kind, uri, backend, data)
        else:
            moved = 0
            self._whole(op, kind, uri, backend)
        self.made[file] = 1
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
            uploads, self._begun = list(self._begun.values()), {}
        for each in files:
            each.file.close()
        for upload in uploads:
            try:
                upload.abort()
            except BackendError as error:
                if error.error_class != ErrorClass.NOT_FOUND:  # it had ended, and only the answer was lost
                    raise
        for series in {id(each): each for each in self._series.values()}.values():
            series.give_up()

    def _whole(self, op: int, kind: str, uri: str, backend: Backend) -> None:
        if kind == "sync":
            self._sync(op, uri, backend)
        elif kind == "truncate" and backend.remote:
            backend.put(uri, b"", overwrite=True)
        elif kind == "truncate":
            self._with_file(uri, backend, lambda opened: _truncate(opened, max(self._length[op], 0)))
        elif kind == "delete":
            self._drop(self._file[op])
            if not (backend.remote and self._file[op] in self._folders):  # stores have no directories
                backend.changer.delete(uri)
        else:
            self._to_another_name(op, kind, uri, backend)

    def _sync(self, op: int, uri: str, backend: Backend) -> None:
        try:
            backend.changer.sync(uri)
        except BackendError as error:
            if error.error_class != ErrorClass.NOT_FOUND or self._file[op] not in self._written:
                raise
            # A program that syncs a file before its first write created it when it opened it.
            self._with_file(uri, backend, lambda opened: 0)
            backend.changer.sync(uri)

    def _to_another_name(self, op: int, kind: str, uri: str, backend: Backend) -> None:
        """Rename or copy an object, or rename a directory, which on a store is all that lies below it."""
        file, to_file = self._file[op], self._to[op]
        to = self._plan.uris[to_file]
        self._drop(file)
        self._drop(to_file)
        change = backend.changer.rename if kind == "rename" else backend.changer.copy
        if backend.remote and kind == "rename" and file in self._folders:
            for each in list(backend.list(uri.rstrip("/") + "/")):
                change(each.uri, to + each.uri[len(uri.rstrip("/")) :])
        else:
            change(uri, to)
        self.made[[to_file, *self._families.below(to_file)]] = 1

    def _upload(self, op: int, kind: str, uri: str, backend: Backend, data: memoryview) -> int:
        if kind == "part":
            number, offset = self._places[op]
            return self._uploading(op, uri).part(number, offset, data)
        begun = self._uploads.of[op]
        with self._lock:
            upload = self._begun.get(begun)
        if kind == "abort":
            if upload is not None:
                upload.abort()
        elif upload is None:
            raise BackendError(
                f"{uri}: no part of the upload was sent", "replay its parts, too", ErrorClass.UNSUPPORTED
            )
        else:
            upload.complete()
            self._drop(self._file[op])
        with self._lock:  # an upload that could not be ended is given up with the replay
            self._begun.pop(begun, None)
        return 0

    def _uploading(self, op: int, uri: str) -> Upload:
        """The upload that the part belongs to, begun if it is the first."""
        number = self._uploads.of[op]
        with self._lock:
            upload = self._begun.get(number)
            if upload is None:
                upload = self._begun[number] = self._backend_of(uri).changer.upload(uri)
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

    def _drop(self, file: int) -> None:
        """Forget open files of this name, or below it, which will belong to another object."""
        uri = self._plan.uris[file]
        with self._lock:
            self.versions[[file, *self._targets.below(file)]] += 1
            for name in [name for name in self._open if name == uri or name.startswith(uri + "/")]:
                opened = self._open.pop(name)
                opened.dropped = True
                if not opened.users:
                    opened.file.close()


def _changed_files(plan: Plan, families: Families) -> set[int]:
    """Numbers of the files that ops change, also by renaming a directory above them."""
    kind = plan.column("kind")
    changing = kind >= len(READS)
    to_file = plan.column("to_file")[changing]
    found = {*plan.column("file")[changing].tolist(), *to_file[to_file >= 0].tolist()}
    moved = np.isin(kind, [code_of("rename"), code_of("delete")])
    for code in {*plan.column("file")[moved].tolist(), *plan.column("to_file")[moved].tolist()}:
        if code >= 0:
            found.update(families.below(code))
    return found


def _folders(plan: Plan, families: Families) -> set[int]:
    """Numbers of the names that are directories: nothing is read or written there, but below them."""
    named = set(plan.files_of("rename", "delete"))
    used = set(plan.files_of(*(kind for kind in KINDS if kind not in ("rename", "delete", "sync"))))
    return {code for code in named - used if any(True for _ in families.below(code))}


def _truncate(opened: FileWriter, size: int) -> int:
    opened.truncate(size)
    return 0
