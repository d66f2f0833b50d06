"""Changes in the compiled engine: the same rows, bytes on disk and order as in the interpreter."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

import tracekit
from tracekit.errors import TracekitError, UsageError
from tracekit.replayer.mapping import MappingRules
from tracekit.replayer.options import ReplayOptions
from tracekit.replayer.payload import Payload
from tracekit.replayer.planning import build_plan
from tracekit.store.reader import open_reader
from tracekit.store.writer import TraceWriter

pytest.importorskip("numba", reason="numba is not installed (extra `fast`)")

US, MS = 1_000, 1_000_000
NAMES = ("a", "b", "sub/c", "sub/d", "there", "folder", "there/below")
"""Two new files, two in a new directory, one that is there, a directory, and a name below a file."""
KINDS = ("read", "get", "write", "write", "put", "sync", "truncate", "rename", "copy", "delete", "part", "complete", "abort")  # fmt: skip
COUNTERS = ("hints_applied", "direct_reads", "alignment_bytes", "buffered_write_bytes")
Op = tuple[str, str, str, int, int | None, int]
"""(kind, name, other name, offset, length, ns after the op before)"""


def write_trace(path: Path, ops: list[Op], latency: int = 0) -> Path:
    """A recording below file:///run in which each op takes `latency` ns."""
    parts: dict[str, int] = {}
    columns: dict[str, list[Any]] = {name: [] for name in ("op", "uri", "to_uri", "offset", "len", "part")}
    for kind, name, other, offset, length, _ in ops:
        at = offset if kind in ("read", "write") else None
        to = f"file:///run/{other}" if kind in ("rename", "copy") else None
        parts[name] = parts.get(name, 0) + (kind == "part") if kind != "complete" else 0
        size = length if kind in ("read", "write", "put", "part", "truncate") else None
        row = (kind, f"file:///run/{name}", to, at, size, parts[name] if kind == "part" else None)
        for column, value in zip(columns.values(), row, strict=True):
            column.append(value)
    integers = {name: pa.array(columns[name], pa.int64()) for name in ("offset", "len")}
    with TraceWriter(path, source="import:test", epoch_unix_ns=0) as writer:
        writer.write(
            pa.RecordBatch.from_pydict(
                {
                    "t_submit": pa.array(np.cumsum([op[5] for op in ops]), pa.int64()), "op": columns["op"],
                    "uri": columns["uri"], "to_uri": pa.array(columns["to_uri"], pa.string()), **integers,
                    "bytes": pa.array([None] * len(ops), pa.int64()), "part": pa.array(columns["part"], pa.int32()),
                    "latency": pa.array([latency] * len(ops), pa.int64()),
                    "worker": pa.array([i % 3 for i in range(len(ops))], pa.int32()),
                }
            )
        )  # fmt: skip
    return path


def target(folder: Path) -> Path:
    """A directory with a file and a directory in it."""
    (folder / "folder" / "inside").mkdir(parents=True)
    (folder / "there").write_bytes(np.random.default_rng(1).bytes(30_000))
    return folder


def replayed(trace: Path, out: Path, engine: str, **how: Any) -> list[dict[str, Any]]:
    """Replay below a new target; return the rows, with the target as it was recorded."""
    scheme = how.pop("scheme", "file")
    at = target(out.with_suffix(".target"))
    options = {"allow_writes": True, "overwrite": True, "tolerance": 1e9, "max_lateness": "1h", **how}
    result = tracekit.replay(trace, out=out, engine=engine, map=f"file:///run={scheme}://{at}", **options)
    assert result.client.engine == engine
    columns = 'plan_op, op, uri, to_uri, ops."offset", len, bytes, worker, part, error'
    rows = open_reader(out).query(f"SELECT {columns} FROM ops ORDER BY ALL").to_pylist()
    return [
        {k: v.replace(f"{scheme}://{at}", "") if isinstance(v, str) else v for k, v in r.items()}
        for r in rows
    ]


def left_behind(out: Path) -> dict[str, bytes | None]:
    """Every path below the target of a replay, and the bytes of files."""
    at = out.with_suffix(".target")
    return {str(path.relative_to(at)): None if path.is_dir() else path.read_bytes() for path in at.rglob("*")}


def counted(out: Path) -> dict[str, int]:
    counters = open_reader(out).counters
    return {name: counters.get(name, 0) for name in COUNTERS}


LENGTHS = st.integers(0, 20_000) | st.sampled_from([0, 4096, 8192, 140_000, 1 << 50])
OFFSETS = st.integers(0, 40_000) | st.sampled_from([0, 4096, 8192, 1 << 62])
REACHED: Op = ("read", "there", "a", 0, 10, 1)
"""A read of a file that is there: without one, a plan that reads missing files alone is refused."""
OPS = st.lists(
    st.tuples(
        st.sampled_from(KINDS), st.sampled_from(NAMES), st.sampled_from(NAMES), OFFSETS, LENGTHS,
        st.integers(1, 100 * US),
    ),
    min_size=1, max_size=30,
)  # fmt: skip


def both_or_neither(folder: Path, trace: Path, threads: int, **how: Any) -> tuple[Any, Any] | None:
    """The rows of both engines; None if the plan is refused before it starts, by both alike."""
    try:
        interpreted = replayed(trace, folder / "i", "interpreter", threads=1, **how)
    except TracekitError as error:
        with pytest.raises(TracekitError) as other:
            replayed(trace, folder / "c", "compiled", threads=threads, **how)
        assert str(other.value).replace("c.target", "i.target") == str(error)
        return None
    return replayed(trace, folder / "c", "compiled", threads=threads, **how), interpreted


@examples(20)
@given(
    ops=OPS,
    pace=st.sampled_from(["recorded", "asap", "closed"]),
    scheme=st.sampled_from(["file", "direct"]),
    mode=st.sampled_from(["default", "dontneed", "direct_io"]),
    data=st.sampled_from(["random", "zeros", "compressible:3"]),
    gate=st.sampled_from([{}, {"max_ops_in_flight": 2}, {"max_bytes_in_flight": 9_000}]),
    overwrite=st.booleans(),
)
def test_both_engines_change_the_same_bytes_and_record_the_same_rows(
    tmp_path_factory: pytest.TempPathFactory, ops: list[Op], pace: str, scheme: str, mode: str, data: str,
    gate: dict[str, int], overwrite: bool,
) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("t")
    trace = write_trace(folder / "t", [REACHED, *ops])
    how = {
        "pace": pace,
        "scheme": scheme,
        "page_cache_mode": mode,
        "write_data": data,
        "overwrite": overwrite,
        **gate,
    }
    rows = both_or_neither(folder, trace, 1, **how)
    if rows is not None:
        assert rows[0] == rows[1]
        assert left_behind(folder / "c") == left_behind(folder / "i")
        assert counted(folder / "c") == counted(folder / "i")


@examples(12)
@given(
    ops=OPS.map(lambda ops: [op for op in ops if op[0] != "copy"] or [("put", "a", "a", 0, 9, 1)]),
    pace=st.sampled_from(["recorded", "asap", "closed"]),
    scheme=st.sampled_from(["file", "direct"]),
)
def test_workers_keep_the_order_of_changes_of_one_object(
    tmp_path_factory: pytest.TempPathFactory, ops: list[Op], pace: str, scheme: str
) -> None:
    """A write does not wait for an earlier read or copy of the same range, so that these are left out."""
    folder = tmp_path_factory.mktemp("t")
    rows = both_or_neither(folder, write_trace(folder / "t", [REACHED, *ops]), 4, pace=pace, scheme=scheme)
    if rows is not None:
        changes = [[row for row in side if row["op"] not in ("read", "get", "hint")] for side in rows]
        assert changes[0] == changes[1]
        assert left_behind(folder / "c") == left_behind(folder / "i")


def test_a_write_goes_to_the_file_that_has_the_name_now(tmp_path: Path) -> None:
    ops: list[Op] = [
        ("write", "a", "a", 0, 100, MS), ("rename", "a", "b", 0, None, MS), ("write", "a", "a", 0, 50, MS),
        ("delete", "a", "a", 0, None, MS), ("write", "a", "a", 10, 5, MS), ("put", "a", "a", 0, 70, MS),
        ("write", "a", "a", 70, 1, MS),
    ]  # fmt: skip
    rows = replayed(write_trace(tmp_path / "t", ops), tmp_path / "c", "compiled", threads=3)
    assert [row["error"] for row in rows] == [None] * len(ops)
    found = left_behind(tmp_path / "c")
    assert {name: len(found[name] or b"") for name in ("a", "b")} == {"a": 71, "b": 100}


@pytest.mark.parametrize("pace", ["recorded", "asap", "closed"])
def test_every_op_follows_those_that_it_depends_on(tmp_path: Path, pace: str) -> None:
    """One file is written by all workers in turns; more than 64 ranges are then read at once, through a join."""
    rng = np.random.default_rng(7)
    ops: list[Op] = []
    for _ in range(6):
        ops += [("write", "a", "a", 4096 * int(i), 4096, US) for i in rng.permutation(100)]
        ops += [("read", "a", "a", 4096 * int(i), 4096, US) for i in rng.integers(0, 100, 30)]
        ops += [
            ("get", "a", "a", 0, None, US),
            ("rename", "a", "b", 0, None, US),
            ("rename", "b", "a", 0, None, US),
        ]
    trace = write_trace(tmp_path / "t", ops)
    rows = replayed(trace, tmp_path / "c", "compiled", threads=8, pace=pace)
    assert {row["error"] for row in rows} == {None} and len(rows) == len(ops)
    assert {row["bytes"] for row in rows if row["op"] == "get"} == {409_600}
    plan = build_plan(open_reader(trace), MappingRules(), ReplayOptions(allow_writes=True, pace=pace))
    times = open_reader(tmp_path / "c").query("SELECT t_submit, t_submit + latency FROM ops ORDER BY plan_op")
    submit, end = (times.column(i).to_numpy() for i in (0, 1))
    assert plan.order is not None and len(plan.order.waits_for) > 500
    assert all(submit[op] >= end[other] for op in range(len(ops)) for other in plan.order.before(op))
    last = {row["offset"]: row["plan_op"] for row in rows if row["op"] == "write"}
    written = left_behind(tmp_path / "c")["a"] or b""
    assert all(written[at : at + 4096] == bytes(Payload().of(op, 4096)) for at, op in last.items())


def test_more_written_files_than_descriptors_end_without_an_error(tmp_path: Path) -> None:
    ops: list[Op] = [("write", f"many/{i % 200:03}", "a", i, 10, US) for i in range(1000)]
    trace = write_trace(tmp_path / "t", ops)
    code = f"""
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        import tracekit
        result = tracekit.replay({str(trace)!r}, engine="compiled", pace="asap", tolerance=1e9, allow_writes=True,
                                 map="file:///run=direct://{tmp_path}/new")
        assert (result.ops, result.failed_ops) == (1000, 0), result.failures
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=100)
    assert len(list((tmp_path / "new" / "many").iterdir())) == 200


def test_an_interrupted_replay_leaves_no_part_of_an_upload(tmp_path: Path) -> None:
    ops: list[Op] = [("part", "a", "a", 0, 5000, 5 * MS) for _ in range(400)]
    trace = write_trace(tmp_path / "t", ops)
    code = f"""
        import os, signal, tracekit
        sent = []
        def watch(done, total=None, note=""):
            if done >= 5 and not sent:
                sent.append(os.kill(os.getpid(), signal.SIGINT))
        result = tracekit.replay({str(trace)!r}, engine="compiled", watch=watch, tolerance=1e9, allow_writes=True,
                                 map="file:///run={tmp_path}/new")
        assert result.partial and 5 <= result.ops < 400, result.ops
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=100)
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("engine", ["compiled", "interpreter"])
def test_an_upload_that_cannot_be_completed_leaves_nothing(tmp_path: Path, engine: str) -> None:
    """A directory has the name of the object."""
    ops: list[Op] = [("part", "folder", "a", 0, 5000, MS), ("complete", "folder", "a", 0, None, MS)]
    rows = replayed(write_trace(tmp_path / "t", [*ops, *ops]), tmp_path / "c", engine)
    assert [row["plan_op"] for row in rows if row["error"]] == [1, 3]
    assert sorted(left_behind(tmp_path / "c")) == ["folder", "folder/inside", "there"]


def test_a_full_disk_is_a_row_with_an_error(tmp_path: Path) -> None:
    """A file size limit stands for the disk; the part of a write that fits is not counted as written."""
    ops: list[Op] = [("write", "a", "a", 0, 4096, MS), ("write", "a", "a", 1 << 20, 4096, MS)]
    trace = write_trace(tmp_path / "t", ops)
    code = f"""
        import resource, signal, tracekit
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        result = tracekit.replay({str(trace)!r}, engine="compiled", tolerance=1e9, allow_writes=True,
                                 map="file:///run={tmp_path}/new")
        assert [failure["error"] for failure in result.failures] == ["out_of_range"], result.failures
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=100)
    assert (tmp_path / "new" / "a").stat().st_size == 4096


def test_writes_stay_below_the_mapped_target(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "t", [("write", "door/x", "a", 0, 10, MS)])
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "door").symlink_to(outside)
    with pytest.raises(UsageError, match="outside the mapped target"):
        tracekit.replay(
            trace, engine="compiled", tolerance=1e9, allow_writes=True, map=f"file:///run={tmp_path}/new"
        )
    assert list(outside.iterdir()) == []
    shutil.rmtree(outside)
