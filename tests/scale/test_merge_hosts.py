"""Merging the traces of several hosts: nothing is lost, times are on one axis, ranks do not clash."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

import tracekit
from tracekit.job import rank_and_world_size
from tracekit.recorder import Recorder
from tracekit.store import join
from tracekit.store.writer import TraceWriter

EPOCH = 1_700_000_000_000_000_000


def make(path: Path, submits: list[int], *, epoch: int = EPOCH, rank: int = 0, extra: bool = False) -> Path:
    n = len(submits)
    columns: dict[str, Any] = {
        "t_submit": pa.array(submits, pa.int64()), "uri": pa.array([f"file:///d/{rank}"] * n, pa.string()),
        "offset": pa.array(range(n), pa.int64()), "len": pa.array([1] * n, pa.int64()),
        "bytes": pa.array([1] * n, pa.int64()), "latency": pa.array([5] * n, pa.int64()),
        "sample_id": pa.array(range(n), pa.int64()), "rank": pa.array([rank] * n, pa.int32()),
        "step": pa.array([i // 2 for i in range(n)], pa.int64()),
    }  # fmt: skip
    if extra:
        columns["job"] = pa.array([f"job-{i}" for i in range(n)], pa.string())
    with TraceWriter(path, source="import:test", epoch_unix_ns=epoch, segment_ops=3) as writer:
        writer.write(pa.RecordBatch.from_pydict(columns))
        writer.count("retries", 2)
    return path


def rows(path: Path, columns: str) -> list[tuple[Any, ...]]:
    return [
        tuple(row.values())
        for row in tracekit.open_trace(path).query(f"SELECT {columns} FROM ops").to_pylist()
    ]


@examples(25)
@given(
    hosts=st.lists(
        st.tuples(
            st.lists(st.integers(0, 1000), max_size=20), st.integers(-500, 500), st.integers(-300, 300)
        ),
        min_size=1,
        max_size=4,
    )
)
def test_every_op_stands_at_its_wall_clock_time_plus_the_offset(
    tmp_path_factory: pytest.TempPathFactory, hosts: list[tuple[list[int], int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("merge")
    traces, wanted = [], Counter[tuple[int, int, int]]()
    for rank, (submits, epoch, offset) in enumerate(hosts):
        traces.append(make(folder / f"h{rank}", submits, epoch=EPOCH + epoch, rank=rank))
        ordered = sorted(range(len(submits)), key=lambda i: submits[i])
        wanted.update((EPOCH + epoch + offset + submits[i], rank, i) for i in ordered)
    done = tracekit.merge(
        traces, folder / "all", offset=[f"h{rank}={offset}ns" for rank, (_, _, offset) in enumerate(hosts)]
    )
    assert done.ops == sum(wanted.values())
    assert done.epoch_unix_ns == min(EPOCH + epoch + offset for _, epoch, offset in hosts)
    found = Counter(
        (done.epoch_unix_ns + t, rank, sample)
        for t, rank, sample in rows(done.out, "t_submit, rank, sample_id")
    )
    assert found == wanted
    assert {segment.epoch_unix_ns for segment in tracekit.open_trace(done.out).reader.segments} <= {
        done.epoch_unix_ns
    }
    assert not list(tracekit.verify(done.out))


def test_labels_counters_and_extra_columns_are_kept(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a", [1, 2, 3, 4], extra=True), make(tmp_path / "b", [5], rank=1)
    before = tracekit.open_trace(a).reader
    done = tracekit.merge([a, b], tmp_path / "all")
    merged = tracekit.open_trace(done.out)
    assert merged.info()["counters"] == {"retries": 4}
    assert [row[0] for row in rows(done.out, "job") if row[0]] == ["job-0", "job-1", "job-2", "job-3"]
    for old, new in zip(before.segments, merged.reader.segments, strict=False):
        same = {"host", "pid", "source", "version", "options", "boot_id"}
        assert {k: old.metadata[k] for k in same} == {k: new.metadata[k] for k in same}
        assert new.metadata["origin"] == f"{before.trace_id}/{old.metadata['segment']}"


def test_a_part_larger_than_a_segment_is_cut_without_loss(tmp_path: Path) -> None:
    columns = {"uri": ["a"] * 25, "offset": range(25), "len": [1] * 25, "t_submit": range(25, 0, -1),
               "sample_id": range(25), "latency": [1] * 25}  # fmt: skip
    table = pa.table({k: pa.array(v) for k, v in columns.items()})
    pq.write_table(
        table.replace_schema_metadata({"tracekit.epoch_unix_ns": str(EPOCH)}), tmp_path / "x.parquet"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(join, "ROW_GROUP_ROWS", 10)
        patch.setattr("tracekit.store.merge._BATCH_ROWS", 7)
        tracekit.merge([tmp_path / "x.parquet"], tmp_path / "all")
    assert [s.rows for s in tracekit.open_trace(tmp_path / "all").reader.segments] == [10, 10, 5]
    assert rows(tmp_path / "all", "t_submit, sample_id") == [(i + 1, 24 - i) for i in range(25)]


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        ("auto", {"a": {0}, "b": {2}, "c": {1}}),
        ("keep", {"a": {0}, "b": {0}, "c": {1}}),
        ("assign", {"a": {0}, "b": {1}, "c": {2}}),
    ],
)
def test_clashing_ranks_are_numbered_anew_and_others_kept(
    tmp_path: Path, rule: str, wanted: dict[str, set[int]]
) -> None:
    traces = [
        make(tmp_path / name, [n], rank=rank) for n, (name, rank) in enumerate((("a", 0), ("b", 0), ("c", 1)))
    ]
    done = tracekit.merge(traces, tmp_path / "all", ranks=rule)
    assert [{rank} for _, rank in rows(done.out, "t_submit, rank")] == list(wanted.values())
    assert [host.ranks for host in done.hosts] == [
        {
            next(iter({"a": {0}, "b": {0}, "c": {1}}[name])): rank
            for rank in ranks
            if {rank} != {"a": {0}, "b": {0}, "c": {1}}[name]
        }
        for name, ranks in wanted.items()
    ]


def test_the_stated_clock_error_is_kept_and_shown_and_unknown_stays_unknown(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a", [1]), make(tmp_path / "b", [2], rank=1)
    unknown = tracekit.merge([a, b], tmp_path / "unknown", offset="a=1us")
    assert unknown.clock_error_ns is None
    stated = tracekit.merge([a, b], tmp_path / "stated", offset="a=-250us", clock_error="20us")
    assert stated.clock_error_ns == 20_000
    clock = tracekit.open_trace(stated.out).info()["clock"]
    assert clock["error_ns"] == 20_000
    run = subprocess.run(
        [sys.executable, "-m", "tracekit", "info", str(stated.out)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "error at most 20" in run.stdout
    again = tracekit.merge(
        [stated.out, make(tmp_path / "c", [3], rank=2)], tmp_path / "again", clock_error="1ms"
    )
    assert again.clock_error_ns == 1_000_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"offset": "nowhere=1ms"}, "names nowhere"),
        ({"offset": "a"}, "is not NAME=TIME"),
        ({"offset": ["a=1ms", "a=2ms"]}, "given twice"),
        ({"ranks": "some"}, "one of auto, keep, assign"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_written(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(tracekit.UsageError) as caught:
        tracekit.merge([make(tmp_path / "a", [1])], tmp_path / "all", **options)
    assert message in f"{caught.value.message} {caught.value.hint}"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a"]


def test_the_same_ops_are_not_merged_twice(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a", [1]), make(tmp_path / "b", [2], rank=1)
    tracekit.merge([a, b], tmp_path / "all")
    for traces in ([a, a], [tmp_path / "all", b]):
        with pytest.raises(tracekit.UsageError, match="hold the same ops"):
            tracekit.merge(traces, tmp_path / "more")


def test_a_trace_without_an_epoch_and_an_existing_target_are_refused(tmp_path: Path) -> None:
    columns = {"uri": ["a"], "offset": [0], "len": [1], "t_submit": [1], "sample_id": [0], "latency": [1]}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(tracekit.TraceFormatError, match="states no epoch"):
        tracekit.merge([tmp_path / "x.parquet"], tmp_path / "all")
    a = make(tmp_path / "a", [1])
    make(tmp_path / "all", [7])
    with pytest.raises(tracekit.UsageError, match="exists"):
        tracekit.merge([a], tmp_path / "all")
    assert tracekit.merge([a], tmp_path / "all", overwrite=True).ops == 1


@pytest.mark.parametrize(
    ("epoch", "submit", "offset"),
    [
        (EPOCH, 0, "a=300000000000s"),
        (-(1 << 62), 0, "a=0s"),
        (EPOCH, (1 << 63) - 10, "a=0s"),
        (EPOCH, 0, "a=-300000000000s"),
    ],
)
def test_times_that_fit_no_axis_are_refused_and_nothing_is_left(
    tmp_path: Path, epoch: int, submit: int, offset: str
) -> None:
    a, b = make(tmp_path / "a", [1]), make(tmp_path / "b", [submit], epoch=epoch, rank=1)
    c = make(tmp_path / "c", [5], epoch=-EPOCH if submit else (1 << 62), rank=2)
    with pytest.raises(tracekit.TraceFormatError, match="do not fit the time axis"):
        tracekit.merge([a, b, c], tmp_path / "all", offset=offset)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a", "b", "c"]


def test_what_a_part_lost_is_told_of_the_whole(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a", [1, 2, 3, 4]), make(tmp_path / "b", [5], rank=1)
    (a / "seg-00001.parquet").unlink()
    tracekit.repair(a)
    assert tracekit.open_trace(a).info()["removed_ops"] == 1
    merged = tracekit.merge([a, b], tmp_path / "all")
    assert merged.ops == 4
    assert tracekit.open_trace(merged.out).info()["removed_ops"] == 1


def test_the_journals_of_a_crash_are_merged_too(tmp_path: Path) -> None:
    code = f"""if True:
        import os, time
        from tracekit.recorder import Recorder
        recorder = Recorder({str(tmp_path / "a")!r}, rank=3)
        recorder.record("file:///x", 0, 1, time.monotonic_ns(), 5)
        recorder.flush()
        os._exit(9)
    """
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    done = tracekit.merge([tmp_path / "a"], tmp_path / "all")
    assert (done.ops, done.unfinished) == (1, 1)
    assert rows(done.out, "rank, uri") == [(3, "file:///x")]


def test_the_command_line_prints_json(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a", [1]), make(tmp_path / "b", [2])
    command = [
        sys.executable,
        "-m",
        "tracekit",
        "merge",
        str(a),
        str(b),
        "-o",
        str(tmp_path / "all"),
        "--json",
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    said = json.loads(run.stdout)
    assert (said["ops"], said["hosts"][1]["ranks"], said["clock_error_ns"]) == (2, {"0": 1}, None)


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({"RANK": "3", "WORLD_SIZE": "8", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, (3, 8)),
        ({"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4"}, (2, 4)),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, (1, 2)),
        ({"SLURM_PROCID": "5", "SLURM_NTASKS": "6", "RANK": "x"}, (5, 6)),
        ({"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "6", "SLURM_NTASKS": "60"}, (5, 6)),
        ({"SLURM_NTASKS": "6"}, (None, None)),
        ({"RANK": "3"}, (3, None)),
        ({"RANK": "3", "SLURM_PROCID": "3", "SLURM_NTASKS": "6"}, (3, 6)),
        ({"RANK": "3", "SLURM_PROCID": "0", "SLURM_NTASKS": "6"}, (3, None)),
        ({"PMIX_RANK": "2"}, (2, None)),
        ({"PMIX_RANK": "2", "SLURM_PROCID": "2", "SLURM_NTASKS": "6"}, (2, 6)),
        ({"PMIX_RANK": "2", "OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4"}, (2, 4)),
        ({"RANK": "3", "WORLD_SIZE": "2"}, (3, None)),
        ({"RANK": "99999999999"}, (None, None)),
        ({}, (None, None)),
    ],
)
def test_the_rank_is_what_the_launcher_states(
    environment: dict[str, str], wanted: tuple[int | None, int | None]
) -> None:
    assert rank_and_world_size(environment) == wanted


def test_a_capture_and_a_recorded_run_take_the_rank_of_their_task(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"x" * 100)
    code = f"""if True:
        import tracekit
        with tracekit.capture.start({str(tmp_path / "captured")!r}, hooks="files"):
            open({str(tmp_path / "a.bin")!r}, "rb").read()
        tracekit.record({str(tmp_path / "a.bin")!r}, {str(tmp_path / "recorded")!r})
    """
    launched = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "6"}
    subprocess.run([sys.executable, "-c", code], env=without_launcher(launched), check=True)
    for name in ("captured", "recorded"):
        reader = tracekit.open_trace(tmp_path / name).reader
        assert {row[0] for row in rows(tmp_path / name, "rank")} == {5}
        assert reader.segments[0].metadata["world_size"] == "6"


def without_launcher(launched: dict[str, str]) -> dict[str, str]:
    """Our environment, with no launcher but the one that is `launched`."""
    names = ("RANK", "WORLD_SIZE", "OMPI", "PMI", "SLURM")
    return {**{k: v for k, v in os.environ.items() if not k.startswith(names)}, **launched}


def test_a_rank_whose_launcher_states_no_number_of_ranks_leaves_it_unknown(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"x" * 100)
    code = f"""if True:
        import tracekit
        with tracekit.capture.start({str(tmp_path / "captured")!r}, hooks="files"):
            open({str(tmp_path / "a.bin")!r}, "rb").read()
        tracekit.record({str(tmp_path / "a.bin")!r}, {str(tmp_path / "recorded")!r})
    """
    subprocess.run([sys.executable, "-c", code], env=without_launcher({"RANK": "3"}), check=True)
    for name in ("captured", "recorded"):
        assert {row[0] for row in rows(tmp_path / name, "rank")} == {3}
        segments = tracekit.open_trace(tmp_path / name).reader.segments
        assert {segment.metadata["world_size"] for segment in segments} == {""}


@pytest.mark.parametrize("method", ["native", "strace"])
def test_a_captured_command_has_the_rank_of_its_task_unless_its_processes_state_one(
    tmp_path: Path, method: str
) -> None:
    if method == "strace" and not shutil.which("strace"):
        pytest.skip("needs strace")
    (tmp_path / "a.bin").write_bytes(b"x" * 100)
    (tmp_path / "b.bin").write_bytes(b"x" * 100)
    script = 'cat "$1" > /dev/null; RANK=3 "$3" -c "open(\'$2\').read()"'
    command = ["sh", "-c", script, "sh", str(tmp_path / "a.bin"), str(tmp_path / "b.bin"), sys.executable]
    words = [
        sys.executable,
        "-m",
        "tracekit",
        "capture",
        "-o",
        str(tmp_path / "t"),
        "--method",
        method,
        "--",
        *command,
    ]
    launched = {"SLURM_PROCID": "5", "SLURM_NTASKS": "6"}
    subprocess.run(words, env=without_launcher(launched), check=True, capture_output=True)
    found = {(Path(uri).name, rank) for uri, rank in rows(tmp_path / "t", "uri, rank")}
    assert found == {("a.bin", 5), ("b.bin", 3)}
    (size,) = {s.metadata["world_size"] for s in tracekit.open_trace(tmp_path / "t").reader.segments}
    assert size == "6"


def test_the_straggler_is_the_rank_that_the_others_wait_for(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "t")
    with recorder:
        zero = recorder.epoch_mono_ns
        for step in range(4):
            for rank in range(3):
                late = 2_000_000 if rank == 1 and step else 0
                batch = {"t_submit": [zero + step * 10_000_000 + rank * 1000 + late], "uri": ["s3://b/k"], "offset": [0],
                         "len": [1], "latency": [1_000_000 + late], "sample_id": [0], "step": [step], "rank": [rank]}  # fmt: skip
                recorder.record_batch(pa.RecordBatch.from_pydict(batch))
    trace = tracekit.open_trace(tmp_path / "t")
    worst = trace.query("FROM stragglers() LIMIT 1").to_pylist()[0]
    assert (worst["rank"], worst["steps"], worst["last"]) == (1, 4, 3)
    skews = trace.query("FROM step_skew()").to_pylist()
    assert [row["straggler"] for row in skews] == [2, 1, 1, 1]
    assert skews[1]["begin_skew_ms"] == pytest.approx(2.001)
    assert skews[1]["behind_ms"] == pytest.approx(3.999)
