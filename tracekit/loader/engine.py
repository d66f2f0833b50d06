"""The workers of one epoch: they take samples from a queue, read them, and fill batches.

Which batch a sample fills is known when it is submitted, or, in an async pool, when it is
done: whichever samples finish first make the next batch. The engine decides nothing about
what is read when: its owner submits.
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
    """Fills the batches of `samples` samples; the first one's step is `first_step`.

    Threads start with the first submission. `close` ends them: reads that were submitted to
    the backend end, nothing more begins.
    """

    def __init__(self, reader: SampleReader, options: LoaderOptions, samples: int, first_step: int) -> None:
        self._reader = reader
        self._samples = samples
        self._first_step = first_step
        self._batch_size = options.batch_size
        self._any_order = options.loading_mode == "async_pool"
        self._workers = options.num_workers
        self._threads: list[threading.Thread] = []
        self._queue = WorkQueue()
        self._boxes: dict[int, Box] = {}
        self._placed = 0
        self._unfinished: set[PendingSample] = set()
        self._lock = threading.RLock()  # the collector may close an abandoned engine in a worker of its own
        self._closed = False
        self._pid = os.getpid()
        _live.add(self)

    def submit(self, ref: SampleRange, place: int) -> None:
        """Have a sample read; `place` counts the submissions, from 0."""
        sample = PendingSample(ref, self._reader.pieces(ref.length))
        if not self._any_order:
            self._put_into_box(sample, place)
        with self._lock:
            self._unfinished.add(sample)
        if not self._threads:
            self._start()
        self._queue.put(sample)

    def future(self, batch: int) -> Future[Batch]:
        """What will have the batch, or raise what kept it from being read."""
        with self._lock:
            return self._box(batch).future

    def forget(self, batch: int) -> None:
        """The batch was handed over: keep nothing of it."""
        with self._lock:
            self._boxes.pop(batch, None)

    def close(self) -> None:
        """Stop the workers and wait for what they are doing. Idempotent."""
        if os.getpid() != self._pid:
            return  # a forked child: the workers are its parent's
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._reader.stopping = True
        self._queue.close()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        for sample in self._unfinished:
            self._reader.write_rows(sample)
        self._unfinished.clear()
        for box in self._boxes.values():
            if not box.future.done():
                box.future.set_exception(BackendError("the loader was closed", "", ErrorClass.CANCELLED))
        self._boxes.clear()
        self._reader.close()

    def _start(self) -> None:
        for worker in range(self._workers):
            name = f"tracekit-loader-{worker}"
            self._threads.append(threading.Thread(target=self._work, args=(worker,), name=name, daemon=True))
            try:
                self._threads[-1].start()
            except RuntimeError as error:
                self._threads.pop()  # it cannot be waited for
                raise UsageError(
                    f"num_workers={self._workers}: {error} after {worker}", "give fewer workers"
                ) from error

    def _work(self, worker: int) -> None:
        while (taken := self._queue.take()) is not None:
            sample, piece = taken
            try:
                if self._reader.read(sample, piece, worker):
                    self._finish(sample)
            except BaseException as error:  # noqa: BLE001 - the consumer must hear of it, whatever it is
                self._fail(sample, error)
            del sample, taken

    def _finish(self, sample: PendingSample) -> None:
        """Put a sample that is read, or has failed, into its batch."""
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
        if sample.failure is not None:
            self._fail(sample, sample.failure)
            return
        box.samples[sample.slot] = Sample(ref.sample_id, ref.uri, ref.offset, ref.length, sample.buffer)
        with self._lock:
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


_live: weakref.WeakSet[Engine] = weakref.WeakSet()


def _close_all() -> None:
    """Before the interpreter goes: its workers could not be waited for afterwards."""
    for engine in list(_live):
        engine.close()


atexit.register(_close_all)
