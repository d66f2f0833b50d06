"""Range writes, and small parts, to an object store: gathered into parts of an upload, as file systems on stores do it.

A store has no writes of ranges. The writes of one object, from its beginning until something else
uses it, are one series. Each write that completes a part of 8 MiB sends it, and the last one sends the
rest and completes the upload; a series that fits into one part is one put. What is sent is made up
anyway, so that nothing is buffered. An upload with parts that are too small for the store is a series, too, which
its completion ends.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from tracekit.backends.base import Backend
from tracekit.backends.changing import Upload
from tracekit.errors import BackendError
from tracekit.replayer.depend import Families
from tracekit.replayer.kinds import KINDS, code_of
from tracekit.replayer.payload import Payload
from tracekit.replayer.plan import Plan
from tracekit.replayer.uploads import Uploads

__all__ = ["Series", "series_of", "small_uploads"]

_PART = 8 << 20
_MOST_PARTS = 9000
_BEGINS_ANEW = frozenset({"delete", "rename", "truncate"})
_GOES_ON = frozenset({"write", "sync"})


@dataclass(slots=True)
class Series:
    """The writes of one object. `appends` tells that the object is there already when they begin."""

    size: int = 0
    planned: int = 0
    written: int = 0
    left: int = 0
    appends: bool = False
    sent: int = 0
    parts: int = 0
    sending: int = 0
    failed: BackendError | None = None
    upload: Upload | None = None
    changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def whole(self) -> bool:
        """Whether a store can make the object: all of it is written, and nothing was there before."""
        return not self.appends and self.planned >= self.size

    def write(self, op: int, nbytes: int, backend: Backend, uri: str, payload: Payload) -> int:
        """Carry out one write; return its bytes. The last one returns when the object is there."""
        with self.changed:
            self.written += nbytes
            self.left -= 1
            last = self.left == 0
            cuts = list(self._cuts(last))
            self.sending += len(cuts)
        for number, offset, size in cuts:
            self._send(op, number, offset, size, backend, uri, payload)
        if last:
            self._complete(op, backend, uri, payload)
        return nbytes

    def give_up(self) -> None:
        """Abort what was begun and is not complete."""
        with self.changed:
            upload, self.upload = self.upload, None
        if upload is not None:
            upload.abort()

    def _cuts(self, last: bool) -> Iterator[tuple[int, int, int]]:
        """The parts that are to be sent now: number, offset and size."""
        size = max(_PART, -(-self.size // _MOST_PARTS))
        if self.size <= size:
            return
        while self.written - self.sent >= size or (last and self.sent < self.size):
            cut = min(size, self.size - self.sent)
            if cut <= 0:
                return
            self.parts += 1
            yield self.parts, self.sent, cut
            self.sent += cut

    def _send(
        self, op: int, number: int, offset: int, size: int, backend: Backend, uri: str, payload: Payload
    ) -> None:
        try:
            with self.changed:
                if self.upload is None:
                    self.upload = backend.changer.upload(uri)
                upload = self.upload
            upload.part(number, offset, payload.of(op, size))
        except BackendError as error:
            self.failed = self.failed or error
            raise
        finally:
            with self.changed:
                self.sending -= 1
                self.changed.notify_all()

    def _complete(self, op: int, backend: Backend, uri: str, payload: Payload) -> None:
        with self.changed:
            while self.sending:
                self.changed.wait()
        if self.failed is not None:
            self.give_up()
            raise self.failed
        if self.upload is not None:
            self.upload.complete()
            self.upload = None
        else:
            backend.put(uri, payload.of(op, self.size), overwrite=True)


def series_of(plan: Plan, remote: Callable[[str], bool]) -> dict[int, Series]:
    """The series that each range write to an object store belongs to, by op."""
    kind, file = plan.column("kind"), plan.column("file")
    writes = kind == code_of("write")
    stored = [code for code in np.unique(file[writes]).tolist() if remote(plan.uris[code])]
    found: dict[int, Series] = {}
    open_: dict[int, Series] = {}
    there: set[int] = set()
    offset, moves = plan.column("offset"), plan.moves()
    for op, code, name in _uses(plan, stored):
        if name == "write":
            series = open_.get(code)
            if series is None:
                series = open_[code] = Series(appends=code in there)
            series.size = max(series.size, int(offset[op] + moves[op]))
            series.left += 1
            series.planned += int(moves[op])
            found[op] = series
        elif name not in _GOES_ON:
            open_.pop(code, None)
            there.add(code)
            if name in _BEGINS_ANEW:
                there.discard(code)
    return found


def small_uploads(plan: Plan, uploads: Uploads, least: Callable[[str], int]) -> dict[int, Series]:
    """The series of each op of an upload that has a part, besides its last, smaller than `least(uri)` bytes."""
    file, length = plan.column("file"), plan.column("length")
    sizes: defaultdict[int, dict[int, int]] = defaultdict(dict)
    small: set[int] = set()
    for op, number in uploads.part.items():
        sizes[uploads.of[op]][number] = max(int(length[op]), 0)
    for op, number in uploads.part.items():
        known = sizes[uploads.of[op]]
        if number != max(known) and known[number] < least(plan.uris[file[op]]):
            small.add(uploads.of[op])
    made = {upload: Series(size=sum(sizes[upload].values()), left=1) for upload in small}
    for op in uploads.part:
        if uploads.of[op] in made:
            made[uploads.of[op]].left += 1
    return {op: made[upload] for op, upload in uploads.of.items() if upload in made}


def _uses(plan: Plan, stored: list[int]) -> Iterator[tuple[int, int, str]]:
    """Each use of the objects `stored`: the op, the object and the kind; an object that gets a name is `put`.

    A directory that is renamed or deleted takes along what is below it.
    """
    kind, file, to_file = (plan.column(name) for name in ("kind", "file", "to_file"))
    families = Families(plan.sources)
    wanted = set(stored)
    moving = np.isin(kind, [code_of("rename"), code_of("delete"), code_of("copy")])
    for op in np.flatnonzero(np.isin(file, stored) | (moving & bool(stored))).tolist():
        name, code, to = KINDS[kind[op]], int(file[op]), int(to_file[op])
        members = (code, *(families.below(code) if name in ("rename", "delete") else ()))
        yield from ((op, each, name) for each in members if each in wanted)
        if to >= 0 and moving[op]:
            gets = (to, *(families.below(to) if name == "rename" else ()))
            yield from ((op, each, "put") for each in gets if each in wanted)
