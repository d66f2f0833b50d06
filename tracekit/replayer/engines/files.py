"""What one worker of a replay holds: open objects and a buffer. Used by one thread."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from tracekit.backends.base import Backend, Handle, HintedHandle, WholeObjects
from tracekit.backends.local.file import FileHandle
from tracekit.errors import BackendError, ErrorClass
from tracekit.replayer.engines.oplog import OpLog
from tracekit.replayer.plan import KINDS, NONE, Plan

__all__ = ["Worker", "payload"]

OPEN_FILES = 512
_READ, _GET, _PUT = (KINDS.index(kind) for kind in ("read", "get", "put"))
_PAYLOAD = 1 << 20


class Worker:
    """Prepares and performs the ops of a plan. `most_open` files stay open, the last used ones.

    `prepare` may take its time: it is called before the op is due. `perform` is the request.
    """

    def __init__(
        self, plan: Plan, log: OpLog, backend_of: Callable[[str], Backend], *,
        cache_policy: str, most_open: int, overwrite: bool,
    ) -> None:  # fmt: skip
        self._uris = plan.uris
        self._log = log
        self._backend_of = backend_of
        self._cache_policy = cache_policy
        self._overwrite = overwrite
        self._most = max(4, most_open)
        self._handles: OrderedDict[int, Handle] = OrderedDict()
        self.descriptors: dict[int, int] = {}
        """Of the open files that are plain local ones: for loops that read them themselves."""
        self._room = memoryview(bytearray())
        self._file, self._offset, self._length, self._kind, self._recorded = (
            plan.view(name) for name in ("file", "offset", "length", "kind", "recorded_bytes")
        )
        self._handle: Handle | None = None
        self._buffer = memoryview(b"")
        self._error: ErrorClass | None = None

    def prepare(self, op: int) -> int:
        """Open what the op needs, find it a buffer; its bytes, as far as they are known."""
        self._error = None
        try:
            return self._prepared(op)
        except BackendError as error:
            self._handle, self._error = None, error.error_class
        except MemoryError:  # a length that only a damaged or foreign trace has
            self._handle, self._error = None, ErrorClass.OUT_OF_MEMORY
        return max(self._length[op], 0)

    def _prepared(self, op: int) -> int:
        length, kind, file = self._length[op], self._kind[op], self._file[op]
        if kind == _PUT or (kind == _GET and isinstance(self._backend_of(self._uris[file]), WholeObjects)):
            self._buffer = payload(max(length, 0)) if kind == _PUT else memoryview(b"")
            return max(length, 0)
        handle = self._handles.get(file) or self._open(file)
        if len(self._handles) > 1:
            self._handles.move_to_end(file)
        if length == NONE:
            length = max(handle.size - self._offset[op], 0)
        self._handle = handle
        if len(self._buffer) != length or self._buffer.readonly:
            self._buffer = self._sized(file, length)
        return int(length)

    def perform(self, op: int) -> int:
        """Make the request; bytes moved. Its error, if it failed, is noted in the log."""
        if self._error:
            self._log.fail(self._error)
            return 0
        try:
            return self._request(op)
        except BackendError as error:
            self._log.fail(error.error_class)
            return 0

    def close(self) -> None:
        for handle in self._handles.values():
            handle.close()
        self._handles.clear()

    def _request(self, op: int) -> int:
        kind, uri = self._kind[op], self._uris[self._file[op]]
        wanted = self._length[op]
        if kind == _PUT:
            return self._backend_of(uri).put(uri, self._buffer, overwrite=self._overwrite)
        backend = self._backend_of(uri) if kind == _GET else None
        if isinstance(backend, WholeObjects):
            data, first_byte = backend.get(uri)
            moved = len(data)
        else:
            assert self._handle is not None
            moved, first_byte = self._handle.read_into(self._offset[op], self._buffer)
            wanted = len(self._buffer)
        if first_byte is not None:
            self._log.first_byte(first_byte)
        if moved < self._least(op, wanted):
            self._log.fail(ErrorClass.SHORT_READ)
        return moved

    def _least(self, op: int, wanted: int) -> int:
        """Bytes below which a read is short: fewer than asked if fewer were there when it was recorded."""
        recorded = self._recorded[op]
        return wanted if recorded == NONE else min(wanted, int(recorded))

    def hinted(self, op: int) -> tuple[int, int]:
        """As `perform`, for policies that follow a read by a hint; (bytes, monotonic ns of its end or 0)."""
        handle = self._handle
        if self._error or not isinstance(handle, HintedHandle) or self._kind[op] == _PUT:
            return self.perform(op), 0
        try:
            moved, _, hint = handle.read_hinted(self._offset[op], self._buffer)
        except BackendError as error:
            self._log.fail(error.error_class)
            return 0, 0
        if moved < self._least(op, len(self._buffer)):
            self._log.fail(ErrorClass.SHORT_READ)
        if hint is None:
            return moved, 0
        self._log.hint(handle.uri, hint)
        return moved, hint.t_submit

    def descriptor(self, file: int) -> int:
        """Open the file and give its descriptor; -1 if it cannot be opened."""
        try:
            self._open(file)
        except BackendError:
            return -1
        return self.descriptors.get(file, -1)

    def _open(self, file: int) -> Handle:
        uri = self._uris[file]
        handle = self._backend_of(uri).open(uri, cache_policy=self._cache_policy)
        self._handles[file] = handle
        if isinstance(handle, FileHandle):
            self.descriptors[file] = handle.fd
        if isinstance(handle, HintedHandle) and handle.open_hint is not None:
            self._log.hint(uri, handle.open_hint)
        if len(self._handles) > self._most:
            oldest, closing = self._handles.popitem(last=False)
            self.descriptors.pop(oldest, None)
            closing.close()
        return handle

    def _sized(self, file: int, length: int) -> memoryview:
        if len(self._room) < length:
            self._room = self._backend_of(self._uris[file]).allocate(length)
        return self._room[:length]


def payload(nbytes: int) -> memoryview:
    """Seeded bytes to write: the same for the same length, and never zeros."""
    block = np.random.default_rng(0).bytes(min(nbytes, _PAYLOAD))
    return memoryview((block * (nbytes // max(len(block), 1) + 1))[:nbytes])
