"""The recorder: nothing dropped, whatever the threads, processes and crashes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tracekit.errors import ErrorClass, TracekitError, UsageError
from tracekit.recorder import Recorder
from tracekit.store.reader import open_reader


def record_some(recorder: Recorder, n: int, *, worker: int = 0, start: int = 0) -> None:
    for i in range(start, start + n):
        recorder.record(
            f"file:///d/{i % 7}",
            i * 4096,
            4096,
            time.monotonic_ns(),
            1000 + i,
            sample_id=i,
            step=i // 8,
            worker=worker,
        )


def ids(path: Path) -> list[int]:
    found = open_reader(path).query("SELECT sample_id FROM ops ORDER BY sample_id").column(0)
    return [int(sample) for sample in found.to_pylist()]


def test_every_value_comes_back_as_it_was_given(tmp_path: Path) -> None:
    with Recorder(tmp_path / "t", source="loader", options={"a": 1}, rank=3, world_size=4) as recorder:
        now = time.monotonic_ns()
        recorder.record("file:///a", 10, 20, now, 30, op="read", bytes=20, ttfb=5, tries=2, wait_ns=9,
                        sample_id=1, step=2, worker=4, part=6, to_uri="s3://b/new?sig=x", t_due=now - 7, error=ErrorClass.SHORT_READ)  # fmt: skip
        recorder.record("s3://b/k", None, None, now + 1, None, op="list")
        epoch = recorder.epoch_mono_ns
    reader = open_reader(tmp_path / "t")
    first, second = reader.query("SELECT * FROM ops").to_pylist()
    assert first == {
        "t_submit": now - epoch, "uri": "file:///a", "op": "read", "offset": 10, "len": 20, "bytes": 20,
        "latency": 30, "ttfb": 5, "tries": 2, "wait_ns": 9, "sample_id": 1, "step": 2, "rank": 3, "worker": 4,
        "part": 6, "to_uri": "s3://b/new", "t_due": now - 7 - epoch, "error": "short_read",
    }  # fmt: skip
    assert second["op"] == "list"
    assert second["offset"] is None
    assert second["latency"] is None
    assert second["error"] is None
    assert reader.options == {"a": 1}
    assert reader.source == "loader"


def test_the_first_six_arguments_may_all_be_keywords(tmp_path: Path) -> None:
    with Recorder(tmp_path / "t") as recorder:
        recorder.record(uri="file:///a", offset=1, len=2, t_submit=time.monotonic_ns(), latency=3)
    assert open_reader(tmp_path / "t").rows == 1


def test_ops_of_many_threads_are_all_there_and_in_order(tmp_path: Path) -> None:
    with Recorder(tmp_path / "t", buffer_ops=4096, segment_ops=10_000) as recorder:
        threads = [
            threading.Thread(
                target=record_some, args=(recorder, 5_000), kwargs={"worker": w, "start": w * 5_000}
            )
            for w in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    reader = open_reader(tmp_path / "t")
    assert ids(tmp_path / "t") == list(range(40_000))
    assert len(reader.segments) >= 3
    submits = reader.query("SELECT t_submit FROM ops").column(0).to_pylist()
    assert submits == sorted(submits)


def test_a_full_buffer_makes_callers_wait_and_counts_it(tmp_path: Path) -> None:
    with Recorder(tmp_path / "t", buffer_ops=4096) as recorder:
        record_some(recorder, 60_000)
        assert len(recorder._values) <= (4096 + 5 * 2048) * 13
    reader = open_reader(tmp_path / "t")
    assert reader.rows == 60_000
    assert recorder.waits > 0
    assert reader.counters["recorder_waits"] == recorder.waits


def _record_in_child(recorder: Recorder, start: int) -> None:
    record_some(recorder, 1000, start=start)


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_children_write_segments_of_their_own_in_the_same_trace(tmp_path: Path, method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    with Recorder(tmp_path / "t") as recorder:
        record_some(recorder, 1000)
        children = [
            context.Process(target=_record_in_child, args=(recorder, 1000 * (i + 1))) for i in range(2)
        ]
        for child in children:
            child.start()
        for child in children:
            child.join()
            assert child.exitcode == 0
    reader = open_reader(tmp_path / "t")
    assert ids(tmp_path / "t") == list(range(3000))
    assert len({segment.metadata["pid"] for segment in reader.segments}) == 3
    assert not reader.unfinished
    submits = reader.query("SELECT t_submit FROM ops").column(0).to_pylist()
    assert submits == sorted(submits)
    assert submits[0] >= 0
    assert submits[-1] < 60e9


def test_processes_started_apart_join_one_trace_with_one_epoch(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from tracekit.recorder import Recorder\n"
        "with Recorder(sys.argv[1], rank=int(sys.argv[2])) as r:\n"
        "    for i in range(100): r.record('file:///x', i, 1, time.monotonic_ns(), 1)\n"
    )
    procs = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "t"), str(rank)]) for rank in range(4)
    ]
    assert [proc.wait(60) for proc in procs] == [0, 0, 0, 0]
    reader = open_reader(tmp_path / "t")
    counts = reader.query(
        "SELECT rank, count(*) AS n, max(t_submit) AS last FROM ops GROUP BY rank ORDER BY rank"
    )
    assert counts.column("n").to_pylist() == [100] * 4
    assert max(counts.column("last").to_pylist()) < 60_000_000_000
    assert len({segment.metadata["trace_id"] for segment in reader.segments}) == 1


KILLED = """
import os, signal, sys, time
from tracekit.recorder import Recorder
r = Recorder(sys.argv[1], segment_ops=20_000)
for i in range(50_000):
    r.record('file:///x', i * 4096, 4096, time.monotonic_ns(), 1000, sample_id=i)
r.flush()
print('flushed', flush=True)
for i in range(50_000, 10_000_000):
    r.record('file:///x', i * 4096, 4096, time.monotonic_ns(), 1000, sample_id=i)
"""


def test_flushed_ops_survive_kill_9(tmp_path: Path) -> None:
    proc = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "t")], stdout=subprocess.PIPE)
    assert proc.stdout is not None
    assert proc.stdout.readline() == b"flushed\n"
    proc.send_signal(signal.SIGKILL)
    proc.wait(30)
    reader = open_reader(tmp_path / "t")
    found = ids(tmp_path / "t")
    assert reader.unfinished
    assert len(found) >= 50_000
    assert found == list(range(len(found)))


def test_ops_reach_the_kernel_within_a_second_without_flush(tmp_path: Path) -> None:
    with Recorder(tmp_path / "t") as recorder:
        record_some(recorder, 10)
        deadline = time.monotonic() + 20
        while open_reader(tmp_path / "t").rows < 10 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert open_reader(tmp_path / "t").rows == 10


def test_a_full_disk_is_reported_and_flushed_ops_stay(tmp_path: Path) -> None:
    script = (
        "import resource, sys, time, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from tracekit.recorder import Recorder\n"
        "from tracekit.errors import TracekitError\n"
        "r = Recorder(sys.argv[1])\n"
        "for i in range(100): r.record('file:///x', i, 1, time.monotonic_ns(), 1)\n"
        "r.flush()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "try:\n"
        "    for i in range(2_000_000): r.record('file:///x', i, 1, time.monotonic_ns(), 1)\n"
        "except TracekitError as e:\n"
        "    print('heard', e)\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "t")], capture_output=True, text=True, timeout=60
    )
    assert out.stdout.startswith("heard"), out.stderr
    assert open_reader(tmp_path / "t").rows >= 100


def test_queries_and_credentials_never_reach_a_segment(tmp_path: Path) -> None:
    with Recorder(tmp_path / "t") as recorder:
        recorder.record("https://user:pw@h/b/k?X-Amz-Signature=SECRET1&y=2", 0, 1, time.monotonic_ns(), 1)
        batch = {"uri": ["az://c/k?sig=SECRET2"], "t_submit": [time.monotonic_ns()], "offset": [0], "len": [1],
                 "latency": [1], "sample_id": [1]}  # fmt: skip
        recorder.record_batch(pa.RecordBatch.from_pydict(batch))
        recorder.flush()
        assert all(b"SECRET" not in file.read_bytes() for file in (tmp_path / "t").iterdir())
    assert open_reader(tmp_path / "t").query("SELECT uri FROM ops").column(0).to_pylist() == [
        "https://h/b/k", "az://c/k",
    ]  # fmt: skip
    assert all(b"SECRET" not in file.read_bytes() for file in (tmp_path / "t").iterdir())


def test_a_value_that_does_not_fit_its_column_fails_the_recorder_and_other_ops_are_kept(
    tmp_path: Path,
) -> None:
    recorder = Recorder(tmp_path / "t")
    record_some(recorder, 10)
    recorder.record("file:///x", "ten", 1, time.monotonic_ns(), 1)  # type: ignore[arg-type]
    record_some(recorder, 10, start=10)
    with pytest.raises(TracekitError, match="ten"):
        recorder.close()
    assert ids(tmp_path / "t") == list(range(20))


@pytest.mark.parametrize(
    "wrong",
    [
        {"uri": Path("/x")},
        {"uri": 5},
        {"latency": 0.0012},
        {"bytes": 1.5},
        {"t_submit": -(2**63)},
        {"worker": 2**31},
        {"error": ValueError("x")},
    ],
    ids=str,
)
def test_a_value_is_never_coerced(tmp_path: Path, wrong: dict[str, Any]) -> None:
    recorder = Recorder(tmp_path / "t")
    record_some(recorder, 10)
    recorder.record(**{"uri": "file:///x", "offset": 0, "len": 1, "t_submit": 0, "latency": 1, **wrong})
    record_some(recorder, 10, start=10)
    with pytest.raises(TracekitError, match="values that do not fit the op schema"):
        recorder.close()
    assert ids(tmp_path / "t") == list(range(20))


@pytest.mark.parametrize(
    "wrong", [{"rank": "1"}, {"worker": -1}, {"world_size": 2**40}, {"options": {1: 2, "a": 3}}], ids=str
)
def test_invalid_settings_are_refused_when_the_recorder_is_made(
    tmp_path: Path, wrong: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Recorder(tmp_path / "t", **wrong)
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("name", ["file/t", "a\0b", "a\udcffb", "n" * 300], ids=ascii)
def test_a_path_that_cannot_hold_a_trace_is_named_in_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match=r"choose another|NUL byte|valid UTF-8") as caught:
        Recorder(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_disk_too_full_for_a_manifest_is_left_as_it_was(tmp_path: Path) -> None:
    script = (
        "import resource, signal, sys\n"
        "from tracekit.recorder import Recorder\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "Recorder(sys.argv[1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "t")], capture_output=True, text=True, timeout=60
    )
    assert "UsageError: no trace can be written at" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_op_recorded_while_another_thread_closes_is_kept_or_refused(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "t")
    record_some(recorder, 200_000)
    recorder.flush()  # what is left to do is to compress them, which takes a while
    kept = [0] * 4

    def go_on(worker: int) -> None:
        with contextlib.suppress(UsageError):
            while True:
                recorder.record("file:///x", 0, 1, time.monotonic_ns(), 1)
                kept[worker] += 1
                time.sleep(0.003)

    threads = [threading.Thread(target=go_on, args=(worker,)) for worker in range(len(kept))]
    for thread in threads:
        thread.start()
    recorder.close()
    for thread in threads:
        thread.join()
    rows = open_reader(tmp_path / "t").rows - 200_000
    assert sum(kept) <= rows <= sum(kept) + len(threads)


def test_recording_after_close_is_an_error(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "t")
    recorder.close()
    with pytest.raises(UsageError, match="closed"):
        recorder.record("file:///x", 0, 1, time.monotonic_ns(), 1)


def test_a_recorder_that_was_not_closed_is_complete_after_the_process_ends(tmp_path: Path) -> None:
    script = (
        "import sys, time\nfrom tracekit.recorder import Recorder\nr = Recorder(sys.argv[1])\n"
        "for i in range(10): r.record('file:///x', i, 1, time.monotonic_ns(), 1)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "t")], check=True, timeout=60)
    reader = open_reader(tmp_path / "t")
    assert reader.rows == 10
    assert not reader.unfinished


def test_a_path_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is a file"):
        Recorder(tmp_path / "file")
    with pytest.raises(UsageError, match="is not a trace"):
        Recorder(tmp_path)


def test_counters_of_all_segments_add_up(tmp_path: Path) -> None:
    with Recorder(tmp_path / "t", segment_ops=1000) as recorder:
        for round_ in range(5):
            record_some(recorder, 1000, start=round_ * 1000)
            recorder.count("retries", 2)
            recorder.flush()
        recorder.set_counters({"hints_applied": 7})
    reader = open_reader(tmp_path / "t")
    assert len(reader.segments) >= 4
    assert reader.counters["retries"] == 10
    assert reader.counters["hints_applied"] == 7


def test_a_run_without_ops_is_an_empty_trace(tmp_path: Path) -> None:
    with Recorder(tmp_path / "t"):
        pass
    reader = open_reader(tmp_path / "t")
    assert reader.rows == 0
    assert reader.query("SELECT * FROM ops").num_rows == 0


def test_batches_keep_their_extra_columns(tmp_path: Path) -> None:
    with Recorder(tmp_path / "t") as recorder:
        record_some(recorder, 5)
        recorder.flush()
        now = time.monotonic_ns()
        recorder.record_batch(
            pa.RecordBatch.from_pydict(
                {
                    "uri": ["file:///x"] * 3,
                    "t_submit": [now] * 3,
                    "offset": [0] * 3,
                    "len": [1] * 3,
                    "latency": [1] * 3,
                    "sample_id": [7] * 3,
                    "gate_wait": [11, 12, 13],
                }
            )
        )
    table = open_reader(tmp_path / "t").query(
        "SELECT gate_wait FROM ops WHERE gate_wait IS NOT NULL ORDER BY 1"
    )
    assert table.column(0).to_pylist() == [11, 12, 13]


def test_a_pickled_recorder_joins_the_same_trace(tmp_path: Path) -> None:
    with Recorder(tmp_path / "t", worker=5) as first, pickle.loads(pickle.dumps(first)) as second:
        record_some(first, 3)
        second.record("file:///y", 0, 1, time.monotonic_ns(), 1)
        assert second.epoch_mono_ns == first.epoch_mono_ns
    workers = open_reader(tmp_path / "t").query("SELECT DISTINCT worker FROM ops WHERE uri = 'file:///y'")
    assert workers.column(0).to_pylist() == [5]


def test_a_plain_forked_child_does_not_write_what_its_parent_has_buffered(tmp_path: Path) -> None:
    with Recorder(tmp_path / "t") as recorder:
        record_some(recorder, 100)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                record_some(recorder, 100, start=100)
                recorder.close()
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
    assert ids(tmp_path / "t") == list(range(200))


def test_a_batch_may_be_made_by_the_writer(tmp_path: Path) -> None:
    makers: list[str] = []

    def make() -> pa.RecordBatch:
        makers.append(threading.current_thread().name)
        now = time.monotonic_ns()
        return pa.RecordBatch.from_pydict(
            {"t_submit": [now] * 3, "uri": ["file:///a"] * 3, "offset": [1, 2, 3]}
        )

    with Recorder(tmp_path / "t") as recorder:
        recorder.record_later(3, make)
    assert makers == ["tracekit-writer"]
    assert open_reader(tmp_path / "t").query('SELECT list("offset") AS o FROM ops')["o"].to_pylist() == [
        [1, 2, 3]
    ]


def test_a_batch_that_cannot_be_made_fails_the_recorder(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "t")
    recorder.record_later(1, lambda: pa.RecordBatch.from_pydict({"t_submit": ["soon"], "uri": ["file:///a"]}))
    with pytest.raises(TracekitError, match="recording failed"):
        recorder.close()


def test_names_that_are_not_utf_8_are_recorded_with_replacement_characters(tmp_path: Path) -> None:
    name = os.fsdecode(b"/d/\xff\xc3\xa9.bin")
    with Recorder(tmp_path / "t") as recorder:
        recorder.record(f"file://{name}", 0, 10, time.monotonic_ns(), 5)
        recorder.record("file:///d/b", 0, 10, time.monotonic_ns(), 5, op="read")
    found = open_reader(tmp_path / "t").query("SELECT uri FROM ops ORDER BY t_submit").to_pylist()
    assert [row["uri"] for row in found] == ["file:///d/\ufffd\u00e9.bin", "file:///d/b"]
