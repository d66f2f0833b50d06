"""Two runs are compared by their distributions: equal ones hold, changed ones fail by the metric that changed."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from properties import examples
from traces import Rows, random_rows, recording

from tracekit.comparison.distances import depths, dispersion, ks, mean_shift, total_variation
from tracekit.comparison.table import Parity
from tracekit.replayer.compare import compare
from tracekit.replayer.run import dry_run

OPS = 600


def failed(parity: Parity) -> set[str]:
    return {row.metric for row in parity.failed}


def compared(folder: Path, alter: Callable[[Rows], object], rows: Rows | None = None) -> Parity:
    rows = rows or random_rows(folder, 1, OPS)
    copy = [dict(row) for row in rows]
    alter(copy)
    return compare(recording(folder / "a.parquet", rows), recording(folder / "b.parquet", copy))


@examples(15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000), ops=st.integers(0, 80), failing=st.sampled_from([0.0, 0.3]))
def test_a_trace_compared_with_itself_always_holds(
    tmp_path: Path, seed: int, ops: int, failing: float
) -> None:
    rows = random_rows(tmp_path, seed, ops, failing=failing)
    parity = compare(recording(tmp_path / "a.parquet", rows), tmp_path / "a.parquet", tolerance=0.0)
    assert parity.ok, parity.to_dict()
    assert parity.kind == "runs"
    assert all(row.difference in (0, None) for row in parity.rows)
    random.Random(seed).shuffle(rows)
    assert compare(tmp_path / "a.parquet", recording(tmp_path / "b.parquet", rows), tolerance=0.0).ok


def test_another_run_of_the_same_load_holds(tmp_path: Path) -> None:
    a = recording(tmp_path / "a.parquet", random_rows(tmp_path, 1, 4000))
    b = recording(tmp_path / "b.parquet", random_rows(tmp_path, 2, 4000))
    parity = compare(a, b)
    assert parity.ok, parity.verdict


def test_the_same_load_on_another_target_holds(tmp_path: Path) -> None:
    def move(rows: Rows) -> None:
        for row in rows:
            row["uri"] = row["uri"].replace(f"file://{tmp_path}", "s3://bucket/deep/folder")

    parity = compared(tmp_path, move)
    assert parity.ok, parity.verdict
    assert parity.row("files_read").difference == 0


def one_file(rows: Rows) -> None:
    for row in rows:
        row["uri"] = row["uri"][:-1] + "0"


def other_half(rows: Rows) -> None:
    for row in rows[::2]:
        row["uri"] += "-other"


def larger(rows: Rows) -> None:
    for row in rows:
        row["len"] = row["bytes"] = row["len"] * 11 // 10


def sequential(rows: Rows) -> None:
    ends: dict[tuple[str, int], int] = {}
    for row in rows:
        key = (row["uri"], row["worker"])
        row["offset"] = ends.get(key, 0)
        ends[key] = row["offset"] + row["len"]


def again(rows: Rows) -> None:
    for index, row in enumerate(rows):
        row["offset"], row["uri"] = rows[index % 20]["offset"], rows[index % 20]["uri"]


def writes(rows: Rows) -> None:
    for row in rows[::2]:
        row["op"] = "put"


def lost_writes(rows: Rows) -> None:
    rows[:] = [row for row in rows if row["op"] == "read"]


def bursts(rows: Rows) -> None:
    for row in rows:
        row["t_submit"] = row["t_submit"] // 100_000_000 * 100_000_000 + row["t_submit"] % 100_000_000 // 1000


def one_large_step(rows: Rows) -> None:
    for index, row in enumerate(rows):
        row["step"] = max(0, index - 500)


def longer(rows: Rows) -> None:
    for row in rows:
        row["t_submit"] = row["t_submit"] * 13 // 10


def piled_up(rows: Rows) -> None:
    for row in rows:
        row["latency"] = 40_000_000


def failing(rows: Rows) -> None:
    for row in rows[::50]:
        row["error"] = "timeout"


def missing_tail(rows: Rows) -> None:
    del rows[len(rows) * 4 // 5 :]


@pytest.mark.parametrize(
    ("alter", "metric"),
    [
        (one_file, "files"), (other_half, "files_read"), (larger, "req_bytes_hist"), (sequential, "strides"), (again, "reuse"),
        (writes, "op_kinds"), (bursts, "arrivals_10ms"), (bursts, "dispersion_10ms"), (one_large_step, "bytes_per_step"),
        (longer, "duration_ns"), (piled_up, "in_flight"), (failing, "failures"), (missing_tail, "ops"),
    ],
)  # fmt: skip
def test_a_changed_run_fails(tmp_path: Path, alter: Callable[[Rows], None], metric: str) -> None:
    parity = compared(tmp_path, alter)
    assert metric in failed(parity), parity.to_dict()
    assert parity.verdict[0].startswith("differs from the first run")


def test_writes_that_are_missing_fail(tmp_path: Path) -> None:
    rows = random_rows(tmp_path, 1, OPS)
    writes(rows)
    assert {"op_kinds", "ops"} <= failed(compared(tmp_path, lost_writes, rows))


def test_failures_of_another_class_fail(tmp_path: Path) -> None:
    def another(rows: Rows) -> None:
        for row in rows:
            row["error"] = row["error"] and "permission"

    rows = random_rows(tmp_path, 1, OPS, failing=0.2)
    assert failed(compared(tmp_path, another, rows)) == {"failures"}


def test_speed_divides_the_times_of_the_first_run(tmp_path: Path) -> None:
    a = recording(tmp_path / "a.parquet", random_rows(tmp_path, 1, OPS))
    rows = random_rows(tmp_path, 1, OPS)
    for row in rows:
        row["t_submit"] //= 4
    b = recording(tmp_path / "b.parquet", rows)
    assert "duration_ns" in failed(compare(a, b))
    faster = compare(a, b, speed=4)
    assert not failed(faster) & {"duration_ns", "throughput_bytes_per_s", "arrivals_10ms", "dispersion_100ms"}
    assert faster.reason == "speed= was given"


def test_a_trace_of_unknown_latencies_is_not_judged_by_what_is_unknown(tmp_path: Path) -> None:
    rows = random_rows(tmp_path, 1, 1)
    rows[0]["latency"] = None
    parity = compare(recording(tmp_path / "a.parquet", rows), tmp_path / "a.parquet")
    assert parity.row("duration_ns").ok is None
    assert parity.row("latency_p99_ns").difference is None


counts = st.dictionaries(st.integers(0, 30), st.integers(1, 1000), max_size=6)


@given(a=counts, b=counts)
def test_distances_are_symmetric_and_zero_for_equal_shares(a: dict[int, int], b: dict[int, int]) -> None:
    for distance in (total_variation, ks, mean_shift):
        assert distance(a, b) == pytest.approx(distance(b, a))
        assert distance(a, {value: 3 * n for value, n in a.items()}) == pytest.approx(0)
        assert distance(a, b) >= 0
    assert total_variation(a, b) <= 1 + 1e-12
    assert ks(a, b) <= total_variation(a, b) + 1e-12


def test_distances_of_known_distributions() -> None:
    assert mean_shift({4096: 10}, {4506: 10}) == pytest.approx(410 / 4506)
    assert mean_shift({5: 10}, {50: 1, 0: 9}) == pytest.approx(1.8)
    assert dispersion({5: 10}) == 0
    assert dispersion({0: 9, 50: 1}) == pytest.approx(45)
    assert ks({0: 1}, {1: 1}) == 1


@given(
    ops=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), min_size=1, max_size=30),
)
def test_time_in_flight_matches_brute_force(ops: list[tuple[int, int]]) -> None:
    import numpy as np

    start, latency = (np.array(values, np.int64) for values in zip(*ops, strict=True))
    lasting = [max(value, 1) for value in latency.tolist()]
    first, last = min(start.tolist()), max(s + n for s, n in zip(start.tolist(), lasting, strict=True))
    brute: dict[int, float] = {}
    for now in range(first, last):
        depth = sum(s <= now < s + n for s, n in zip(start.tolist(), lasting, strict=True))
        brute[depth] = brute.get(depth, 0) + 1
    assert depths(start, latency) == brute


def test_bytes_that_only_one_run_reports_fail(tmp_path: Path) -> None:
    def silence(rows: Rows) -> None:
        for row in rows:
            row["latency"] = row["bytes"] = None

    silent = random_rows(tmp_path, 1, OPS)
    silence(silent)
    for parity, ok in (
        (compared(tmp_path, silence), False),
        (compared(tmp_path, lambda rows: None, silent), None),
    ):
        for metric in ("bytes", "throughput_bytes_per_s"):
            row = parity.row(metric)
            assert (row.b, row.difference, row.ok) == (None, None, ok)
    assert dry_run(tmp_path / "a.parquet").peak_ops_in_flight is None


def test_a_run_whose_ops_do_not_end_fails(tmp_path: Path) -> None:
    def leave_open(rows: Rows) -> None:
        for row in rows[10:20]:
            row["latency"] = None

    row = compared(tmp_path, leave_open).row("unfinished_ops")
    assert (row.a, row.b, row.ok) == (0, 10, False)


def test_a_parity_prints_its_verdict_in_one_line_and_as_a_table(tmp_path: Path) -> None:
    parity = compared(tmp_path, lambda rows: None)
    assert repr(parity) == f"<Parity: parity holds ({len(parity.rows)} metrics)>"
    assert parity._repr_html_().count("<tr>") == len(parity.rows) + 1
