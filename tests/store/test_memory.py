"""Every query over a trace keeps to a limit of memory, spills beside it, and says so in one line if that fails."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tracekit
from tracekit.errors import UsageError
from tracekit.metrics.sweep import peaks
from tracekit.store.memory import memory_bytes, memory_errors
from tracekit.store.merge import ordered_batches
from tracekit.store.reader import open_reader

WIDE = "SELECT md5(i::VARCHAR) AS text FROM range(3_000_000) t(i) ORDER BY text"
"""Some 100 MB to sort."""


def core(path: Path, submits: list[int]) -> Path:
    zeros = [0] * len(submits)
    columns = {"offset": zeros, "len": zeros, "latency": zeros, "sample_id": list(range(len(submits)))}
    pq.write_table(pa.table({"t_submit": submits, "uri": ["file:///d/f"] * len(submits), **columns}), path)
    return path


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tracekit.Trace:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    return tracekit.open_trace(core(tmp_path / "t.parquet", [3, 1, 2]))


def test_a_query_larger_than_its_memory_spills_to_a_private_directory_that_goes_with_it(
    trace: tracekit.Trace, tmp_path: Path
) -> None:
    with trace.relation(WIDE, memory="50MB", threads=1) as relation:
        reader = relation.to_arrow_reader(100_000)
        first = reader.read_next_batch()
        (private,) = (tmp_path / "scratch").iterdir()
        spilled = sum(file.stat().st_size for file in private.rglob("*"))
        assert (private.stat().st_mode & 0o777, spilled > 1_000_000) == (0o700, True)
        assert first.num_rows + sum(batch.num_rows for batch in reader) == 3_000_000
    del reader, relation
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("sql", ["SELECT list(md5(i::VARCHAR)) FROM range(3_000_000) t(i)", WIDE])
def test_a_query_or_a_result_that_does_not_fit_is_one_line(trace: tracekit.Trace, sql: str) -> None:
    with pytest.raises(UsageError, match=r"memory|larger than the limit") as raised:
        trace.query(sql, memory="50MB", threads=1)
    assert "\n" not in str(raised.value) and "TRACEKIT_MEMORY" in str(raised.value)


def test_without_a_directory_for_temporary_files_queries_run_in_memory(
    trace: tracekit.Trace, tmp_path: Path
) -> None:
    (tmp_path / "scratch").rmdir()
    assert trace.query("SELECT count(*) AS n FROM ops").to_pylist() == [{"n": 3}]


def test_the_environment_sets_the_limit_of_every_query(
    trace: tracekit.Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert memory_bytes() == 2 << 30
    monkeypatch.setenv("TRACEKIT_MEMORY", "60MB")
    limit = trace.query("SELECT current_setting('memory_limit') AS it").to_pylist()[0]["it"]
    assert limit.startswith("57.2")
    monkeypatch.setenv("TRACEKIT_MEMORY", "plenty")
    with pytest.raises(UsageError, match="TRACEKIT_MEMORY"):
        trace.snapshot()


def test_a_value_that_fails_late_in_a_stream_is_our_error(trace: tracekit.Trace) -> None:
    with pytest.raises(UsageError, match="Conversion Error"):
        trace.query("SELECT if(i = 900000, 'a', '1')::INTEGER FROM range(1_000_000) t(i)")


def test_another_tools_file_comes_in_order_of_time_and_ties_in_order_of_the_file(tmp_path: Path) -> None:
    reader = open_reader(core(tmp_path / "t.parquet", [3, 1, 1, 2] * 50_000))
    found = pa.concat_tables(ordered_batches(reader, ["sample_id"])).to_pydict()
    wanted = sorted(range(200_000), key=lambda i: ([3, 1, 1, 2][i % 4], i))
    assert found["sample_id"] == wanted


def test_a_small_file_of_many_rows_takes_bounded_memory(tmp_path: Path) -> None:
    """Encoded in runs, 5 million equal rows take kilobytes."""
    once = core(tmp_path / "one.parquet", [5])
    table = pq.read_table(once)
    bomb = tmp_path / "bomb.parquet"
    with pq.ParquetWriter(bomb, table.schema, compression="zstd") as writer:
        million = pa.table(
            {
                name: pa.repeat(table.column(name)[0].as_py(), 1_000_000).cast(table.schema.field(name).type)
                for name in table.column_names
            }
        )
        for _ in range(5):
            writer.write_table(million)
    assert bomb.stat().st_size < 2_000_000
    script = (
        "import sys, tracekit\n"
        "found = tracekit.open_trace(sys.argv[1]).snapshot(memory='400MB')\n"
        # Not ru_maxrss: a child inherits that from the process that forked it, here the whole test run.
        "peak = next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "print(found.ops, peak)"
    )
    env = {**os.environ, "TRACEKIT_MEMORY": "400MB"}
    done = subprocess.run([sys.executable, "-c", script, str(bomb)], env=env, capture_output=True, text=True, check=True)  # fmt: skip
    ops, peak_kib = map(int, done.stdout.split())
    assert ops == 5_000_000
    assert peak_kib < 1_500_000


def test_a_process_without_room_ends_in_one_line(tmp_path: Path) -> None:
    trace = core(tmp_path / "t.parquet", list(range(1000)))
    command = [sys.executable, "-m", "tracekit", "query", str(trace), WIDE, "--csv", "--memory", "8GiB"]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (1_300_000_000, 1_300_000_000))

    done = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, check=False)
    if done.returncode:
        assert (done.returncode, done.stderr.count("\n"), done.stdout) == (2, 1, ""), done.stderr
    else:
        assert done.stdout.count("\n") == 3_000_001


def test_a_limit_of_memory_holds_for_the_sort_of_another_tools_file(
    trace: tracekit.Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACEKIT_MEMORY", "1KiB")  # what is given goes before it
    assert peaks(trace.reader, memory="60MB").ops == 1
    assert [len(table) for table in ordered_batches(trace.reader, [], memory="60MB")] == [3]
    with pytest.raises(UsageError, match="memory"):
        peaks(trace.reader)
    monkeypatch.setenv("TRACEKIT_MEMORY", "60MB")
    with pytest.raises(UsageError, match="memory"):
        peaks(trace.reader, memory="1KiB")


@pytest.mark.parametrize(
    ("said", "memory"),
    [
        ("exporting a stream failed: MemoryError:", True), ("std::bad_alloc", True), ("malloc of size 64 failed", True),
        ("Cannot allocate memory", True), ("no column named memory", False),
    ],
)  # fmt: skip
def test_a_library_that_got_no_memory_is_understood_in_its_own_words(said: str, memory: bool) -> None:
    raises = UsageError if memory else duckdb.InvalidInputException
    with pytest.raises(raises, match="out of memory" if memory else said), memory_errors():
        raise duckdb.InvalidInputException(said)
