"""Judging a replay op by op against the plan that it had to carry out.

The plan is made again from the recording and comes in parts, so that its length does not
matter; each part is aligned with the replay's rows by `plan_op`. Nothing rests on what the
replay says of itself, except the options that it was started with. This module knows the
store and the arrays of a plan, not how a plan is made. docs/replay.md defines the metrics.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tracekit.comparison.cadence import Cadence
from tracekit.comparison.distances import total_variation
from tracekit.comparison.order import Order
from tracekit.comparison.table import ParityRow, exact, relative, shown, within
from tracekit.errors import ErrorClass
from tracekit.metrics.sweep import peaks
from tracekit.sql import load_sql
from tracekit.store.reader import TraceReader
from tracekit.store.statements import value_errors

__all__ = ["NULL", "PlannedOps", "ReplayRules", "judge_replay"]

NULL = np.iinfo(np.int64).min
"""Null in the int64 columns of `PlannedOps`."""

TRANSIENT = frozenset(
    {
        ErrorClass.TIMEOUT, ErrorClass.THROTTLED, ErrorClass.UNREACHABLE, ErrorClass.SERVER_ERROR,
        ErrorClass.CONFLICT, ErrorClass.CANCELLED, ErrorClass.IO_ERROR, ErrorClass.UNKNOWN,
    }
)  # fmt: skip
"""Error classes that need not recur: an op that failed with one may succeed in the replay."""

STEP_TOLERANCE = 0.05
_DUE_SLACK_NS = 1_000_000
_IDENTITY = ("uri", "op", "offset", "len", "sample_id", "step", "rank", "worker")


@dataclass(frozen=True, slots=True)
class PlannedOps:
    """A part of a plan as arrays of one length, in plan order. Times in ns, sizes in bytes.

    `targets`, `kinds` and `error_classes` are what `file`, `kind` and `error` index (`error`
    -1: the recorded op succeeded). `moves` are the bytes that an op should move. Columns of
    int64 hold NULL where the value is unknown.
    """

    first: int
    targets: Sequence[str]
    kinds: Sequence[str]
    error_classes: Sequence[str]
    due_ns: np.ndarray
    file: np.ndarray
    kind: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    moves: np.ndarray
    latency: np.ndarray
    sample_id: np.ndarray
    step: np.ndarray
    rank: np.ndarray
    worker: np.ndarray
    error: np.ndarray

    def __len__(self) -> int:
        return len(self.due_ns)


@dataclass(frozen=True, slots=True)
class ReplayRules:
    """How to judge a replay: what it was told to do, and what the user allows.

    `tolerance` is for duration, throughput and bytes. `expect_failures`: ops that failed in
    the recording fail again with the same class; without it no op may fail.
    """

    pace: str = "recorded"
    max_ops_in_flight: int | None = None
    max_bytes_in_flight: int | None = None
    tolerance: float = 0.15
    max_lateness_ns: int | None = None
    allow_empty: bool = False
    partial: bool = False
    expect_failures: bool = True

    @property
    def timed(self) -> bool:
        """Whether ops had due times."""
        return self.pace == "recorded"

    @property
    def capped(self) -> bool:
        return self.max_ops_in_flight is not None or self.max_bytes_in_flight is not None


def judge_replay(
    plan: Iterable[PlannedOps], replay: TraceReader, rules: ReplayRules
) -> tuple[ParityRow, ...]:
    """Judge the trace `replay` against `plan`. Raises what making the plan raises."""
    tally = _Tally(rules, Order(rules.pace))
    with closing(replay.connect()) as connection, value_errors(replay.path):
        for part in plan:
            tally.add(part, _rows(connection, replay, part))
        total = int(_scalar(connection, "SELECT count(*) FROM ops WHERE op <> 'hint'"))
    return tuple(tally.table(replay, total))


def _scalar(connection: duckdb.DuckDBPyConnection, sql: str) -> int | float:
    row = connection.execute(sql).fetchone()
    return row[0] if row else 0


def _rows(connection: duckdb.DuckDBPyConnection, replay: TraceReader, part: PlannedOps) -> pa.Table | None:
    """The replay's rows of a part of the plan, sorted by plan_op; None if it has no such rows at all."""
    if "plan_op" not in replay.columns:
        return None
    sql = load_sql("tracekit.comparison", "replay_rows")
    ends = {"first": part.first, "last": part.first + len(part)}
    return connection.sql(sql, params=ends).to_arrow_table()


@dataclass(slots=True)
class _Tally:
    """What is added up over the parts of a plan."""

    rules: ReplayRules
    order: Order
    planned: int = 0
    issued: int = 0
    repeated: int = 0
    rows: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    wrong_ops: int = 0
    wrong_due: int = 0
    early: int = 0
    planned_bytes: int = 0
    moved_bytes: int = 0
    planned_sizes: Counter[int] = field(default_factory=Counter)
    sizes: Counter[int] = field(default_factory=Counter)
    steps: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    failed: int = 0
    recorded_failures: int = 0
    new_failures: int = 0
    other_class: int = 0
    recovered: int = 0
    transient: int = 0
    cadence: Cadence = field(default_factory=Cadence)
    latencies: list[np.ndarray] = field(default_factory=list)
    recorded_latencies: list[np.ndarray] = field(default_factory=list)

    def add(self, part: PlannedOps, rows: pa.Table | None) -> None:
        """Add one part of the plan and the replay's rows of it."""
        count = len(part)
        self.planned += count
        issued = np.zeros(count, bool)
        if rows is not None and len(rows):
            op = rows.column("plan_op").to_numpy() - part.first
            times = np.bincount(op, minlength=count)
            issued = times > 0
            self.issued += int(issued.sum())
            self.repeated += int((times[issued] - 1).sum())
            first = np.flatnonzero(np.diff(op, prepend=-1))
            self.rows += len(rows)
            self._compare(part, issued, rows.take(pa.array(first)))
        self._sizes(self.planned_sizes, part.length)
        self._steps(part.rank, part.step, np.where(part.moves == NULL, 0, part.moves), 0)
        self.recorded_failures += int((part.error >= 0).sum())
        if not self.rules.partial:
            self.cadence.missing(part.due_ns[~issued], part.moves[~issued], part.latency[~issued])

    def _compare(self, part: PlannedOps, issued: np.ndarray, rows: pa.Table) -> None:
        """Compare the ops that were issued, one row each."""
        values = {name: _numbers(rows, name) for name in _INTEGERS}
        self._identity(part, issued, rows, values)
        error = self._failures(part, issued, rows)
        expected = part.moves[issued]
        known = (expected != NULL) & ~((error != -1) & (part.error[issued] >= 0)) & (values["bytes"] != NULL)
        self.planned_bytes += int(expected[known].sum())
        self.moved_bytes += int(values["bytes"][known].sum())
        self._sizes(self.sizes, values["len"])
        moved = np.where(known, values["bytes"], np.where(expected == NULL, 0, expected))
        self._steps(values["rank"], values["step"], moved, 1)
        for kept, found in (
            (self.latencies, values["latency"]),
            (self.recorded_latencies, part.latency[issued]),
        ):
            kept.append(found[found != NULL][:: max(len(found) // 200_000, 1)])
        self._times(part, issued, values)

    def _identity(
        self, part: PlannedOps, issued: np.ndarray, rows: pa.Table, values: dict[str, np.ndarray]
    ) -> None:
        planned = {
            "uri": part.file, "op": part.kind, "offset": part.offset, "len": part.length,
            "sample_id": part.sample_id, "step": part.step, "rank": part.rank, "worker": part.worker,
        }  # fmt: skip
        found = {
            **values,
            "uri": _codes(rows.column("uri"), part.targets),
            "op": _codes(rows.column("op"), part.kinds),
        }
        wrong = np.zeros(int(issued.sum()), bool)
        for name in _IDENTITY:
            differs = planned[name][issued] != found[name]
            self.wrong[name] += int(differs.sum())
            wrong |= differs
        self.wrong_ops += int(wrong.sum())

    def _failures(self, part: PlannedOps, issued: np.ndarray, rows: pa.Table) -> np.ndarray:
        """Compare the outcomes; returns each row's error as a code, -1 for success."""
        found = _codes(rows.column("error"), part.error_classes)
        found = np.where(rows.column("error").is_valid().to_numpy(), np.where(found < 0, -2, found), -1)
        recorded = part.error[issued]
        self.failed += int((found != -1).sum())
        self.new_failures += int(((found != -1) & (recorded < 0)).sum())
        self.other_class += int(((found != -1) & (recorded >= 0) & (found != recorded)).sum())
        back = (found == -1) & (recorded >= 0)
        of_the_moment = np.isin(
            recorded, [code for code, name in enumerate(part.error_classes) if name in TRANSIENT]
        )
        self.recovered += int((back & ~of_the_moment).sum())
        self.transient += int((back & of_the_moment).sum())
        return found

    def _times(self, part: PlannedOps, issued: np.ndarray, values: dict[str, np.ndarray]) -> None:
        due, submit = part.due_ns[issued], values["t_submit"]
        self.order.add(
            values["rank"], values["worker"], values["sample_id"], values["step"], submit, values["latency"]
        )
        if self.rules.timed:
            has_due = values["t_due"] != NULL
            if self.cadence.origin_ns is None:
                starts = (values["t_due"] - due)[has_due] if has_due.any() else submit - due
                self.cadence.origin_ns = int(np.median(starts)) if has_due.any() else int(starts.min())
            late = submit - due - self.cadence.origin_ns
            off = np.abs(values["t_due"] - due - self.cadence.origin_ns) > _DUE_SLACK_NS
            self.wrong_due += int((~has_due | off).sum())
            self.early += int((late < -_DUE_SLACK_NS).sum())
        else:
            late = np.zeros(len(due), np.int64)
        self.cadence.add(
            due, late, part.moves[issued], part.latency[issued], submit, values["latency"], values["t_due"], timed=self.rules.timed
        )  # fmt: skip

    def _steps(self, rank: np.ndarray, step: np.ndarray, nbytes: np.ndarray, side: int) -> None:
        stepped = step != NULL
        if not stepped.any():
            return
        keys, which = np.unique(
            np.stack([rank[stepped], step[stepped]]).astype(np.int64), axis=1, return_inverse=True
        )
        sums = np.bincount(which.reshape(-1), weights=nbytes[stepped])
        for key, total in zip(map(tuple, keys.T.tolist()), sums.tolist(), strict=True):
            self.steps.setdefault(key, [0, 0])[side] += int(total)

    def _sizes(self, into: Counter[int], lengths: np.ndarray) -> None:
        sizes, counts = np.unique(lengths, return_counts=True)
        for size, n in zip(sizes.tolist(), counts.tolist(), strict=True):
            into[size] += n

    def table(self, replay: TraceReader, total: int) -> Iterable[ParityRow]:
        """The rows of the comparison."""
        yield self._completeness(replay, total)
        named = ", ".join(f"{n} {name}" for name, n in self.wrong.most_common() if n)
        yield within(
            "identity", "share", _share(self.wrong_ops, self.issued), 0.0, note=f"differing: {named}" if named else ""
        )  # fmt: skip
        yield self.order.row(self.cadence.jitter_ns)
        yield within("req_bytes_hist", "distance", self._size_distance(), 0.0)
        yield (
            exact("ops", "ops", self.planned, total)
            if not self.rules.partial
            else shown("ops", "ops", self.planned, total)
        )
        yield relative("bytes", "bytes", self.planned_bytes, self.moved_bytes, self.rules.tolerance)
        if self.steps:
            yield self._steps_row()
        if self.rules.timed:
            yield within(
                "due_times",
                "share",
                _share(self.wrong_due, self.rows),
                0.0,
                note="t_due is not the plan's" if self.wrong_due else "",
            )
            yield exact("early_ops", "ops", 0, self.early)
        yield from self.cadence.table(
            timed=self.rules.timed, tolerance=self.rules.tolerance, max_lateness_ns=self.rules.max_lateness_ns,
            planned_bytes=self.planned_bytes, moved_bytes=self.moved_bytes,
        )  # fmt: skip
        yield from self._failure_rows()
        if self.rules.capped:
            yield from self._caps(replay)
        for name, quantile in (("latency_p50_ns", 0.5), ("latency_p99_ns", 0.99)):
            yield shown(
                name, "ns", _quantile(self.recorded_latencies, quantile), _quantile(self.latencies, quantile)
            )

    def _completeness(self, replay: TraceReader, total: int) -> ParityRow:
        foreign, missing = total - self.rows, self.planned - self.issued
        notes = []
        interrupted = replay.counters.get("replay_interrupted", 0) > 0 or bool(replay.unfinished)
        if not self.planned:
            notes.append("the plan holds no op" + ("" if self.rules.allow_empty else ": nothing was proved"))
        if interrupted:
            notes.append("the replay was interrupted")
        if missing:
            notes.append(f"{missing} planned ops were never issued")
        if self.repeated:
            notes.append(f"{self.repeated} ops were issued again")
        if foreign:
            notes.append(f"{foreign} ops are not in the plan")
        ok = (
            (self.planned > 0 or self.rules.allow_empty)
            and (self.rules.partial or (not interrupted and missing == 0))
            and not self.repeated
            and not foreign
        )
        return ParityRow(
            "completeness", "ops", self.planned, self.issued, _share(missing, self.planned), ok, 0.0, "; ".join(notes)
        )  # fmt: skip

    def _size_distance(self) -> float:
        if self.rules.partial and self.planned_sizes and self.sizes:
            return 0.0 if not self.sizes.keys() - self.planned_sizes.keys() else 1.0
        return total_variation(self.planned_sizes, self.sizes)

    def _steps_row(self) -> ParityRow:
        a, b = (sum(found[side] for found in self.steps.values()) for side in (0, 1))
        apart = sum(abs(found[0] - found[1]) for found in self.steps.values())
        distance = apart / 2 / max(a, b) if max(a, b) else 0.0
        judged = not self.rules.partial
        return ParityRow(
            "bytes_per_step", "bytes", a / len(self.steps), b / len(self.steps), distance,
            distance <= STEP_TOLERANCE if judged else None, STEP_TOLERANCE,
            "the difference is the share of bytes that moved between steps",
        )  # fmt: skip

    def _failure_rows(self) -> Iterable[ParityRow]:
        if self.rules.expect_failures:
            wrong = self.new_failures + self.other_class + self.recovered
            told = {
                "failed that had not": self.new_failures,
                "failed with another class": self.other_class,
                "did not fail again": self.recovered,
                "recovered from a transient failure": self.transient,
            }
        else:
            wrong, told = self.failed, {}
        note = ", ".join(f"{n} {what}" for what, n in told.items() if n)
        yield ParityRow("failures", "ops", 0, wrong, None, wrong == 0, 0.0, note)
        yield shown("failed_ops", "ops", self.recorded_failures, self.failed)

    def _caps(self, replay: TraceReader) -> Iterable[ParityRow]:
        found = peaks(replay)
        largest = max((size for size in self.sizes if size != NULL), default=0)
        for name, unit, cap, peak in (
            ("max_ops_in_flight", "ops", self.rules.max_ops_in_flight, found.ops),
            ("max_bytes_in_flight", "bytes", self.rules.max_bytes_in_flight, found.bytes),
        ):  # fmt: skip
            if cap is not None:
                allowed = max(cap, largest) if unit == "bytes" else cap  # an op above the cap goes alone
                yield ParityRow(
                    name, unit, cap, peak, None, peak <= allowed, 0.0, "the peak in the replay's rows"
                )


_INTEGERS = ("t_submit", "t_due", "offset", "len", "bytes", "latency", "sample_id", "step", "rank", "worker")


def _numbers(rows: pa.Table, name: str) -> np.ndarray:
    found: np.ndarray = pc.fill_null(rows.column(name).cast(pa.int64()), NULL).to_numpy()
    return found


def _codes(column: pa.ChunkedArray, known: Sequence[str]) -> np.ndarray:
    """Each text's index in `known`; -2 for others, -3 for null."""
    encoded = pa.chunked_array(column).combine_chunks().dictionary_encode()
    index = {name: code for code, name in enumerate(known)}
    codes = np.array([*(index.get(name, -2) for name in encoded.dictionary.to_pylist()), -3], np.int64)
    found: np.ndarray = codes[pc.fill_null(encoded.indices, len(codes) - 1).to_numpy()]
    return found


def _quantile(parts: Sequence[np.ndarray], quantile: float) -> float | None:
    values = np.concatenate(parts) if parts else np.zeros(0)
    return float(np.quantile(values, quantile, method="inverted_cdf")) if len(values) else None


def _share(part: int, whole: int) -> float:
    return part / whole if whole > 0 else 0.0
