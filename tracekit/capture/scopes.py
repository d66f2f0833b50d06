"""Places ops that were recorded below Python in the samples, steps and streams that its hooks noted.

The hooks append each scope that ends to one file (`context.log_scopes`). An op belongs to the last scope that
began before it on its thread, if that scope had not ended. Threads that no scope names are numbered after the
workers that one does, in the order in which they appear.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tracekit.capture.context import SCOPE_FIELDS

__all__ = ["Scopes"]

Ints = npt.NDArray[np.int64]
Thread = tuple[int, int]
"""Process and thread."""

_JOINED = re.compile(r"joined,(\d+),(-1|\d+)")

_COUNTED = re.compile(r"counted((?:,\w+=-?\d+)+)")
_FIELDS = len(SCOPE_FIELDS)
_SCOPES = re.compile(rf"(?:[0-9a-f]{{{16 * _FIELDS}}})+")


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
        """What the processes counted with their scopes."""
        self._rank = rank or 0
        self.refresh()
        self._next = max(first_free, max((worker for _, worker in self._named.values()), default=-1) + 1)

    def refresh(self, since: int = 0) -> None:
        """Take up the scopes that have ended meanwhile, and forget those that ended before `since`."""
        lines = self._new_lines()
        self._lines = np.concatenate((self._lines[self._lines[:, 2] >= since], _numbers(lines)))
        self.joined |= _joined(lines)
        for name, number in _counted(lines):
            self.counters[name] = self.counters.get(name, 0) + number
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


def _counted(lines: list[str]) -> Iterator[tuple[str, int]]:
    for line in lines:
        if (found := _COUNTED.fullmatch(line)) is not None:
            for pair in found[1][1:].split(","):
                name, _, number = pair.partition("=")
                yield name, int(number)


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
