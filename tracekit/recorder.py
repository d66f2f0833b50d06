"""Turns ops into the segments of a trace. Every producer of I/O records through it.

A call to `record` extends one flat list by the values of one op. No object is kept for an op, so the
garbage collector has nothing to traverse. A writer thread slices the list into columns and appends them to
a journal (`store.rolling`). Nothing recorded is dropped: when the buffer is full, the caller waits, and the
wait is counted. This module measures no time and reads no storage.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import pyarrow as pa

from tracekit.errors import ErrorClass, TracekitError, UsageError
from tracekit.keywords import Size
from tracekit.shipping import Keeping
from tracekit.store import lifetime
from tracekit.store.buffer import CHUNK_OPS, Buffer
from tracekit.store.clocks import wall_clock_error_ns
from tracekit.store.flat import flat_to_fitting_batch
from tracekit.store.index import seal_if_last
from tracekit.store.labels import Labels, check_numbers
from tracekit.store.locate import local_path
from tracekit.store.lock import join_locked
from tracekit.store.rolling import RollingSegments
from tracekit.store.segment import as_recorded

__all__ = ["Recorder"]

_count = len  # `record` has a parameter of that name


class Recorder:
    """Records ops into the trace directory `path`; a context manager.

    Several processes may record into one `path` at once: the first creates the trace, the others join it
    and share its epoch, and each writes its own segments. A forked child starts with an empty buffer. A
    recorder may be pickled to a spawned process.

    `source` and `options` (JSON) are stored in each segment, without the secrets in them. `rank` and
    `worker` identify the stream of ops that give none. At most `buffer_ops` ops wait in memory. Ops are
    handed to the kernel every `flush_interval_s` seconds, and survive the death of the process from then
    on. A segment is finished after `segment_ops` ops.

    With `keep`, the oldest segments are removed when the files of the trace have more bytes; the trace says which. With
    `ship`, finished segments are copied below this URI, `SHIP/TRACE_ID/`, in the background; one is finished each minute.
    `completeness` (JSON) says what the trace holds of what really happened.

    Raises UsageError if there can be no trace at `path`. `record`, `flush` and `close` raise TracekitError
    if writing has failed, for example because the disk is full.
    """

    _failure: BaseException | None

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
        keep: Size | None = None,
        ship: str | None = None,
        completeness: dict[str, Any] | None = None,
    ) -> None:
        if not 0 < flush_interval_s <= 1:
            raise UsageError(f"flush_interval_s={flush_interval_s} is out of range", "give 0 < seconds <= 1")
        self._labels = Labels(
            source, options, rank, world_size, completeness, clock_error_ns=wall_clock_error_ns()
        )
        check_numbers(worker=worker)
        if buffer_ops < CHUNK_OPS or segment_ops < 1:
            raise UsageError(
                f"buffer_ops={buffer_ops}, segment_ops={segment_ops}: too small",
                f"buffer_ops is at least {CHUNK_OPS}, segment_ops at least 1",
            )
        self._keeping = Keeping(keep=keep, ship=ship)
        # Arrow's first conversion imports pandas, if it is installed. That takes half a second, which the
        # writer should not spend, and fails once the interpreter has begun to exit.
        pa.array((), pa.string())
        self.path = local_path(path)
        self._worker = worker or 0
        self._flush_interval_s = flush_interval_s
        self._buffer_ops = buffer_ops
        self._segment_ops = segment_ops
        self._manifest, self._trace_lock = join_locked(self.path)
        self.epoch_mono_ns: int = self._manifest.local_epoch_mono_ns()
        self._closed = False
        self._begin()
        lifetime.register(self)

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
        tries: int | None = None,
        wait_ns: int | None = None,
        sample_id: int | None = None,
        step: int | None = None,
        worker: int | None = None,
        part: int | None = None,
        to_uri: str | None = None,
        t_due: int | None = None,
        error: ErrorClass | None = None,
    ) -> None:
        """Record one op. Thread-safe.

        `t_submit` and `t_due` are `time.monotonic_ns()` readings, `latency`, `ttfb` and `wait_ns` ns, `offset`,
        `len` and `bytes` bytes. URIs lose their query and user-info before they are written.
        """
        values = self._values
        values.extend(
            (
                t_submit,
                uri,
                op,
                offset,
                len,
                bytes,
                latency,
                ttfb,
                tries,
                wait_ns,
                sample_id,
                step,
                worker,
                part,
                to_uri,
                t_due,
                error,
            )
        )
        if _count(values) >= self._buffer.mark:
            self._pressure()

    def record_batch(self, batch: pa.RecordBatch) -> None:
        """Record many ops at once, with any schema columns (`t_submit` and `t_due` are monotonic readings).

        Extra columns are kept. Thread-safe; waits while the buffer is full, as `record` does. Raises
        UsageError for a column of the wrong type.
        """
        if batch.num_rows:
            conforming = self._conform(batch)
            self._enqueue(batch.num_rows, lambda: conforming)

    def record_later(self, rows: int, make: Callable[[], pa.RecordBatch]) -> None:
        """Record the `rows` ops of the batch that `make` returns; the writer thread calls it.

        For engines that have no time to build batches. An exception in `make` fails the recorder.
        """
        self._enqueue(rows, lambda: self._conform(make()))

    def _conform(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        try:
            return as_recorded(
                batch, epoch_mono_ns=self.epoch_mono_ns, rank=self._labels.rank or 0, worker=self._worker
            )
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise UsageError(f"record_batch: {error}", "tracekit.schema.OPS has names and types") from error

    def _enqueue(self, rows: int, make: Callable[[], pa.RecordBatch]) -> None:
        self._buffer.add(rows, make)
        self._pressure()

    def count(self, name: str, n: int = 1) -> None:
        """Add `n` to a backend counter (`hints_applied`, `retries`, ...) of this process."""
        with self._lock:
            self._counters[name] = self._counters.get(name, 0) + n

    def count_all(self, numbers: Mapping[str, int]) -> None:
        """Add each of `numbers` to the counter of its name."""
        with self._lock:
            for name, n in numbers.items():
                self._counters[name] = self._counters.get(name, 0) + n

    def set_counters(self, values: dict[str, int]) -> None:
        """Set backend counters of this process to absolute values."""
        with self._lock:
            self._counters.update(values)

    @property
    def ops_recorded(self) -> int:
        """How many ops this process has recorded so far."""
        return self._written_rows + len(self._buffer)

    @property
    def waits(self) -> int:
        """How often a caller had to wait for the writer."""
        return self._counters.get("recorder_waits", 0)

    def flush(self) -> None:
        """Hand everything recorded so far to the kernel. Raises TracekitError if the trace is no longer there."""
        self._check()
        if not self._started:
            self._failure = self._vanished()
            self._check()
            return
        ticket = threading.Event()
        self._flushes.append(ticket)
        self._wake.set()
        while not ticket.wait(0.1):
            self._check()
        self._check()

    def close(self) -> None:
        """Write what is buffered, turn the journal into Parquet, stop the threads.

        The last recorder of a trace to close completes it. A further call returns when the first is done.
        """
        with self._lock:
            again, self._closed = self._closed, True
        if again:
            if self._started and threading.current_thread() is not self._writer:
                self._writer.join()
            return
        if self._counters and not self._started:
            self._start()
        self._buffer.close()
        if self._started:
            self._wake.set()
            self._writer.join()
        lifetime.discard(self)
        self._failure = self._failure or self._vanished()
        if self._trace_lock.release() and self._failure is None:
            try:
                seal_if_last(self.path)
            except OSError as error:
                self._failure = error
        self._keeping.end(self.path)
        if self._failure is not None:
            raise self._failed()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        labels = self._labels
        settings = {
            "source": labels.source,
            "options": labels.options,
            "rank": labels.rank,
            "world_size": labels.world_size,
            "completeness": labels.completeness,
            "worker": self._worker,
            "flush_interval_s": self._flush_interval_s,
            "buffer_ops": self._buffer_ops,
            "segment_ops": self._segment_ops,
            **self._keeping.settings,
        }
        return (_join, (str(self.path), settings))

    def _vanished(self) -> TracekitError | None:
        if self._trace_lock.holds() and (self._segments is None or self._segments.present()):
            return None
        return TracekitError("the trace was removed or replaced while it was recorded")

    def _begin(self) -> None:
        """Set the state of one process: at construction, and again in a forked child."""
        self._buffer = Buffer(self._buffer_ops)  # the first op takes the slow path, which starts the writer
        self._values = self._buffer.values  # list.extend is one step under the interpreter lock
        self._written_rows = 0
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._flushes: deque[threading.Event] = deque()
        self._counters: dict[str, int] = {}
        self._segments: RollingSegments | None = None
        self._keeping.forget()
        self.writer_cpu_ns = 0  # what the threads of the recorder have taken
        self._writer = threading.Thread(target=self._write_loop, name="tracekit-writer", daemon=True)
        self._started = False
        self._failure = None

    @property
    def started(self) -> bool:
        """Whether this process has recorded anything."""
        return self._started

    def forked(self) -> object:
        """Start afresh in a forked child. Returns the parent's open files, which the child must not close."""
        inherited = (self._segments, self._writer)
        self._trace_lock.release()
        self._begin()
        return inherited

    def _start(self) -> None:
        with self._lock:
            if self._started:
                return
            self._trace_lock.renew()
            self._writer.start()
            self._started = True
        lifetime.close_at_exit(self)

    def _pressure(self) -> None:
        """Start the writer, wake it, or wait for it, depending on the length of the buffer."""
        if self._closed or self._failure is not None:
            self._check()
        if not self._started:
            self._start()
        if not self._wake.is_set():
            self._buffer.called()
            self._wake.set()
        if not self._buffer.full:
            return
        began = time.monotonic_ns()
        self._buffer.wait(lambda: self._failure is not None)
        self.count("recorder_waits")
        self.count("recorder_wait_ns", time.monotonic_ns() - began)
        if self._failure is not None:
            self._check()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failed()
        if self._closed:
            raise UsageError(f"the recorder of {self.path} is closed", "record before close()")

    def _failed(self) -> TracekitError:
        return TracekitError(
            f"{self.path}: recording failed: {self._failure}", "what was flushed before can be read"
        )

    def _write_loop(self) -> None:
        try:
            self._keeping.begin(self._manifest.trace_id, self.count)
            self._segments = RollingSegments(
                self.path,
                self._manifest,
                segment_ops=self._segment_ops,
                labels=self._labels,
                journal_bytes=self._keeping.journal_bytes,
                finished=self._keeping.finished,
            )
            while True:
                self._wake.wait(self._flush_interval_s)
                self._wake.clear()
                closing = self._closed
                if closing:
                    self._buffer.close()  # before the last drain, so that a later op is refused
                tickets = [self._flushes.popleft() for _ in range(len(self._flushes))]
                self._drain(self._segments)
                self.writer_cpu_ns = time.thread_time_ns() + self._segments.cpu_ns
                self._keeping.tend(self._segments, self._counters)
                self._failure = self._failure or self._segments.failure
                if tickets:
                    self._failure = self._failure or self._vanished()
                for ticket in tickets:
                    ticket.set()
                if closing:
                    self._segments.close(self._counters)
                    self._failure = self._failure or self._segments.failure
                    return
        except BaseException as error:  # noqa: BLE001 - callers must learn that the writer has died
            self._failure = error
            if self._segments is not None:
                self._segments.stop()
        finally:
            self._buffer.close()

    def _drain(self, segments: RollingSegments) -> None:
        for chunk in self._buffer.chunks():
            self._append(segments, self._batch_of(chunk))
        for batch in self._buffer.batches():
            self._append(segments, batch)

    def _append(self, segments: RollingSegments, batch: pa.RecordBatch) -> None:
        with self._lock:
            counters = dict(self._counters)
        segments.append(batch, counters)
        self._written_rows += batch.num_rows

    def _batch_of(self, values: list[Any]) -> pa.RecordBatch:
        """Return the ops as a batch. One that the schema rejects fails the recorder; the others are kept."""
        batch, misfit = flat_to_fitting_batch(
            values, epoch_mono_ns=self.epoch_mono_ns, rank=self._labels.rank or 0, worker=self._worker
        )
        self._failure = misfit or self._failure
        return batch


def _join(path: str, settings: dict[str, Any]) -> Recorder:
    return Recorder(path, **settings)
