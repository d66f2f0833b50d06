"""What one worker of a replay holds: open objects and a buffer. Used by one thread."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from tracekit.backends.base import NOTHING_MOVED, Backend, Handle, Moved
from tracekit.errors import BackendError, ErrorClass
from tracekit.replayer.engines.changes import Changes
from tracekit.replayer.engines.oplog import OpLog
from tracekit.replayer.kinds import READS, code_of
from tracekit.replayer.plan import NONE, Plan

__all__ = ["OPEN_FILES", "Prepared", "Worker"]

OPEN_FILES = 512
_GET = code_of("get")


@dataclass(slots=True)
class Prepared:
    """An op that is ready to be sent, or the reason why it cannot be.

    A change has no handle, a GET of a whole object no buffer. With `late`, `Worker.open` has to be
    called when all ops before it have ended.
    """

    handle: Handle | None
    buffer: memoryview | None
    nbytes: int
    error: ErrorClass | None = None
    late: bool = False


class Worker:
    """Prepares and performs the ops of a plan. At most `most_open()` files stay open, the last used ones.

    `prepare` is called before the op is due and may take its time. `perform` is the request.
    """

    def __init__(
        self,
        plan: Plan,
        log: OpLog,
        backend_of: Callable[[str], Backend],
        *,
        page_cache_mode: str,
        most_open: Callable[[], int],
        changes: Changes,
    ) -> None:
        self._uris = plan.uris
        self._log = log
        self._backend_of = backend_of
        self._page_cache_mode = page_cache_mode
        self._changes = changes
        self._most_open = most_open
        self._handles: OrderedDict[int, Handle] = OrderedDict()
        self._room = memoryview(bytearray())
        self._file, self._offset, self._length, self._kind, self._recorded = (
            plan.view(name) for name in ("file", "offset", "length", "kind", "recorded_bytes")
        )

    def prepare(self, op: int) -> Prepared:
        """Open the object of the op and find a buffer for it."""
        try:
            if self._kind[op] >= len(READS):
                return Prepared(None, self._changes.prepare(op), self._changes.nbytes(op), late=True)
            if self._file[op] in self._changes.files:
                return Prepared(None, None, max(self._length[op], 0), late=True)
            return self._opened(op)
        except BackendError as error:
            return Prepared(None, None, max(self._length[op], 0), error.error_class)

    def open(self, op: int, ready: Prepared) -> Prepared:
        """Open an object that other ops change, after these."""
        try:
            if self._kind[op] < len(READS):
                self._close_one(self._file[op])
                return self._opened(op)
            if ready.error is None:
                self._changes.open(op)
            return ready
        except BackendError as error:
            return Prepared(None, None, ready.nbytes, error.error_class)

    def _opened(self, op: int) -> Prepared:
        kind, file, length = self._kind[op], self._file[op], self._length[op]
        handle = self._handles.get(file) or self._open(file)
        if len(self._handles) > 1:
            self._handles.move_to_end(file)
        if kind == _GET and self._backend_of(handle.uri).remote:
            return Prepared(handle, None, max(length, 0))
        if length == NONE:
            length = max(handle.size - self._offset[op], 0)
        return Prepared(handle, self._sized(file, length), length)

    def perform(self, op: int, ready: Prepared) -> tuple[Moved, ErrorClass | None]:
        """Make the request; return what it moved, and its error if it failed."""
        if ready.error is not None:
            return NOTHING_MOVED, ready.error
        handle, buffer, wanted = ready.handle, ready.buffer, ready.nbytes
        try:
            if handle is not None and buffer is not None:
                moved = handle.read_into(self._offset[op], buffer)
            elif handle is not None:
                moved = handle.get(None if self._length[op] == NONE else wanted)[1]
            else:
                return self._changes.perform(op, memoryview(b"") if buffer is None else buffer), None
        except BackendError as error:
            return Moved(0, tries=error.tries, wait_ns=error.wait_ns), error.error_class
        # A read is short only if it moves less than it did when it was recorded.
        recorded = self._recorded[op]
        least = wanted if recorded == NONE else min(wanted, recorded)
        return moved, ErrorClass.SHORT_READ if moved.nbytes < least else None

    def _close_one(self, file: int) -> None:
        handle = self._handles.pop(file, None)
        if handle is not None:
            handle.close()

    def close(self) -> None:
        for handle in self._handles.values():
            handle.close()
        self._handles.clear()

    def _open(self, file: int) -> Handle:
        uri = self._uris[file]
        while len(self._handles) >= max(self._most_open(), 1):
            self._handles.popitem(last=False)[1].close()
        handle = self._backend_of(uri).open(uri, page_cache_mode=self._page_cache_mode)
        self._handles[file] = handle
        if handle.open_hint is not None:
            self._log.hint(uri, handle.open_hint)
        return handle

    def _sized(self, file: int, length: int) -> memoryview:
        if len(self._room) < length:
            self._room = self._backend_of(self._uris[file]).allocate(length)
        return self._room[:length]
