"""Every option of a replay has its effect, and what cannot be meant is refused before anything runs."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tracekit.errors import UsageError
from tracekit.replayer import residency
from tracekit.replayer.options import ReplayOptions
from tracekit.replayer.residency import Residency
from tracekit.replayer.run import dry_run, replay
from tracekit.store.reader import TraceReader, open_reader
from tracekit.store.writer import TraceWriter

LENGTH = 16384


def trace_of(folder: Path, rows: dict[str, list[Any]], name: str = "t") -> TraceReader:
    """A trace of the given columns over `folder/data`."""
    count = len(rows["uri"])
    columns = {
        "t_submit": [i * 1_000_000 for i in range(count)], "offset": [0] * count, "len": [LENGTH] * count,
        "bytes": [LENGTH] * count, "latency": [100_000] * count, "sample_id": list(range(count)), **rows,
    }  # fmt: skip
    with TraceWriter(folder / name, source="import:test", epoch_unix_ns=0) as writer:
        writer.write(pa.RecordBatch.from_pydict(columns))
    return open_reader(folder / name)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in "abcdefgh":
        (folder / name).write_bytes(np.random.default_rng(ord(name)).bytes(4 << 20))
    return folder


def uris(data: Path, names: str) -> list[str]:
    return [f"file://{data}/{name}" for name in names]


def test_options_may_be_keywords_and_a_wrong_name_is_answered_with_the_nearest(
    tmp_path: Path, data: Path
) -> None:
    reader = trace_of(tmp_path, {"uri": uris(data, "abab")})
    assert replay(reader, pace="asap", uri_glob="*/a", map=[f"{data}={data}"]).ops == 2
    with pytest.raises(UsageError, match="did you mean max_bytes_in_flight"):
        replay(reader, max_bytes_inflight=1)  # type: ignore[call-arg]


@pytest.mark.parametrize("by", ["stream", "file"])
def test_sampling_keeps_streams_or_files_whole(tmp_path: Path, data: Path, by: str) -> None:
    names = "abcdefgh" * 30
    workers = [i // 8 % 5 for i in range(len(names))]
    reader = trace_of(tmp_path, {"uri": uris(data, names), "worker": workers})
    kept = []
    for seed in range(6):
        replay(
            reader,
            out=tmp_path / "r",
            overwrite=True,
            pace="asap",
            sample_rate=0.5,
            sample_by=by,
            sample_seed=seed,
        )
        column = "worker" if by == "stream" else "uri"
        groups = (
            open_reader(tmp_path / "r")
            .query(f"SELECT {column} AS g, count(*) AS n FROM ops GROUP BY g")
            .to_pylist()
        )
        whole = len(names) // (5 if by == "stream" else 8)
        assert {group["n"] for group in groups} <= {whole}
        kept.append(tuple(sorted(str(group["g"]) for group in groups)))
    assert len(set(kept)) > 1
    assert 0 < sum(len(groups) for groups in kept) < 6 * (5 if by == "stream" else 8)


def test_puts_are_refused_unless_allowed_mapped_and_new(tmp_path: Path, data: Path) -> None:
    target = tmp_path / "target"
    rows = {"uri": uris(data, "aab"), "op": ["put", "get", "read"]}
    reader = trace_of(tmp_path, rows)
    target.mkdir()
    (target / "b").write_bytes(b"x" * LENGTH)
    to_target = f"file://{data}=file://{target}"
    before = (data / "a").read_bytes()

    result = replay(reader, pace="asap")
    assert result.skipped == {"put": 1}
    assert (data / "a").read_bytes() == before
    with pytest.raises(UsageError, match="where it was recorded"):
        replay(reader, pace="asap", allow_writes=True)

    result = replay(reader, pace="asap", allow_writes=True, map=to_target, threads=1)
    assert result.ok
    assert (target / "a").stat().st_size == LENGTH
    assert (data / "a").read_bytes() == before
    with pytest.raises(UsageError, match="would be overwritten"):
        replay(reader, pace="asap", allow_writes=True, map=to_target)
    assert replay(reader, pace="asap", allow_writes=True, overwrite=True, map=to_target, threads=1).ok


def test_puts_never_reach_the_recorded_file_under_another_name(tmp_path: Path, data: Path) -> None:
    reader = trace_of(tmp_path, {"uri": uris(data, "ab"), "op": ["put"] * 2})
    (tmp_path / "link").symlink_to(data)
    before = (data / "a").read_bytes()
    for target in (f"direct://{data}", f"file://{tmp_path}/link", f"direct://{tmp_path}/data/../link"):
        with pytest.raises(UsageError, match="where it was recorded"):
            replay(reader, allow_writes=True, overwrite=True, map=f"file://{data}={target}")
    assert (data / "a").read_bytes() == before


def test_a_replay_never_replaces_its_recording(tmp_path: Path, data: Path) -> None:
    reader = trace_of(tmp_path, {"uri": uris(data, "ab")})
    (tmp_path / "link").symlink_to(tmp_path / "t")
    for out in (tmp_path / "t", tmp_path / "link", tmp_path / "data" / ".." / "t"):
        with pytest.raises(UsageError, match="recording itself"):
            replay(reader, out=out, overwrite=True)
    assert open_reader(tmp_path / "t").trace_id == reader.trace_id


def test_a_dry_run_says_what_would_run_and_what_is_missing(tmp_path: Path, data: Path) -> None:
    reader = trace_of(tmp_path, {"uri": uris(data, "abc"), "offset": [0, 0, 8 << 20]})
    (data / "b").unlink()
    summary = dry_run(reader, speed=2.0)
    assert (summary.ops, summary.files, summary.bytes) == (3, 3, 3 * LENGTH)
    assert summary.span_ns == 1_000_000
    assert summary.missing == tuple(uris(data, "b"))
    assert summary.too_small == tuple(uris(data, "c"))


def test_cold_and_warm_are_measured_by_what_the_page_cache_holds(tmp_path: Path, data: Path) -> None:
    names = "abcdefgh"
    reader = trace_of(
        tmp_path,
        {
            "uri": uris(data, names) * 30,
            "offset": [(i // 8) * 131072 for i in range(240)],
            "len": [65536] * 240,
            "bytes": [65536] * 240,
        },
    )
    how: dict[str, Any] = {
        "page_cache_mode": "fadvise_random",
        "threads": 1,
        "tolerance": 1e9,
        "max_lateness": "1h",
    }
    cold, warm = replay(reader, cold=True, **how), replay(reader, warm=True, **how)
    assert (cold.warnings, warm.warnings) == ((), ())
    assert cold.residency_before is not None and warm.residency_before is not None
    assert cold.residency_before.share == 0
    assert cold.residency_after is not None and cold.residency_after.share > 0.3
    assert warm.residency_before.share == 1


def test_direct_io_leaves_the_page_cache_alone(tmp_path: Path, data: Path) -> None:
    reader = trace_of(tmp_path, {"uri": uris(data, "a") * 100, "offset": [i * LENGTH for i in range(100)]})
    direct = replay(
        reader, cold=True, page_cache_mode="direct_io", threads=1, tolerance=1e9, max_lateness="1h"
    )
    assert direct.counters["direct_reads"] == 100
    assert direct.residency_after is not None and direct.residency_after.share < 0.01


def test_cold_warns_about_pages_that_stay_cached(tmp_path: Path) -> None:
    held = tmp_path / "held"
    held.write_bytes(bytes(1 << 20))
    reader = trace_of(tmp_path, {"uri": [f"file://{held}"] * 4})
    with held.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert sum(mapped[:: mmap.PAGESIZE]) == 0  # pages that are mapped and were touched do not leave
        result = replay(reader, pace="asap", cold=True)
    assert result.residency_before is not None and result.residency_before.share > 0.9
    assert [warning.partition(":")[0] for warning in result.warnings] == ["cold=True"]
    assert result.to_dict()["warnings"] == list(result.warnings)
    assert replay(reader, pace="asap", cold=True).warnings == ()


def test_warm_reads_evicted_pages_again_and_gives_up_if_they_keep_going(tmp_path: Path, data: Path) -> None:
    reader = trace_of(tmp_path, {"uri": uris(data, "abcdefgh")})
    taking = "import os, sys\nfds = [os.open(p, os.O_RDONLY) for p in sys.argv[1:]]\nprint(flush=True)\n"
    taking += (
        "while os.getppid() == parent: [os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED) for fd in fds]"
    )
    program = f"parent = {os.getpid()}\n{taking}"
    paths = [str(data / name) for name in "abcdefgh"]
    with subprocess.Popen([sys.executable, "-c", program, *paths], stdout=subprocess.PIPE) as evictor:
        try:
            assert evictor.stdout is not None and evictor.stdout.readline() == b"\n"
            result = replay(reader, pace="asap", warm=True)
        finally:
            evictor.kill()
    assert result.residency_before is not None
    assert bool(result.warnings) == (result.residency_before.share < 1)
    assert all(warning.startswith("warm=True: the page cache holds only") for warning in result.warnings)


def test_missing_and_unreadable_files_do_not_lose_the_result(tmp_path: Path, data: Path) -> None:
    count = 60
    reader = trace_of(
        tmp_path, {"uri": uris(data, "ab" * 30), "t_submit": [i * 10_000_000 for i in range(count)]}
    )
    vanishing = threading.Timer(0.3, (data / "a").unlink)
    vanishing.start()
    result = replay(reader, threads=4, tolerance=1e9, max_lateness="1h")
    vanishing.join()
    assert result.ops == count
    assert result.residency_after is not None and result.residency_after.files >= 1
    again = replay(reader, threads=4, pace="asap")
    assert (again.failed_ops, again.residency_before and again.residency_before.files) == (30, 1)
    locked = tmp_path / "locked"
    locked.mkdir()
    (locked / "a").write_bytes(bytes(10))
    locked.chmod(0)
    seen = residency.local_files([f"file://{locked}/a", f"file://{data}/b"])
    locked.chmod(0o700)
    assert seen[-1:] == [f"file://{data}/b"]


def test_filters_that_leave_no_op_are_reported(tmp_path: Path, data: Path) -> None:
    reader = trace_of(tmp_path, {"uri": uris(data, "ab")})
    assert replay(reader, uri_glob="*/z").warnings == ("no op of the trace passes the filters",)
    assert replay(reader, uri_glob="*/a").warnings == ()
    stats = trace_of(tmp_path, {"uri": uris(data, "ab"), "op": ["stat"] * 2}, "stats")
    assert replay(stats).warnings == ("the trace has no op to replay",)


def test_residency_shows_what_was_read(data: Path) -> None:
    uri = f"file://{data}/a"
    assert residency.drop([uri]) == Residency(1, 4 << 20, 0)
    assert residency.resident_bytes(uri) == (4 << 20, 0)
    with (data / "a").open("rb") as file:
        file.read(1 << 20)
    assert residency.resident_bytes(uri)[1] >= 1 << 20
    assert residency.warm([uri]) == Residency(1, 4 << 20, 4 << 20)
    assert residency._mincore((data / "a").open("rb").fileno(), 4 << 20) == 1024


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"cold": True, "warm": True}, "exclude each other"),
        ({"start": "2s", "end": "1s"}, "is not after"),
        ({"engine": "loop"}, "cannot drive file"),
    ],
)
def test_options_that_exclude_each_other_are_refused(
    tmp_path: Path, data: Path, wrong: dict[str, Any], said: str
) -> None:
    reader = trace_of(tmp_path, {"uri": uris(data, "a")})
    with pytest.raises(UsageError, match=said):
        replay(reader, **wrong)


def test_a_core_six_trace_in_any_order_with_equal_times_replays(tmp_path: Path, data: Path) -> None:
    table = pa.table(
        {
            "t_submit": pa.array([5_000_000, 0, 5_000_000, 1_000_000], pa.int64()),
            "uri": uris(data, "abca"), "offset": [0, 4096, 8192, 0], "len": [4096] * 4,
            "sample_id": [3, 1, 4, 2], "latency": [1000] * 4,
        }
    )  # fmt: skip
    import pyarrow.parquet as pq

    pq.write_table(table, tmp_path / "foreign.parquet")
    result = replay(tmp_path / "foreign.parquet", out=tmp_path / "r", tolerance=1e9, max_lateness="1h")
    assert (result.ops, result.failed_ops) == (4, 0)
    due = open_reader(tmp_path / "r").query(
        "SELECT sample_id, t_due - min(t_due) OVER () AS d FROM ops ORDER BY sample_id"
    )
    assert due.column("d").to_pylist() == [0, 1_000_000, 5_000_000, 5_000_000]


def test_more_files_than_may_be_open_are_each_read_from_themselves(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(700):
        (folder / f"{i:03}").write_bytes(bytes([i % 251]) * 64)
    names = [f"file://{folder}/{i:03}" for i in range(700)] * 2
    reader = trace_of(
        tmp_path,
        {"uri": names, "len": [64] * 1400, "bytes": [64] * 1400, "t_submit": [i * 1000 for i in range(1400)]},
    )
    for pace in ("recorded", "asap"):
        result = replay(reader, pace=pace, threads=2, tolerance=1e9, max_lateness="1h")
        assert (result.ops, result.failed_ops) == (1400, 0)


def test_the_verdict_names_the_gate_when_the_gate_held_ops(tmp_path: Path, data: Path) -> None:
    reader = trace_of(tmp_path, {"uri": uris(data, "a" * 300), "t_submit": [0] * 300, "len": [1 << 20] * 300})
    result = replay(
        reader, max_ops_in_flight=1, threads=64, page_cache_mode="direct_io", tolerance=1e9, max_lateness="1h"
    )
    assert result.verdict.limit == "gate"
    assert result.timing["gate_p99_ns"] > 0
    assert result.timing["response_p99_ns"] >= result.timing["service_p99_ns"]


def test_the_verdict_names_the_client_when_it_has_no_worker_free(tmp_path: Path, data: Path) -> None:
    reader = trace_of(
        tmp_path, {"uri": uris(data, "a" * 20_000), "t_submit": [i * 100 for i in range(20_000)]}
    )
    result = replay(reader, threads=1, warm=True, tolerance=1e9, max_lateness="1h")
    assert result.verdict.limit in ("client", "storage")
    assert result.timing["backlog_sum_ns"] > result.timing["wake_sum_ns"]


def test_a_long_plan_is_streamed_and_frees_its_memory(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tracekit.replayer import planning

    monkeypatch.setattr(planning, "_STREAM_FROM", 1000)
    monkeypatch.setattr(planning, "_AHEAD", 40_000)
    monkeypatch.setattr(planning, "_GIVE_BACK", 10_000)
    count = 150_000
    reader = trace_of(
        tmp_path,
        {
            "uri": uris(data, "a") * count,
            "t_submit": [i * 100 for i in range(count)],
            "step": [i // 64 for i in range(count)],
        },
    )
    ways: list[dict[str, Any]] = [
        {"pace": "asap", "threads": 2},
        {"pace": "recorded"},
        {"pace": "recorded", "engine": "interpreter"},
    ]
    for how in ways:
        result = replay(reader, out=tmp_path / "r", overwrite=True, tolerance=1e9, max_lateness="1h", **how)
        assert (result.ops, result.failed_ops) == (count, 0)
        assert result.parity.row("bytes").difference == 0
        found = open_reader(tmp_path / "r").query(
            "SELECT count(DISTINCT sample_id) AS n, count(DISTINCT step) AS s, min(len) AS l FROM ops"
        )
        assert found.to_pylist() == [{"n": count, "s": -(-count // 64), "l": LENGTH}]
        assert len(open_reader(tmp_path / "r").segments) > 1  # small ones, each of which is sorted in memory


def test_a_long_replay_leaves_the_allocator_of_arrow_as_it_was(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tracekit.replayer import run
    from tracekit.replayer.allocator import returning_memory

    monkeypatch.setattr(run, "_LONG_PLAN", 10)
    before = pa.default_memory_pool().backend_name
    with returning_memory():
        assert pa.default_memory_pool().backend_name in ("jemalloc", "system")
    reader = trace_of(tmp_path, {"uri": uris(data, "a") * 20})
    assert replay(reader, pace="asap", tolerance=1e9).ops == 20
    assert pa.default_memory_pool().backend_name == before


@pytest.mark.parametrize(
    "how",
    [{}, {"engine": "interpreter"}, {"pace": "asap"}, {"page_cache_mode": "dontneed"}, {"pace": "closed"}],
)
def test_an_op_larger_than_memory_is_a_row_with_an_error(
    tmp_path: Path, data: Path, how: dict[str, Any]
) -> None:
    reader = trace_of(tmp_path, {"uri": uris(data, "aba"), "len": [LENGTH, 1 << 50, LENGTH]})
    result = replay(reader, tolerance=1e9, max_lateness="1h", **how)
    assert (result.ops, result.failed_ops) == (3, 1)
    assert [(f["error"], f["len"]) for f in result.failures] == [("out_of_memory", 1 << 50)]


def test_options_are_kept_in_the_trace_of_the_replay(tmp_path: Path, data: Path) -> None:
    reader = trace_of(tmp_path, {"uri": uris(data, "ab")})
    replay(reader, ReplayOptions(pace="asap", max_ops_in_flight=3), out=tmp_path / "r")
    recorded_options = open_reader(tmp_path / "r").options["replay"]
    assert (recorded_options["pace"], recorded_options["max_ops_in_flight"], recorded_options["of"]) == (
        "asap",
        3,
        reader.trace_id,
    )
