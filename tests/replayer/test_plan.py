"""Plans and pacers: arithmetic that holds for any trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from tracekit.errors import UsageError
from tracekit.replayer import planning
from tracekit.replayer.mapping import MappingRules, parse_rules
from tracekit.replayer.materialize import materialize
from tracekit.replayer.options import ReplayOptions
from tracekit.replayer.pacing import ClosedPacer, dependencies
from tracekit.replayer.plan import NONE, Plan
from tracekit.replayer.planning import build_plan
from tracekit.replayer.run import dry_run, replay
from tracekit.replayer.totals import plan_totals
from tracekit.store.reader import open_reader
from tracekit.store.writer import TraceWriter

rows = st.lists(
    st.tuples(st.integers(0, 10**12), st.one_of(st.none(), st.integers(0, 10**10)), st.integers(0, 2), st.sampled_from("abc")),
    min_size=1, max_size=40,
)  # fmt: skip


def plan_of(folder: Path, ops: list[tuple[int, int | None, int, str]], **how: Any) -> Plan:
    path = folder / "t"
    with TraceWriter(path, source="import:test", epoch_unix_ns=0) as writer:
        writer.write(
            pa.RecordBatch.from_pydict(
                {
                    "t_submit": pa.array([o[0] for o in ops], pa.int64()),
                    "latency": pa.array([o[1] for o in ops], pa.int64()),
                    "worker": pa.array([o[2] for o in ops], pa.int32()),
                    "uri": pa.array([f"file:///{o[3]}" for o in ops]),
                    "offset": pa.array(range(len(ops)), pa.int64()),
                    "len": pa.array([4096] * len(ops), pa.int64()),
                    "sample_id": pa.array(range(len(ops)), pa.int64()),
                }
            )
        )
    return build_plan(open_reader(path), MappingRules(), ReplayOptions(**how))


@examples(60)
@given(ops=rows, speed=st.sampled_from([1.0, 0.5, 2.0, 10.0, 3.7]), loops=st.integers(1, 3))
def test_due_times_are_recorded_times_divided_by_speed_and_never_drift(
    tmp_path_factory: pytest.TempPathFactory, ops: list[Any], speed: float, loops: int
) -> None:
    plan = plan_of(tmp_path_factory.mktemp("p"), ops, speed=speed, loop=loops)
    submits = sorted(o[0] for o in ops)
    due = plan.columns["due_ns"][: len(ops)]
    assert plan.ops == len(ops) * loops
    assert all(abs(d - (s - submits[0]) / speed) <= 1 for d, s in zip(due.tolist(), submits, strict=True))
    assert (np.diff(plan.columns["due_ns"][: plan.ops]) >= 0).all()


@examples(40)
@given(ops=rows, gap=st.integers(0, 10**9))
def test_no_pause_is_longer_than_max_gap(
    tmp_path_factory: pytest.TempPathFactory, ops: list[Any], gap: int
) -> None:
    plan = plan_of(tmp_path_factory.mktemp("p"), ops, max_gap=gap)
    due = plan.columns["due_ns"][: plan.ops]
    assert (np.diff(due) <= gap).all()
    wanted = np.minimum(np.diff(sorted(o[0] for o in ops)), gap)
    assert np.diff(due).tolist() == wanted.tolist()


@examples(60)
@given(ops=rows)
def test_each_op_waits_for_the_one_of_its_stream_that_had_finished_last(
    tmp_path_factory: pytest.TempPathFactory, ops: list[Any]
) -> None:
    plan = plan_of(tmp_path_factory.mktemp("p"), ops)
    waits_for, think = dependencies(plan)
    submit = plan.columns["recorded_ns"][: plan.ops].tolist()
    latency = plan.columns["recorded_latency"][: plan.ops].tolist()
    end = [s + (0 if n == NONE else n) for s, n in zip(submit, latency, strict=True)]
    worker = plan.columns["worker"][: plan.ops].tolist()
    for op in range(plan.ops):
        before = [o for o in range(op) if worker[o] == worker[op] and end[o] <= submit[op]]
        if waits_for[op] >= 0:
            assert end[waits_for[op]] == max(end[o] for o in before)
            assert think[op] == submit[op] - end[waits_for[op]] >= 0
        elif before:  # only an op of no length at the same instant may have been preferred
            assert max(end[o] for o in before) == submit[op]


@examples(40)
@given(ops=rows, latency=st.integers(0, 10**9))
def test_a_closed_run_takes_every_op_once_and_in_order_within_its_stream(
    tmp_path_factory: pytest.TempPathFactory, ops: list[Any], latency: int
) -> None:
    plan = plan_of(tmp_path_factory.mktemp("p"), ops)
    pacer, taken, now = ClosedPacer(plan), [], 0
    while (op := pacer.take()) is not None:
        due = pacer.due(op)
        assert due is not None
        now = max(now, due)
        taken.append(op)
        pacer.submitted(op)
        pacer.finished(op, now + latency)
    assert sorted(taken) == list(range(plan.ops))
    worker = plan.columns["worker"]
    for stream in set(worker[: plan.ops].tolist()):
        mine = [op for op in taken if worker[op] == stream]
        assert mine == sorted(mine)


@examples(60)
@given(ops=rows, speed=st.sampled_from([1.0, 2.0, 3.7]), loops=st.integers(1, 3))
def test_the_totals_of_a_dry_run_are_those_of_the_plan(
    tmp_path_factory: pytest.TempPathFactory, ops: list[Any], speed: float, loops: int
) -> None:
    folder = tmp_path_factory.mktemp("p")
    plan = plan_of(folder, ops, speed=speed, loop=loops)
    totals = plan_totals(open_reader(folder / "t"), MappingRules(), ReplayOptions(speed=speed, loop=loops))
    assert (totals.ops, totals.changes, totals.bytes, totals.span_ns) == (
        plan.ops,
        {},
        plan.bytes,
        plan.span_ns,
    )
    ends = plan.column("offset") + plan.column("length")
    for index, uri in enumerate(totals.plan.uris):
        mine = plan.column("file") == plan.uris.index(uri)
        assert totals.sizes[index] == ends[mine].max()
    latency, due = plan.column("recorded_latency"), plan.column("due_ns")
    flights = [(d, d + max(n, 1)) for d, n in zip(due.tolist(), latency.tolist(), strict=True) if n != NONE]
    deepest = max((sum(s <= t < e for s, e in flights) for t, _ in flights), default=0)
    assert (totals.peaks.ops, totals.peaks.bytes) == (deepest, deepest * 4096)


def test_the_totals_of_a_streamed_plan_cover_the_whole_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "_STREAM_FROM", 1000)
    monkeypatch.setattr(planning, "_AHEAD", 2000)
    (tmp_path / "data").mkdir()
    count = 150_000  # more than one batch; the last op reaches furthest
    with TraceWriter(tmp_path / "t", source="import:test", epoch_unix_ns=0) as writer:
        columns = {
            "t_submit": range(count),
            "offset": range(count),
            "len": [10] * count,
            "latency": [1] * count,
        }
        uris = [f"file://{tmp_path}/data/{'ab'[i // (count - 1)]}" for i in range(count)]
        writer.write(pa.RecordBatch.from_pydict({**columns, "sample_id": [0] * count, "uri": uris}))
    reader = open_reader(tmp_path / "t")
    summary = dry_run(reader)
    assert (summary.ops, summary.bytes, summary.files) == (count, 10 * count, 2)
    assert len(summary.missing) == 2
    assert materialize(reader, [f"{tmp_path}/data={tmp_path}/data"]).made == 2
    assert [(tmp_path / "data" / name).stat().st_size for name in "ab"] == [count - 2 + 10, count - 1 + 10]
    assert dry_run(reader).missing == ()


def test_a_long_plan_with_writes_is_built_first_and_its_puts_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "_STREAM_FROM", 100)
    count = 200
    with TraceWriter(tmp_path / "t", source="import:test", epoch_unix_ns=0) as writer:
        columns = {
            "t_submit": range(count),
            "offset": [0] * count,
            "len": [10] * count,
            "latency": [1] * count,
        }
        named = {"uri": [f"file://{tmp_path}/{i}" for i in range(count)], "op": ["put"] * count}
        writer.write(pa.RecordBatch.from_pydict({**columns, **named, "sample_id": [0] * count}))
    for run in (replay, dry_run):
        with pytest.raises(UsageError, match="where it was recorded"):
            run(tmp_path / "t", allow_writes=True)
    rule = f"{tmp_path}={tmp_path}/made"
    assert replay(tmp_path / "t", allow_writes=True, map=rule, pace="asap").failed_ops == 0
    assert len(list((tmp_path / "made").iterdir())) == count
    with pytest.raises(UsageError, match="and 199 more would be overwritten"):
        dry_run(tmp_path / "t", allow_writes=True, map=rule)


def test_parity_of_a_streamed_plan_compares_with_what_it_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "_STREAM_FROM", 100)
    (tmp_path / "a").write_bytes(bytes(4096))
    count = 300
    columns: dict[str, Any] = {
        "t_submit": range(count),
        "offset": [0] * count,
        "len": [64] * count,
        "latency": [1] * count,
    }
    columns |= {"uri": [f"file://{tmp_path}/a"] * count, "sample_id": [0] * count}
    more = {
        "op": ["put" if i % 3 == 0 else "read" for i in range(count)],
        "bytes": [0 if i % 5 == 0 else 64 for i in range(count)],
        "error": ["timeout" if i % 5 == 0 else None for i in range(count)],
    }
    for name, rows, ops in (("six", columns, 300), ("all", columns | more, 200)):
        with TraceWriter(tmp_path / name, source="import:test", epoch_unix_ns=0) as writer:
            writer.write(pa.RecordBatch.from_pydict(rows))
        result = replay(tmp_path / name, pace="asap", out=tmp_path / f"r-{name}")
        assert "expected" not in open_reader(tmp_path / f"r-{name}").options["replay"]
        assert result.ok, result.parity.to_dict()
        assert (result.parity.row("ops").a, result.parity.row("bytes").a) == (ops, 64 * ops)


def test_the_longest_prefix_wins_and_whole_path_parts_match() -> None:
    rules = parse_rules(
        ["file:///data=s3://b/x", "file:///data/hot=direct:///nvme", "~/(v[0-9]+)/=/\\1-new/"]
    )
    assert rules.apply("file:///data/a") == "s3://b/x/a"
    assert rules.apply("file:///data/hot/a") == "direct:///nvme/a"
    assert rules.apply("file:///database/a") is None
    assert rules.apply("s3://b/v12/a") == "s3://b/v12-new/a"


def test_assumed_offsets_start_again_with_each_loop(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "t", source="import:test", epoch_unix_ns=0) as writer:
        columns = {"t_submit": [0, 1, 2], "uri": ["file:///a"] * 3, "len": [10] * 3, "sample_id": [0] * 3}
        writer.write(pa.RecordBatch.from_pydict({**columns, "offset": pa.nulls(3, pa.int64())}))
    plan = build_plan(open_reader(tmp_path / "t"), MappingRules(), ReplayOptions(loop=2))
    assert plan.column("offset").tolist() == [0, 10, 20, 0, 10, 20]


def test_a_whole_scheme_can_be_mapped() -> None:
    assert parse_rules(["/=s3://b/x"]).apply("file:///tmp/a") == "s3://b/x/tmp/a"
    assert parse_rules(["file:///=direct:///"]).apply("file:///tmp/a") == "direct:///tmp/a"
    assert parse_rules(["s3://=file:///data"]).apply("s3://b/a") == "file:///data/b/a"
    assert parse_rules(["s3://b/=file:///data/"]).apply("s3://b/a") == "file:///data/a"


def test_a_uri_that_cannot_be_mapped_is_an_error_before_anything_runs() -> None:
    with pytest.raises(UsageError, match="both map to"):
        parse_rules(["file:///a=file:///t", "file:///b=file:///t"]).apply_all(["file:///a/x", "file:///b/x"])
    with pytest.raises(UsageError, match="and 1 more"):
        parse_rules(["file:///a=file:///t"]).apply_all(["file:///c", "file:///d"])
    with pytest.raises(UsageError, match="cannot be replayed"):
        parse_rules(["file:///a=ftp://t"]).apply_all(["file:///a/x"])
    for bad in ("nothing", "=x", "x=", "~([=y"):
        with pytest.raises(UsageError, match="map="):
            parse_rules([bad])
    with pytest.raises(UsageError, match="two rules"):
        parse_rules(["file:///a=file:///x", "file:///a/=file:///y"])


def test_a_prefix_may_hold_an_equals_sign() -> None:
    rules = parse_rules(["s3://b/day=1=file:///x", "/d/day=2=/y", "/e=/z=1", r"~/h(\x3d.)=/i\1"])
    assert rules.apply("s3://b/day=1/a") == "file:///x/a"
    assert rules.apply("file:///d/day=2/a") == "file:///y/a"
    assert rules.apply("file:///e/a") == "file:///z=1/a"
    assert rules.apply("s3://c/h=7/a") == "s3://c/i=7/a"


@pytest.mark.parametrize("replacement", [r"\9", r"\g<no>", r"\g<"])
def test_a_replacement_that_names_no_group_is_one_line(replacement: str) -> None:
    with pytest.raises(UsageError, match="replacement"):
        parse_rules([f"~(a)={replacement}"]).apply_all(["file:///a"])


def test_a_speed_that_overflows_the_clock_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="centuries"):
        plan_of(tmp_path, [(0, 1, 0, "a"), (10**9, 1, 0, "a")], speed=1e-300)


def test_plain_paths_in_rules_are_file_uris() -> None:
    assert parse_rules(["/data=/other"]).apply("file:///data/a") == "file:///other/a"


def test_peak_in_flight_is_that_of_the_recording(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, [(0, 10, 0, "a"), (5, 10, 0, "a"), (9, 10, 0, "b"), (10, 5, 1, "b")])
    assert plan.peak_in_flight() == (3, 3 * 4096)
