"""How a command line ends: by a signal, with a closed pipe, or with values that JSON cannot hold."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import pytest

from tracekit.recorder import Recorder
from tracekit.store.reader import open_reader

TRACEKIT = [sys.executable, "-m", "tracekit"]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    with Recorder(tmp_path / "t") as recorder:
        for i in range(200):
            recorder.record("file:///a", i, 4096, time.monotonic_ns(), 50_000, bytes=4096, sample_id=i)
    return tmp_path / "t"


def start(
    *arguments: object, ignore_sigint: bool = False, address_space: int | None = None
) -> subprocess.Popen[str]:
    def set_signals() -> None:
        if address_space is not None:
            resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))
        signal.signal(signal.SIGINT, signal.SIG_IGN if ignore_sigint else signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored by whatever runs under nohup

    return subprocess.Popen(
        [*TRACEKIT, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=set_signals,
    )  # fmt: skip


def wait_for_ops(path: Path, process: subprocess.Popen[str]) -> None:
    while process.poll() is None and not (path.exists() and list(path.glob(".*.journal"))):
        time.sleep(0.02)
    while process.poll() is None and open_reader(path).rows < 2:  # the first is the listing
        time.sleep(0.02)


@pytest.mark.parametrize("address_space", [None, 1 << 40], ids=["unlimited", "limited"])
@pytest.mark.parametrize(
    ("number", "code", "ignore_sigint"),
    [(signal.SIGINT, 130, False), (signal.SIGTERM, 143, False), (signal.SIGTERM, 143, True), (signal.SIGHUP, 129, False)],
)  # fmt: skip
def test_a_recording_ended_by_a_signal_leaves_a_whole_trace(
    tmp_path: Path, number: signal.Signals, code: int, ignore_sigint: bool, address_space: int | None
) -> None:
    (tmp_path / "data").mkdir()
    for index in range(8):
        (tmp_path / "data" / f"{index}").write_bytes(b"x" * 1000)
    out = tmp_path / "out"
    process = start(
        "record", tmp_path / "data", "-o", out, "--epochs", 100_000, "--batch-size", 1, "--step-time", "20ms",
        ignore_sigint=ignore_sigint, address_space=address_space,
    )  # fmt: skip
    wait_for_ops(out, process)
    process.send_signal(number)
    said, wrong = process.communicate(timeout=60)
    assert (process.returncode, wrong) == (code, "")
    assert "interrupted: what was recorded is a whole trace" in said
    reader = open_reader(out)
    assert reader.rows
    assert not reader.unfinished


def test_an_interrupted_verb_prints_one_line(trace: Path) -> None:
    process = start("query", trace, "SELECT a.* FROM ops a, ops b", "--csv")
    assert process.stdout is not None
    # More is to come than a pipe holds, so the process waits until somebody reads on.
    assert cast(Any, process.stdout).buffer.peek(1)
    process.send_signal(signal.SIGINT)
    _, wrong = process.communicate(timeout=60)
    assert (process.returncode, wrong) == (130, "tracekit: interrupted\n")


@pytest.mark.parametrize("arguments", [("stats",), ("stats", "--json"), ("query", "FROM ops")], ids=str)
def test_a_pipe_closed_before_the_start_is_not_an_error(trace: Path, arguments: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    verb, *rest = arguments
    done = subprocess.run(
        [*TRACEKIT, verb, str(trace), *rest], stdout=writing, stderr=subprocess.PIPE, timeout=60
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(("path", "code"), [("t", 0), ("absent", 2)])
def test_closed_standard_streams_do_not_change_the_exit_code(trace: Path, path: str, code: int) -> None:
    def close_streams() -> None:
        os.close(1)
        os.close(2)

    for verb in ("info", "stats"):
        done = subprocess.run(
            [*TRACEKIT, verb, str(trace.parent / path)], preexec_fn=close_streams, timeout=60
        )
        assert done.returncode == code


def test_the_json_of_a_query_is_valid(trace: Path) -> None:
    sql = (
        "SELECT sum(bytes) AS total, 1 / 0 AS x, {'a': 'nan'::DOUBLE, 'b': 1.5::DECIMAL(5, 2)} AS s FROM ops"
    )
    done = subprocess.run(
        [*TRACEKIT, "query", str(trace), sql, "--json"], capture_output=True, text=True, timeout=60
    )

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    (row,) = json.loads(done.stdout, parse_constant=refuse)
    assert row == {"total": 200 * 4096, "x": None, "s": {"a": None, "b": 1.5}}


def test_query_prints_nested_values_and_times_with_a_zone_in_every_format(trace: Path) -> None:
    sql = "SELECT list(DISTINCT op) AS kinds, {'n': count(*)} AS s, to_timestamp(0) AS t FROM ops"
    for how in ("table", "csv", "json"):
        done = subprocess.run(
            [*TRACEKIT, "query", str(trace), sql, "--format", how], capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "read" in done.stdout
        assert "1970-01-01 00:00:00" in done.stdout


@pytest.mark.parametrize(
    ("end", "code", "line"),
    [
        (
            "os.kill(os.getpid(), signal.SIGSEGV)",
            2,
            "a native library was ended by signal 11 under the limit",
        ),
        ("os.abort()", 2, "a native library was ended by signal 6 under the limit"),
        ("os._exit(127)", 2, "a native library could not start a thread under the limit"),
        ("os.kill(os.getpid(), signal.SIGKILL)", -9, ""),
        ("os._exit(1)", 1, ""),
        ("pass", 0, ""),
    ],
)
def test_a_library_that_ends_a_process_of_little_memory_is_one_line(end: str, code: int, line: str) -> None:
    program = f"import os, signal\nfrom tracekit.cli.limited import run_in_child\nrun_in_child(lambda: {end.replace('pass', 'None')})"
    limit = 1 << 40
    done = subprocess.run(
        [sys.executable, "-c", program, "stats", "--json"], capture_output=True, text=True, timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )  # fmt: skip
    assert done.returncode == code
    assert done.stderr.count("\n") == bool(line) and line in done.stderr
    assert not line or line in json.loads(done.stdout)["error"]["message"]
