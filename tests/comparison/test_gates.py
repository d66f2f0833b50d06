"""Gates decide the verdict, name any metric, and end in JUnit XML."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from traces import Rows, make_files, random_rows, recording

from tracekit.errors import UsageError
from tracekit.replayer.compare import compare
from tracekit.store.reader import TraceReader, open_reader


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    return random_rows(tmp_path, 4, 300)


def slower(rows: Rows, factor: int) -> Rows:
    return [{**row, "latency": row["latency"] * factor} for row in rows]


@pytest.mark.parametrize(
    ("gate", "holds"),
    [
        ("latency_p99<=1.2x", False), ("latency_p99<=3.2x", True), ("latency_p50 > 2x", True), ("latency_p99_ns<=1s", True),
        ("latency_max<1us", False), ("throughput>=0.95x", True), ("throttled==0", True), ("timeout!=0", False), ("ops==300", True),
        ("bytes<=64KiB", False), ("failed_ops<=5%", True), ("latency_ks<0.2", False), ("req_bytes_ks<=0", True),
        ("latency_p99_shift_ns>=1ms", False), ("files<=1x", True), ("max_qd>=1", True), ("duration<=1.1x", True),
    ],
)  # fmt: skip
def test_a_gate_holds_or_fails_the_comparison(tmp_path: Path, rows: Rows, gate: str, holds: bool) -> None:
    a = recording(tmp_path / "a.parquet", rows)
    parity = compare(a, recording(tmp_path / "b.parquet", slower(rows, 3)), judge=[gate])
    assert [row.ok for row in parity.gates] == [holds]
    assert parity.gates[0].metric == gate
    assert not holds or parity.ok, parity.verdict
    assert holds or f"gate failed: {gate}" in parity.verdict


def test_gates_tell_latency_from_response_time_tries_and_waiting(tmp_path: Path, rows: Rows) -> None:
    def written(name: str, waits: int) -> TraceReader:
        sent = [
            {**row, "tries": 3 if i < waits else 1, "wait_ns": 50_000_000 if i < waits else 0}
            for i, row in enumerate(rows)
        ]
        pq.write_table(pa.Table.from_pylist(sent), tmp_path / name)
        return open_reader(tmp_path / name)

    a, b = written("a.parquet", 0), written("b.parquet", 30)
    gates = {
        "latency_p99<=1x": True, "latency_max<=1x": True, "response_p99<=1.2x": False, "response_p99_ns>=50ms": True,
        "response_p50<=1.1x": True, "retried_ops==30": True, "wait_sum_ns<=1s": False, "response_max>=50ms": True,
    }  # fmt: skip
    parity = compare(a, b, judge=list(gates))
    assert [row.ok for row in parity.gates] == list(gates.values())
    shown = {row.metric: (row.a, row.b) for row in parity.rows}
    assert shown["retried_ops"] == (0, 30)
    assert shown["wait_sum_ns"] == (0, 30 * 50_000_000)
    assert (shown["response_p99_ns"][1] or 0) >= 50_000_000 > (shown["latency_p99_ns"][1] or 0)
    assert "retried_ops" not in {row.metric for row in compare(a, a).rows}


def test_a_gate_replaces_the_rule_of_its_metric(tmp_path: Path, rows: Rows) -> None:
    a = recording(tmp_path / "a.parquet", rows)
    b = recording(tmp_path / "b.parquet", [{**row, "t_submit": row["t_submit"] * 5 // 4} for row in rows])
    failed = {row.metric for row in compare(a, b).failed}
    assert {"duration_ns", "throughput_bytes_per_s"} <= failed
    judged = [f"{name}<=2x" for name in failed]
    assert compare(a, b, judge=judged).ok


def test_a_single_text_is_one_gate(tmp_path: Path, rows: Rows) -> None:
    a = recording(tmp_path / "a.parquet", rows)
    assert len(compare(a, a, judge="ops==300").gates) == 1


def test_a_value_that_is_unknown_does_not_pass(tmp_path: Path, rows: Rows) -> None:
    a = recording(tmp_path / "a.parquet", [{**row, "latency": None} for row in rows])
    parity = compare(a, a, judge=["latency_p99<=1.2x"])
    assert not parity.ok
    assert parity.gates[0].note == "the value is unknown"


@pytest.mark.parametrize("gate", ["", "latency_p99", "<=3", "ops<=", "ops<=3y", "ops=3", "no_such_metric<=3"])
def test_an_invalid_condition_is_refused(tmp_path: Path, rows: Rows, gate: str) -> None:
    a = recording(tmp_path / "a.parquet", rows)
    with pytest.raises(UsageError, match="judge="):
        compare(a, a, judge=[gate])


def test_a_misspelled_metric_is_answered_with_the_nearest(tmp_path: Path, rows: Rows) -> None:
    a = recording(tmp_path / "a.parquet", rows)
    with pytest.raises(UsageError) as caught:
        compare(a, a, judge=["latncy_p99<=1x"])
    assert "latency_p99" in (caught.value.hint or "")


def test_junit_names_every_metric_and_what_failed(tmp_path: Path, rows: Rows) -> None:
    a = recording(tmp_path / "a.parquet", rows)
    b = recording(tmp_path / "b.parquet", slower(rows, 3))
    parity = compare(a, b, judge=["latency_p99<=1.2x", "ops==300"], junit=tmp_path / "out.xml")
    suite = ElementTree.parse(tmp_path / "out.xml").getroot()[0]
    cases = {case.get("name"): case for case in suite.iter("testcase")}
    assert list(cases) == [row.metric for row in (*parity.rows, *parity.gates)]
    failures = [name for name, case in cases.items() if case.find("failure") is not None]
    assert failures == ["latency_p99<=1.2x"]
    assert (suite.get("tests"), suite.get("failures")) == (str(len(cases)), "1")


def test_a_replay_writes_junit_and_refuses_a_missing_directory_before_it_begins(tmp_path: Path) -> None:
    make_files(tmp_path / "data")
    recording(tmp_path / "a.parquet", random_rows(tmp_path / "data", 1, 20))

    def run(junit: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "tracekit",
            "replay",
            "a.parquet",
            "--pace",
            "asap",
            "-o",
            "out.trace",
        ]
        return subprocess.run([*command, "--junit", junit], cwd=tmp_path, capture_output=True, text=True)

    refused = run("none/out.xml")
    assert (refused.returncode, (tmp_path / "out.trace").exists()) == (2, False)
    assert refused.stderr.startswith("tracekit: --junit none/out.xml: there is no directory none")
    assert run("out.xml").returncode in (0, 1)
    names = [case.get("name") for case in ElementTree.parse(tmp_path / "out.xml").iter("testcase")]
    assert "identity" in names
    assert "completeness" in names


def test_the_command_exits_1_for_a_gate_that_fails_and_2_for_one_that_cannot_be_read(
    tmp_path: Path, rows: Rows
) -> None:
    recording(tmp_path / "a.parquet", rows)
    recording(tmp_path / "b.parquet", slower(rows, 3))

    def code(*gates: str) -> int:
        judged = [word for gate in gates for word in ("--judge", gate)]
        command = [sys.executable, "-m", "tracekit", "compare", "a.parquet", "b.parquet", *judged]
        return subprocess.run(command, cwd=tmp_path, capture_output=True).returncode

    assert code("latency_p99<=4x", "throttled==0") == 0
    assert code("latency_p99<=4x", "latency_p99<=2x") == 1
    assert code("latency_p99") == 2
