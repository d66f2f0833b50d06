"""A replay is judged op by op: faithful ones pass, and every alteration of the rows fails."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from traces import FILES, Rows, altered, make_files, random_rows, recording

from tracekit.comparison.table import Parity
from tracekit.errors import TraceFormatError, UsageError
from tracekit.replayer.compare import compare
from tracekit.replayer.materialize import materialize
from tracekit.replayer.run import replay

OPS = 120


class Replayed:
    """A recording and a faithful replay of it."""

    def __init__(self, folder: Path, seed: int, *, failing: float = 0.0) -> None:
        make_files(folder / "data")
        self.folder = folder
        self.rows = random_rows(folder / "data", seed, OPS, failing=failing)
        self.recording = recording(folder / "recording.parquet", self.rows)
        self.trace = folder / "replay.trace"
        self.result = replay(self.recording, out=self.trace)
        self._copies = 0

    def judged(self, alter: Callable[[Rows], object], **options: object) -> Parity:
        self._copies += 1
        copy = altered(self.trace, self.folder / f"copy-{self._copies}.parquet", alter)
        return compare(self.recording, copy, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replayed]:
    yield Replayed(tmp_path_factory.mktemp("replayed"), seed=1)


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replayed]:
    yield Replayed(tmp_path_factory.mktemp("failing"), seed=2, failing=0.2)


MACHINE = {"lateness_p99_ns", "lateness_max_ns", "duration_ns", "throughput_bytes_per_s"}
"""What a busy machine may fail in a faithful replay."""


def failed(parity: Parity) -> set[str]:
    return {row.metric for row in parity.failed}


def differences(parity: Parity) -> set[str]:
    """The failed metrics that no busy machine explains."""
    return failed(parity) - MACHINE


def test_a_replay_of_a_plain_file_is_recognised_by_its_ops_and_passes(replayed: Replayed) -> None:
    parity = replayed.judged(lambda rows: None)
    assert parity.kind == "replay"
    assert not differences(parity), parity.to_dict()


def test_the_rows_may_stand_in_any_order(replayed: Replayed) -> None:
    assert not differences(replayed.judged(lambda rows: rows.reverse()))


def drop(rows: Rows, at: int) -> None:
    del rows[at]


def double(rows: Rows, at: int) -> None:
    rows.append(dict(rows[at]))


def move_offset(rows: Rows, at: int) -> None:
    rows[at]["offset"] += 1


def lengthen(rows: Rows, at: int) -> None:
    rows[at]["len"] += 1


def rename(rows: Rows, at: int) -> None:
    rows[at]["uri"] += "x"


def retype(rows: Rows, at: int) -> None:
    rows[at]["op"] = "get"


def restep(rows: Rows, at: int) -> None:
    rows[at]["step"] += 1


def rework(rows: Rows, at: int) -> None:
    rows[at]["worker"] += 7


def fail(rows: Rows, at: int) -> None:
    rows[at]["error"] = "timeout"


def disown(rows: Rows, at: int) -> None:
    rows[at]["plan_op"] = None


def renumber(rows: Rows, at: int) -> None:
    rows[at]["plan_op"] = 10**9


def early(rows: Rows, at: int) -> None:
    rows[at]["t_submit"] = rows[at]["t_due"] - 5_000_000


def another_due(rows: Rows, at: int) -> None:
    rows[at]["t_due"] -= 5_000_000


def without_due(rows: Rows, at: int) -> None:
    rows[at]["t_due"] = None


def swap(rows: Rows, at: int) -> None:
    """Exchange the times of two ops that were due well apart."""
    other = (at + len(rows) // 2) % len(rows)
    for name in ("t_submit", "t_due"):
        rows[at][name], rows[other][name] = rows[other][name], rows[at][name]


def cut_the_tail(rows: Rows, at: int) -> None:
    del rows[-1 - at % 10 :]


def very_late(rows: Rows, at: int) -> None:
    rows[at]["t_submit"] += 3_000_000_000


def never_end(rows: Rows, at: int) -> None:
    rows[at]["latency"] = None


def fall_short(rows: Rows, at: int) -> None:
    rows[at]["bytes"] -= 1


def say_no_bytes(rows: Rows, at: int) -> None:
    rows[at]["bytes"] = rows[at]["latency"] = None


ALTERATIONS: dict[Callable[[Rows, int], None], str] = {
    drop: "completeness", double: "completeness", move_offset: "identity", lengthen: "identity", rename: "identity",
    retype: "identity", restep: "identity", rework: "identity", fail: "failures", disown: "completeness",
    renumber: "completeness", early: "early_ops", another_due: "due_times", without_due: "due_times", swap: "due_times",
    cut_the_tail: "completeness", very_late: "lateness_max_ns",
    never_end: "completeness", fall_short: "short_ops", say_no_bytes: "short_ops",
}  # fmt: skip


@pytest.mark.parametrize("alter", ALTERATIONS, ids=lambda alter: alter.__name__)
@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(at=st.integers(0, OPS - 1))
def test_one_altered_op_fails(replayed: Replayed, alter: Callable[[Rows, int], None], at: int) -> None:
    parity = replayed.judged(lambda rows: alter(rows, at))
    assert parity.kind == "replay"
    assert ALTERATIONS[alter] in failed(parity), parity.to_dict()


def squeeze(rows: Rows) -> None:
    first = min(row["t_due"] for row in rows)
    for row in rows:
        since = row["t_due"] - first
        row["t_submit"] = first + since // 50_000_000 * 50_000_000 + since % 50_000_000 // 1000


def reverse(rows: Rows) -> None:
    times = [row["t_due"] for row in rows]
    for row, due in zip(rows, reversed(times), strict=True):
        row["t_submit"] = row["t_due"] = due


def slow_down(rows: Rows) -> None:
    first = min(row["t_submit"] for row in rows)
    for row in rows:
        for name in ("t_submit", "t_due"):
            row[name] = first + (row[name] - first) * 2


def one_large_step(rows: Rows) -> None:
    for row in rows:
        row["step"] = 0


def fewer_bytes(rows: Rows) -> None:
    for row in rows:
        row["bytes"] = row["bytes"] // 2


@pytest.mark.parametrize(
    ("alter", "metric"),
    [
        (squeeze, "early_ops"), (squeeze, "cadence_10ms"), (squeeze, "dispersion_10ms"), (reverse, "order"),
        (slow_down, "due_times"), (slow_down, "duration_ns"), (one_large_step, "bytes_per_step"), (fewer_bytes, "bytes"),
    ],
)  # fmt: skip
def test_an_altered_replay_fails(replayed: Replayed, alter: Callable[[Rows], None], metric: str) -> None:
    parity = replayed.judged(alter)
    assert metric in failed(parity), parity.to_dict()


def test_late_ops_are_attributed_to_the_client_on_a_separate_line(replayed: Replayed) -> None:
    parity = replayed.judged(lambda rows: very_late(rows, 3))
    (late,) = [line for line in parity.verdict if line.startswith("not faithful: the client was late: ")]
    assert "lateness_max_ns" in late
    assert not any(line.startswith("differs") and "lateness" in line for line in parity.verdict)
    both = replayed.judged(lambda rows: [each(rows, at) for each, at in ((very_late, 3), (rename, 4))])
    assert any(
        line.startswith("differs from the recording: ") and "identity" in line for line in both.verdict
    )


def test_a_bound_on_lateness_is_kept(replayed: Replayed) -> None:
    assert "lateness_max_ns" in failed(replayed.judged(lambda rows: None, max_lateness="1ns"))
    assert "lateness_max_ns" not in failed(replayed.judged(lambda rows: None, max_lateness="10s"))


def test_an_interrupted_replay_fails_unless_a_part_is_enough(replayed: Replayed) -> None:
    def half(rows: Rows) -> None:
        del rows[len(rows) // 2 :]

    def half_and_rename(rows: Rows) -> None:
        half(rows)
        rename(rows, 1)

    assert {"completeness", "ops"} <= failed(replayed.judged(half))
    assert not differences(replayed.judged(half, partial=True))
    assert "identity" in failed(replayed.judged(half_and_rename, partial=True))


def test_the_same_ops_fail_with_the_same_class(failing: Replayed) -> None:
    assert failing.result.failed_ops > 0
    assert not differences(failing.judged(lambda rows: None))

    def another_class(rows: Rows) -> None:
        next(row for row in rows if row["error"])["error"] = "permission"

    def recovered(rows: Rows) -> None:
        row = next(row for row in rows if row["error"])
        row["error"], row["bytes"] = None, row["len"]

    assert differences(failing.judged(another_class)) == {"failures"}
    assert "failures" in failed(failing.judged(recovered))
    assert "failures" in failed(failing.judged(lambda rows: None, expect_failures=False))


def test_a_transient_failure_need_not_recur(tmp_path: Path) -> None:
    make_files(tmp_path / "data")
    rows = random_rows(tmp_path / "data", 5, 40)
    for row in rows[::4]:
        row["error"], row["bytes"] = "timeout", 0
    result = replay(recording(tmp_path / "a.parquet", rows), out=tmp_path / "r", overwrite=True)
    assert not differences(result.parity), result.parity.to_dict()
    assert "10 recovered" in result.parity.row("failures").note


def test_a_replay_of_another_recording_is_compared_as_two_runs(replayed: Replayed, tmp_path: Path) -> None:
    other = recording(tmp_path / "other.parquet", random_rows(tmp_path, 9, OPS * 4))
    parity = compare(other, replayed.trace)
    assert (parity.kind, parity.reason) == ("runs", "B is a replay of another recording")
    assert not parity.ok


def test_one_changed_op_makes_it_a_different_recording(replayed: Replayed, tmp_path: Path) -> None:
    rows = [dict(row) for row in replayed.rows]
    rows[7]["len"] -= 1
    assert compare(recording(tmp_path / "near.parquet", rows), replayed.trace).kind == "runs"
    same = recording(tmp_path / "same.parquet", list(reversed(replayed.rows)))
    assert compare(same, replayed.trace).kind == "replay"


def test_damaged_options_of_a_replay_are_an_error_and_no_other_kind_of_comparison(replayed: Replayed) -> None:
    import pyarrow.parquet as pq
    from traces import rows_of

    rows, schema = rows_of(replayed.trace)
    noted = json.loads(schema.metadata[b"tracekit.options"])
    noted["replay"]["speed"] = -3
    path = replayed.folder / "damaged.parquet"
    metadata = {**schema.metadata, b"tracekit.options": json.dumps(noted).encode()}
    import pyarrow as pa

    pq.write_table(pa.Table.from_pylist(rows, schema=schema.with_metadata(metadata)), path)
    with pytest.raises(TraceFormatError, match="damaged"):
        compare(replayed.recording, path)


def test_a_falsified_speed_does_not_help(replayed: Replayed) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from traces import rows_of

    rows, schema = rows_of(replayed.trace)
    noted = json.loads(schema.metadata[b"tracekit.options"])
    noted["replay"]["speed"] = 2.0
    path = replayed.folder / "speed.parquet"
    metadata = {**schema.metadata, b"tracekit.options": json.dumps(noted).encode()}
    pq.write_table(pa.Table.from_pylist(rows, schema=schema.with_metadata(metadata)), path)
    assert {"due_times", "duration_ns"} <= failed(compare(replayed.recording, path))


def exchange(order: list[int]) -> Callable[[Rows], None]:
    """Have op number `order[i]` of the plan go when op `i` went."""

    def alter(rows: Rows) -> None:
        rows.sort(key=lambda row: row["plan_op"])
        times = [(row["t_submit"], row["latency"]) for row in rows]
        for when, op in zip(times, order, strict=True):
            rows[op]["t_submit"], rows[op]["latency"] = when

    return alter


@pytest.mark.parametrize(
    "options", [{}, {"threads": 2}, {"engine": "interpreter"}, {"max_ops_in_flight": 3}], ids=str
)
def test_as_fast_as_possible_another_order_fails_and_overtaking_by_workers_does_not(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    make_files(tmp_path / "data")
    count = 6000
    rows = random_rows(tmp_path / "data", 4, count)
    for index, row in enumerate(rows):
        row["worker"] = index % 8  # many streams, whose neighbours different workers hold
    made = recording(tmp_path / "a.parquet", rows)
    result = replay(made, pace="asap", out=tmp_path / "r", **options)
    assert not differences(result.parity), result.parity.to_dict()
    numbers = list(range(count))
    shuffled = numbers.copy()
    random.Random(1).shuffle(shuffled)
    for order in (
        numbers[::-1],
        shuffled,
        [*numbers[count // 2 :], *numbers[: count // 2]],
        [number ^ 1 for number in numbers],
    ):
        copy = altered(tmp_path / "r", tmp_path / "b.parquet", exchange(order))
        assert "order" in failed(compare(made, copy)), order[:4]


@pytest.mark.parametrize("pace", ["recorded", "closed", "asap"])
@pytest.mark.parametrize("mapped", [False, True])
def test_faithful_replays_of_random_traces_pass(tmp_path: Path, pace: str, mapped: bool) -> None:
    make_files(tmp_path / "data")
    make_files(tmp_path / "other")
    rule = (f"file://{tmp_path}/data=file://{tmp_path}/other",) if mapped else ()
    for seed in range(3):
        made = recording(
            tmp_path / f"{seed}.parquet", random_rows(tmp_path / "data", seed, 60, gap_ns=400_000)
        )
        result = replay(made, pace=pace, map=rule)
        assert not differences(result.parity), result.parity.to_dict()
        assert result.parity.kind == "replay"


@pytest.mark.parametrize(
    "options",
    [{"end": 30_000_000}, {"speed": 3.0}, {"loop": 3}, {"max_gap": 500_000}, {"worker": (1,)}, {"max_ops_in_flight": 1}],
    ids=lambda options: next(iter(options)),
)  # fmt: skip
def test_filters_speed_loops_gaps_and_caps_are_part_of_the_plan(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    make_files(tmp_path / "data")
    made = recording(tmp_path / "a.parquet", random_rows(tmp_path / "data", 3, 60))
    result = replay(made, **options)
    assert not differences(result.parity), result.parity.to_dict()
    if "max_ops_in_flight" in options:
        assert result.parity.row("max_ops_in_flight").b == 1


def test_a_cap_that_the_rows_exceed_fails(tmp_path: Path) -> None:
    make_files(tmp_path / "data")
    made = recording(tmp_path / "a.parquet", random_rows(tmp_path / "data", 3, 60))
    replay(made, out=tmp_path / "r", max_ops_in_flight=1, max_bytes_in_flight=20_000)

    def last_longer(rows: Rows) -> None:
        for row in rows:
            row["latency"] = 50_000_000

    found = failed(compare(made, altered(tmp_path / "r", tmp_path / "b.parquet", last_longer)))
    assert {"max_ops_in_flight", "max_bytes_in_flight"} <= found


def test_a_replay_of_no_ops_fails(tmp_path: Path) -> None:
    make_files(tmp_path / "data")
    made = recording(tmp_path / "a.parquet", random_rows(tmp_path / "data", 3, 20))
    result = replay(made, out=tmp_path / "r", uri_glob="*no-such-name*")
    assert failed(result.parity) == {"completeness"}
    assert compare(made, tmp_path / "r", allow_empty=True).ok


def test_unknown_lengths_do_not_fail_a_self_replay(tmp_path: Path) -> None:
    make_files(tmp_path / "data")
    rows = random_rows(tmp_path / "data", 3, 40)
    for row in rows[::3]:
        row["len"] = row["bytes"] = None
    made = recording(tmp_path / "a.parquet", rows)
    result = replay(made)
    assert not differences(result.parity), result.parity.to_dict()


@pytest.mark.parametrize("ops", [1, 12])
def test_one_op_and_one_burst_are_not_failed_for_the_latency_of_the_target(tmp_path: Path, ops: int) -> None:
    make_files(tmp_path / "data")
    rows = random_rows(tmp_path / "data", 3, ops)
    for row in rows:
        row["t_submit"], row["latency"] = 0, 10
    result = replay(recording(tmp_path / "a.parquet", rows))
    assert not differences(result.parity), result.parity.to_dict()


def test_a_plan_of_many_parts_is_judged_like_one_of_one_part(
    replayed: Replayed, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = replayed.judged(lambda rows: None)
    monkeypatch.setattr("tracekit.replayer.expected._PART_OPS", 7)
    monkeypatch.setattr("tracekit.store.merge._BATCH_ROWS", 5)
    parts = replayed.judged(lambda rows: None)
    for a, b in zip(whole.rows, parts.rows, strict=True):
        assert (a.metric, a.ok) == (b.metric, b.ok)
        assert a.difference == pytest.approx(b.difference), a
    assert "identity" in failed(replayed.judged(lambda rows: rename(rows, 50)))
    assert "order" in failed(replayed.judged(reverse))


@pytest.mark.parametrize(
    "bad", [{"tolerance": -1}, {"speed": 0}, {"speed": -2}, {"max_lateness": "5"}, {"judge": ["x"]}]
)
def test_invalid_options_are_refused(replayed: Replayed, bad: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        compare(replayed.recording, replayed.trace, **bad)  # type: ignore[arg-type]


def test_the_json_is_complete_and_holds_no_infinity(replayed: Replayed) -> None:
    parity = replayed.judged(lambda rows: None, judge=["ops==120", "throttled<=1x"], tolerance=1e9)
    summary = json.loads(json.dumps(parity.to_dict(), allow_nan=False))
    assert summary["kind"] == "replay"
    assert summary["ok"] is parity.ok
    assert summary["tolerance"] == 1e9
    assert [gate["ok"] for gate in summary["gates"]] == [True, True]
    names = {"metric", "unit", "a", "b", "difference", "ok", "tolerance", "note", "cause", "low", "high"}
    assert summary["metrics"][0].keys() == names


def test_an_object_that_did_not_exist_is_not_created_so_that_reads_of_it_fail_again(tmp_path: Path) -> None:
    rows = random_rows(tmp_path / "data", 2, 40, failing=0.3)
    made = recording(tmp_path / "a.parquet", rows)
    rule = f"file://{tmp_path}/data=file://{tmp_path}/other"
    assert materialize(made, map=rule).made == FILES
    assert not (tmp_path / "other" / "missing").exists()
    result = replay(made, map=rule)
    assert result.failed_ops == sum(row["error"] is not None for row in rows)
    assert not differences(result.parity), result.parity.to_dict()


def test_a_recording_in_which_no_object_existed_replays(tmp_path: Path) -> None:
    rows = random_rows(tmp_path / "nowhere", 2, 10, failing=1.0)
    result = replay(recording(tmp_path / "a.parquet", rows))
    assert result.failed_ops == 10
    assert not differences(result.parity), result.parity.to_dict()


def test_a_negative_length_is_refused_when_the_plan_is_made(tmp_path: Path) -> None:
    for name in ("len", "offset"):
        rows = random_rows(tmp_path, 2, 10)
        rows[5][name] = -1
        with pytest.raises(TraceFormatError, match=f"has {name} -1"):
            replay(recording(tmp_path / f"{name}.parquet", rows))


def test_a_replay_without_its_metadata_is_still_judged_op_by_op(replayed: Replayed) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from traces import rows_of

    rows, schema = rows_of(replayed.trace)
    path = replayed.folder / "stripped.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=schema.remove_metadata()), path)
    parity = compare(replayed.recording, path)
    assert parity.kind == "replay"
    assert not differences(parity)
    pq.write_table(pa.Table.from_pylist(rows[:-6], schema=schema.remove_metadata()), path)
    assert "completeness" in failed(compare(replayed.recording, path))
    assert compare(path, path).ok


def test_response_times_stand_beside_latencies_where_an_op_was_retried(replayed: Replayed) -> None:
    def retry(rows: Rows) -> None:
        for row in rows:
            row["tries"], row["wait_ns"] = (2, 40_000_000_000) if row["plan_op"] % 10 == 0 else (1, 0)

    shown = {row.metric: (row.a, row.b) for row in replayed.judged(retry).rows}
    assert shown["retried_ops"] == (None, 12)  # the recording does not know
    assert shown["wait_sum_ns"] == (None, 12 * 40_000_000_000)
    assert (shown["response_p99_ns"][1] or 0) >= 40_000_000_000 > (shown["latency_p99_ns"][1] or 0)
    assert "retried_ops" not in {row.metric for row in replayed.judged(lambda rows: None).rows}
