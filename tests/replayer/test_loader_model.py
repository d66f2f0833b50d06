"""Closed pacing by the recorded loader's rule, in virtual time and with a real loader."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

import tracekit
from tracekit.consumer import ConsumerClock, histogram_bucket, histogram_bucket_end
from tracekit.replayer.loader_model import LoaderModel, infer_model, model_for, recorded_model, think_times
from tracekit.replayer.mapping import MappingRules
from tracekit.replayer.modelled import ModelPacer
from tracekit.replayer.options import ReplayOptions
from tracekit.replayer.plan import Plan
from tracekit.replayer.planning import build_plan
from tracekit.replayer.predict import predict_duration
from tracekit.store.reader import open_reader
from tracekit.store.writer import TraceWriter

US, MS = 1_000, 1_000_000
Op = tuple[int, int, int, int, int]
"""(submit, latency, worker, step, sample)"""


def plan_of(folder: Path, ops: list[Op]) -> Plan:
    ops = sorted(ops)
    columns = [list(column) for column in zip(*ops, strict=True)]
    with TraceWriter(folder / "t", source="import:test", epoch_unix_ns=0) as writer:
        writer.write(
            pa.RecordBatch.from_pydict(
                {
                    "t_submit": pa.array(columns[0], pa.int64()),
                    "latency": pa.array(columns[1], pa.int64()),
                    "rank": pa.array([0] * len(ops), pa.int32()),
                    "worker": pa.array(columns[2], pa.int32()),
                    "step": pa.array(columns[3], pa.int64()),
                    "sample_id": pa.array(columns[4], pa.int64()),
                    "uri": ["file:///a"] * len(ops),
                    "offset": pa.array([0] * len(ops), pa.int64()),
                    "len": pa.array([1] * len(ops), pa.int64()),
                }
            )
        )
    return build_plan(open_reader(folder / "t"), MappingRules(), ReplayOptions(pace="closed"))


def back_to_back(reads: list[int], batch: int, assign: list[int]) -> list[Op]:
    """A recording without gaps: sample i has `reads[i]` reads of 1 us by worker `assign[i]`."""
    clock = dict.fromkeys(assign, 0)
    ops: list[Op] = []
    for sample, count in enumerate(reads):
        worker = assign[sample]
        for _ in range(count):
            ops.append((clock[worker], US, worker, sample // batch, sample))
            clock[worker] += US
    return ops


def pooled_duration(
    reads: list[int], batch: int, workers: int, ahead: int, think: list[int], latency: int
) -> int:
    """The duration of a pooled loader by its definition: any free worker takes the next sample."""
    steps = [reads[i : i + batch] for i in range(0, len(reads), batch)]
    free = [0] * workers
    released: list[int | None] = [0 if number <= ahead else None for number in range(len(steps))]
    ready, begun, asked = [0] * len(steps), 0, 0
    thinks = itertools.cycle(think)
    for number in range(len(steps)):
        while begun < len(steps) and (at := released[begun]) is not None:
            for count in steps[begun]:
                end = max(heapq.heappop(free), at) + count * latency
                heapq.heappush(free, end)
                ready[begun] = max(ready[begun], end)
            begun += 1
        asked = max(asked, ready[number]) + next(thinks)
        if number + 1 + ahead < len(steps):
            released[number + 1 + ahead] = asked
    return max(ready)


@examples(100)
@given(
    reads=st.lists(st.integers(1, 4), min_size=1, max_size=24),
    batch=st.integers(1, 5),
    workers=st.integers(1, 5),
    ahead=st.integers(0, 3),
    think=st.lists(st.integers(0, 30 * MS), min_size=1, max_size=4),
    latency=st.integers(1, 20 * MS),
    data=st.data(),
)
def test_the_pool_rule_matches_a_simulation_of_its_definition(
    tmp_path_factory: pytest.TempPathFactory,
    reads: list[int],
    batch: int,
    workers: int,
    ahead: int,
    think: list[int],
    latency: int,
    data: st.DataObject,
) -> None:
    assign = [data.draw(st.integers(0, workers - 1)) for _ in reads]
    folder = tmp_path_factory.mktemp("p")
    plan = plan_of(folder, back_to_back(reads, batch, assign))
    model = LoaderModel("pool", workers, ahead, tuple(think))
    predicted = predict_duration(ModelPacer(plan, model), lambda op: latency)
    # Samples in the order in which the recording took them, as the pacer has them.
    first: dict[int, None] = dict.fromkeys(plan.column("sample_id").tolist())
    order = sorted(first, key=lambda sample: sample // batch)
    assert predicted == pooled_duration([reads[s] for s in order], batch, workers, ahead, think, latency)


def issue_all(plan: Plan, model: LoaderModel) -> list[int]:
    issued: list[int] = []

    def latency(op: int) -> int:
        issued.append(op)
        return MS

    predict_duration(ModelPacer(plan, model), latency)
    return issued


def test_every_op_is_handed_out_once_under_every_rule(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, back_to_back([3] * 12, 4, [i % 3 for i in range(12)]))
    rules = [
        LoaderModel("pool", 3, 1),
        LoaderModel("pool", 3, 0, any_order=True),
        LoaderModel("pool", 2, 2, by_request=True),
        LoaderModel("pool", 3, 2, cap_bytes=4),
        LoaderModel("stream", 3, 3, release_on_handover=True),
        LoaderModel("pool", 3, 1, steps_per_epoch=2),
    ]
    for model in rules:
        issued = issue_all(plan, model)
        assert sorted(issued) == list(range(plan.ops)), model


def test_the_recorded_worker_does_not_bind_a_pooled_sample(tmp_path: Path) -> None:
    # Worker 0 happened to read 9 of 10 samples. Two workers share them on a slower target.
    plan = plan_of(tmp_path, back_to_back([1] * 10, 10, [0] * 9 + [1]))
    assert predict_duration(ModelPacer(plan, LoaderModel("pool", 2, 0)), lambda op: 10 * MS) == 50 * MS


def test_a_stream_keeps_its_batches(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, back_to_back([1] * 10, 10, [0] * 9 + [1]))
    assert predict_duration(ModelPacer(plan, LoaderModel("stream", 2, 2)), lambda op: 10 * MS) == 90 * MS


def test_no_batch_crosses_the_end_of_an_epoch(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, back_to_back([1] * 4, 1, [0, 1, 0, 1]))
    whole = LoaderModel("pool", 2, 3, (7 * MS,))
    assert predict_duration(ModelPacer(plan, whole), lambda op: 10 * MS) == 20 * MS
    epochs = LoaderModel("pool", 2, 3, (7 * MS,), steps_per_epoch=2)
    # Both batches of an epoch at once; the consumer thinks twice before it asks for the next epoch.
    assert predict_duration(ModelPacer(plan, epochs), lambda op: 10 * MS) == 10 * MS + 14 * MS + 10 * MS


def test_the_time_between_epochs_passes_before_the_next_one_begins(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, back_to_back([1] * 4, 1, [0, 1, 0, 1]))
    for assignment in ("pool", "stream"):
        rule = LoaderModel(assignment, 2, 3, (7 * MS,), steps_per_epoch=2, between_ns=100 * MS)
        found = predict_duration(ModelPacer(plan, rule), lambda op: 10 * MS)
        assert abs(found - (10 + 14 + 100 + 10) * MS) < MS, assignment
        twice = predict_duration(ModelPacer(plan, rule, speed=2.0), lambda op: 10 * MS)
        assert abs(twice - (10 + 7 + 50 + 10) * MS) < MS, assignment


def test_waiting_for_a_consumer_is_not_taken_for_work_between_batches(tmp_path: Path) -> None:
    """On the fast target each worker waited 20 ms from batch to batch; on a slow one it has no time to wait."""
    ops: list[Op] = [(step // 2 * 20 * MS, US, step % 2, step, step) for step in range(20)]
    plan = plan_of(tmp_path, ops)
    counted = {
        "consumer_batches": 20, "consumer_think_ns": 20 * 10 * MS, "consumer_epochs": 1, "loader_workers": 40,
        "consumer_ahead_batches": 80, "loader_stream_batches": 20,
        "loader_fetches": 20, "loader_fetch_ns": 20 * (US + 400 * US), "loader_pickups": 18, "loader_pickup_ns": 18 * 600 * US,
    }  # fmt: skip
    model = model_for(plan, "auto", counted, {})
    assert model is not None and model.pickup_ns == MS
    predicted = predict_duration(ModelPacer(plan, model), lambda op: 50 * MS)
    assert predicted == 10 * 50 * MS + 9 * MS


def test_the_time_between_two_epochs_of_one_trace_is_counted(tmp_path: Path) -> None:
    with tracekit.Recorder(tmp_path / "a") as recorder, tracekit.Recorder(tmp_path / "b") as other:
        for trace in (recorder, other, recorder, recorder):
            clock = ConsumerClock(trace, workers=1, ahead=1)
            clock.asked()
            clock.handed()
            clock.asked()
            clock.ended()
    # Of the four epochs, only the last followed one of its own trace.
    assert open_reader(tmp_path / "a").counters["consumer_between_epochs"] == 1
    assert open_reader(tmp_path / "a").counters["consumer_between_epochs_ns"] > 0
    assert "consumer_between_epochs" not in open_reader(tmp_path / "b").counters


def test_a_batch_of_a_consumer_is_counted_at_once_and_an_error_loses_none() -> None:
    calls: list[dict[str, int]] = []

    class Counters:
        def count(self, name: str, n: int = 1) -> None:
            calls.append({name: n})

        def count_all(self, numbers: Mapping[str, int]) -> None:
            calls.append(dict(numbers))

    counters = Counters()
    clock = ConsumerClock(counters, workers=1, ahead=2)
    for _ in range(5):
        clock.asked()
        clock.handed()
    clock.asked()
    assert len(calls) == 1 + 5
    assert sum(call.get("consumer_batches", 0) for call in calls) == 4
    for _ in range(2):
        clock.gave_up()
    assert sum(call.get("consumer_batches", 0) for call in calls) == 5
    assert sum("consumer_wait_ns" in call for call in calls) == 5
    assert sum("consumer_first_wait_ns" in call for call in calls) == 1


def test_a_cap_limits_what_is_submitted_and_not_handed_over(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, back_to_back([1] * 4, 1, [0, 1, 2, 3]))
    capped = LoaderModel("pool", 4, 3, cap_bytes=2)
    assert predict_duration(ModelPacer(plan, capped), lambda op: 10 * MS) == 20 * MS
    assert predict_duration(ModelPacer(plan, LoaderModel("pool", 4, 3)), lambda op: 10 * MS) == 10 * MS


def test_a_gate_of_the_replay_is_part_of_the_prediction(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, back_to_back([1] * 4, 4, [0, 1, 2, 3]))
    model = LoaderModel("pool", 4, 0)
    assert predict_duration(ModelPacer(plan, model), lambda op: 10 * MS, max_ops=1) == 40 * MS
    held = predict_duration(ModelPacer(plan, model), lambda op: 10 * MS, size_of=lambda op: 1, max_bytes=2)
    assert held == 20 * MS


@given(st.integers(0, 10**12))
def test_each_think_time_is_in_its_bucket(ns: int) -> None:
    low = histogram_bucket(ns)
    assert low <= ns < histogram_bucket_end(low)
    assert histogram_bucket(low) == low


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=50))
def test_think_times_keep_their_number_mean_and_spread(times: list[int]) -> None:
    counters: dict[str, int] = {"consumer_batches": len(times), "consumer_think_ns": sum(times)}
    for ns in times:
        name = f"consumer_think_ns_hist.{histogram_bucket(ns)}"
        counters[name] = counters.get(name, 0) + 1
    drawn = think_times(counters, seed=0)
    assert len(drawn) == len(times)
    assert abs(sum(drawn) - sum(times)) <= len(times)
    if min(times) > 2048:
        assert max(drawn) <= 2.3 * max(times) and max(drawn) >= max(times) / 2.3


def test_a_loader_records_its_rule(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for i in range(12):
        (tmp_path / "data" / f"{i:02}").write_bytes(bytes(8192))
    loader = tracekit.create_async_loader(
        str(tmp_path / "data"), recorder=tmp_path / "t", batch_size=2, num_workers=3, prefetch=1, shuffle=True
    )
    with loader:
        assert sum(1 for _ in range(2) for _ in loader) == 12
    reader = open_reader(tmp_path / "t")
    model = recorded_model(reader.counters, reader.options, ranks=1)
    assert model is not None
    assert (model.assignment, model.workers, model.ahead) == ("pool", 3, 1)
    assert (model.steps_per_epoch, model.source, len(model.think_ns)) == (6, "recorded", 12)
    assert model.describe() == "a pool, 3 workers, 1 batches ahead (recorded)"
    result = tracekit.replay(tmp_path / "t", pace="closed", tolerance=1e9, max_lateness="1h")
    assert (result.ops, result.failed_ops) == (24, 0)


def test_the_rule_of_a_torch_like_trace_is_inferred(tmp_path: Path) -> None:
    # Batch i belongs to worker i % 3; workers progress at different speeds.
    ops: list[Op] = []
    clock = [0, 0, 0]
    for step in range(30):
        worker = step % 3
        for sample in range(4):
            ops.append((clock[worker], (worker + 1) * MS, worker, step, step * 4 + sample))
            clock[worker] += (worker + 1) * MS
    model = infer_model(plan_of(tmp_path, ops))
    assert model is not None
    assert (model.assignment, model.workers, model.source) == ("stream", 3, "inferred")


def test_the_rule_of_a_pool_is_inferred_from_a_real_run(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    rng = np.random.default_rng(0)
    for i in range(60):
        (tmp_path / "data" / f"{i:02}").write_bytes(bytes(int(rng.integers(1, 2_000_000))))
    with tracekit.create_async_loader(
        str(tmp_path / "data"), recorder=tmp_path / "t", batch_size=6, num_workers=3
    ) as loader:
        for _ in loader:
            pass
    plan = build_plan(open_reader(tmp_path / "t"), MappingRules(), ReplayOptions(pace="closed"))
    model = infer_model(plan)
    assert model is not None
    assert model.assignment == "pool"


def test_a_trace_without_steps_has_no_rule_and_a_forced_one_is_taken(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, back_to_back([1] * 4, 2, [0, 1, 0, 1]))
    assert model_for(plan, "recorded", {}, {}) is None
    plan.column("step")[:] = np.iinfo(np.int64).min
    assert infer_model(plan) is None
    assert model_for(plan, "auto", {}, {}) is None
    forced = model_for(plan, "pool", {}, {})
    assert forced is not None and (forced.assignment, forced.workers) == ("pool", 2)
    assert predict_duration(ModelPacer(plan, forced), lambda op: MS) == 2 * MS


def test_counters_of_two_ranks_give_the_properties_of_one() -> None:
    class Counters(dict[str, int]):
        def count(self, name: str, n: int = 1) -> None:
            self[name] = self.get(name, 0) + n

        def count_all(self, numbers: Mapping[str, int]) -> None:
            for name, n in numbers.items():
                self.count(name, n)

    counters = Counters()
    for _ in range(2):
        clock = ConsumerClock(counters, workers=4, ahead=6, stream=True)
        for _ in range(5):
            clock.asked()
            clock.handed()
        clock.asked()
    model = recorded_model(counters, {}, ranks=2)
    assert model is not None
    assert (model.assignment, model.workers, model.ahead) == ("stream", 4, 6)
    assert model.release_on_handover and model.steps_per_epoch is None
