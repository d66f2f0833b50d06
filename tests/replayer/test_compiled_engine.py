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
from tracekit.backends.local.direct import alignment_of
from tracekit.options import PAGE_CACHE_MODES
from tracekit.replayer.mapping import parse_rules
from tracekit.replayer.options import ReplayOptions
from tracekit.replayer.pacing import dependencies
from tracekit.replayer.planning import build_plan
from tracekit.store.reader import open_reader
from tracekit.store.writer import TraceWriter

pytest.importorskip("numba", reason="numba is not installed (extra `fast`)")

US, MS = 1_000, 1_000_000
COUNTERS = ("hints_applied", "direct_reads", "alignment_bytes")
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
    return open_reader(out).query(f"SELECT {columns} FROM ops ORDER BY ALL").to_pylist()


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
    pace=st.sampled_from(["recorded", "asap", "closed"]),
    mode=st.sampled_from(PAGE_CACHE_MODES),
    scheme=st.sampled_from(["file", "direct"]),
    gate=st.sampled_from([{}, {"max_ops_in_flight": 2}, {"max_bytes_in_flight": 50_000}]),
    threads=st.sampled_from([1, 3]),
)
def test_both_engines_give_the_same_rows(
    tmp_path_factory: pytest.TempPathFactory,
    data: Path,
    ops: list[Any],
    pace: str,
    mode: str,
    scheme: str,
    gate: dict[str, int],
    threads: int,
) -> None:
    folder = tmp_path_factory.mktemp("t")
    trace = write_trace(folder / "t", data, [("whole", 1, 0, 1, 0), *ops])
    how = {"pace": pace, "page_cache_mode": mode, "map": f"file://={scheme}://", **gate}
    compiled = replayed(trace, folder / "c", "compiled", threads=threads, **how)
    interpreter = replayed(trace, folder / "i", "interpreter", threads=1, **how)
    if (
        threads > 1
    ):  # each worker opens a file for itself, so that hints at open are as many as workers that did
        compiled, interpreter = (
            [row for row in rows if row["op"] != "hint"] for rows in (compiled, interpreter)
        )
    assert compiled == interpreter
    counted = [
        {name: count for name, count in open_reader(folder / out).counters.items() if name in COUNTERS}
        for out in "ci"
    ]
    if threads > 1:
        counted = [{**counts, "hints_applied": 0} for counts in counted]
    assert counted[0] == {**dict.fromkeys(counted[0], 0), **counted[1]}


def test_dropping_pages_is_a_hint_row_at_open_and_for_each_read_that_moved(
    tmp_path: Path, data: Path
) -> None:
    trace = write_trace(
        tmp_path / "t",
        data,
        [("whole", 5000, 4096 * i + 7, 5000, MS) for i in range(10)] + [("short", 100, 9000, 0, MS)],
    )
    rows = replayed(trace, tmp_path / "c", "compiled", page_cache_mode="dontneed", threads=1)
    assert tracekit.open_trace(tmp_path / "c").snapshot().to_dict()["backend_counters"]["hints_applied"] == 12
    hints = [(row["offset"], row["len"]) for row in rows if row["op"] == "hint"]
    assert hints == sorted([(4096 * i, 8192) for i in range(10)] + [(0, 200_000), (0, 5000)])


def test_padding_of_reads_past_the_cache_is_counted(tmp_path: Path, data: Path) -> None:
    trace = write_trace(tmp_path / "t", data, [("whole", 100, 50, 100, 0), ("whole", 8192, 4096, 8192, 0)])
    replayed(trace, tmp_path / "c", "compiled", page_cache_mode="direct_io")
    with (data / "whole").open("rb") as file:
        block = alignment_of(file.fileno()).offset
    counters = open_reader(tmp_path / "c").counters
    assert (counters["direct_reads"], counters["alignment_bytes"]) == (2, block - 100)


def test_in_a_closed_loop_each_op_follows_what_it_waits_for_by_its_think_time(
    tmp_path: Path, data: Path
) -> None:
    rng = np.random.default_rng(3)
    ops = [("whole", 4096, 0, 4096, int(gap)) for gap in rng.integers(0, 3 * MS, 300)]
    trace = write_trace(tmp_path / "t", data, ops)
    replayed(trace, tmp_path / "c", "compiled", pace="closed", workers_model="recorded")
    rows = open_reader(tmp_path / "c").query(
        "SELECT worker, t_submit AS submit, t_submit + latency AS ends FROM ops ORDER BY plan_op"
    )
    submit, ends, worker = (rows[name].to_numpy() for name in ("submit", "ends", "worker"))
    plan = build_plan(open_reader(trace), parse_rules(()), ReplayOptions(pace="closed"))
    waits_for, think = dependencies(plan)
    waiting = np.flatnonzero(waits_for >= 0)
    assert len(waiting) > 200
    assert (submit[waiting] >= ends[waits_for[waiting]] + think[waiting]).all()
    for stream in range(3):
        assert (np.diff(submit[worker == stream]) >= 0).all()


def test_a_closed_loop_goes_on_after_an_op_that_no_memory_holds(tmp_path: Path, data: Path) -> None:
    trace = write_trace(tmp_path / "t", data, [("whole", n, 0, None, MS) for n in (10, 1 << 50, 10, 10)])
    rows = replayed(trace, tmp_path / "c", "compiled", pace="closed", workers_model="recorded")
    assert [row["error"] for row in sorted(rows, key=lambda row: row["plan_op"])] == [
        None, "out_of_memory", None, None,
    ]  # fmt: skip


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
        sent = []
        def watch(done, total=None, note=""):
            if done >= 5 and not sent:
                sent.append(os.kill(os.getpid(), signal.SIGINT))
        result = tracekit.replay({str(trace)!r}, out={str(tmp_path / "c")!r}, engine="compiled", watch=watch, tolerance=1e9)
        assert result.partial and 5 <= result.ops < 3000, result.ops
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=100)
    assert open_reader(tmp_path / "c").rows >= 5


def test_an_interrupt_while_the_loop_is_compiled_ends_the_replay_before_its_first_op(
    tmp_path: Path, data: Path
) -> None:
    trace = write_trace(tmp_path / "t", data, [("whole", 100, i, 100, 0) for i in range(50)])
    code = f"""
        import os, signal, tracekit
        from tracekit.replayer.engines.compiled import CompiledEngine
        compile = CompiledEngine._compile
        def interrupted(engine):
            os.kill(os.getpid(), signal.SIGINT)
            compile(engine)
        CompiledEngine._compile = interrupted
        result = tracekit.replay({str(trace)!r}, engine="compiled", tolerance=1e9)
        assert (result.partial, result.ops) == (True, 0), result.ops
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=100)


def test_machine_code_from_the_cache_is_loaded_without_numba(tmp_path: Path, data: Path) -> None:
    trace = write_trace(tmp_path / "t", data, [("whole", 100, 0, 100, 0)])
    replayed(trace, tmp_path / "compiled", "compiled")
    code = f"""
        import sys, tracekit
        assert tracekit.replay({str(trace)!r}, engine="compiled", tolerance=1e9).ops == 1
        assert "numba" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=100)


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


def test_a_read_only_home_still_runs_the_engine_and_compiling_is_said_in_a_line(
    tmp_path: Path, data: Path
) -> None:
    trace = write_trace(tmp_path / "t", data, [("whole", 100, 0, 100, 0)])
    home = tmp_path / "home"
    home.mkdir()
    (home / ".cache").write_text("not a directory")  # root may write anywhere else
    command = [sys.executable, "-m", "tracekit", "replay", str(trace), "--tolerance", "1e9"]
    environ = {**os.environ, "HOME": str(home), "TMPDIR": str(tmp_path)}
    environ.pop("XDG_CACHE_HOME", None)
    told = [
        subprocess.run(command, check=True, timeout=100, env=environ, capture_output=True, text=True).stderr
        for _ in range(2)
    ]
    assert (told[0].count("compiling the replay engine"), told[0].count("\n"), told[1]) == (1, 1, "")
    assert (home / ".cache").read_text() == "not a directory"


WITHOUT_NUMBA = """
import sys
sys.modules["numba"] = None
import tracekit
"""


def test_without_numba_the_engine_is_refused_with_its_extra(tmp_path: Path, data: Path) -> None:
    trace = write_trace(tmp_path / "t", data, [("whole", 100, 0, 100, 0)])
    code = f"""{WITHOUT_NUMBA}
try:
    tracekit.replay({str(trace)!r}, engine="compiled")
except tracekit.UsageError as error:
    assert "tracekit[fast]" in str(error), error
else:
    raise AssertionError("not refused")
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


def test_without_numba_the_interpreter_serves_and_the_result_says_why(tmp_path: Path, data: Path) -> None:
    trace = write_trace(tmp_path / "t", data, [("whole", 100, 0, 100, 0)])
    code = f"""{WITHOUT_NUMBA}
result = tracekit.replay({str(trace)!r}, tolerance=1e9)
assert result.client.engine == "interpreter"
assert "pip install 'tracekit[fast]'" in result.client.fallback
assert result.client.fallback in result.verdict.reason
assert result.to_dict()["client"]["fallback"] == result.client.fallback
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


@pytest.mark.parametrize("scheme", ["file", "direct"])
def test_local_reads_are_driven_by_the_compiled_engine_unless_another_is_named(
    tmp_path: Path, data: Path, scheme: str
) -> None:
    trace = write_trace(tmp_path / "t", data, [("whole", 4096, 0, 4096, 0)])
    for pace in ("recorded", "asap"):
        client = tracekit.replay(trace, pace=pace, map=f"file://={scheme}://", tolerance=1e9).client
        assert (client.engine, client.fallback) == ("compiled", None)
    client = tracekit.replay(trace, engine="interpreter", tolerance=1e9).client
    assert (client.engine, client.fallback) == ("interpreter", "engine=interpreter was given")


@pytest.mark.soak
def test_machine_code_of_another_processor_is_not_loaded(tmp_path: Path, data: Path) -> None:
    trace = write_trace(tmp_path / "t", data, [("whole", 100, 0, 100, 0)])
    code = (
        f"import tracekit; assert tracekit.replay({str(trace)!r}, engine='compiled', tolerance=1e9).ops == 1"
    )
    told = []
    for processor in ("generic", "generic", "nehalem"):
        environ = {
            **os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"),
            "NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": "",
        }  # fmt: skip
        subprocess.run([sys.executable, "-c", code], check=True, timeout=100, env=environ)
        told.append(len(list((tmp_path / "cache").rglob("kernel.work-*.nbc"))))
    assert told == [1, 1, 2]
