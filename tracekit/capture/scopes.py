"""Places ops that were recorded below Python in the samples, steps and streams that its hooks noted.

The hooks append the scopes that end to one file (`scope_log.py`). An op belongs to the last scope that
began before it on its thread, if that scope had not ended. Threads that no scope names are numbered after the
workers that one does, in the order in which they appear.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tracekit.capture.scope_log import BATCH_FIELDS, SCOPE_FIELDS
from tracekit.consumer import worker_counters

__all__ = ["Scopes"]

Ints = npt.NDArray[np.int64]
Thread = tuple[int, int]
"""Process and thread."""

_JOINED = re.compile(r"joined,(\d+),(-1|\d+)")

_FIELDS = len(SCOPE_FIELDS)
_SCOPES = re.compile(rf"(?:[0-9a-f]{{{16 * _FIELDS}}})+")
_BATCH = re.compile(r"batch,((?:[0-9a-f]{16})+)")
_HEAD = len(BATCH_FIELDS)
_ENDED, _TOOK, _PICKED_UP, _SAMPLES = (
    BATCH_FIELDS.index(name) for name in ("ended", "took", "picked_up", "samples")
)


class Scopes:
    """The scopes of one run, from the file `path`. Threads that no scope names are numbered from `first_free` on, which is
    more than the numbers of workers where those are not all known yet. `rank` is that of processes that state none."""

    def __init__(self, path: Path, *, rank: int | None = None, first_free: int = 0) -> None:
        self._path = path
        self._at = 0
        self._lines = np.empty((0, _FIELDS), np.int64)
        self._of: dict[int, tuple[Ints, Ints]] = {}
        self._named: dict[int, tuple[int, int]] = {}
        self._streams: dict[Thread, tuple[int, int]] = {}
        self.joined: dict[int, int] = {}
        """The processes whose hooks started, and their ranks; -1 for unknown."""
        self.counters: dict[str, int] = {}
        """What the workers of loaders counted with their batches."""
        self._rank = rank or 0
        self.refresh()
        self._next = max(first_free, max((worker for _, worker in self._named.values()), default=-1) + 1)

    def refresh(self, since: int = 0) -> None:
        """Take up the scopes that have ended meanwhile, and forget those that ended before `since`."""
        lines = self._new_lines()
        heads, samples = _batches(lines)
        scopes = (_numbers(lines), heads[heads[:, _ENDED] == 1, :_FIELDS], samples)
        self._lines = np.concatenate((self._lines[self._lines[:, 2] >= since], *scopes))
        self.joined |= _joined(lines)
        for name, more in worker_counters(heads[:, _TOOK].tolist(), heads[:, _PICKED_UP].tolist()).items():
            self.counters[name] = self.counters.get(name, 0) + more
        self._of.clear()
        for thread in np.unique(self._lines[:, 0]):
            mine = self._lines[self._lines[:, 0] == thread]
            mine = mine[np.argsort(mine[:, 1], kind="stable")]
            with_sample = mine[:, 3] >= 0
            self._of[int(thread)] = (mine[with_sample], mine[~with_sample])
            self._named[int(thread)] = (int(mine[:, 6].max()), int(mine[:, 5].max()))

    def _new_lines(self) -> list[str]:
        """The lines that were added. One that is not complete yet, or that a killed process cut short, is left out."""
        if not self._path.is_file():
            return []
        with self._path.open("rb") as file:
            file.seek(self._at)
            data = file.read()
        data = data[: data.rfind(b"\n") + 1]
        self._at += len(data)
        return data.decode("ascii", "replace").splitlines()

    def place(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return `batch` with sample_id, step, rank and worker in place of pid and tid."""
        processes, threads = (
            batch.column(name).to_numpy(zero_copy_only=False).astype(np.int64) for name in ("pid", "tid")
        )
        times = batch.column("t_submit").to_numpy()
        sample_id, step, rank, worker = (np.full(len(batch), -1, np.int64) for _ in range(4))
        for process, thread in dict.fromkeys(zip(processes.tolist(), threads.tolist(), strict=True)):
            mine = (threads == thread) & (processes == process)
            rank[mine], worker[mine] = self._stream(process, thread)
            if thread in self._of:
                samples, steps = self._of[thread]
                sample_id[mine] = _value(samples, times[mine], 3)
                inner, outer = _value(samples, times[mine], 4), _value(steps, times[mine], 4)
                step[mine] = np.where(inner >= 0, inner, outer)
        columns = {
            name: batch.column(name)
            for name in batch.schema.names
            if name not in ("pid", "tid", "number", "epoch")
        }
        for name, found in (("sample_id", sample_id), ("step", step)):
            column = pa.array(found, mask=found < 0)
            columns[name] = pc.coalesce(column, columns[name]) if name in columns else column
        columns |= {"rank": pa.array(rank.astype(np.int32)), "worker": pa.array(worker.astype(np.int32))}
        return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))

    def _stream(self, process: int, thread: int) -> tuple[int, int]:
        """Return the rank and worker of a thread."""
        found = self._streams.get((process, thread))
        if found is None:
            rank, worker = self._named.get(thread, (-1, -1))
            if rank < 0:
                rank = self.joined.get(process, self.joined.get(thread, -1))  # strace names threads alone
            if worker < 0:
                worker, self._next = self._next, self._next + 1
            found = self._streams[process, thread] = (rank if rank >= 0 else self._rank, worker)
        return found


def _joined(lines: list[str]) -> dict[int, int]:
    """The processes whose hooks started, and their ranks."""
    found = (_JOINED.fullmatch(line) for line in lines)
    return {int(line[1]): int(line[2]) for line in found if line is not None}


def _batches(lines: list[str]) -> tuple[Ints, Ints]:
    """The heads of the batches in the lines, and their samples as scopes. A line that was cut short is left out."""
    arrays = [
        np.frombuffer(bytes.fromhex(line[1]), np.int64) for line in map(_BATCH.fullmatch, lines) if line
    ]
    whole = [each for each in arrays if len(each) > _HEAD and len(each) == _HEAD + 2 * each[_SAMPLES] + 1]
    if not whole:
        return np.empty((0, _HEAD), np.int64), np.empty((0, _FIELDS), np.int64)
    words = np.concatenate(whole)
    lengths = np.array([len(each) for each in whole], np.int64)
    first = np.cumsum(lengths) - lengths
    heads = words[first[:, None] + np.arange(_HEAD)]
    many = heads[:, _SAMPLES]
    batch = np.repeat(np.arange(len(whole)), many)
    at = first[batch] + _HEAD + np.arange(len(batch)) - (np.cumsum(many) - many)[batch]
    samples = heads[batch, :_FIELDS]
    samples[:, 1], samples[:, 2], samples[:, 3] = words[at], words[at + 1], words[at + many[batch] + 1]
    return heads, samples[samples[:, 3] >= 0]


def _numbers(lines: list[str]) -> Ints:
    """The scopes in the lines. A line that a killed process cut short is left out."""
    whole = "".join(line for line in lines if _SCOPES.fullmatch(line))
    return np.frombuffer(bytes.fromhex(whole), np.int64).reshape(-1, _FIELDS)


def _value(scopes: Ints, times: Ints, column: int) -> Ints:
    """The value in `column` of the scope that each time lies in; -1 if none."""
    if not len(scopes):
        return np.full(len(times), -1, np.int64)
    at = np.searchsorted(scopes[:, 1], times, side="right") - 1
    inside = (at >= 0) & (scopes[at, 2] >= times)
    return np.where(inside, scopes[at, column], -1)
