"""Closed pacing stream by stream: order and think times."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from tracekit.replayer.mapping import MappingRules
from tracekit.replayer.options import ReplayOptions
from tracekit.replayer.pacing import ClosedPacer
from tracekit.replayer.plan import Plan
from tracekit.replayer.planning import build_plan
from tracekit.replayer.run import replay
from tracekit.store.reader import open_reader
from tracekit.store.writer import TraceWriter

MS = 1_000_000


def plan_of(folder: Path, ops: list[tuple[int, int | None, int, int, int | None]], **how: Any) -> Plan:
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
    return build_plan(open_reader(folder / "t"), MappingRules(), ReplayOptions(pace="closed", **how))


def drive(pacer: ClosedPacer, latency: int | list[int]) -> dict[int, tuple[int, int]]:
    """Run to the end in virtual time, any number in flight: op to (submit, end)."""
    takes = latency.__getitem__ if isinstance(latency, list) else lambda op: latency
    ran: dict[int, tuple[int, int]] = {}
    flying: list[tuple[int, int]] = []
    now = 0
    while True:
        ready = pacer.ready.earliest()
        if ready is not None and ready[1] < 0:
            return ran
        if ready is not None and (not flying or max(now, ready[0]) <= min(flying)[0]):
            op = pacer.take()
            assert op is not None
            now = max(now, pacer.due(op) or 0)
            ran[op] = (now, now + takes(op))
            flying.append((now + takes(op), op))
            pacer.submitted(op)
        elif flying:
            flying.sort()
            now, op = flying.pop(0)
            pacer.finished(op, now)
        else:
            assert ready is not None, "ops are left and nothing can ever go"
        if not flying and len(ran) == pacer.planned:
            return ran


@examples(150)
@given(
    ops=st.lists(
        st.tuples(
            st.integers(0, 40), st.none() | st.integers(-3, 30), st.integers(0, 1), st.integers(0, 1), st.none()
        ),
        min_size=1, max_size=14,
    ),
    latencies=st.lists(st.integers(0, 40), min_size=42, max_size=42),
    loops=st.integers(1, 3), speed=st.sampled_from([0.5, 1.0, 3.0]), gap=st.none() | st.integers(0, 8),
)  # fmt: skip
def test_closed_pacing_matches_a_simulation_of_its_definition(
    tmp_path_factory: pytest.TempPathFactory, ops: list[Any], latencies: list[int], loops: int, speed: float,
    gap: int | None,
) -> None:  # fmt: skip
    ops = sorted(ops, key=lambda op: op[0])
    plan = plan_of(tmp_path_factory.mktemp("p"), ops, loop=loops, speed=speed, max_gap=gap)
    assert plan.column("recorded_ns").tolist() == [op[0] for op in ops] * loops
    ran = drive(ClosedPacer(plan, speed), latencies)
    assert ran == simulated(ops, latencies, loops, speed, gap, plan.column("due_ns").tolist())


def simulated(
    ops: list[Any], latencies: list[int], loops: int, speed: float, gap: int | None, due: list[int]
) -> dict[int, tuple[int, int]]:
    """Op by op, from the words of docs/replay.md alone."""
    squeezed = [0]
    for before, after in pairwise(op[0] for op in ops):
        squeezed.append(squeezed[-1] + min(after - before, after - before if gap is None else gap))
    mean_gap = max(squeezed[-1] // max(len(ops) - 1, 1), 1)

    def at(t: int) -> int:
        last = max(i for i, op in enumerate(ops) if op[0] <= t)
        return squeezed[last] + min(t - ops[last][0], 10**9 if gap is None else gap)

    ran: dict[int, tuple[int, int]] = {}
    last_of: dict[tuple[int, int], int] = {}
    for number in range(len(ops) * loops):
        round_, i = divmod(number, len(ops))
        submit, _, rank, worker, _ = ops[i]
        finished = [
            (r, end, j)
            for r in range(round_ + 1)
            for j, (s, latency, *stream, _) in enumerate(ops)
            for end in [s + max(latency or 0, 0)]
            if stream == [rank, worker] and (r < round_ or end < submit or (end == submit and j < i))
        ]
        begins = due[number]
        if finished:
            r, end, j = max(finished)
            think = at(submit) - at(end) if r == round_ else at(submit) + mean_gap
            begins = ran[r * len(ops) + j][1] + round(think / speed)
        before = last_of.get((rank, worker))
        begins = max(begins, ran[before][0] if before is not None else 0)
        ran[number] = (begins, begins + latencies[number])
        last_of[rank, worker] = number
    return ran


def test_loops_of_a_closed_replay_follow_each_other(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, [(i * 5 * MS, 3 * MS, 0, i % 2, None) for i in range(8)])
    data = tmp_path / "a"
    data.write_bytes(bytes(64))
    out = tmp_path / "r"
    result = replay(tmp_path / "t", map=f"/a={data}", pace="closed", loop=3, out=out)
    assert (result.ops, result.failed_ops) == (3 * plan.ops, 0)
    order = open_reader(out).query("SELECT plan_op FROM ops WHERE worker = 1 ORDER BY t_submit, plan_op")
    assert order.column(0).to_pylist() == [op for op in range(24) if op % 2]


def test_max_gap_shortens_pauses_in_closed_pacing_too(tmp_path: Path) -> None:
    hour = 3600 * 1000 * MS
    plan = plan_of(tmp_path, [(i * hour, hour // 2, 0, 0, None) for i in range(3)], max_gap=20 * MS)
    ran = drive(ClosedPacer(plan), latency=1 * MS)
    assert [b[0] - a[1] for a, b in pairwise(ran.values())] == [
        0,
        0,
    ]  # half an hour of each pause was the request
    plan = plan_of(tmp_path / "b", [(i * hour, 1 * MS, 0, 0, None) for i in range(3)], max_gap=20 * MS)
    ran = drive(ClosedPacer(plan), latency=1 * MS)
    assert [b[0] - a[1] for a, b in pairwise(ran.values())] == [19 * MS] * 2
