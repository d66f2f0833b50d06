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
from tracekit.comparison.changes import ChangeTally
from tracekit.comparison.hosts import host_rows, stream_hosts
from tracekit.comparison.order import Order, Overtaking
from tracekit.comparison.outcomes import Outcomes
from tracekit.comparison.planned import NULL, PlannedOps, ReplayRules, share
from tracekit.comparison.table import ParityRow, exact, shown, within
from tracekit.comparison.volumes import Volumes
from tracekit.metrics.sweep import peaks
from tracekit.sql import load_sql
from tracekit.store.reader import TraceReader
from tracekit.store.statements import value_errors

__all__ = ["judge_replay"]

_DUE_SLACK_NS = 1_000_000
_IDENTITY = ("uri", "op", "offset", "len", "sample_id", "step", "rank", "worker", "part", "to_uri")


def judge_replay(
    plan: Iterable[PlannedOps], replay: TraceReader, rules: ReplayRules
) -> tuple[ParityRow, ...]:
    """Judge the trace `replay` against `plan`. Raises what making the plan raises."""
    hosts = stream_hosts(replay)
    queues = [Overtaking(rules.workers) for _ in range(hosts.count)]
    tally = _Tally(rules, Order(rules.pace, queues, hosts))
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
    endless: int = 0
    rows: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    wrong_ops: int = 0
    wrong_due: int = 0
    early: int = 0
    volumes: Volumes = field(default_factory=Volumes)
    outcomes: Outcomes = field(default_factory=Outcomes)
    cadence: Cadence = field(default_factory=Cadence)
    changes: ChangeTally = field(default_factory=ChangeTally)
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
        self.volumes.planned(part)
        self.changes.plan(part.kinds, part.kind, part.moves, part.error >= 0)
        self.outcomes.planned(part)
        if not self.rules.partial:
            self.cadence.missing(part.due_ns[~issued], part.moves[~issued], part.latency[~issued])

    def _compare(self, part: PlannedOps, issued: np.ndarray, rows: pa.Table) -> None:
        """Compare the ops that were issued, one row each."""
        values = {name: _numbers(rows, name) for name in _INTEGERS}
        self.endless += int((values["latency"] == NULL).sum())
        self._identity(part, issued, rows, values)
        error = _outcomes(rows.column("error"), part.error_classes)
        self.outcomes.add(part, issued, error)
        self.volumes.add(part, issued, values, error != -1)
        self.changes.rows(part.kinds, part.kind[issued], values["bytes"], error != -1)
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
            "uri": part.file,
            "op": part.kind,
            "offset": part.offset,
            "len": part.length,
            "sample_id": part.sample_id,
            "step": part.step,
            "rank": part.rank,
            "worker": part.worker,
            "part": part.part,
            "to_uri": part.to_file,
        }
        found = {
            **values,
            "uri": _codes(rows.column("uri"), part.targets),
            "op": _codes(rows.column("op"), part.kinds),
            "to_uri": np.where(
                rows.column("to_uri").is_valid().to_numpy(), _codes(rows.column("to_uri"), part.targets), -1
            ),
        }
        wrong = np.zeros(int(issued.sum()), bool)
        for name in _IDENTITY:
            differs = planned[name][issued] != found[name]
            self.wrong[name] += int(differs.sum())
            wrong |= differs
        self.wrong_ops += int(wrong.sum())

    def _times(self, part: PlannedOps, issued: np.ndarray, values: dict[str, np.ndarray]) -> None:
        due, submit = part.due_ns[issued], values["t_submit"]
        self.order.add(part.first + np.flatnonzero(issued), values)
        if self.rules.timed:
            has_due = values["t_due"] != NULL
            if self.cadence.origin_ns is None:
                starts = (values["t_due"] - due)[has_due] if has_due.any() else submit - due
                self.cadence.origin_ns = int(np.median(starts)) if has_due.any() else int(starts.min())
            late = submit - due - self.cadence.origin_ns
            slack = _DUE_SLACK_NS + self.rules.clock_error_ns
            off = np.abs(values["t_due"] - due - self.cadence.origin_ns) > slack
            self.wrong_due += int((~has_due | off).sum())
            self.early += int((late < -slack).sum())
            late -= np.maximum(values["dependency"], 0)  # an op that waits for its data is not late
        else:
            late = np.zeros(len(due), np.int64)
        self.cadence.add(
            due,
            late,
            part.moves[issued],
            part.latency[issued],
            submit,
            values["latency"],
            values["t_due"],
            timed=self.rules.timed,
        )

    def table(self, replay: TraceReader, total: int) -> Iterable[ParityRow]:
        """The rows of the comparison."""
        yield self._completeness(replay, total)
        named = ", ".join(f"{n} {name}" for name, n in self.wrong.most_common() if n)
        yield within(
            "identity",
            "share",
            share(self.wrong_ops, self.issued),
            0.0,
            note=f"differing: {named}" if named else "",
        )
        yield self.order.row(self.cadence.jitter_ns)
        yield self.volumes.sizes_row(partial=self.rules.partial)
        yield (
            exact("ops", "ops", self.planned, total)
            if not self.rules.partial
            else shown("ops", "ops", self.planned, total)
        )
        yield from self.volumes.bytes_rows(self.rules.tolerance, partial=self.rules.partial)
        if self.rules.timed:
            yield within(
                "due_times",
                "share",
                share(self.wrong_due, self.rows),
                0.0,
                note="t_due is not the plan's" if self.wrong_due else "",
            )
            yield exact("early_ops", "ops", 0, self.early)
        yield from host_rows(replay, timed=self.rules.timed)
        yield from self.cadence.table(
            timed=self.rules.timed,
            tolerance=self.rules.tolerance,
            max_lateness_ns=self.rules.max_lateness_ns,
            planned_bytes=self.volumes.planned_bytes,
            moved_bytes=self.volumes.moved_bytes,
        )
        yield from self.changes.table(replay.counters, judged=not self.rules.partial)
        yield from self.outcomes.table(expect_failures=self.rules.expect_failures)
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
        if self.endless:
            notes.append(f"{self.endless} ops never ended")
        if foreign:
            notes.append(f"{foreign} ops are not in the plan")
        ok = (
            (self.planned > 0 or self.rules.allow_empty)
            and (self.rules.partial or (not interrupted and missing == 0 and not self.endless))
            and not self.repeated
            and not foreign
        )
        return ParityRow(
            "completeness",
            "ops",
            self.planned,
            self.issued,
            share(missing, self.planned),
            ok,
            0.0,
            "; ".join(notes),
        )

    def _caps(self, replay: TraceReader) -> Iterable[ParityRow]:
        found = peaks(replay)
        for name, unit, cap, peak in (
            ("max_ops_in_flight", "ops", self.rules.max_ops_in_flight, found.ops),
            ("max_bytes_in_flight", "bytes", self.rules.max_bytes_in_flight, found.bytes),
        ):
            if cap is not None:
                # An op above the cap goes alone.
                allowed = max(cap, self.volumes.largest) if unit == "bytes" else cap
                yield ParityRow(
                    name, unit, cap, peak, None, peak <= allowed, 0.0, "the peak in the replay's rows"
                )


_INTEGERS = (
    *("t_submit", "t_due", "dependency", "gate_wait", "offset", "len", "bytes", "latency"),
    *("sample_id", "step", "rank", "worker", "part"),
)


def _numbers(rows: pa.Table, name: str) -> np.ndarray:
    if name not in rows.column_names:
        return np.full(len(rows), NULL)
    found: np.ndarray = pc.fill_null(rows.column(name).cast(pa.int64()), NULL).to_numpy()
    return found


def _codes(column: pa.ChunkedArray, known: Sequence[str]) -> np.ndarray:
    """Each text's index in `known`; -2 for others, -3 for null."""
    encoded = pa.chunked_array(column).combine_chunks().dictionary_encode()
    index = {name: code for code, name in enumerate(known)}
    codes = np.array([*(index.get(name, -2) for name in encoded.dictionary.to_pylist()), -3], np.int64)
    found: np.ndarray = codes[pc.fill_null(encoded.indices, len(codes) - 1).to_numpy()]
    return found


def _outcomes(column: pa.ChunkedArray, known: Sequence[str]) -> np.ndarray:
    """Each op's error as its index in `known`: -1 for success, -2 for a class that the plan does not have."""
    codes = _codes(column, known)
    found: np.ndarray = np.where(column.is_valid().to_numpy(), codes, -1)
    return found


def _quantile(parts: Sequence[np.ndarray], quantile: float) -> float | None:
    values = np.concatenate(parts) if parts else np.zeros(0)
    return float(np.quantile(values, quantile, method="inverted_cdf")) if len(values) else None
