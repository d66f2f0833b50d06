"""Closed pacing by a loader's rule in the compiled engine: the order and times of the model, and of the interpreter."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

import tracekit
from tracekit.replayer.engines import words
from tracekit.replayer.engines.arrays import plan_arrays
from tracekit.replayer.engines.jit import call
from tracekit.replayer.loader_model import LoaderModel
from tracekit.replayer.mapping import MappingRules
from tracekit.replayer.modelled import ModelPacer
from tracekit.replayer.options import ReplayOptions
from tracekit.replayer.plan import Plan
from tracekit.replayer.planning import build_plan
from tracekit.replayer.predict import predict_duration
from tracekit.replayer.ready import NEVER
from tracekit.store.reader import open_reader
from tracekit.store.writer import TraceWriter

pytest.importorskip("numba", reason="numba is not installed (extra `fast`)")

US, MS = 1_000, 1_000_000
Op = tuple[int, int, int, int, int | None, int]
"""(ns after the op before, latency, rank, worker, step, sample)"""


def write_trace(path: Path, ops: list[Op], uri: str = "file:///a", **manifest: Any) -> Path:
    after, latency, rank, worker, step, sample = (list(column) for column in zip(*ops, strict=True))
    with TraceWriter(path, source="import:test", epoch_unix_ns=0, **manifest) as writer:
        writer.write(
            pa.RecordBatch.from_pydict(
                {
                    "t_submit": pa.array(np.cumsum(after), pa.int64()), "latency": pa.array(latency, pa.int64()),
                    "rank": pa.array(rank, pa.int32()), "worker": pa.array(worker, pa.int32()),
                    "step": pa.array(step, pa.int64()), "sample_id": pa.array(sample, pa.int64()),
                    "uri": [uri] * len(ops), "offset": pa.array([7 * i for i in range(len(ops))], pa.int64()),
                    "len": pa.array([1 + i % 5 for i in range(len(ops))], pa.int64()),
                }
            )
        )  # fmt: skip
    return path


class CompiledRule:
    """The compiled rule in virtual time: what `predict_duration` needs of a pacer."""

    def __init__(self, plan: Plan, model: LoaderModel, speed: float) -> None:
        self._header, self._clock = np.zeros(8, np.int64), np.zeros(4, np.int64)
        self._control = np.zeros(words.CONTROL_WIDTH, np.int64)
        self._state = np.zeros(words.STATE_WIDTH, np.int64)
        pacer = ModelPacer(plan, model, speed)
        self._plan, self._closed, self._rule = plan_arrays(plan, pacer, self._control)
        self.due = self._plan.due
        self.ready: Any = self

    def earliest(self) -> tuple[int, int] | None:
        if not self._control[words.LEFT]:
            return NEVER, -1
        if not self._control[words.READY_OPS]:
            return None
        op = int(self._closed.heap[0])
        return int(self.due[op]), op

    def take(self) -> int | None:
        heap = self._closed.heap
        op = call("closed.take", self._header, self.due, heap, self._control, self._state, self._clock)
        return None if op < 0 else op

    def submitted(self, op: int) -> None:
        """Nothing waits for a submission."""

    def finished(self, op: int, now_ns: int) -> None:
        rest = self.due, self._rule, self._closed.heap, self._control, self._clock
        call("rule.finished", op, now_ns, *rest)


MODELS = st.builds(
    LoaderModel,
    assignment=st.sampled_from(["pool", "stream"]), workers=st.integers(1, 4), ahead=st.integers(0, 3),
    think_ns=st.lists(st.integers(0, 50), min_size=1, max_size=3).map(tuple), any_order=st.booleans(),
    by_request=st.booleans(), release_on_handover=st.booleans(), cap_bytes=st.none() | st.integers(1, 12),
    steps_per_epoch=st.none() | st.integers(1, 3), between_ns=st.integers(0, 90), start_ns=st.integers(0, 30),
    pickup_ns=st.none() | st.integers(0, 30),
)  # fmt: skip
OPS = st.lists(
    st.tuples(
        st.integers(0, 40), st.integers(0, 60), st.integers(0, 1), st.integers(0, 2),
        st.none() | st.integers(0, 5), st.integers(0, 9),
    ),
    min_size=1, max_size=40,
)  # fmt: skip


@examples(150)
@given(
    ops=OPS, model=MODELS, latencies=st.lists(st.integers(1, 200), min_size=80, max_size=80),
    loop=st.integers(1, 2), speed=st.sampled_from([0.5, 1.0, 3.0]), most=st.none() | st.integers(1, 3),
)  # fmt: skip
def test_the_compiled_rule_issues_the_ops_of_the_model_in_its_order_at_its_times(
    tmp_path_factory: pytest.TempPathFactory, ops: list[Op], model: LoaderModel, latencies: list[int], loop: int,
    speed: float, most: int | None,
) -> None:  # fmt: skip
    trace = write_trace(tmp_path_factory.mktemp("t") / "t", ops)
    plan = build_plan(
        open_reader(trace), MappingRules(), ReplayOptions(pace="closed", loop=loop, speed=speed)
    )
    issued: list[list[int]] = []
    durations = []
    python, compiled = ModelPacer(plan, model, speed), CompiledRule(plan, model, speed)
    for pacer in (python, compiled):
        issued.append([])
        order = issued[-1]

        def latency(op: int, order: list[int] = order) -> int:
            order.append(op)
            return latencies[op]

        durations.append(predict_duration(pacer, latency, max_ops=most))
    assert issued[0] == issued[1]
    assert durations[0] == durations[1]
    assert compiled.due.tolist() == [python.due(op) for op in range(plan.ops)]
    if not model.any_order:
        assert sorted(issued[0]) == list(range(plan.ops))


def recording(folder: Path, workers: int = 3) -> Path:
    """24 samples of two reads each, four to a step, by workers in turns, one after another."""
    (folder / "data").write_bytes(bytes(1 << 16))
    ops: list[Op] = []
    for sample in range(24):
        ops += [(20 * US, 10 * US, 0, sample % workers, sample // 4, sample)] * 2
    return write_trace(folder / "t", ops, uri=f"file://{folder}/data")


COLUMNS = 'plan_op, op, uri, ops."offset", len, bytes, rank, worker, step, sample_id, error'


@pytest.mark.parametrize("rule", ["pool", "stream"])
@pytest.mark.parametrize("gate", [{}, {"max_ops_in_flight": 1}, {"max_bytes_in_flight": 6}])
def test_both_engines_record_the_same_rows_under_a_rule(
    tmp_path: Path, rule: Literal["pool", "stream"], gate: dict[str, Any]
) -> None:
    trace = recording(tmp_path)
    rows = []
    for engine in ("compiled", "interpreter"):
        result = tracekit.replay(
            trace,
            out=tmp_path / engine,
            engine=engine,
            pace="closed",
            workers_model=rule,
            tolerance=1e9,
            loop=2,
            **gate,
        )
        assert (result.client.engine, result.failed_ops, result.ops) == (engine, 0, 96)
        rows.append(
            open_reader(tmp_path / engine).query(f"SELECT {COLUMNS} FROM ops ORDER BY plan_op").to_pylist()
        )
    assert rows[0] == rows[1]


def test_closed_pacing_by_a_rule_chooses_the_compiled_engine(tmp_path: Path) -> None:
    client = tracekit.replay(recording(tmp_path), pace="closed", workers_model="pool", tolerance=1e9).client
    assert (client.engine, client.fallback) == ("compiled", None)


def test_one_worker_takes_samples_in_the_order_of_the_model(tmp_path: Path) -> None:
    trace = recording(tmp_path, workers=1)
    tracekit.replay(
        trace, out=tmp_path / "c", engine="compiled", pace="closed", workers_model="pool", tolerance=1e9
    )
    plan = build_plan(open_reader(trace), MappingRules(), ReplayOptions(pace="closed"))
    issued: list[int] = []

    def latency(op: int) -> int:
        issued.append(op)
        return US

    predict_duration(ModelPacer(plan, LoaderModel("pool", 1, plan.ops)), latency)
    done = open_reader(tmp_path / "c").query("SELECT plan_op FROM ops ORDER BY t_submit")
    assert done.column(0).to_pylist() == issued


def test_no_batch_begins_before_the_consumer_asks_for_it(tmp_path: Path) -> None:
    """The recorded rule: a pool of 3, nothing read ahead, 2 ms of thinking after each batch."""
    trace = recording(tmp_path)
    with tracekit.Recorder(tmp_path / "r") as recorder:
        for row in open_reader(trace).query("SELECT * FROM ops ORDER BY t_submit").to_pylist():
            recorder.record(
                row["uri"], row["offset"], row["len"], row["t_submit"] + recorder.epoch_mono_ns, row["latency"],
                bytes=row["len"], sample_id=row["sample_id"], step=row["step"], worker=row["worker"],
            )  # fmt: skip
        recorder.set_counters(
            {
                "consumer_batches": 6,
                "consumer_think_ns": 6 * 2 * MS,
                "loader_workers": 6 * 3,
                "consumer_epochs": 1,
            }
        )
    tracekit.replay(tmp_path / "r", out=tmp_path / "c", engine="compiled", pace="closed", tolerance=1e9)
    spans = open_reader(tmp_path / "c").query(
        "SELECT min(t_submit) AS a, max(t_submit + latency) AS b FROM ops GROUP BY step ORDER BY step"
    )
    begins, ends = (spans.column(name).to_pylist() for name in ("a", "b"))
    assert len(begins) == 6
    assert all(begins[after] >= ends[before] + 2 * MS for before, after in pairwise(range(6)))
