"""What the workers take: samples being read, cut into pieces of work, in one first-in-first-out queue.

A sample waits as one entry however many requests it has; workers take the next piece of
the sample at the front. Nothing here reads or records.
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
    """A sample that was read. `data` is None if the loader was told not to keep it."""

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
    """A batch that fills up; `future` has the batch, or the first error of its samples."""

    __slots__ = ("future", "left", "samples", "step")

    def __init__(self, step: int, size: int) -> None:
        self.step = step
        self.left = size
        self.samples: list[Sample | None] = [None] * size
        self.future: Future[Batch] = Future()
        self.future.set_running_or_notify_cancel()  # from here on no waiter's cancellation cancels it

    def filled(self) -> list[Sample]:
        """The samples, in the order of their slots."""
        return [sample for sample in self.samples if sample is not None]


class PendingSample:
    """A sample on its way. Its `lock` guards what several workers share."""

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
        """Ops that wait for their step, if it is known only at the end."""


class WorkQueue:
    """Samples in, pieces of them out, first in first out. Thread-safe."""

    def __init__(self) -> None:
        self._samples: deque[PendingSample] = deque()
        self._ready = threading.Condition()
        self._closed = False

    def put(self, sample: PendingSample) -> None:
        with self._ready:
            self._samples.append(sample)
            self._ready.notify(sample.pieces)

    def take(self) -> tuple[PendingSample, int] | None:
        """The next sample and which piece of it, waiting for one; None when closed."""
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
        """Wake every taker with None; what is queued is left undone."""
        with self._ready:
            self._closed = True
            self._samples.clear()
            self._ready.notify_all()
