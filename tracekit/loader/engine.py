"""The workers of one epoch: they take samples from a queue, read them, and fill batches.

The batch of a sample is known when it is submitted or, in an async pool, when it is done:
there, the samples that finish first make the next batch. The owner of the engine decides
when to submit a sample.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from concurrent.futures import Future

from tracekit.errors import BackendError, ErrorClass, UsageError
from tracekit.loader.dataset import SampleRange
from tracekit.loader.options import LoaderOptions
from tracekit.loader.reading import SampleReader
from tracekit.loader.work import Batch, Box, PendingSample, Sample, WorkQueue

__all__ = ["Engine"]


class Engine:
    """Fills the batches of `samples` samples; the first batch is step `first_step`.

    Threads start with the first submission. `close` ends them: requests that were sent are
    waited for, nothing more is sent.
    """

    def __init__(self, reader: SampleReader, options: LoaderOptions, samples: int, first_step: int) -> None:
        self._reader = reader
        self._samples = samples
        self._first_step = first_step
        self._batch_size = options.batch_size
        self._skips = options.on_error == "skip"
        self._any_order = options.loading_mode == "async_pool"
        self._workers = options.num_workers
        self._threads: list[threading.Thread] = []
        self._queue = WorkQueue()
        self._boxes: dict[int, Box] = {}
        self._placed = 0
        self._unfinished: set[PendingSample] = set()
        self._lock = threading.RLock()  # the collector may close an abandoned engine in a worker of its own
        self._closing: int | None = None  # the thread that closes it
        self._closed = threading.Event()
        self._ended = threading.Event()
        self._pid = os.getpid()
        _live.add(self)

    def submit(self, ref: SampleRange, place: int) -> None:
        """Queue a sample; `place` numbers the submissions, from 0."""
        sample = PendingSample(ref, self._reader.pieces(ref.length))
        if not self._any_order:
            self._put_into_box(sample, place)
        with self._lock:
            self._unfinished.add(sample)
        if not self._threads:
            self._start()
        self._queue.put(sample)

    def future(self, batch: int) -> Future[Batch]:
        """Return the future of a batch, which raises the first error of its samples."""
        with self._lock:
            future = self._box(batch).future
            if self._closed.is_set() and not future.done():
                future.set_exception(_was_closed())
            return future

    def forget(self, batch: int) -> list[SampleRange]:
        """Drop a batch that was handed over; return the samples that it lacks."""
        with self._lock:
            box = self._boxes.pop(batch, None)
        return box.skipped if box is not None else []

    def close(self) -> None:
        """Stop the workers and wait for their requests. Idempotent: a second caller waits as well."""
        if os.getpid() != self._pid:
            return  # a forked child: the workers belong to its parent
        with self._lock:
            first = self._closing is None
            if first:
                self._closing = threading.get_ident()
        if first:
            self._stop()
            self._ended.set()
        elif threading.get_ident() != self._closing and threading.current_thread() not in self._threads:
            self._ended.wait()

    def _stop(self) -> None:
        self._reader.stopping = True
        self._queue.close()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        for sample in self._unfinished:
            self._reader.write_rows(sample)
        self._unfinished.clear()
        with self._lock:
            self._closed.set()
            boxes = list(self._boxes.values())
            self._boxes.clear()
        for box in boxes:
            if not box.future.done():
                box.future.set_exception(_was_closed())
        self._reader.close()

    def _start(self) -> None:
        for worker in range(self._workers):
            name = f"tracekit-loader-{worker}"
            self._threads.append(threading.Thread(target=self._work, args=(worker,), name=name, daemon=True))
            try:
                self._threads[-1].start()
            except RuntimeError as error:
                self._threads.pop()  # it never ran: it cannot be joined
                raise UsageError(
                    f"num_workers={self._workers}: {error} after {worker}", "give fewer workers"
                ) from error

    def _work(self, worker: int) -> None:
        while (taken := self._queue.take()) is not None:
            sample, piece = taken
            try:
                if self._reader.read(sample, piece, worker):
                    self._finish(sample)
            except BaseException as error:  # noqa: BLE001 - raised again in the consumer
                self._fail(sample, error)
            del sample, taken

    def _finish(self, sample: PendingSample) -> None:
        """Put a sample that was read, or has failed, into its batch."""
        with self._lock:
            self._unfinished.discard(sample)
        if sample.box is None and not self._reader.stopping:
            with self._lock:
                place, self._placed = self._placed, self._placed + 1
            self._put_into_box(sample, place)
        self._reader.write_rows(sample)
        box, ref = sample.box, sample.ref
        if box is None:
            return
        failed = sample.failure
        skipping = self._skips and isinstance(failed, BackendError) and not self._reader.stopping
        if failed is not None and not skipping:
            self._fail(sample, failed)
            return
        if failed is None:
            box.samples[sample.slot] = Sample(ref.sample_id, ref.uri, ref.offset, ref.length, sample.buffer)
        with self._lock:
            if failed is not None:
                box.skipped.append(ref)
            box.left -= 1
            full = box.left == 0
        if full and not box.future.done():
            box.future.set_result(Batch(box.step, tuple(box.filled())))

    def _put_into_box(self, sample: PendingSample, place: int) -> None:
        with self._lock:
            box = self._box(place // self._batch_size)
        sample.slot = place % self._batch_size
        sample.box = box

    def _box(self, index: int) -> Box:
        box = self._boxes.get(index)
        if box is None:
            size = min(self._batch_size, self._samples - index * self._batch_size)
            box = self._boxes[index] = Box(self._first_step + index, size)
        return box

    def _fail(self, sample: PendingSample, error: BaseException) -> None:
        with self._lock:
            box = sample.box or self._box(self._placed // self._batch_size)
            if not box.future.done():
                box.future.set_exception(error)


def _was_closed() -> BackendError:
    return BackendError("the loader was closed", "close it after the last batch", ErrorClass.CANCELLED)


_live: weakref.WeakSet[Engine] = weakref.WeakSet()


def _close_all() -> None:
    """Close every engine at exit, while its workers can still be joined."""
    for engine in list(_live):
        engine.close()


atexit.register(_close_all)
