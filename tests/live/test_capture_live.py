"""A capture while its command runs: `tracekit watch` over it, and the screen of `tracekit capture --live`."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pseudo_terminal import TRACEKIT, Terminal

import tracekit
from tracekit.capture.following import CaptureTail, check_followed, running_capture
from tracekit.capture.native import NativeEngine
from tracekit.cli.app import run
from tracekit.live.watching import Watcher

needs_textual = pytest.mark.skipif(
    importlib.util.find_spec("textual") is None, reason="textual is not installed"
)
needs_native = pytest.mark.skipif(
    NativeEngine().available() is None, reason="there is no native engine and no C compiler"
)
BUSY = """if True:
    import os, signal, sys, threading, time
    folder = sys.argv[1]
    def read(size, times):
        fd = os.open(f"{folder}/data.bin", os.O_RDONLY)
        for number in range(times):
            os.pread(fd, size, number * 8)
        os.close(fd)
    def until(name):
        while not os.path.exists(f"{folder}/{name}"):
            time.sleep(0.01)
    if os.fork() == 0:  # its names are partly those of its parent
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        read(10, 50)
        until("go")
        read(11, 2500)
        os._exit(0)
    thread = threading.Thread(target=read, args=(12, 700))
    thread.start()
    read(13, 3000)
    thread.join()
    print("out of the program", flush=True)
    print("complaint of the program", file=sys.stderr, flush=True)
    try:
        until("go")
    except KeyboardInterrupt:
        print("the program was interrupted", flush=True)
        open(f"{folder}/go", "w").close()
        sys.exit(7)
    read(14, 100)
    with open(f"{folder}/made.bin", "wb") as file:
        file.write(b"x" * 5000)
    os.wait()
    sys.exit(3)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where the program reads and writes. When a test has failed, the program ends too."""
    (tmp_path / "data.bin").write_bytes(os.urandom(1 << 16))
    yield tmp_path
    (tmp_path / "go").touch()


def program(folder: Path) -> list[str]:
    return [sys.executable, "-c", BUSY, str(folder)]


def on_a_screen(folder: Path, path: Path) -> Terminal:
    """The program on a terminal, captured into `path` with the screen."""
    return Terminal(*TRACEKIT, "capture", "-o", str(path), "--live", "--no-faults", "--", *program(folder))


def of_trace(path: Path) -> tuple[int, int]:
    """The ops and bytes of a trace, without hints."""
    sql = "SELECT count(*) AS n, sum(bytes)::BIGINT AS bytes FROM ops WHERE op <> 'hint'"
    (row,) = tracekit.open_trace(path).query(sql).to_pylist()
    return row["n"], row["bytes"]


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(["--method", "native", "--hooks", ""], marks=needs_native, id="native"),
        pytest.param(["--method", "hooks", "--hooks", "files"], id="hooks"),
    ],
)
def test_a_watch_of_a_capture_gives_every_op_of_its_trace_once(folder: Path, how: list[str]) -> None:
    path = folder / "run.trace"
    command = [*TRACEKIT, "capture", "-o", str(path), "--no-faults", *how, "--", *program(folder)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    found = []
    for reading in tracekit.watch(path, interval="100ms"):  # the trace is not there yet
        found.append(reading)
        if reading.total_ops >= 3750:  # all processes have begun
            (folder / "go").touch()
    child.communicate()
    assert child.returncode == 3
    assert (found[-1].total_ops, found[-1].total_bytes) == of_trace(path)
    assert sum(reading.ops for reading in found) == found[-1].total_ops >= 6350
    assert {each.uri for each in found[-1].slowest} == {
        f"file://{folder}/data.bin",
        f"file://{folder}/made.bin",
    }
    assert len(found[-1].workers) == (3 if "native" in how else 1)
    assert running_capture(path) is None


@needs_native
def test_of_a_long_capture_the_last_ops_are_measured_and_the_others_counted(folder: Path) -> None:
    path = folder / "run.trace"
    options = ["--no-faults", "--method", "native", "--hooks", ""]
    command = [*TRACEKIT, "capture", "-o", str(path), *options, "--", *program(folder)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    job = running_capture(path)
    assert job is not None
    tail = CaptureTail(job, history_ops=1000)
    assert sum(map(len, tail.poll())) == 1000
    assert tail.skipped_ops >= 2700
    (folder / "go").touch()
    child.communicate()
    seen = tail.skipped_ops + sum(map(len, tail.poll()))
    tail.close()
    assert tail.ended
    assert seen <= 6400  # what it saw before the logs were removed


@needs_native
@needs_textual
def test_the_screen_is_there_while_the_command_runs_and_its_output_follows(folder: Path) -> None:
    path = folder / "run.trace"
    terminal = on_a_screen(folder, path)
    terminal.read_until(b"slowest files")
    terminal.read_until(b"3,75")
    assert b"of the program" not in terminal.text
    (folder / "go").touch()
    assert terminal.ended() == 3
    before, _, after = terminal.text.rpartition(b"\x1b[?1049l")
    assert b"of the program" not in before and b"Traceback" not in terminal.text
    assert after.index(b"out of the program\r\n") < after.index(b"complaint of the program\r\n")
    ops, _ = of_trace(path)
    assert f"{ops:,} ops recorded in {path}".encode() in after
    assert (
        not tracekit.open_trace(path)
        .query("FROM ops WHERE uri LIKE '%/tmp/#%' OR uri LIKE '%deleted%'")
        .num_rows
    )


@needs_native
@needs_textual
def test_ctrl_c_on_the_screen_reaches_the_command_and_leaves_a_trace(folder: Path) -> None:
    path = folder / "run.trace"
    terminal = on_a_screen(folder, path)
    terminal.read_until(b"3,75")
    os.write(terminal.master, b"\x03")
    assert terminal.ended() == 7
    _, _, after = terminal.text.rpartition(b"\x1b[?1049l")
    assert b"the program was interrupted" in after and b"Traceback" not in terminal.text
    assert of_trace(path)[0] >= 3750
    assert tracekit.open_trace(path).info()["completeness"]["share"] > 0.9  # the screen is not the command


@needs_native
@needs_textual
def test_q_ends_the_screen_and_the_command_goes_on_with_its_output_on_the_terminal(folder: Path) -> None:
    path = folder / "run.trace"
    terminal = on_a_screen(folder, path)
    terminal.read_until(b"3,75")
    os.write(terminal.master, b"q")
    terminal.read_until(b"complaint of the program")
    assert terminal.child.poll() is None
    (folder / "go").touch()
    assert terminal.ended() == 3
    assert terminal.text.count(b"out of the program") == 1
    assert of_trace(path)[0] >= 6350


@needs_textual
def test_a_command_that_ends_before_the_screen_is_there_keeps_its_output_and_trace(folder: Path) -> None:
    path = folder / "run.trace"
    words = (*TRACEKIT, "capture", "-o", str(path), "--live", "--method", "hooks", "--", "echo", "said")
    terminal = Terminal(*words)
    assert terminal.ended() == 0
    assert b"said\r\n" in terminal.text and b"Traceback" not in terminal.text
    assert tracekit.open_trace(path).ops == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--live", "--", "true"], "--live needs a terminal"),
        (["--live", "--recover"], "--recover runs no command to watch"),
    ],
)
def test_live_is_refused_where_there_is_nothing_to_show(
    tmp_path: Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["capture", "-o", str(tmp_path / "t"), "--method", "hooks", *options]) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_engines_whose_log_is_read_at_the_end_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    strace = tmp_path / "strace"  # which engine is chosen, not what it records
    strace.write_text("#!/bin/sh\n")
    strace.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(tracekit.UsageError, match="a capture by strace cannot be watched"):
        check_followed("strace")


def test_the_logs_of_a_capture_that_was_killed_are_no_running_capture(folder: Path) -> None:
    path = folder / "run.trace"
    command = [
        *TRACEKIT,
        "capture",
        "-o",
        str(path),
        "--method",
        "hooks",
        "--hooks",
        "files",
        "--",
        *program(folder),
    ]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    assert running_capture(path) is not None
    child.kill()
    child.wait()
    assert running_capture(path) is None
    watcher = Watcher(path)
    assert (watcher.poll(), watcher.waiting) == ([], True)
    (folder / "go").touch()
    child.communicate()
