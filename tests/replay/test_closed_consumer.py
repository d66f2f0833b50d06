"""Closed pacing and the consumer that the recorded loader read for."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracekit.loader.loader import create_async_loader
from tracekit.recorder import Recorder
from tracekit.replay.consumer import Consumer
from tracekit.replay.engine import replay
from tracekit.replay.mapping import MappingRules
from tracekit.replay.options import ReplayOptions
from tracekit.replay.pacer import ClosedPacer
from tracekit.replay.plan import Plan, build_plan
from tracekit.store.reader import open_reader
from tracekit.store.writer import TraceWriter

MS = 1_000_000


def plan_of(folder: Path, ops: list[tuple[int, int, int, int, int | None]]) -> Plan:
    """Of (submit, latency, rank, worker, step)."""
    columns = [list(column) for column in zip(*ops, strict=True)]
    with TraceWriter(folder / "t", source="import:test", epoch_unix_ns=0) as writer:
        writer.write(
            pa.RecordBatch.from_pydict(
                {
                    "t_submit": pa.array(columns[0], pa.int64()), "latency": pa.array(columns[1], pa.int64()),
                    "rank": pa.array(columns[2], pa.int32()), "worker": pa.array(columns[3], pa.int32()),
                    "step": pa.array(columns[4], pa.int64()), "uri": ["file:///a"] * len(ops),
                    "offset": pa.array(range(len(ops)), pa.int64()), "len": pa.array([1] * len(ops), pa.int64()),
                }
            )
        )  # fmt: skip
    return build_plan(open_reader(folder / "t"), MappingRules(), ReplayOptions(pace="closed"))


def drive(pacer: ClosedPacer, latency: int) -> dict[int, tuple[int, int]]:
    """Run to the end in virtual time, any number in flight: op to (submit, end)."""
    ran: dict[int, tuple[int, int]] = {}
    flying: list[tuple[int, int]] = []
    now = 0
    while True:
        ready = pacer.earliest()
        if ready is not None and ready[1] < 0:
            return ran
        if ready is not None and (not flying or max(now, ready[0]) <= min(flying)[0]):
            op = pacer.take()
            assert op is not None
            now = max(now, pacer.due(op) or 0)
            ran[op] = (now, now + latency)
            flying.append((now + latency, op))
            pacer.submitted(op)
        elif flying:
            flying.sort()
            now, op = flying.pop(0)
            pacer.finished(op, now)
        else:
            assert ready is not None, "ops are left and nothing can ever go"
        if not flying and len(ran) == pacer.planned:
            return ran


def test_a_run_that_storage_held_up_is_the_consumers_where_storage_is_fast(tmp_path: Path) -> None:
    # Two workers, each step one read of 50 ms; the consumer thinks 20 ms and reads one batch ahead.
    plan = plan_of(
        tmp_path, [(step // 2 * 50 * MS + step % 2, 50 * MS, 0, step % 2, step) for step in range(10)]
    )
    ran = drive(ClosedPacer(plan, consumer=Consumer(20 * MS, 1)), latency=1 * MS)
    submits = [ran[op][0] for op in range(10)]
    assert submits[1] - submits[0] < 1 * MS  # both are asked for at once
    assert [b - a for a, b in pairwise(submits[2:])] == [20 * MS] * 7
    assert submits[2] - ran[0][1] == 20 * MS
    without = drive(ClosedPacer(plan), latency=1 * MS)
    assert max(end for _, end in without.values()) < 10 * MS


def test_speed_divides_the_consumers_thinking_too(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, [(step * 50 * MS, 50 * MS, 0, 0, step) for step in range(6)])
    ran = drive(ClosedPacer(plan, speed=4.0, consumer=Consumer(20 * MS, 0)), latency=1 * MS)
    assert [b[0] - a[1] for a, b in pairwise(ran.values())] == [5 * MS] * 5


def test_without_order_of_steps_in_a_stream_the_consumer_is_left_out(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, [(0, 1, 0, 0, 7), (2, 1, 0, 0, 3), (4, 1, 0, 0, 9)])
    assert len(drive(ClosedPacer(plan, consumer=Consumer(20 * MS, 0)), latency=1)) == 3


@settings(max_examples=60, deadline=None)
@given(
    ops=st.lists(
        st.tuples(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 1), st.integers(0, 2)),
        min_size=1, max_size=30,
    ),
    steps=st.lists(st.none() | st.integers(0, 6), min_size=30, max_size=30),
    think=st.integers(0, 10**6), ahead=st.integers(0, 3), latency=st.integers(0, 10**6),
)  # fmt: skip
def test_every_op_goes_once_and_no_step_before_it_is_asked_for(
    tmp_path_factory: pytest.TempPathFactory, ops: list[Any], steps: list[int | None], think: int, ahead: int, latency: int
) -> None:  # fmt: skip
    known = sorted(step for step in steps[: len(ops)] if step is not None)
    in_order = [None if step is None else known.pop(0) for step in steps[: len(ops)]]
    plan = plan_of(
        tmp_path_factory.mktemp("p"), [(*op, step) for op, step in zip(sorted(ops), in_order, strict=True)]
    )
    ran = drive(ClosedPacer(plan, consumer=Consumer(think, ahead)), latency)
    assert sorted(ran) == list(range(plan.ops))
    rank, step = plan.column("rank"), plan.column("step")
    for r in set(rank.tolist()):
        numbers = sorted(set(step[(rank == r) & (step >= 0)].tolist()))
        spans = []
        for number in numbers:
            mine = [ran[op] for op in np.flatnonzero((rank == r) & (step == number)).tolist()]
            spans.append((min(s for s, _ in mine), max(e for _, e in mine)))
        for place in range(ahead + 1, len(spans)):
            assert spans[place][0] >= spans[place - ahead - 1][1] + think


def test_a_loader_counts_its_consumer_and_a_closed_replay_waits_for_it(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for i in range(8):
        (tmp_path / "data" / f"{i}").write_bytes(bytes(8192))
    options = {"batch_size": 1, "loading_mode": "prefetch", "prefetch": 2, "num_workers": 2}
    with Recorder(tmp_path / "t") as recorder:
        for _ in create_async_loader(f"file://{tmp_path}/data", options, recorder):
            time.sleep(0.03)
    counters = open_reader(tmp_path / "t").counters
    assert counters["consumer_batches"] == 8
    assert counters["consumer_ahead_batches"] == 16
    assert counters["consumer_think_ns"] >= 8 * 30 * MS
    result = replay(tmp_path / "t", pace="closed", speed=2.0, tolerance=1e9)
    # The last batch is asked for five batches after the first: five times 15 ms of thinking.
    assert (result.parity.row("duration_ns").b or 0) >= 5 * 15 * MS
    assert replay(tmp_path / "t", pace="closed", consumer=False, tolerance=1e9).failed_ops == 0
