"""Reads the pieces of a sample: through the gate, into the sample's buffer, one row for each request.

The in-flight cap depends on the order: the gate admits a request before its t_submit is
taken and is told of its end after its latency is. An error is recorded first and then becomes
the failure of the sample. This module knows neither batches nor threads.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Hashable
from typing import Any

from tracekit.backends.base import NOTHING_MOVED, Backend, Handle, Hint, Moved
from tracekit.backends.local.descriptors import open_file_budget
from tracekit.errors import BackendError, ErrorClass, TracekitError
from tracekit.gate import Gate
from tracekit.loader.handles import Handles
from tracekit.loader.options import LoaderOptions
from tracekit.loader.shaping import request, requests_in
from tracekit.loader.work import PendingSample
from tracekit.recorder import Recorder

__all__ = ["SampleReader"]

_IDLE_HANDLES = 128
_REMOTE_HANDLES = 1 << 20  # they hold no descriptor
_scratch = threading.local()
_handed: weakref.WeakKeyDictionary[Backend, dict[str, int]] = weakref.WeakKeyDictionary()
"""The counters of each backend that recorders already have: a recorder gets only what was added since."""
_handed_lock = threading.Lock()


class SampleReader:
    """Reads pieces of samples for any worker. Thread-safe; `close` closes the handles.

    A piece is a whole sample (`reader_mode=sequential`) or one request (`range`). With
    `keep_data` false the bytes go to a buffer of the worker and are overwritten.
    """

    def __init__(
        self, backend: Backend, options: LoaderOptions, gate: Gate, recorder: Recorder | None, keep_data: bool
    ) -> None:
        self._backend = backend
        self._gate = gate
        self._recorder = recorder
        self._keep_data = keep_data
        self._by_range = options.reader_mode == "range"
        self._target_bytes = options.target_request_bytes
        self._shared = options.sample_bytes is not None
        most = _REMOTE_HANDLES if backend.remote else open_file_budget()
        idle = min(_IDLE_HANDLES, max(most - options.num_workers, 0)) if self._shared else 0
        self._handles = Handles(backend, options.page_cache_mode, idle=idle, most=most)
        self.stopping = False
        """Set to send no further requests."""

    def pieces(self, length: int) -> int:
        """Return in how many pieces a sample of `length` bytes is read; at least 1."""
        return max(1, requests_in(length, self._target_bytes)) if self._by_range else 1

    def read(self, sample: PendingSample, piece: int, worker: int) -> bool:
        """Read one piece; return whether it was the sample's last. A failure is kept in `sample.failure`."""
        try:
            if sample.failure is None:
                self._read_piece(sample, piece, worker)
        except TracekitError as error:
            sample.failure = error
        with sample.lock:
            sample.left -= 1
            last = sample.left == 0
        if last and sample.handle is not None:
            self._handles.release(self._key(sample))
            sample.handle = None
        return last

    def write_rows(self, sample: PendingSample) -> None:
        """Record the ops that waited for the sample's step: it is known now, or there is none."""
        if self._recorder is not None:
            step = sample.box.step if sample.box is not None else None
            for row in sample.rows:
                self._recorder.record(**row, step=step)
        sample.rows.clear()

    def close(self) -> None:
        """Close the handles and add the backend's counters to the recorder's."""
        self._handles.close()
        if self._recorder is not None:
            with _handed_lock:
                counted, before = dict(self._backend.counters), _handed.get(self._backend, {})
                _handed[self._backend] = counted
            for name, value in counted.items():
                self._recorder.count(name, value - before.get(name, 0))

    def _read_piece(self, sample: PendingSample, piece: int, worker: int) -> None:
        length = sample.ref.length
        if not self._by_range and self._backend.remote and sample.ref.whole and self._admits(length):
            self._get(sample, worker)
            return
        handle = self._opened(sample, worker)
        if self._by_range:
            if length:
                self._read_request(sample, handle, *request(length, self._target_bytes, piece), worker)
            return
        for index in range(requests_in(length, self._target_bytes)):
            if self.stopping:
                raise _stopped(sample)
            self._read_request(sample, handle, *request(length, self._target_bytes, index), worker)

    def _admits(self, length: int) -> bool:
        """Return whether a whole object fits the cap; a larger one is read in ranges, in order."""
        return length > 0 and (self._gate.max_bytes is None or length <= self._gate.max_bytes)

    def _admit(self, length: int) -> None:
        """Wait at the gate. The wait is part of no latency, so it is counted."""
        waited_ns = self._gate.acquire(length)
        if waited_ns and self._recorder is not None:
            self._recorder.count("gate_waits")
            self._recorder.count("gate_wait_ns", waited_ns)

    def _opened(self, sample: PendingSample, worker: int) -> Handle:
        """Return the sample's handle. The first worker opens it and allocates the buffer."""
        with sample.lock:
            if sample.handle is None:

                def opened(began: int, latency: int, handle: Handle | None, error: ErrorClass | None) -> None:
                    self._record_open(sample, worker, began, latency, handle, error)

                handle = self._handles.acquire(self._key(sample), sample.ref.uri, opened)
                sample.handle = handle
                if self._keep_data:
                    sample.buffer = self._backend.allocate(sample.ref.length)
            return sample.handle

    def _key(self, sample: PendingSample) -> Hashable:
        """Return the key of the handle: records of an object share one, a whole object has its own."""
        return sample.ref.uri if self._shared else sample

    def _read_request(
        self, sample: PendingSample, handle: Handle, start: int, length: int, worker: int
    ) -> None:
        buffer = sample.buffer[start : start + length] if sample.buffer is not None else self._scratch(length)
        offset = sample.ref.offset + start
        self._request(sample, worker, "read", offset, length, handle.read_into, offset, buffer)

    def _get(self, sample: PendingSample, worker: int) -> None:
        length = sample.ref.length
        handle = self._backend.open(sample.ref.uri)

        def get() -> Moved:
            data, moved = handle.get(length)
            if self._keep_data:
                sample.buffer = data
            return moved

        self._request(sample, worker, "get", None, length, get)

    def _request(
        self,
        sample: PendingSample,
        worker: int,
        op: str,
        offset: int | None,
        length: int,
        send: Callable[..., Moved],
        *args: Any,
    ) -> None:
        """Call `send` through the gate and record it. Raises what kept it from moving `length` bytes."""
        self._admit(length)
        try:
            if self.stopping:
                raise _stopped(sample)
            moved, error = NOTHING_MOVED, None
            began = time.monotonic_ns()
            try:
                moved = send(*args)
                if moved.nbytes < length:
                    error = _short(sample, offset or 0, length, moved.nbytes)
            except BackendError as raised:
                error = raised
                moved = Moved(0, tries=raised.tries, wait_ns=raised.wait_ns)
            hint = moved.hint
            ended = time.monotonic_ns() if hint is None else hint.t_submit
            latency = ended - began - moved.wait_ns
        finally:
            self._gate.release(length)
        self._record(sample, worker, op, offset, length, began, latency, moved, error)
        if hint is not None:
            self._record_hint(sample, worker, hint)
        if error is not None:
            raise error

    def _scratch(self, length: int) -> memoryview:
        held: memoryview | None = getattr(_scratch, "buffer", None)
        if held is None or len(held) < length:
            held = _scratch.buffer = self._backend.allocate(length)
        return held[:length]

    def _record(
        self,
        sample: PendingSample,
        worker: int,
        op: str,
        offset: int | None,
        length: int | None,
        began: int,
        latency: int,
        moved: Moved = NOTHING_MOVED,
        error: BackendError | ErrorClass | None = None,
    ) -> None:
        if self._recorder is None:
            return
        row: dict[str, Any] = {
            "uri": sample.ref.uri,
            "offset": offset,
            "len": length,
            "t_submit": began,
            "latency": latency,
            "op": op,
            "bytes": moved.nbytes,
            "ttfb": moved.ttfb,
            "tries": moved.tries,
            "wait_ns": None if moved.tries is None else moved.wait_ns,
            "sample_id": sample.ref.sample_id,
            "worker": worker,
            "error": error.error_class if isinstance(error, BackendError) else error,
        }
        if sample.box is None:
            sample.rows.append(row)
        else:
            self._recorder.record(**row, step=sample.box.step)

    def _record_open(
        self,
        sample: PendingSample,
        worker: int,
        began: int,
        latency: int,
        handle: Handle | None,
        error: ErrorClass | None,
    ) -> None:
        """Record an open as a `stat` op. Object stores are left out: to open there sends no request."""
        if self._backend.remote:
            return
        hint = handle.open_hint if handle is not None else None
        if hint is not None:
            latency = hint.t_submit - began
        self._record(sample, worker, "stat", None, None, began, latency, error=error)
        if hint is not None:
            self._record_hint(sample, worker, hint)

    def _record_hint(self, sample: PendingSample, worker: int, hint: Hint) -> None:
        self._record(sample, worker, "hint", hint.offset, hint.length, hint.t_submit, hint.latency)


def _short(sample: PendingSample, offset: int, length: int, count: int) -> BackendError:
    return BackendError(
        f"{sample.ref.uri}: {count} of {length} bytes at offset {offset}, then the object ends",
        "it shrank since it was listed",
        ErrorClass.SHORT_READ,
    )


def _stopped(sample: PendingSample) -> BackendError:
    return BackendError(f"{sample.ref.uri}: the loader was stopped", "", ErrorClass.CANCELLED)
