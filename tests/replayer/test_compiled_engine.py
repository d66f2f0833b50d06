"""The compiled engine: the same rows as the interpreter's, bar times, whatever the plan holds."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from properties import examples

import tracekit
from tracekit.store.reader import open_reader
from tracekit.store.writer import TraceWriter

pytest.importorskip("numba", reason="numba is not installed (extra `fast`)")

US, MS = 1_000, 1_000_000
FILES = ("whole", "short", "empty", "missing", "folder")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "whole").write_bytes(os.urandom(200_000))
    (folder / "short").write_bytes(os.urandom(5000))
    (folder / "empty").write_bytes(b"")
    (folder / "folder").mkdir()
    return folder


def write_trace(path: Path, data: Path, ops: Sequence[tuple[str, int | None, int, int | None, int]]) -> Path:
    """Ops are (file, length, offset, recorded bytes, ns after the op before)."""
    submit = np.cumsum([op[4] for op in ops]).astype(np.int64)
    with TraceWriter(path, source="import:test", epoch_unix_ns=0) as writer:
        writer.write(
            pa.RecordBatch.from_pydict(
                {
                    "t_submit": pa.array(submit),
                    "uri": [f"file://{data}/{op[0]}" for op in ops],
                    "op": ["read" if op[1] is not None else "get" for op in ops],
                    "len": pa.array([op[1] for op in ops], pa.int64()),
                    "offset": pa.array([op[2] if op[1] is not None else None for op in ops], pa.int64()),
                    "bytes": pa.array([op[3] for op in ops], pa.int64()),
                    "latency": pa.array([US] * len(ops), pa.int64()),
                    "sample_id": pa.array(range(len(ops)), pa.int64()),
                    "worker": pa.array([i % 3 for i in range(len(ops))], pa.int32()),
                }
            )
        )
    return path


def replayed(trace: Path, out: Path, engine: str, **how: Any) -> list[dict[str, Any]]:
    options: dict[str, Any] = {"tolerance": 1e9, **how}
    result = tracekit.replay(trace, out=out, engine=engine, **options)
    assert result.client.engine == engine
    columns = 'op, uri, ops."offset", len, bytes, sample_id, worker, error, plan_op'
    return open_reader(out).query(f"SELECT {columns} FROM ops ORDER BY op, plan_op, uri").to_pylist()


OPS = st.lists(
    st.tuples(
        st.sampled_from(FILES),
        st.none() | st.integers(0, 40_000),
        st.integers(0, 250_000),
        st.none() | st.integers(0, 40_000),
        st.integers(0, 200 * US),
    ),
    min_size=1,
    max_size=40,
)


@examples(25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ops=OPS,
    pace=st.sampled_from(["recorded", "asap"]),
    mode=st.sampled_from(["default", "fadvise_sequential", "fadvise_random"]),
    gate=st.sampled_from([{}, {"max_ops_in_flight": 2}, {"max_bytes_in_flight": 50_000}]),
)
def test_both_engines_give_the_same_rows(
    tmp_path_factory: pytest.TempPathFactory,
    data: Path,
    ops: list[Any],
    pace: str,
    mode: str,
    gate: dict[str, int],
) -> None:
    folder = tmp_path_factory.mktemp("t")
    trace = write_trace(folder / "t", data, [("whole", 1, 0, 1, 0), *ops])
    how = {"pace": pace, "page_cache_mode": mode, **gate}
    compiled = replayed(trace, folder / "c", "compiled", **how)
    interpreter = replayed(trace, folder / "i", "interpreter", processes=1, threads=1, **how)
    # Each worker opens a file for itself, so that hints at open are as many as workers that did.
    assert [row for row in compiled if row["op"] != "hint"] == [
        row for row in interpreter if row["op"] != "hint"
    ]
    hinted = ({row["uri"] for row in rows if row["op"] == "hint"} for rows in (compiled, interpreter))
    assert next(hinted) == next(hinted)


def test_dropping_pages_is_a_hint_row_for_each_read_that_moved(tmp_path: Path, data: Path) -> None:
    trace = write_trace(
        tmp_path / "t",
        data,
        [("whole", 5000, 4096 * i + 7, 5000, MS) for i in range(10)] + [("short", 100, 9000, 0, MS)],
    )
    rows = replayed(trace, tmp_path / "c", "compiled", page_cache_mode="dontneed", threads=1)
    assert tracekit.open_trace(tmp_path / "c").snapshot().to_dict()["backend_counters"]["hints_applied"] == 10
    hints = [(row["offset"], row["len"]) for row in rows if row["op"] == "hint"]
    assert hints == [(4096 * i, 8192) for i in range(10)]


def test_a_gate_is_never_exceeded(tmp_path: Path, data: Path) -> None:
    rng = np.random.default_rng(0)
    trace = write_trace(
        tmp_path / "t", data, [("whole", int(n), 0, int(n), 0) for n in rng.integers(1, 60_000, 3000)]
    )
    tracekit.replay(
        trace, out=tmp_path / "c", engine="compiled", pace="asap", threads=8,
        max_bytes_in_flight=100_000, max_ops_in_flight=3, tolerance=1e9,
    )  # fmt: skip
    snapshot = tracekit.open_trace(tmp_path / "c").snapshot().to_dict()
    assert snapshot["max_qd"] <= 3
    assert snapshot["peak_inflight"] <= 100_000


def test_more_files_than_descriptors_are_read_without_an_error(tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    for i in range(300):
        (tmp_path / "many" / f"{i:03}").write_bytes(bytes([i % 256]) * 10)
    trace = write_trace(
        tmp_path / "t", tmp_path / "many", [(f"{i % 300:03}", 10, 0, 10, 0) for i in range(900)]
    )
    code = f"""
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        import tracekit
        result = tracekit.replay({str(trace)!r}, engine="compiled", pace="asap", tolerance=1e9)
        assert (result.ops, result.failed_ops) == (900, 0), result.failures
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=100)


def test_an_interrupted_replay_keeps_the_rows_of_what_it_did(tmp_path: Path, data: Path) -> None:
    trace = write_trace(tmp_path / "t", data, [("whole", 100, i, 100, 10 * MS) for i in range(3000)])
    code = f"""
        import os, signal, threading, tracekit
        def watch(done, total=None, note=""):
            if done >= 5:
                os.kill(os.getpid(), signal.SIGINT)
        result = tracekit.replay({str(trace)!r}, out={str(tmp_path / "c")!r}, engine="compiled", watch=watch, tolerance=1e9)
        assert result.partial and 5 <= result.ops < 3000, result.ops
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=100)
    assert open_reader(tmp_path / "c").rows >= 5


def test_a_read_larger_than_the_first_buffer_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "big").write_bytes(bytes(5 << 20))
    trace = write_trace(
        tmp_path / "t",
        tmp_path / "d",
        [("big", 5 << 20, 0, 5 << 20, 0), ("big", None, 0, 5 << 20, 0), ("big", 10, 0, 10, 0)],
    )
    rows = replayed(trace, tmp_path / "c", "compiled")
    assert sorted((row["op"], row["bytes"], row["error"]) for row in rows) == [
        ("get", 5 << 20, None),
        ("read", 10, None),
        ("read", 5 << 20, None),
    ]


def test_a_read_only_home_still_runs_the_engine(tmp_path: Path, data: Path) -> None:
    trace = write_trace(tmp_path / "t", data, [("whole", 100, 0, 100, 0)])
    home = tmp_path / "home"
    home.mkdir()
    (home / ".cache").write_text("not a directory")  # root may write anywhere else
    code = (
        f"import tracekit; assert tracekit.replay({str(trace)!r}, engine='compiled', tolerance=1e9).ops == 1"
    )
    environ = {**os.environ, "HOME": str(home), "TMPDIR": str(tmp_path)}
    environ.pop("XDG_CACHE_HOME", None)
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100, env=environ)
    assert (home / ".cache").read_text() == "not a directory"


def test_without_numba_the_engine_is_refused_with_its_extra(tmp_path: Path, data: Path) -> None:
    trace = write_trace(tmp_path / "t", data, [("whole", 100, 0, 100, 0)])
    code = f"""
        import sys
        sys.modules["numba"] = None
        import importlib.util
        find = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *more: None if name == "numba" else find(name, *more)
        import tracekit
        try:
            tracekit.replay({str(trace)!r}, engine="compiled")
        except tracekit.UsageError as error:
            assert "tracekit[fast]" in str(error), error
        else:
            raise AssertionError("not refused")
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=100)
