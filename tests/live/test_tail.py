"""Following a trace that is being written: every op once, whatever the recorder does with its files meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tracekit.errors import TraceFormatError
from tracekit.recorder import Recorder
from tracekit.store import labels, manifest
from tracekit.store.layout import journals_of
from tracekit.store.lock import is_held
from tracekit.store.tail import TraceTail


def record(recorder: Recorder, numbers: range) -> None:
    for number in numbers:
        recorder.record("file:///d/a", number, 10, time.monotonic_ns(), 5, bytes=10)
    recorder.flush()


def seen(tail: TraceTail) -> int:
    return sum(len(table) for table in tail.poll())


def test_each_op_is_handed_over_once_while_segments_roll(tmp_path: Path) -> None:
    with Recorder(tmp_path / "t", segment_ops=1000) as recorder:
        record(recorder, range(10))
        tail = TraceTail(tmp_path / "t")
        assert (seen(tail), seen(tail), tail.ended) == (10, 0, False)
        found = 10
        for start in range(10, 5010, 500):  # several journals become segments meanwhile
            record(recorder, range(start, start + 500))
            found += seen(tail)
    found += seen(tail)
    assert (found, tail.ended) == (5010, True)
    tail.close()


def test_a_journal_that_became_a_segment_between_two_looks_is_read_to_its_end(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "t")
    record(recorder, range(3))
    tail = TraceTail(tmp_path / "t")
    assert seen(tail) == 3
    record(recorder, range(3, 8))
    recorder.close()
    assert journals_of(tmp_path / "t") == []
    assert (seen(tail), tail.ended) == (5, True)
    tail.close()


def test_of_a_long_history_the_last_ops_are_handed_over_and_the_others_counted(tmp_path: Path) -> None:
    with Recorder(tmp_path / "t", segment_ops=1000) as recorder:
        for start in range(0, 5000, 1000):
            record(recorder, range(start, start + 1000))
    tail = TraceTail(tmp_path / "t", history_ops=2000)
    tables = tail.poll()
    assert (sum(map(len, tables)), tail.skipped_ops, tail.ended) == (2000, 3000, True)


def test_times_are_of_the_unix_epoch(tmp_path: Path) -> None:
    with Recorder(tmp_path / "t") as recorder:
        before = time.time_ns()
        record(recorder, range(1))
    (table,) = TraceTail(tmp_path / "t").poll()
    assert abs(table.column("t_submit")[0].as_py() - before) < 60 * 10**9


def test_a_trace_whose_recorder_was_killed_ends(tmp_path: Path) -> None:
    code = f"""if True:
        import time, tracekit
        recorder = tracekit.Recorder({str(tmp_path / "t")!r})
        recorder.record("file:///d/a", 0, 1, time.monotonic_ns(), 5)
        recorder.flush()
        print("flushed", flush=True)
        time.sleep(100)
    """
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "flushed\n"
    tail = TraceTail(tmp_path / "t")
    assert (seen(tail), tail.ended) == (1, False)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert (seen(tail), tail.ended) == (0, True)
    tail.close()


def test_a_frame_that_is_being_written_is_left_for_the_next_look(tmp_path: Path) -> None:
    with Recorder(tmp_path / "t") as recorder:
        record(recorder, range(4))
        (journal,) = journals_of(tmp_path / "t")
        record(recorder, range(4, 9))
        whole = journal.read_bytes()
    copy = tmp_path / "copy"
    copy.mkdir()
    half = copy / journal.name
    half.write_bytes(whole[:-20])
    tail = TraceTail(copy)
    assert seen(tail) == 4
    half.write_bytes(whole)
    assert seen(tail) == 5
    tail.close()


def test_a_removed_trace_is_named(tmp_path: Path) -> None:
    with Recorder(tmp_path / "t") as recorder:
        record(recorder, range(2))
        tail = TraceTail(tmp_path / "t")
        tail.poll()
        shutil.move(tmp_path / "t", tmp_path / "elsewhere")
        with pytest.raises(TraceFormatError, match="t: the trace was removed"):
            tail.poll()
        shutil.move(tmp_path / "elsewhere", tmp_path / "t")
    tail.close()


def test_a_trace_whose_recorder_was_killed_before_its_first_op_ends(tmp_path: Path) -> None:
    if is_held(tmp_path) is None:
        pytest.skip("the kernel does not list locks here")
    code = f"import time, tracekit; r = tracekit.Recorder({str(tmp_path / 't')!r}); print('open', flush=True); time.sleep(100)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "open\n"
    tail = TraceTail(tmp_path / "t")
    assert [(seen(tail), tail.ended) for _ in range(3)] == [(0, False)] * 3
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert [(seen(tail), tail.ended) for _ in range(2)] == [(0, False), (0, True)]
    tail.close()


REBOOTED, ELSEWHERE, OLD = "after a reboot", "on another machine", "by an older tracekit"


@pytest.mark.parametrize("ops", [0, 3])
@pytest.mark.parametrize(("written", "ends"), [(REBOOTED, True), (ELSEWHERE, False), (OLD, False)])
def test_a_trace_of_an_earlier_boot_of_this_machine_ends_and_one_of_another_machine_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ops: int, written: str, ends: bool
) -> None:
    if is_held(tmp_path) is None or manifest.machine() is None:
        pytest.skip("the kernel lists no locks here, or nothing names this machine")
    said = {REBOOTED: manifest.machine(), ELSEWHERE: "0123456789abcdef", OLD: None}[written]
    with monkeypatch.context() as there:
        for module in (manifest, labels):
            there.setattr(module, "boot_id", lambda: "8f7c0b5e-another-boot")
            there.setattr(module, "machine", lambda: said)
        recorder = Recorder(tmp_path / "made")
        if ops:
            record(recorder, range(ops))
        shutil.copytree(tmp_path / "made", tmp_path / "t")  # which nobody holds: its recorder is gone
        recorder.close()
    tail = TraceTail(tmp_path / "t")
    assert seen(tail) == ops
    for _ in range(3):
        assert seen(tail) == 0
    assert tail.ended is ends
    tail.close()


def test_a_trace_whose_recorder_is_gone_ends_although_another_process_has_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_held(tmp_path) is None:
        pytest.skip("the kernel does not list locks here")
    with monkeypatch.context() as earlier:
        earlier.setattr(labels, "start_of", lambda pid: 1)
        recorder = Recorder(tmp_path / "made")
        record(recorder, range(3))
        shutil.copytree(tmp_path / "made", tmp_path / "t")
        recorder.close()
    tail = TraceTail(tmp_path / "t")
    assert [seen(tail) for _ in range(3)] == [3, 0, 0]
    assert tail.ended
    tail.close()


def test_a_recorder_between_two_segments_is_not_taken_for_dead(tmp_path: Path) -> None:
    with Recorder(tmp_path / "t", segment_ops=10) as recorder:
        record(recorder, range(10))
        tail = TraceTail(tmp_path / "t")
        found = [(seen(tail), tail.ended) for _ in range(3)]
        assert (sum(ops for ops, _ in found), any(ended for _, ended in found)) == (10, False)
    assert (seen(tail), tail.ended) == (0, True)
    tail.close()
