"""Follows a capture while its command runs: hands over each op once, from the logs beside the trace to come.

It locks and writes nothing, so that the command does not notice. What the trace will hold besides is not known before the
command has ended: touches of mapped files, and the samples, steps and torch workers of ops on files.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tracekit.capture.conversion import batch_of, kept_ops
from tracekit.capture.engines import choose_engine
from tracekit.capture.job import Job, jobs_into
from tracekit.capture.native import NativeEngine
from tracekit.capture.native.tail import NativeTail
from tracekit.capture.oplog import OpLogTail
from tracekit.errors import UsageError
from tracekit.store.tail import HISTORY_OPS, as_ops

__all__ = ["CaptureTail", "check_followed", "running_capture"]


def running_capture(target: Path) -> Job | None:
    """Return the capture into `target` whose command runs now; None if there is none, or it writes its trace meanwhile."""
    return next(
        (job for job in jobs_into(target) if job.running is None and job.runs and not job.ended), None
    )


def check_followed(method: str) -> None:
    """Raise UsageError if the engine that `method` chooses keeps logs that cannot be followed."""
    engine, _ = choose_engine(method)
    if engine is not None and engine.name != NativeEngine.name:
        raise UsageError(
            f"a capture by {engine.name} cannot be watched: its log is read when the command has ended",
            "use method=native or method=hooks",
        )


class CaptureTail:
    """Follows the capture `job`. `poll` returns what is new; `ended` says whether more can come.

    Of what had been recorded before the first call, the last `history_ops` ops are handed over; `skipped_ops` counts the
    others. A worker is a thread, numbered in the order in which they appear. Raises UsageError as `check_followed` does.
    """

    def __init__(self, job: Job, *, history_ops: int = HISTORY_OPS) -> None:
        check_followed(job.method)
        self.ended = False
        self.skipped_ops = 0
        self._job = job
        self._admits = cache(job.paths.admits)
        self._history_ops = history_ops
        self._files = NativeTail(job.work / "logs")
        self._objects: dict[Path, OpLogTail] = {}
        self._workers: dict[tuple[int, int], int] = {}

    def poll(self) -> list[pa.Table]:
        """Return the new ops."""
        ended = self._job.ended or not self._job.runs  # before the reads: then they are of everything
        tables = [as_ops(pa.Table.from_batches([batch])) for batch in self._batches() if batch.num_rows]
        self.ended = ended
        return self._recent(tables)

    def close(self) -> None:
        """Close the logs."""
        self._files.close()
        while self._objects:
            self._objects.popitem()[1].close()

    def _batches(self) -> Iterator[pa.RecordBatch]:
        if self._job.engine is not None:
            polled = (batch for batch, _ in self._files.poll())
            for batch in kept_ops(polled, self._admits, self._job.metadata):
                yield self._placed(batch)
        yield from self._requests("hooked", leave_out=self._job.of_proxies)
        yield from self._requests("proxied")

    def _requests(self, folder: str, *, leave_out: tuple[str, ...] = ()) -> Iterator[pa.RecordBatch]:
        """Yield what the hooks or the proxy recorded."""
        for path in sorted((self._job.work / folder).glob("*.ops")):
            if path not in self._objects:
                try:
                    self._objects[path] = OpLogTail(path)
                except FileNotFoundError:  # the capture has just removed it
                    continue
        for path, log in self._objects.items():
            if path.parent.name == folder:
                for part in log.poll():
                    yield batch_of(part, leave_out=leave_out)[0]

    def _placed(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return `batch` with a worker in place of the process and thread."""
        threads = list(zip(batch.column("pid").to_pylist(), batch.column("tid").to_pylist(), strict=True))
        for thread in dict.fromkeys(threads):
            self._workers.setdefault(thread, len(self._workers))
        workers = pa.array(np.array([self._workers[thread] for thread in threads], np.int32))
        return batch.append_column("worker", workers)

    def _recent(self, tables: list[pa.Table]) -> list[pa.Table]:
        """Return the last of `tables` that together have at most `history_ops` ops; count the ops of the others."""
        if sum(map(len, tables)) <= self._history_ops:
            return tables
        kept, room = [], self._history_ops
        for table in sorted(tables, key=_last_submit, reverse=True):
            ordered = table if len(table) <= room else table.sort_by("t_submit")
            left_out = max(len(table) - room, 0)
            self.skipped_ops += _ops(ordered.slice(0, left_out))
            kept.append(ordered.slice(left_out))
            room -= len(table) - left_out
        return [table for table in kept if len(table)]


def _last_submit(table: pa.Table) -> int:
    return int(pc.max(table.column("t_submit")).as_py())


def _ops(table: pa.Table) -> int:
    """How many ops a table holds, without the hints, which are not counted anywhere."""
    return int(pc.sum(pc.not_equal(table.column("op"), "hint")).as_py() or 0)
