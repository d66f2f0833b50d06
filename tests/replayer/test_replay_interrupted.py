"""However a replay ends before its end: what ran is readable and marked, the exit code says so, nothing hangs."""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pyarrow as pa
import pytest
import servers

from tracekit.errors import TracekitError
from tracekit.replayer.materialize import materialize
from tracekit.store.reader import TraceReader, open_reader
from tracekit.store.writer import TraceWriter

OPS = 6000


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A minute of reads, 10 ms apart, of four streams on one file."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_bytes(bytes(65536))
    with TraceWriter(tmp_path / "t", source="import:test", epoch_unix_ns=0) as writer:
        columns = {
            "t_submit": [i * 10_000_000 for i in range(OPS)], "uri": [f"file://{tmp_path}/data/a"] * OPS,
            "offset": [i % 16 * 4096 for i in range(OPS)], "len": [4096] * OPS, "bytes": [4096] * OPS,
            "latency": [50_000] * OPS, "sample_id": list(range(OPS)),
            "worker": pa.array([i % 4 for i in range(OPS)], pa.int32()),
        }  # fmt: skip
        writer.write(pa.RecordBatch.from_pydict(columns))
    return tmp_path / "t"


def begin(trace: Path, out: Path, *options: str) -> subprocess.Popen[bytes]:
    """`tracekit replay`, once it has recorded something."""
    command = [sys.executable, "-m", "tracekit", "replay", str(trace), "-o", str(out), "--json", *options]
    return begun(command, out)


def begun(command: list[str], out: Path) -> subprocess.Popen[bytes]:
    proc = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=hear)
    while not rows(out):
        assert proc.poll() is None, proc.communicate()
        time.sleep(0.05)
    return proc


def hear() -> None:
    """What a shell runs in its background starts with Ctrl-C ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def rows(trace: Path) -> int:
    with contextlib.suppress(TracekitError):
        return open_reader(trace).rows
    return 0


def check_partial(proc: subprocess.Popen[bytes], out: Path, wish: signal.Signals) -> TraceReader:
    stdout, stderr = proc.communicate(timeout=60)
    assert (proc.returncode, stderr) == (128 + wish, b"")
    summary = json.loads(stdout)
    reader = open_reader(out)
    assert summary["partial"] and not summary["ok"]
    assert (
        0
        < summary["ops"]
        == reader.query("SELECT count(*) AS n FROM ops WHERE op <> 'hint'")["n"][0].as_py()
        < OPS
    )
    assert reader.counters["replay_interrupted"] >= 1
    assert not reader.unfinished
    return reader


ENGINES = {
    "default": (), "interpreter": ("--engine", "interpreter"), "dropping": ("--page-cache-mode", "dontneed"),
    "gate": ("--max-ops-in-flight", "2"), "closed": ("--pace", "closed"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("engine", "wish"),
    [
        *((engine, signal.SIGINT) for engine in ENGINES),
        ("default", signal.SIGTERM),
        ("interpreter", signal.SIGTERM),
    ],
)
def test_a_signal_leaves_a_marked_partial_result(
    tmp_path: Path, recording: Path, engine: str, wish: signal.Signals
) -> None:
    proc = begin(recording, tmp_path / "r", *ENGINES[engine])
    proc.send_signal(wish)
    check_partial(proc, tmp_path / "r", wish)


@pytest.mark.parametrize("engine", ["compiled", "interpreter"])
def test_ctrl_c_while_rows_are_recorded_neither_loses_nor_repeats_one(
    tmp_path: Path, recording: Path, engine: str
) -> None:
    code = f"""
        import os, signal, tracekit
        from tracekit import Recorder
        for name in ("record_batch", "record_later"):
            def recorded(self, *given, before=getattr(Recorder, name)):
                before(self, *given)
                if self.ops_recorded > 50 and not sent:
                    sent.append(os.kill(os.getpid(), signal.SIGINT))
            setattr(Recorder, name, recorded)
        sent = []
        result = tracekit.replay({str(recording)!r}, out={str(tmp_path / "r")!r}, engine={engine!r}, pace="recorded")
        assert result.partial and sent == [None]
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=100, preexec_fn=hear)
    reader = open_reader(tmp_path / "r")
    found = reader.query("SELECT plan_op FROM ops ORDER BY plan_op")["plan_op"].to_pylist()
    assert found == list(range(reader.rows)) and 50 < reader.rows < OPS


@pytest.mark.parametrize("wish", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_marked_partial_result_of_the_event_loop(
    tmp_path: Path, recording: Path, s3_env: servers.S3Server, s3_bucket: str, wish: signal.Signals
) -> None:
    rule = f"file://{tmp_path}/data=s3://{s3_bucket}"
    materialize(open_reader(recording), [rule])
    proc = begin(recording, tmp_path / "r", "--map", rule)
    proc.send_signal(wish)
    assert check_partial(proc, tmp_path / "r", wish).counters["range_gets"] > 0


@pytest.mark.parametrize("target", ["file", "s3"])
def test_a_full_disk_is_one_line_and_not_an_interruption(
    tmp_path: Path, recording: Path, s3_env: servers.S3Server, s3_bucket: str, target: str
) -> None:
    options = ["--speed", "5"]
    if target == "s3":
        rule = f"file://{tmp_path}/data=s3://{s3_bucket}"
        materialize(open_reader(recording), [rule])
        options += ["--map", rule]
    proc = begin(recording, tmp_path / "r", *options)
    resource.prlimit(proc.pid, resource.RLIMIT_FSIZE, (60_000, 60_000))  # no file may grow beyond this
    _, stderr = proc.communicate(timeout=100)
    assert proc.returncode == 2
    assert "recording failed" in stderr.decode()
    assert len(stderr.splitlines()) == 1
