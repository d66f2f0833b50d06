"""Range writes to an object store: gathered into parts of an upload, as file systems on stores do it.

A store has no writes of ranges. The writes of one object, from its beginning until something else
uses it, are one series. Each write that completes a part of 8 MiB sends it, and the last one sends the
rest and completes the upload; a series that fits into one part is one put. What is sent is made up
anyway, so that nothing is buffered.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from tracekit.backends.base import Backend
from tracekit.backends.changing import Upload
from tracekit.errors import BackendError
from tracekit.replayer.kinds import KINDS, code_of
from tracekit.replayer.payload import Payload
from tracekit.replayer.plan import Plan

__all__ = ["Series", "series_of"]

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
            if self.upload is not None:
                self.upload.abort()
            raise self.failed
        if self.upload is not None:
            self.upload.complete()
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
    ends = plan.column("offset") + plan.moves()
    for op in np.flatnonzero(np.isin(file, stored)).tolist():
        code, name = int(file[op]), KINDS[kind[op]]
        if name == "write":
            series = open_.get(code)
            if series is None:
                series = open_[code] = Series(appends=code in there)
            series.size = max(series.size, int(ends[op]))
            series.left += 1
            series.planned += int(ends[op] - plan.column("offset")[op])
            found[op] = series
        elif name not in _GOES_ON:
            open_.pop(code, None)
            there.add(code)
            if name in _BEGINS_ANEW:
                there.discard(code)
    return found
