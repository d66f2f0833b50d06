"""What a compiled worker has Python do: a larger buffer, files opened for writing, and changes of whole objects."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import cast

import numpy as np

from tracekit.backends.base import Backend
from tracekit.backends.local.changing import LocalChanger, LocalFileWriter
from tracekit.backends.local.files import aligned_buffer
from tracekit.errors import BackendError, ErrorClass
from tracekit.replayer.engines import words
from tracekit.replayer.engines.arrays import WorkerArrays
from tracekit.replayer.engines.changes import Changes
from tracekit.replayer.plan import Plan

__all__ = ["Hand", "error_class"]

_ROOM_BYTES = 1 << 20
_SLACK = 1 << 17
"""Room beyond what was asked for: two blocks of O_DIRECT."""
_CLASSES = tuple(ErrorClass)
_OWN_ERRORS = {
    words.SHORT: ErrorClass.SHORT_READ,
    words.OUT_OF_MEMORY: ErrorClass.OUT_OF_MEMORY,
    words.UNSUPPORTED: ErrorClass.UNSUPPORTED,
}


def error_class(code: int) -> ErrorClass:
    """The class of a row's `ERROR`."""
    if words.CLASSES <= code < words.SHORT:
        return _CLASSES[code - words.CLASSES]
    return _OWN_ERRORS.get(code) or ErrorClass.from_errno(code)


class Hand:
    """Serves one worker, in its thread. `failed` is called with what no op can be blamed for.

    `address` is that of a C function of three integers: what is asked (`words`), the op, and an argument.
    """

    def __init__(
        self,
        plan: Plan,
        changes: Changes,
        backend_of: Callable[[str], Backend],
        arrays: WorkerArrays,
        failed: Callable[[BaseException], None],
    ) -> None:
        self._plan = plan
        self._changes = changes
        self._backend_of = backend_of
        self._arrays = arrays
        self._failed = failed
        self._writers: dict[int, LocalFileWriter] = {}
        self._rooms: dict[int, memoryview] = {}
        self._keep(aligned_buffer(_ROOM_BYTES + _SLACK))
        integer = ctypes.c_int64
        self._function = ctypes.CFUNCTYPE(integer, integer, integer, integer)(self._answer)
        self.address = ctypes.cast(self._function, ctypes.c_void_p).value or 0

    def close(self) -> None:
        """Close the files that are open for writing."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()
        self._arrays.writers[:, words.FILE] = 0

    def _answer(self, what: int, op: int, argument: int) -> int:
        """Do what is asked: 0 or the error; of a change its bytes, or the error below 0."""
        sign = -1 if what == words.PERFORM else 1
        try:
            if what == words.MAKE_ROOM:
                self._keep(aligned_buffer(max(argument, _ROOM_BYTES) + _SLACK))
            elif what == words.OPEN_WRITER:
                self._open_writer(int(self._plan.columns["file"][op]), argument)
            elif what == words.CLOSE_WRITERS:
                self.close()
            elif what == words.BEGIN_PART:
                self._changes.open(op)
            else:
                return self._changes.perform(op, self._rooms[0][:argument]).nbytes
        except BackendError as error:
            return sign * (words.CLASSES + _CLASSES.index(error.error_class))
        except BaseException as error:  # noqa: BLE001 - raised again where the engine runs
            self._failed(error)
            return sign * (words.CLASSES + _CLASSES.index(ErrorClass.UNKNOWN))
        return 0

    def _keep(self, room: memoryview) -> None:
        state = self._arrays.state
        self._rooms[int(state[words.REQUEST])] = room
        state[words.ROOM] = np.frombuffer(room, np.uint8).ctypes.data
        state[words.ROOM_BYTES] = len(room) - _SLACK

    def _open_writer(self, file: int, slot: int) -> None:
        entry = self._arrays.writers[slot]
        entry[words.FILE] = 0
        if slot in self._writers:
            self._writers.pop(slot).close()
        # First: if the name changes meanwhile, the file is opened again.
        version = self._changes.versions[file]
        uri = self._plan.uris[file]
        writer = cast(LocalChanger, self._backend_of(uri).changer).open_for_writing(uri)
        self._writers[slot] = writer
        entry[words.FD], entry[words.DIRECT_FD] = writer.descriptors
        entry[words.FILE], entry[words.VERSION] = file + 1, version
