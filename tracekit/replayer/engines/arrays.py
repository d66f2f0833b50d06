"""A plan's files and waits as the arrays that the compiled loop reads."""

from __future__ import annotations

import os

import numpy as np

from tracekit.replayer.engines import words
from tracekit.replayer.pacing import ClosedColumns
from tracekit.uri import scheme_of, to_path

__all__ = ["closed_arrays", "packed_files"]


def packed_files(uris: tuple[str, ...], *, direct: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The paths as NUL-terminated bytes in one array, where each begins, and which are read with O_DIRECT."""
    names = [os.fsencode(to_path(uri)) + b"\0" for uri in uris]
    starts = np.cumsum([0, *(len(name) for name in names)])[: len(names)].astype(np.int64)
    past_cache = np.fromiter((direct or scheme_of(uri) == "direct" for uri in uris), np.int8, len(names))
    return np.frombuffer(b"".join(names) or b"\0", np.uint8), starts, past_cache


def closed_arrays(columns: ClosedColumns | None, control: np.ndarray) -> list[np.ndarray]:
    """What the compiled closed loop works on: think times, followers by op, successors, blocks, and the heap."""
    if columns is None:
        return [np.zeros(1, np.int64) for _ in range(4)] + [np.zeros(1, np.int8), np.zeros(1, np.int64)]
    ops, ready = len(columns.due), np.flatnonzero(columns.blocked == 0)
    ready = ready[np.lexsort((ready, columns.due[ready]))]  # an ordered list is a heap
    heap = np.zeros(ops + 1, np.int64)
    heap[: len(ready)] = ready
    control[words.CLOSED], control[words.READY_OPS], control[words.LEFT] = 1, len(ready), ops
    order = np.argsort(columns.waits_for, kind="stable")
    followed = np.searchsorted(columns.waits_for[order], np.arange(ops + 1))
    return [columns.think, followed, order, columns.successor, columns.blocked, heap]
