"""`tracekit watch`: over a trace that another process writes, a complete one, and one that is not there yet."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tracekit
from tracekit.cli.app import run
from tracekit.live.watching import Watcher

REPO = Path(__file__).resolve().parents[2]
SAMPLE = REPO / "sample_traces" / "s3.trace"
RECORDING = """if True:
    import sys, time, tracekit
    with tracekit.Recorder(sys.argv[1]) as recorder:
        for number in range(300):
            began = time.monotonic_ns()
            recorder.record(f"file:///d/{number % 3}", 0, 100, began, 2000, bytes=100, worker=number % 2)
            time.sleep(0.002)
"""


def test_a_watch_gives_every_op_of_a_run_and_ends_with_it(tmp_path: Path) -> None:
    path = tmp_path / "run.trace"
    child = subprocess.Popen([sys.executable, "-c", RECORDING, str(path)])
    found = list(tracekit.watch(path, interval="100ms", wait=True))
    assert child.wait() == 0
    assert sum(reading.ops for reading in found) == found[-1].total_ops == 300
    assert len(found) > 2
    assert {each.worker for each in found[-1].workers} == {0, 1}
    assert {each.uri for each in found[-1].slowest} == {"file:///d/0", "file:///d/1", "file:///d/2"}


def test_a_complete_trace_is_given_at_once_and_its_numbers_are_those_of_a_query() -> None:
    found = list(tracekit.watch(SAMPLE, interval="100ms"))
    (row,) = (
        tracekit.open_trace(SAMPLE)
        .query("SELECT count(*) AS n, sum(bytes)::BIGINT AS bytes FROM ops WHERE op <> 'hint'")
        .to_pylist()
    )
    assert (found[-1].total_ops, found[-1].total_bytes) == (row["n"], row["bytes"])


@pytest.mark.parametrize("how", ["file", "open", "list"])
def test_files_and_open_traces_are_watched_whole(how: str) -> None:
    (segment,) = SAMPLE.glob("*.parquet")
    trace = {"file": segment, "open": tracekit.open_trace(segment), "list": [segment]}[how]
    assert list(tracekit.watch(trace))[-1].total_ops == 513  # type: ignore[arg-type]


def test_with_wait_a_complete_trace_is_not_watched(tmp_path: Path) -> None:
    with tracekit.Recorder(tmp_path / "t") as recorder:
        recorder.record("file:///d/a", 0, 1, time.monotonic_ns(), 5)
    watcher = Watcher(tmp_path / "t", wait=True)
    assert (watcher.poll(), watcher.waiting, watcher.ended) == ([], True, False)


def test_what_cannot_be_watched_is_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["watch", f"{tmp_path}/none-*.parquet", "--json"]) == 2
    assert "no file matches" in capsys.readouterr().err
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").touch()
    assert run(["watch", str(tmp_path / "foreign"), "--json"]) == 2
    assert "is not a trace" in capsys.readouterr().err
    assert run(["watch", str(SAMPLE), "--interval", "1ms", "--json"]) == 2
    assert "--interval" in capsys.readouterr().err
    with pytest.raises(tracekit.UsageError, match="wait=True needs the path"):
        tracekit.watch(tracekit.open_trace(SAMPLE), wait=True)


def test_json_is_a_line_for_each_interval(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["watch", str(SAMPLE), "--interval", "500ms", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sum(line["ops"] for line in lines) == lines[-1]["total_ops"] == 513
    assert lines[-1]["latency"]["p50_ns"] > 0


def test_without_a_terminal_lines_are_printed_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["watch", str(SAMPLE), "--interval", "10s"]) == 0
    assert "513 ops in all" in capsys.readouterr().out


def test_a_watch_that_comes_first_says_what_it_waits_for_and_then_gives_every_op(tmp_path: Path) -> None:
    path = tmp_path / "later" / "run.trace"
    command = [sys.executable, "-m", "tracekit", "watch", str(path), "--interval", "100ms", "--json"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stderr is not None
    assert child.stderr.readline() == f"{path}: waiting for the recording to begin\n"
    with tracekit.Recorder(path) as recorder:
        assert child.stderr.readline() == f"{path}: the recording has begun; waiting for its first op\n"
        recorder.record("file:///d/a", 0, 100, time.monotonic_ns(), 2000, bytes=100)
        recorder.flush()
        first = json.loads(child.stdout.readline())
        assert (first["ops"], first["total_ops"], first["total_bytes"]) == (1, 1, 100)
        recorder.record("file:///d/a", 0, 100, time.monotonic_ns(), 2000, bytes=100)
    out, said = child.communicate()
    assert (child.returncode, said) == (0, "")
    assert json.loads(out.splitlines()[-1])["total_ops"] == 2


def test_a_directory_in_the_making_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    watcher = Watcher(tmp_path / "t")
    assert (watcher.poll(), watcher.waiting, watcher.waits_for) == (
        [],
        True,
        "waiting for the recording to begin",
    )
    (tmp_path / "t" / "._trace.json.0123.partial").touch()
    assert (watcher.poll(), watcher.waiting) == ([], True)


def test_a_recording_without_ops_is_said_to_have_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tracekit.Recorder(tmp_path / "t"):
        pass
    assert run(["watch", str(tmp_path / "t")]) == 0
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", f"{tmp_path}/t: no op was recorded\n")
