"""The work of the loader's workers: samples, cut into pieces, in one first-in-first-out queue.

A sample is one entry of the queue, however many requests it has; workers take the next
piece of the sample at the front. Nothing is read or recorded here.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from typing import Any, NamedTuple

from tracekit.backends.base import Handle
from tracekit.loader.dataset import SampleRange

__all__ = ["Batch", "Box", "PendingSample", "Sample", "WorkQueue"]


class Sample(NamedTuple):
    """A sample that was read. `data` is None if the loader has keep_data=False."""

    sample_id: int
    uri: str
    offset: int
    nbytes: int
    data: memoryview | None


class Batch(NamedTuple):
    """The samples of one step."""

    step: int
    samples: tuple[Sample, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all samples of the batch."""
        return sum(sample.nbytes for sample in self.samples)


class Box:
    """A batch that is being filled; `future` has the batch, or the first error of its samples."""

    __slots__ = ("future", "left", "samples", "skipped", "step")

    def __init__(self, step: int, size: int) -> None:
        self.step = step
        self.left = size
        self.samples: list[Sample | None] = [None] * size
        self.skipped: list[SampleRange] = []
        self.future: Future[Batch] = Future()
        self.future.set_running_or_notify_cancel()  # so that cancelling a wait does not cancel it

    def filled(self) -> list[Sample]:
        """Return the samples in the order of their slots."""
        return [sample for sample in self.samples if sample is not None]


class PendingSample:
    """A sample that is being read. `lock` guards what several workers share."""

    __slots__ = (
        "box",
        "buffer",
        "failure",
        "handle",
        "left",
        "lock",
        "pieces",
        "ref",
        "rows",
        "slot",
        "taken",
    )

    def __init__(self, ref: SampleRange, pieces: int) -> None:
        self.ref = ref
        self.pieces = pieces
        self.taken = 0
        self.left = pieces
        self.box: Box | None = None
        self.slot = 0
        self.lock = threading.Lock()
        self.handle: Handle | None = None
        self.buffer: memoryview | None = None
        self.failure: BaseException | None = None
        self.rows: list[dict[str, Any]] = []
        """Ops that wait for their step, where it is known only at the end."""


class WorkQueue:
    """Takes samples and gives pieces of them, first in, first out. Thread-safe."""

    def __init__(self) -> None:
        self._samples: deque[PendingSample] = deque()
        self._ready = threading.Condition()
        self._closed = False

    def put(self, sample: PendingSample) -> None:
        with self._ready:
            self._samples.append(sample)
            self._ready.notify(sample.pieces)

    def take(self) -> tuple[PendingSample, int] | None:
        """Wait for the next sample and return it with the number of the piece; None when closed."""
        with self._ready:
            while not self._samples and not self._closed:
                self._ready.wait()
            if self._closed:
                return None
            sample = self._samples[0]
            piece = sample.taken
            sample.taken += 1
            if sample.taken == sample.pieces:
                self._samples.popleft()
            return sample, piece

    def close(self) -> None:
        """Drop what is queued and return None to every caller of `take`."""
        with self._ready:
            self._closed = True
            self._samples.clear()
            self._ready.notify_all()
