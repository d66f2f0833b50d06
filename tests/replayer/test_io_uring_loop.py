"""One thread with many requests in flight past the page cache: the same rows as threads and as the interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from properties import examples

import tracekit
from tracekit.replayer import planning
from tracekit.replayer.engines import uring
from tracekit.replayer.verdict import ClientFacts
from tracekit.store.reader import open_reader
from tracekit.store.writer import TraceWriter

pytest.importorskip("numba", reason="numba is not installed (extra `fast`)")

DEPTH = 16
LONGEST = 0x7FFFF000
"""The most bytes that Linux reads at once."""
COUNTERS = ("direct_reads", "alignment_bytes")
FILES = ("whole", "short", "empty", "missing", "folder")

if uring.refusal(DEPTH) is not None:
    pytest.skip(f"the kernel refuses a ring: {uring.refusal(DEPTH)}", allow_module_level=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "whole").write_bytes(os.urandom(200_000))
    (folder / "short").write_bytes(os.urandom(5000))
    (folder / "empty").write_bytes(b"")
    (folder / "folder").mkdir()
    return folder


def write_trace(path: Path, data: Path, ops: Sequence[tuple[str, int | None, int, int | None]]) -> Path:
    """Ops are (file, length, offset, recorded bytes)."""
    with TraceWriter(path, source="import:test", epoch_unix_ns=0) as writer:
        writer.write(
            pa.RecordBatch.from_pydict(
                {
                    "t_submit": pa.array(range(len(ops)), pa.int64()),
                    "uri": [f"direct://{data}/{op[0]}" for op in ops],
                    "op": ["read" if op[1] is not None else "get" for op in ops],
                    "len": pa.array([op[1] for op in ops], pa.int64()),
                    "offset": pa.array([op[2] if op[1] is not None else None for op in ops], pa.int64()),
                    "bytes": pa.array([op[3] for op in ops], pa.int64()),
                    "latency": pa.array([1000] * len(ops), pa.int64()),
                    "sample_id": pa.array(range(len(ops)), pa.int64()),
                }
            )
        )
    return path


def replayed(trace: Path, out: Path, **how: Any) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The rows of a replay, and what its counters say of padding."""
    result = tracekit.replay(trace, out=out, pace="asap", tolerance=1e9, **how)
    reader = open_reader(out)
    columns = 'op, uri, ops."offset", len, bytes, sample_id, rank, worker, t_due, error, plan_op'
    rows = reader.query(f"SELECT {columns} FROM ops ORDER BY ALL").to_pylist()
    assert result.client.engine == how.get("engine", "compiled")
    return rows, {name: result.counters.get(name, 0) for name in COUNTERS}


def without_ring(patch: pytest.MonkeyPatch) -> None:
    """Have the kernel say that it knows no io_uring."""
    patch.setattr(uring, "_SETUP", 1023)


@examples(40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ops=st.lists(
        st.tuples(
            st.sampled_from(FILES),
            st.none() | st.integers(0, 40_000) | st.just(1 << 50),
            st.integers(0, 250_000),
            st.none() | st.integers(0, 40_000),
        ),
        max_size=60,
    ),
    gate=st.sampled_from([{}, {"max_ops_in_flight": 2}, {"max_bytes_in_flight": 50_000}]),
    depth=st.sampled_from([1, 3, DEPTH]),
)
def test_all_three_loops_give_the_same_rows(
    tmp_path_factory: pytest.TempPathFactory,
    data: Path,
    ops: list[tuple[str, int | None, int, int | None]],
    gate: dict[str, int],
    depth: int,
) -> None:
    folder = tmp_path_factory.mktemp("t")
    trace = write_trace(folder / "t", data, [("whole", 1, 0, 1), *ops])
    ring = replayed(trace, folder / "r", threads=depth, **gate)
    with pytest.MonkeyPatch.context() as patch:
        without_ring(patch)
        threads = replayed(trace, folder / "c", threads=depth, **gate)
    interpreter = replayed(trace, folder / "i", threads=1, engine="interpreter", **gate)
    assert ring == threads == interpreter


def test_the_result_says_which_loop_served(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = write_trace(tmp_path / "t", data, [("whole", 4096, 0, 4096)] * 100)
    ring = tracekit.replay(trace, pace="asap", threads=DEPTH, tolerance=1e9)
    assert (ring.client.ring, ring.client.workers, ring.client.cores) == (True, DEPTH, 1)
    assert "compiled with io_uring" in ring.verdict.reason
    assert ring.client.spun_ns > 0
    assert ring.to_dict()["client"]["ring"] is True
    without_ring(monkeypatch)
    threads = tracekit.replay(trace, pace="asap", threads=DEPTH, tolerance=1e9)
    assert (threads.client.ring, threads.client.workers) == (False, DEPTH)
    assert "io_uring" not in threads.verdict.reason


def test_looking_for_completions_does_not_make_the_client_the_limit() -> None:
    busy = ClientFacts("compiled", 16, cpu_ns=950, cpu_wait_ns=0, wall_ns=1000, ring=True)
    assert busy.cpu_bound
    assert not replace(busy, spun_ns=700).cpu_bound


@pytest.mark.parametrize(
    "how",
    [{"pace": "recorded"}, {"pace": "closed"}, {"pace": "asap", "map": "direct://=file://"}],
    ids=["recorded", "closed", "page_cache"],
)
def test_plans_with_due_times_or_through_the_page_cache_go_by_threads(
    tmp_path: Path, data: Path, how: dict[str, Any]
) -> None:
    trace = write_trace(tmp_path / "t", data, [("whole", 4096, 0, 4096)] * 20)
    result = tracekit.replay(trace, tolerance=1e9, **how)
    assert (result.client.engine, result.client.ring, result.ops) == ("compiled", False, 20)


def test_plans_that_write_go_by_threads(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    with TraceWriter(tmp_path / "t", source="import:test", epoch_unix_ns=0) as writer:
        writer.write(
            pa.RecordBatch.from_pydict(
                {
                    "t_submit": [0, 1], "uri": [f"direct://{tmp_path}/new"] * 2, "op": ["write", "read"],
                    "offset": [0, 0], "len": [4096, 4096], "bytes": [4096, 4096], "latency": [1, 1],
                }
            )
        )  # fmt: skip
    elsewhere = f"direct://{tmp_path}=direct://{tmp_path}/elsewhere"
    result = tracekit.replay(tmp_path / "t", pace="asap", allow_writes=True, map=elsewhere, tolerance=1e9)
    assert (result.client.ring, result.ops, result.failed_ops) == (False, 2, 0)


def test_ops_go_in_the_order_of_the_plan_and_never_more_than_the_depth(tmp_path: Path, data: Path) -> None:
    sizes = np.random.default_rng(0).integers(1, 100_000, 2000)
    trace = write_trace(tmp_path / "t", data, [("whole", int(n), 0, int(n)) for n in sizes])
    tracekit.replay(trace, out=tmp_path / "r", pace="asap", threads=5, tolerance=1e9)
    submit = open_reader(tmp_path / "r").query("SELECT t_submit FROM ops ORDER BY plan_op").column(0)
    assert (np.diff(submit.to_numpy()) >= 0).all()
    assert tracekit.open_trace(tmp_path / "r").snapshot().to_dict()["max_qd"] <= 5


def test_a_gate_is_never_exceeded(tmp_path: Path, data: Path) -> None:
    sizes = np.random.default_rng(0).integers(1, 60_000, 2000)
    trace = write_trace(tmp_path / "t", data, [("whole", int(n), 0, int(n)) for n in sizes])
    result = tracekit.replay(
        trace, out=tmp_path / "r", pace="asap", threads=DEPTH,
        max_bytes_in_flight=100_000, max_ops_in_flight=3, tolerance=1e9,
    )  # fmt: skip
    assert result.client.ring
    assert result.timing["gate_sum_ns"] > 0
    snapshot = tracekit.open_trace(tmp_path / "r").snapshot().to_dict()
    assert snapshot["max_qd"] <= 3
    assert snapshot["peak_inflight"] <= 100_000


def test_more_files_than_descriptors_are_read_without_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(300):
        (folder / f"{number:03}").write_bytes(bytes(4096))
    trace = write_trace(tmp_path / "t", folder, [(f"{i % 300:03}", 4096, 0, 4096) for i in range(1800)])
    code = f"""
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        import tracekit
        result = tracekit.replay({str(trace)!r}, pace="asap", tolerance=1e9)
        assert (result.client.ring, result.ops, result.failed_ops) == (True, 1800, 0), result.failures
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=100)


def test_a_streamed_plan_is_replayed_whole(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "_STREAM_FROM", 10_000)
    offsets = np.random.default_rng(0).integers(0, 48, 30_000) * 4096
    trace = write_trace(tmp_path / "t", data, [("whole", 512, int(at), 512) for at in offsets])
    result = tracekit.replay(trace, out=tmp_path / "r", pace="asap", tolerance=1e9)
    assert (result.client.ring, result.ops, result.failed_ops) == (True, 30_000, 0)
    found = open_reader(tmp_path / "r").query('SELECT ops."offset" FROM ops ORDER BY plan_op').column(0)
    assert (found.to_numpy() == offsets).all()


def test_an_interrupted_replay_keeps_the_rows_of_what_it_did(tmp_path: Path, data: Path) -> None:
    trace = write_trace(tmp_path / "t", data, [("whole", 512, 0, 512)] * 300_000)
    code = f"""
        import os, signal, tracekit
        sent = []
        def watch(done, total=None, note=""):
            if done >= 5 and not sent:
                sent.append(os.kill(os.getpid(), signal.SIGINT))
        result = tracekit.replay({str(trace)!r}, out={str(tmp_path / "r")!r}, pace="asap", watch=watch, tolerance=1e9)
        assert result.client.ring and result.partial and 5 <= result.ops < 300_000, result.ops
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=100)
    plan_op = open_reader(tmp_path / "r").query("SELECT plan_op FROM ops ORDER BY plan_op").column(0)
    assert plan_op.to_pylist() == list(range(len(plan_op)))


def test_a_process_that_may_not_open_a_ring_replays_with_threads(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = write_trace(tmp_path / "t", data, [("whole", 4096, 0, 4096)] * 10)
    without_ring(monkeypatch)
    assert uring.refusal(DEPTH) == "Function not implemented"
    result = tracekit.replay(trace, pace="asap", tolerance=1e9)
    assert (result.ops, result.failed_ops) == (10, 0)


@pytest.mark.soak
def test_a_read_that_takes_several_requests_is_read_whole(tmp_path: Path) -> None:
    size = LONGEST + 3 * 4096
    with (tmp_path / "long").open("wb") as file:
        file.truncate(size)
    trace = write_trace(
        tmp_path / "t", tmp_path, [("long", size - 100, 50, size - 100), ("long", 4096, 0, 4096)] * 2
    )
    rows, counters = replayed(trace, tmp_path / "r", threads=2)
    assert sorted(row["bytes"] for row in rows) == [4096, 4096, size - 100, size - 100]
    assert {row["error"] for row in rows} == {None}
    assert counters == {"direct_reads": 4, "alignment_bytes": 200}
