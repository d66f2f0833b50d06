"""Several runs: medians with intervals, and a verdict by the interval."""

from __future__ import annotations

import json
from pathlib import Path

from traces import make_files, random_rows, recording

from tracekit.replayer.compare import compare
from tracekit.replayer.run import replay
from tracekit.store.reader import TraceReader, open_reader


def run(folder: Path, name: str, stretch: float, *, failing: bool = False) -> TraceReader:
    rows = random_rows(folder, 1, 400)
    for row in rows:
        row["t_submit"] = int(row["t_submit"] * stretch)
    if failing:
        for row in rows:
            row["error"] = "timeout"
    return recording(folder / f"{name}.parquet", rows)


def test_the_difference_is_the_median_and_the_interval_holds_it(tmp_path: Path) -> None:
    a = run(tmp_path, "a", 1.0)
    runs = [run(tmp_path, f"b{i}", stretch) for i, stretch in enumerate((1.02, 1.04, 1.1))]
    row = compare(a, *runs).row("duration_ns")
    assert round(row.difference or 0, 2) == 0.04
    assert row.low is not None
    assert row.high is not None
    assert row.low <= (row.difference or 0) <= row.high
    assert row.ok


def test_the_whole_interval_has_to_be_within_the_tolerance(tmp_path: Path) -> None:
    a = run(tmp_path, "a", 1.0)
    runs = [run(tmp_path, f"b{i}", stretch) for i, stretch in enumerate((1.02, 1.04, 1.4))]
    parity = compare(a, *runs)
    assert (parity.row("duration_ns").difference or 0) < 0.15 < (parity.row("duration_ns").high or 0)
    assert parity.row("duration_ns").ok is False
    many = [
        run(tmp_path, f"c{i}", stretch) for i, stretch in enumerate((1.02, 1.03, 1.04, 1.03, 1.02, 1.4, 1.03))
    ]
    assert compare(a, *many).row("duration_ns").ok  # one of seven does not move the median


def test_one_run_that_fails_an_exact_metric_or_a_gate_fails_them_all(tmp_path: Path) -> None:
    a = run(tmp_path, "a", 1.0)
    runs = [run(tmp_path, "b", 1.0), run(tmp_path, "c", 1.0, failing=True), run(tmp_path, "d", 1.0)]
    parity = compare(a, *runs, judge=["timeout==0"])
    assert parity.row("failed_ops").ok is False
    assert [gate.ok for gate in parity.gates] == [False]


def test_runs_equal_to_the_first_hold(tmp_path: Path) -> None:
    a = run(tmp_path, "a", 1.0)
    parity = compare(a, a, a, a)
    assert parity.ok
    assert parity.reason.startswith("3 runs")
    assert json.loads(json.dumps(parity.to_dict(), allow_nan=False))["metrics"][0]["low"] == 0


def test_a_repeated_replay_keeps_every_trace_and_judges_the_medians(tmp_path: Path) -> None:
    make_files(tmp_path / "data")
    made = recording(tmp_path / "a.parquet", random_rows(tmp_path / "data", 3, 40))
    gates = ["ops==40", "throttled==0"]
    result = replay(made, out=tmp_path / "r.trace", repeat=2, judge=gates)
    assert [each.out for each in result.repeats] == [tmp_path / "r-1.trace", tmp_path / "r-2.trace"]
    assert all(open_reader(each.out).rows == 40 for each in result.repeats if each.out)
    assert result.parity.row("identity").high == 0
    assert [gate.ok for gate in result.parity.gates] == [True, True]
