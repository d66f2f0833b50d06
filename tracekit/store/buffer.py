"""The ops of one process that wait to be written, in the order in which they were recorded.

Callers extend one flat list by the values of an op, or add batches; one writer takes them. What was taken is deleted from
the front of the list later, because that moves the rest. This module starts no thread and writes nothing.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from tracekit.store.flat import WIDTH

__all__ = ["CHUNK_OPS", "Buffer"]

CHUNK_OPS = 2048
"""Ops converted at once: under 1 ms with the interpreter lock held, so that callers never wait long."""


class Buffer:
    """Holds ops until the writer takes them; is full when `most_ops` wait."""

    __slots__ = ("_batch_rows", "_batches", "_closed", "_drained", "_most_ops", "_taken", "mark", "values")

    def __init__(self, most_ops: int) -> None:
        self.values: list[Any] = []
        """`WIDTH` of them an op. One object for good: callers keep a reference to it."""
        self.mark = 0
        """How many values call for the writer: 0, so that each op does, at first and once the buffer is closed."""
        self._most_ops = most_ops
        self._taken = 0  # of the values, at the front
        self._batches: deque[tuple[int, Callable[[], pa.RecordBatch]]] = deque()
        self._batch_rows = 0
        self._drained = threading.Condition(threading.Lock())
        self._closed = False

    def __len__(self) -> int:
        return (len(self.values) - self._taken) // WIDTH + self._batch_rows

    @property
    def full(self) -> bool:
        """Whether callers must wait for the writer."""
        return len(self) >= self._most_ops

    def add(self, rows: int, make: Callable[[], pa.RecordBatch]) -> None:
        """Add the `rows` ops of the batch that `make` will return."""
        with self._drained:
            self._batch_rows += rows
        self._batches.append((rows, make))

    def called(self) -> None:
        """Note that the writer was called: nobody calls it again until it has drained, or the buffer is full."""
        self._mark_at(self._most_ops * WIDTH)

    def wait(self, given_up: Callable[[], bool]) -> None:
        """Wait while the buffer is full, unless the writer has `given_up`."""
        with self._drained:
            while self.full and not given_up():
                self._drained.wait(0.05)

    def close(self) -> None:
        """Have every later op call for the writer, which refuses it, and let nobody wait any longer."""
        self._closed = True
        self.mark = 0
        with self._drained:
            self._drained.notify_all()

    def chunks(self) -> Iterator[list[Any]]:
        """Yield the values that wait, a chunk of ops at once. What was yielded waits no longer."""
        values = self.values
        while self._taken < len(values):
            chunk = values[self._taken : self._taken + CHUNK_OPS * WIDTH]
            with self._drained:
                self._taken += len(chunk)
                self._mark_at(self._most_ops * WIDTH + self._taken)
                self._drained.notify_all()
            yield chunk
            if self._taken >= 4 * CHUNK_OPS * WIDTH:  # the rest is moved once for several chunks
                self._delete_taken()
        self._delete_taken()
        self._mark_at(CHUNK_OPS * WIDTH)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the batches that wait. One waits until the next is asked for."""
        while self._batches:
            rows, make = self._batches.popleft()
            yield make()
            with self._drained:
                self._batch_rows -= rows
                self._drained.notify_all()

    def _delete_taken(self) -> None:
        with self._drained:
            del self.values[: self._taken]
            self._taken = 0

    def _mark_at(self, values: int) -> None:
        self.mark = 0 if self._closed else values
