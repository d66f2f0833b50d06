"""Ops in, segments out: what every producer of I/O hands its rows to.

The caller's side extends one flat list by one op's values and returns: no object lives on
for an op, so the garbage collector has nothing to walk. A writer thread cuts columns out
of the list by stride and journals them (`store.rolling`). Nothing recorded is dropped: when
the buffer is full the caller waits, and the wait is counted. This module times nothing
and reads no storage.
"""

from __future__ import annotations

import atexit
import json
import logging
import multiprocessing
import multiprocessing.util
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any

import pyarrow as pa

from tracekit.errors import ErrorClass, TracekitError, UsageError
from tracekit.store.flat import VALUES, WIDTH, flat_to_batch
from tracekit.store.layout import create_or_join
from tracekit.store.locate import local_path
from tracekit.store.rolling import RollingSegments
from tracekit.store.segment import as_recorded
from tracekit.uri import clean

__all__ = ["Recorder"]

_log = logging.getLogger(__name__)
_count = len  # `record` has a parameter of that name
_UNFIT = (pa.ArrowException, AttributeError, OverflowError, TypeError, UnicodeError)
_CHUNK_OPS = 2048
"""Ops converted at a stretch: under 1 ms with the interpreter lock held, so that callers never wait long."""


class Recorder:
    """Records ops into the trace directory `path`; a context manager.

    Several processes may record into one `path` at once: the first makes the trace, the
    others join it and share its epoch, and each writes segments of its own. A forked
    child starts with an empty buffer; a recorder may be pickled to a spawned one.

    `source` and `options` (JSON-able) are kept in each segment's metadata. `rank` and
    `worker` are the stream of ops that name none. At most `buffer_ops` ops wait in
    memory; what has been recorded is handed to the kernel every `flush_interval_s`
    seconds and survives the death of the process from then on. A segment is rolled
    over after `segment_ops` ops.

    Raises UsageError if `path` is no place for a trace. `record` and `close` raise
    TracekitError if the writer has failed (a full disk, say): nothing is lost silently.
    """

    _lock: threading.Lock
    _wake: threading.Event
    _writer: threading.Thread
    _started: bool

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        source: str = "loader",
        options: dict[str, Any] | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        worker: int | None = None,
        flush_interval_s: float = 0.25,
        buffer_ops: int = 131_072,
        segment_ops: int = 1_048_576,
    ) -> None:
        if not 0 < flush_interval_s <= 1:
            raise UsageError(f"flush_interval_s: {flush_interval_s} is out of range", "give 0 < seconds <= 1")
        _check_labels(rank=rank, world_size=world_size, worker=worker, options=options)
        if buffer_ops < _CHUNK_OPS or segment_ops < 1:
            raise UsageError(
                f"buffer_ops={buffer_ops}, segment_ops={segment_ops}: too small",
                f"buffer_ops is at least {_CHUNK_OPS}, segment_ops at least 1",
            )
        # Arrow's first conversion imports pandas if it can: half a second that is not to be spent
        # by the writer, and that fails once the interpreter has begun to end.
        pa.array((), pa.string())
        self.path = local_path(path)
        self._labels: dict[str, Any] = {
            "source": source, "options": options, "rank": rank, "world_size": world_size,
        }  # fmt: skip
        self._worker = worker or 0
        self._flush_interval_s = flush_interval_s
        self._buffer_ops = buffer_ops
        self._segment_ops = segment_ops
        self._manifest = create_or_join(self.path)
        self.epoch_mono_ns: int = self._manifest.local_epoch_mono_ns()
        self._closed = False
        self._begin()
        _live.add(self)

    def record(
        self,
        uri: str,
        offset: int | None,
        len: int | None,
        t_submit: int,
        latency: int | None,
        *,
        op: str = "read",
        bytes: int | None = None,
        ttfb: int | None = None,
        sample_id: int | None = None,
        step: int | None = None,
        worker: int | None = None,
        t_due: int | None = None,
        error: ErrorClass | None = None,
    ) -> None:
        """Record one op. Thread-safe; about a quarter of a microsecond.

        `t_submit` and `t_due` are `time.monotonic_ns()` readings, `latency` and `ttfb`
        ns, `offset`, `len` and `bytes` bytes. The URI loses its query and user-info
        before it is written.
        """
        values = self._values
        values.extend((t_submit, uri, op, offset, len, bytes, latency, ttfb,
                       sample_id, step, worker, t_due, error))  # fmt: skip
        if _count(values) >= self._mark:
            self._pressure()

    def record_batch(self, batch: pa.RecordBatch) -> None:
        """Record many ops at once: any schema columns (`t_submit`, `t_due` monotonic readings).

        For engines that keep columns; extra ones are kept. Thread-safe; waits, as `record`
        does, while the buffer is full. Raises UsageError for a type that cannot be meant.
        """
        if batch.num_rows:
            conforming = self._conform(batch)
            self._enqueue(batch.num_rows, lambda: conforming)

    def record_later(self, rows: int, make: Callable[[], pa.RecordBatch]) -> None:
        """As `record_batch` of the `rows` ops that `make` gives when the writer calls it, on its own thread.

        For engines that have no time to make batches. What `make` raises fails the recorder.
        """
        self._enqueue(rows, lambda: self._conform(make()))

    def _conform(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        try:
            return as_recorded(
                batch, epoch_mono_ns=self.epoch_mono_ns, rank=self._labels["rank"] or 0, worker=self._worker
            )
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise UsageError(f"record_batch: {error}", "tracekit.schema.OPS has names and types") from error

    def _enqueue(self, rows: int, make: Callable[[], pa.RecordBatch]) -> None:
        with self._lock:
            self._batch_rows += rows
        self._batches.append((rows, make))
        self._pressure()

    def count(self, name: str, n: int = 1) -> None:
        """Add `n` to a backend counter (`hints_applied`, `retries`, ...) of this process."""
        with self._lock:
            self._counters[name] = self._counters.get(name, 0) + n

    def set_counters(self, values: dict[str, int]) -> None:
        """Set backend counters of this process to absolute values."""
        with self._lock:
            self._counters.update(values)

    @property
    def ops_recorded(self) -> int:
        """Ops that this process has recorded so far."""
        return self._written_rows + self._buffered()

    @property
    def waits(self) -> int:
        """How often a caller had to wait for the writer."""
        return self._counters.get("recorder_waits", 0)

    def flush(self) -> None:
        """Return when everything recorded before the call is in the kernel's hands."""
        self._check()
        if not self._started:
            return
        ticket = threading.Event()
        self._flushes.append(ticket)
        self._wake.set()
        while not ticket.wait(0.1):
            self._check()

    def close(self) -> None:
        """Write what is buffered, turn the journal into Parquet, stop the threads. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if self._counters and not self._started:
            self._start()
        self._mark = 0
        if self._started:
            self._wake.set()
            self._writer.join()
        _live.discard(self)
        if self._failure is not None:
            raise self._failed()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        settings = {
            **self._labels, "worker": self._worker, "flush_interval_s": self._flush_interval_s,
            "buffer_ops": self._buffer_ops, "segment_ops": self._segment_ops,
        }  # fmt: skip
        return (_join, (str(self.path), settings))

    def _begin(self) -> None:
        """The state of one process: set at construction, and anew in a forked child."""
        self._values: list[Any] = []  # WIDTH of them an op; list.extend is one step under the lock
        self._taken = 0  # of them, at the front, that the writer has taken
        self._batches: deque[tuple[int, Callable[[], pa.RecordBatch]]] = deque()
        self._batch_rows = 0
        self._written_rows = 0
        self._mark = 0  # the first op takes the slow path, which starts the writer
        self._lock = threading.Lock()
        self._drained = threading.Condition(threading.Lock())
        self._wake = threading.Event()
        self._flushes: deque[threading.Event] = deque()
        self._counters: dict[str, int] = {}
        self._segments: RollingSegments | None = None
        self._writer = threading.Thread(target=self._write_loop, name="tracekit-writer", daemon=True)
        self._started = False
        self._failure: BaseException | None = None

    def _start(self) -> None:
        with self._lock:
            if self._started:
                return
            self._writer.start()
            self._started = True
        _close_at_exit_of_child(self)
        # A forkserver worker runs its main module, which may record, before multiprocessing
        # clears the finalizers and then calls these functions.
        multiprocessing.util.register_after_fork(self, _close_at_exit_of_child)

    def _pressure(self) -> None:
        """Start the writer, wake it, or wait for it: whichever the buffer's length asks for."""
        if self._closed or self._failure is not None:
            self._check()
        if not self._started:
            self._start()
        if not self._wake.is_set():
            self._mark = self._buffer_ops * WIDTH  # no more wake-ups until the writer has drained
            self._wake.set()
        if self._buffered() < self._buffer_ops:
            return
        began = time.monotonic_ns()
        with self._drained:
            while self._buffered() >= self._buffer_ops and self._failure is None:
                self._drained.wait(0.05)
        self.count("recorder_waits")
        self.count("recorder_wait_ns", time.monotonic_ns() - began)
        if self._failure is not None:
            self._check()

    def _buffered(self) -> int:
        return (_count(self._values) - self._taken) // WIDTH + self._batch_rows

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failed()
        if self._closed:
            raise UsageError(f"the recorder of {self.path} is closed", "record before close()")

    def _failed(self) -> TracekitError:
        return TracekitError(
            f"{self.path}: recording failed: {self._failure}", "what was flushed before is readable"
        )

    def _write_loop(self) -> None:
        try:
            self._segments = RollingSegments(
                self.path, self._manifest, segment_ops=self._segment_ops, labels=self._labels
            )
            while True:
                self._wake.wait(self._flush_interval_s)
                self._wake.clear()
                closing = self._closed
                if closing:
                    self._mark = 0  # first: an op that comes after the last drain finds out
                tickets = [self._flushes.popleft() for _ in range(_count(self._flushes))]
                self._drain(self._segments)
                self._failure = self._failure or self._segments.failure
                for ticket in tickets:
                    ticket.set()
                if closing:
                    self._segments.close(self._counters)
                    self._failure = self._failure or self._segments.failure
                    return
        except BaseException as error:  # noqa: BLE001 - a dead writer must be heard of by its callers
            self._failure = error
        finally:
            self._mark = 0
            with self._drained:
                self._drained.notify_all()

    def _drain(self, segments: RollingSegments) -> None:
        # Taking from the front of a long list moves all the rest, so what was taken is
        # deleted a few chunks at a time.
        values = self._values
        while self._taken < _count(values):
            chunk = values[self._taken : self._taken + _CHUNK_OPS * WIDTH]
            with self._drained:
                self._taken += _count(chunk)
                self._mark_at(self._buffer_ops * WIDTH + self._taken)
                self._drained.notify_all()
            self._append(segments, self._batch_of(chunk))
            if self._taken >= 4 * _CHUNK_OPS * WIDTH:
                self._forget_taken()
        self._forget_taken()
        self._mark_at(_CHUNK_OPS * WIDTH)
        while self._batches:
            rows, make = self._batches.popleft()
            self._append(segments, make())
            with self._lock, self._drained:
                self._batch_rows -= rows
                self._drained.notify_all()

    def _mark_at(self, values: int) -> None:
        """From how many buffered values on `record` looks around; at any, once the recorder closes."""
        self._mark = 0 if self._closed else values

    def _forget_taken(self) -> None:
        with self._drained:
            del self._values[: self._taken]
            self._taken = 0

    def _append(self, segments: RollingSegments, batch: pa.RecordBatch) -> None:
        with self._lock:
            counters = dict(self._counters)
        segments.append(batch, counters)
        self._written_rows += batch.num_rows

    def _batch_of(self, values: list[Any]) -> pa.RecordBatch:
        try:
            return self._cut(values)
        except _UNFIT:
            ops = [values[at : at + WIDTH] for at in range(0, _count(values), WIDTH)]
            fitting = [value for op in ops if self._fits(op) for value in op]
            return self._cut(fitting)

    def _cut(self, values: list[Any]) -> pa.RecordBatch:
        return flat_to_batch(
            values, epoch_mono_ns=self.epoch_mono_ns, rank=self._labels["rank"] or 0, worker=self._worker
        )

    def _fits(self, op: list[Any]) -> bool:
        """Whether Arrow takes the op; one that does not fails the recorder, not its neighbours."""
        try:
            self._cut(op)
        except _UNFIT as error:
            named = zip(VALUES, op, strict=True)
            shown = {name: clean(value) if isinstance(value, str) else value for name, value in named}
            self._failure = UsageError(f"values that fit no op: {shown}", str(error))
            return False
        return True


_live: weakref.WeakSet[Recorder] = weakref.WeakSet()
_inherited: list[object] = []
"""The parent's open segments in a forked child: held, because closing them here would write to them."""


def _check_labels(*, options: dict[str, Any] | None, **numbers: int | None) -> None:
    """Refuse at once what would fail the writer at its first op."""
    for name, value in numbers.items():
        if value is not None and not (hasattr(value, "__index__") and 0 <= value < 1 << 31):
            raise UsageError(f"Recorder: {name}={value!r} is not allowed", "give a whole number, 0 or more")
    try:
        json.dumps(options, sort_keys=True, default=str)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"Recorder: options are no JSON: {error}", "give a dict with text as keys"
        ) from error


def _join(path: str, settings: dict[str, Any]) -> Recorder:
    return Recorder(path, **settings)


def _after_fork_in_child() -> None:
    for recorder in list(_live):
        _inherited.append((recorder._segments, recorder._writer))
        recorder._begin()


def _close_quietly(reference: weakref.ref[Recorder]) -> None:
    recorder = reference()
    if recorder is not None:
        try:
            recorder.close()
        except TracekitError as error:  # the process is ending: nobody is left to raise to
            _log.error("%s", error)


def _close_at_exit_of_child(recorder: Recorder) -> None:
    """Close `recorder` when a child of multiprocessing exits, which does not run atexit handlers."""
    if recorder._started and multiprocessing.parent_process() is not None:
        multiprocessing.util.Finalize(None, _close_quietly, args=(weakref.ref(recorder),), exitpriority=10)


def _close_all() -> None:
    for recorder in list(_live):
        _close_quietly(weakref.ref(recorder))


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_close_all)
