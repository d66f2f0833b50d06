"""Recordings that run for long: a budget of disk space, and segments that are shipped while the program runs."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import tracekit
from tracekit import capture
from tracekit.backends.registry import backend_for
from tracekit.capture import running
from tracekit.capture.native import NativeEngine
from tracekit.capture.tools.strace import StraceEngine
from tracekit.errors import UsageError
from tracekit.recorder import Recorder
from tracekit.store.reader import open_reader

MIB = 1 << 20
RANDOM = np.random.default_rng(7)


def batch(first: int, rows: int) -> pa.RecordBatch:
    """Ops that hardly compress; `sample_id` counts them."""
    number = np.arange(first, first + rows)
    return pa.RecordBatch.from_pydict({
        "t_submit": number * 1000,
        "uri": pa.array([f"s3://bucket/{i % 17}" for i in range(rows)]),
        "offset": RANDOM.integers(0, 1 << 40, rows),
        "latency": RANDOM.integers(1, 1 << 40, rows),
        "sample_id": number,
    })  # fmt: skip


def size_of(trace: Path) -> int:
    return sum(file.stat().st_size for file in trace.iterdir())


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_trace_keeps_to_its_budget_and_says_what_is_gone(trace: Path) -> None:
    with Recorder(trace, keep="1MiB") as recorder:
        for first in range(0, 300_000, 5000):
            recorder.record_batch(batch(first, 5000))
    assert size_of(trace) <= MIB
    found = open_reader(trace)
    kept = found.query("SELECT sample_id FROM ops ORDER BY sample_id").column("sample_id").to_pylist()
    assert kept == list(range(300_000 - len(kept), 300_000))  # the newest, without a gap
    assert len(kept) > 5000
    facts = tracekit.open_trace(trace).info()
    assert facts["removed_ops"] + facts["ops"] == 300_000
    assert not [finding for finding in tracekit.verify(trace) if finding.broken]


def test_recorders_of_one_trace_share_the_budget(trace: Path) -> None:
    first, second = (Recorder(trace, keep=MIB) for _ in range(2))
    for number in range(0, 100_000, 5000):
        first.record_batch(batch(number, 5000))
        second.record_batch(batch(number, 5000))
    first.close()
    second.close()
    assert size_of(trace) <= MIB
    assert not [finding for finding in tracekit.verify(trace) if finding.broken]


def test_segments_are_shipped_as_they_are(trace: Path, tmp_path: Path) -> None:
    with Recorder(trace, ship=f"file://{tmp_path}/archive", segment_ops=1000) as recorder:
        for first in range(0, 5000, 1000):
            recorder.record_batch(batch(first, 1000))
    (copy,) = (tmp_path / "archive").iterdir()
    assert copy.name == open_reader(trace).trace_id
    assert len(files_of(copy)) == 6
    assert files_of(copy) == files_of(trace)
    assert open_reader(copy).rows == 5000


def test_segments_are_shipped_to_an_object_store(trace: Path, s3_bucket: str) -> None:
    with Recorder(trace, ship=f"s3://{s3_bucket}/traces/", segment_ops=1000) as recorder:
        for first in range(0, 3000, 1000):
            recorder.record_batch(batch(first, 1000))
    folder = f"s3://{s3_bucket}/traces/{open_reader(trace).trace_id}"
    backend = backend_for(folder)
    listed = {found.uri.rpartition("/")[2]: found.size for found in backend.list(f"{folder}/")}
    backend.close()
    assert listed == {name: len(data) for name, data in files_of(trace).items()}
    assert len(listed) == 4


def test_a_store_that_fails_does_not_reach_the_program(
    trace: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING), Recorder(trace, ship=f"file://{tmp_path}/file/in") as recorder:
        recorder.record_batch(batch(0, 10))
    assert open_reader(trace).rows == 10
    assert "2 files of the trace were not copied" in caplog.text
    assert "they stay on disk" in caplog.text


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"keep": 0}, "keep=0 is not valid"),
        ({"keep": "much"}, "keep="),
        ({"ship": "ftp://host/traces"}, "ship=ftp://host/traces: unknown scheme"),
    ],
)
def test_impossible_options_are_refused_before_anything_is_written(
    wrong: dict[str, Any], words: str, trace: Path
) -> None:
    for start in (Recorder, capture.start):
        with pytest.raises(UsageError, match=words):
            start(trace, **wrong)
    with pytest.raises(UsageError, match=words):
        capture.run(["true"], trace, method="hooks", **wrong)
    assert not trace.exists()


@pytest.mark.skipif(StraceEngine().available() is None, reason="strace is not installed")
def test_methods_that_convert_at_the_end_refuse_them(trace: Path) -> None:
    with pytest.raises(UsageError, match="keep= and ship= do not work with method=strace"):
        capture.run(["true"], trace, keep="2GiB", method="strace")


PROGRAM = """
    import os
    import sys
    def read(name):
        with open(name, "rb", buffering=0) as file:
            while file.read(100):
                pass
    read(sys.argv[1])
    if not (child := os.fork()):
        read(sys.argv[2])
        sys.exit()
    os.waitpid(child, 0)
"""


def test_the_processes_of_a_command_write_and_ship_the_trace_themselves(trace: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    names = [tmp_path / name for name in ("first.bin", "second.bin")]
    for name in names:
        name.write_bytes(bytes(1000))
    result = capture.run(
        [sys.executable, str(program), *map(str, names)], trace, method="hooks", hooks="files",
        keep="64MiB", ship=f"file://{tmp_path}/archive", include=[f"{tmp_path}/*.bin"],
    )  # fmt: skip
    assert (result.exit_code, result.ops, result.method) == (0, 22, "hooks")
    found = open_reader(trace).query(
        "SELECT uri, count(*) AS n, sum(bytes) AS b FROM ops GROUP BY uri ORDER BY uri"
    )
    assert found.to_pylist() == [{"uri": f"file://{name}", "n": 11, "b": 1000} for name in names]
    (copy,) = (tmp_path / "archive").iterdir()
    assert files_of(copy) == files_of(trace)
    assert len({segment.metadata["pid"] for segment in open_reader(copy).segments if segment.rows}) == 2


needs_native = pytest.mark.skipif(NativeEngine().available() is None, reason="there is no native engine")
LONG = """
    import os, sys, time
    from pathlib import Path
    fd = os.open(sys.argv[1], os.O_RDONLY)
    def read(times):
        for n in range(times):
            os.pread(fd, 10, n)
    read(30_000)
    until = time.monotonic() + 60
    while not list(Path(sys.argv[2]).glob("seg-*.parquet")) and time.monotonic() < until:
        read(2000)
        time.sleep(0.05)
    seen = len(list(Path(sys.argv[2]).glob("seg-*.parquet")))
    if not os.fork():
        read(7)
        os._exit(0)
    os.wait()
    raise SystemExit(0 if seen else 3)
"""


@needs_native
def test_the_native_engine_writes_and_rotates_the_trace_while_the_command_runs(
    trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "_LAG_NS", 0)
    data, program = tmp_path / "data.bin", tmp_path / "program.py"
    data.write_bytes(bytes(200_000))
    program.write_text(textwrap.dedent(LONG))
    result = capture.run(
        [sys.executable, str(program), str(data), str(trace)], trace, method="native", keep="250KiB",
        ship=f"file://{tmp_path}/archive", include=[str(data)],
    )  # fmt: skip
    assert (result.exit_code, result.method) == (0, "native")
    assert result.completeness is not None and result.completeness.share == 1.0
    assert size_of(trace) <= 250 << 10
    found = open_reader(trace)
    assert found.removed_ops > 0
    newest = found.query('SELECT "offset" FROM ops ORDER BY t_submit DESC LIMIT 7').column(0).to_pylist()
    assert newest == [6, 5, 4, 3, 2, 1, 0]
    assert found.removed_ops + found.rows == result.completeness.recorded_read_bytes // 10
    assert found.completeness["share"] == 1.0
    assert found.counters["overhead_engine_ns"] > 0
    assert any("older ops were removed" in note for note in result.notes)
    (copy,) = (tmp_path / "archive").iterdir()
    assert files_of(trace).items() <= files_of(copy).items()
    assert not list(tmp_path.glob(".tracekit-*"))
    assert not [finding for finding in tracekit.verify(trace) if finding.broken]


@needs_native
def test_objects_samples_and_files_are_in_one_trace_that_grows(
    trace: Path, tmp_path: Path, s3_env: Any, s3_bucket: str
) -> None:
    s3_env.put(s3_bucket, "k", bytes(3000))
    data, program = tmp_path / "data.bin", tmp_path / "program.py"
    data.write_bytes(bytes(1000))
    program.write_text(
        textwrap.dedent(f"""
        import boto3
        from tracekit import capture
        for step in range(3):
            with capture.step(step), capture.sample(10 + step):
                open({str(data)!r}, "rb").read()
        boto3.client("s3").get_object(Bucket="{s3_bucket}", Key="k")["Body"].read()
    """)
    )
    result = capture.run(
        [sys.executable, str(program)], trace, method="native", keep="1GiB", include=[str(data), "s3://*"]
    )
    assert result.exit_code == 0
    found = open_reader(trace).query(
        "SELECT uri, step, sample_id, bytes FROM ops WHERE bytes > 0 ORDER BY t_submit"
    )
    assert [tuple(row.values()) for row in found.to_pylist()] == [
        *((f"file://{data}", step, 10 + step, 1000) for step in range(3)),
        (f"s3://{s3_bucket}/k", None, None, 3000),
    ]  # fmt: skip


@needs_native
def test_what_a_killed_capture_had_not_moved_yet_is_recovered(trace: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.bin"
    data.write_bytes(bytes(1000))
    code = f"""
        import os
        fd = os.open({str(data)!r}, os.O_RDONLY)
        for n in range(50):
            os.pread(fd, 10, n)
        os.kill(os.getppid(), 9)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    arguments = ["--method", "native", "--keep", "1GiB", "--include", str(data), "--", *command]
    main = [sys.executable, "-m", "tracekit", "capture", "-o", str(trace)]
    assert subprocess.run([*main, *arguments]).returncode == -9
    again = subprocess.run([*main, "--recover"], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "completeness: unknown, because the capture was killed" in again.stderr
    assert open_reader(trace).query("SELECT count(*) AS n FROM ops WHERE len = 10").to_pylist() == [{"n": 50}]
    assert not list(tmp_path.glob(".tracekit-*"))
