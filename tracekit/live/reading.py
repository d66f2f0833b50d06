"""The numbers of one interval of a run, and how ops become them. It knows no clock, file or screen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tracekit.schema import READ_KINDS, WRITE_KINDS

__all__ = ["HISTORY", "FileFigures", "Meter", "Quantiles", "Reading", "WorkerFigures"]

HISTORY = 60
"""How many intervals of what was recorded before are given first."""
_SLOWEST = 10
_MOST_FILES = 100_000
_SHORTEST = 10
"""An interval that the run's begin or end cuts is taken to be at least a tenth of a whole one."""
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Quantiles of times in ns: each is one of the values, as in the metrics."""

    p50_ns: int
    p90_ns: int
    p99_ns: int
    max_ns: int


@dataclass(frozen=True, slots=True)
class WorkerFigures:
    """One stream in the interval. A worker that is known and did nothing has 0 ops."""

    rank: int
    worker: int
    ops: int
    bytes: int | None
    p99_ns: int | None


@dataclass(frozen=True, slots=True)
class FileFigures:
    """One file or object since the watch began. Times are latencies."""

    uri: str
    ops: int
    mean_ns: int
    max_ns: int


@dataclass(frozen=True, slots=True)
class Reading:
    """The numbers of one interval. An op belongs to the interval in which it ended.

    None is unknown: bytes if no op says what it moved, latency and in flight if no op has a latency, lateness
    if the trace is not of a replay. `in_flight` is the mean over the interval, by Little's law: ops that have
    not ended are not in a trace yet. The totals are of all intervals so far.
    """

    end_unix_ns: int
    interval_ns: int
    ops: int
    read_bytes: int | None
    write_bytes: int | None
    errors: dict[str, int]
    in_flight: float | None
    latency: Quantiles | None
    lateness: Quantiles | None
    workers: tuple[WorkerFigures, ...]
    slowest: tuple[FileFigures, ...]
    total_ops: int
    total_bytes: int | None
    total_errors: dict[str, int] = field(default_factory=dict)

    @property
    def ops_per_s(self) -> float:
        return self.ops * 1e9 / self.interval_ns

    @property
    def read_bytes_per_s(self) -> float | None:
        return None if self.read_bytes is None else self.read_bytes * 1e9 / self.interval_ns

    @property
    def write_bytes_per_s(self) -> float | None:
        return None if self.write_bytes is None else self.write_bytes * 1e9 / self.interval_ns

    @property
    def failed_ops(self) -> int:
        return sum(self.errors.values())

    @property
    def total_failed_ops(self) -> int:
        return sum(self.total_errors.values())

    def to_dict(self) -> dict[str, Any]:
        """The reading as JSON-able values, with units in the names."""
        return {
            **asdict(self),
            "ops_per_s": self.ops_per_s,
            "read_bytes_per_s": self.read_bytes_per_s,
            "write_bytes_per_s": self.write_bytes_per_s,
            "failed_ops": self.failed_ops,
            "total_failed_ops": self.total_failed_ops,
        }


class Meter:
    """Sorts ops into intervals of `interval_ns`, which begin at round times, and measures each when it is closed.

    Ops that come after their interval was closed count in the next one, so that nothing is lost from the totals.
    """

    def __init__(self, interval_ns: int, *, skipped_ops: int = 0) -> None:
        self._width = interval_ns
        self._open: dict[int, list[pa.Table]] = {}
        self._next: int | None = None
        self._first_ns: int | None = None
        self._last_ns = 0
        self._total_ops = skipped_ops
        self._total_bytes: int | None = None
        self._total_errors: dict[str, int] = {}
        self._workers: set[tuple[int, int]] = set()
        self._files: dict[str, tuple[int, int, int]] = {}

    @property
    def begun(self) -> bool:
        """Whether there was an op that counts."""
        return self._first_ns is not None or self._total_ops > 0

    def skip(self, ops: int) -> None:
        """Add `ops` that are not measured to the totals."""
        self._total_ops += ops

    def add(self, tables: Sequence[pa.Table]) -> None:
        """Add ops, with the columns of `store.tail`. Hints are left out."""
        kept = [table.filter(pc.not_equal(table.column("op"), "hint")) for table in tables]
        timed = [(table, _ends(table)) for table in kept if len(table)]
        if not timed:
            return
        self._first_ns = self._first_ns or min(_least_submit(table) for table, _ in timed)
        self._last_ns = max(self._last_ns, *(int(ends.max()) for _, ends in timed))
        for table, ends in timed:
            windows = ends // self._width
            if self._next is None:  # what is long past is only counted
                old = windows <= self._last_ns // self._width - HISTORY
                self._count(table.filter(pa.array(old)))
                table, windows = table.filter(pa.array(~old)), windows[~old]
            else:
                windows = np.maximum(windows, self._next)
            for window in np.unique(windows).tolist():
                self._open.setdefault(window, []).append(table.filter(pa.array(windows == window)))

    def close(self, until_ns: int | None) -> Iterator[Reading]:
        """Yield the readings of the intervals that ended before `until_ns`; None ends the run, and closes all."""
        if self._next is None:
            if not self._open:
                return
            self._next = min(self._open)
        last = max(self._open, default=self._next - 1) if until_ns is None else until_ns // self._width - 1
        if last - self._next > HISTORY:  # a long pause: the empty intervals in it are left out
            self._next = max(self._next, min([*self._open, last]))
        while self._next <= last:
            window, self._next = self._next, self._next + 1
            yield self._measure(window, final=until_ns is None and window == last)

    def _measure(self, window: int, *, final: bool) -> Reading:
        start, stop = window * self._width, (window + 1) * self._width
        found = self._open.pop(window, [])
        if not found:
            return self._reading(stop, self._width)
        table = pa.concat_tables(found)
        length = min(stop, self._last_ns if final else stop) - max(start, self._first_ns or start)
        self._total_ops += len(table)
        errors = self._count_errors(table)
        read, written = (_sum(table, kinds) for kinds in (READ_KINDS, WRITE_KINDS))
        self._add_bytes(table)
        self._add_files(table)
        latencies = _values(table, "latency")
        waits = pc.fill_null(table.column("wait_ns"), 0).to_numpy()[_valid(table, "latency")]
        length = max(length, self._width // _SHORTEST)
        return self._reading(
            stop,
            length,
            ops=len(table),
            read_bytes=read,
            write_bytes=written,
            errors=errors,
            in_flight=float((latencies + waits).sum() / length) if len(latencies) else None,
            latency=_quantiles(latencies),
            lateness=_lateness(table),
            workers=self._measure_workers(table),
        )

    def _reading(
        self,
        end: int,
        length: int,
        *,
        ops: int = 0,
        read_bytes: int | None = 0,
        write_bytes: int | None = 0,
        errors: dict[str, int] | None = None,
        in_flight: float | None = None,
        latency: Quantiles | None = None,
        lateness: Quantiles | None = None,
        workers: tuple[WorkerFigures, ...] | None = None,
    ) -> Reading:
        idle = tuple(WorkerFigures(rank, worker, 0, 0, None) for rank, worker in sorted(self._workers))
        return Reading(
            end,
            length,
            ops,
            read_bytes,
            write_bytes,
            errors or {},
            in_flight,
            latency,
            lateness,
            idle if workers is None else workers,
            self._slowest(),
            self._total_ops,
            self._total_bytes,
            dict(self._total_errors),
        )

    def _count(self, table: pa.Table) -> None:
        if len(table):
            self._total_ops += len(table)
            self._count_errors(table)
            self._add_bytes(table)
            self._add_files(table)

    def _count_errors(self, table: pa.Table) -> dict[str, int]:
        found = {
            item["values"]: item["counts"]
            for item in table.column("error").drop_null().value_counts().to_pylist()
        }
        for name, count in found.items():
            self._total_errors[name] = self._total_errors.get(name, 0) + count
        return found

    def _add_bytes(self, table: pa.Table) -> None:
        moved = pc.sum(table.column("bytes")).as_py()
        if moved is not None:
            self._total_bytes = (self._total_bytes or 0) + moved

    def _add_files(self, table: pa.Table) -> None:
        grouped = table.group_by("uri").aggregate(
            [("latency", "count"), ("latency", "sum"), ("latency", "max")]
        )
        for row in grouped.to_pylist():
            if row["latency_count"]:
                ops, total, most = self._files.get(row["uri"], (0, 0, 0))
                self._files[row["uri"]] = (
                    ops + row["latency_count"],
                    total + row["latency_sum"],
                    max(most, row["latency_max"]),
                )
        if len(self._files) > _MOST_FILES:
            ordered = sorted(self._files.items(), key=lambda item: -item[1][2])
            self._files = dict(ordered[: _MOST_FILES // 2])

    def _slowest(self) -> tuple[FileFigures, ...]:
        worst = sorted(self._files.items(), key=lambda item: (-item[1][2], item[0]))[:_SLOWEST]
        return tuple(FileFigures(uri, ops, total // ops, most) for uri, (ops, total, most) in worst)

    def _measure_workers(self, table: pa.Table) -> tuple[WorkerFigures, ...]:
        """The figures of each stream known so far, in order."""
        ordered = table.select(["rank", "worker", "bytes", "latency"]).sort_by(
            [("rank", "ascending"), ("worker", "ascending")]
        )
        pairs = np.stack([ordered.column(name).to_numpy() for name in ("rank", "worker")])
        begins = np.flatnonzero(np.concatenate([[True], (pairs[:, 1:] != pairs[:, :-1]).any(axis=0)]))
        found = {}
        for begin, end in zip(begins.tolist(), [*begins[1:].tolist(), len(ordered)], strict=True):
            part = ordered.slice(begin, end - begin)
            key = (int(pairs[0, begin]), int(pairs[1, begin]))
            times = _quantiles(_values(part, "latency"))
            moved = pc.sum(part.column("bytes")).as_py()
            found[key] = WorkerFigures(*key, len(part), moved, None if times is None else times.p99_ns)
        self._workers |= found.keys()
        return tuple(found.get(key, WorkerFigures(*key, 0, 0, None)) for key in sorted(self._workers))


def _ends(table: pa.Table) -> Ints:
    """When each op ended; its submit if that is not known."""
    took = pc.add(pc.fill_null(table.column("latency"), 0), pc.fill_null(table.column("wait_ns"), 0))
    return np.asarray(pc.add(table.column("t_submit"), took).to_numpy())


def _least_submit(table: pa.Table) -> int:
    return int(pc.min(table.column("t_submit")).as_py())


def _valid(table: pa.Table, name: str) -> npt.NDArray[np.bool_]:
    return np.asarray(table.column(name).is_valid().to_numpy())


def _values(table: pa.Table, name: str) -> Ints:
    return np.asarray(table.column(name).drop_null().to_numpy())


def _sum(table: pa.Table, kinds: Sequence[str]) -> int | None:
    """The bytes moved by ops of `kinds`: 0 without such ops, None if none of them says."""
    part = table.filter(pc.is_in(table.column("op"), pa.array(kinds)))
    moved: int | None = pc.sum(part.column("bytes")).as_py()
    return moved if len(part) else 0


def _lateness(table: pa.Table) -> Quantiles | None:
    due = table.filter(table.column("t_due").is_valid())
    return _quantiles(np.asarray(pc.subtract(due.column("t_submit"), due.column("t_due")).to_numpy()))


def _quantiles(values: Ints) -> Quantiles | None:
    if not len(values):
        return None
    ordered = np.sort(values)
    picked = [int(ordered[int(np.ceil(q * len(ordered))) - 1]) for q in (0.5, 0.9, 0.99, 1.0)]
    return Quantiles(*picked)
