"""What the list of segments and the checksums notice, and what repair makes of it."""

from __future__ import annotations

import contextlib
import json
import random
import time
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from tracekit.errors import TraceFormatError, UsageError
from tracekit.recorder import Recorder
from tracekit.store.check import repair, verify
from tracekit.store.index import read_index, write_sealed
from tracekit.store.layout import segments_of
from tracekit.store.lock import exclusive
from tracekit.store.manifest import manifest_values, read_manifest
from tracekit.store.reader import open_reader
from tracekit.store.segment import conform, write_segment
from tracekit.store.writer import TraceWriter


def recorded(path: Path, *, segments: int = 3, ops: int = 100) -> Path:
    with Recorder(path, segment_ops=ops) as recorder:
        for part in range(segments):
            for i in range(ops):
                now = time.monotonic_ns()
                recorder.record("file:///d/f", i * 4096, 4096, now, 1000 + i, sample_id=part * ops + i)
            recorder.flush()
    return path


def flip(file: Path, at: int, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1 << bit
    file.write_bytes(data)


def test_a_closed_trace_lists_each_segment_with_its_rows_bytes_and_digest(tmp_path: Path) -> None:
    path = recorded(tmp_path / "t")
    index = read_index(path)
    assert index is not None
    assert set(index.entries) == {file.name for file in segments_of(path)}
    for file in segments_of(path):
        entry = index.entries[file.name]
        assert (entry.rows, entry.bytes) == (pq.read_metadata(file).num_rows, file.stat().st_size)
    assert sorted(entry.name for entry in path.iterdir() if entry.suffix != ".parquet") == []


def test_every_flip_in_a_segment_is_noticed_by_verify(tmp_path: Path) -> None:
    path = recorded(tmp_path / "t", segments=1, ops=400)
    (segment,) = segments_of(path)
    good, draw = segment.read_bytes(), random.Random(5)
    for _ in range(40):
        flip(segment, draw.randrange(len(good)), draw.randrange(8))
        assert any(finding.broken for finding in verify(path))
        segment.write_bytes(good)
    assert verify(path) == []


def test_a_single_file_has_page_checksums_that_verify_and_replays_check(tmp_path: Path) -> None:
    from tracekit.store.merge import ordered_batches

    (segment,) = segments_of(recorded(tmp_path / "t", segments=1, ops=400))
    alone = tmp_path / "alone.parquet"
    good = segment.read_bytes()
    alone.write_bytes(good)
    assert verify(alone) == []
    footer = pq.read_metadata(alone)
    latency = footer.row_group(0).column(footer.schema.names.index("latency"))
    flip(alone, latency.data_page_offset + latency.total_compressed_size - 5, 3)
    assert verify(alone)[0].broken
    with pytest.raises(TraceFormatError, match="is damaged"):
        list(ordered_batches(open_reader(alone), ["latency"]))


@pytest.mark.parametrize("name", ["_trace.parquet", "_trace.json"])
def test_every_flip_in_a_manifest_is_harmless_or_noticed(tmp_path: Path, name: str) -> None:
    path = recorded(tmp_path / "t", segments=1)
    manifest = read_manifest(path)
    assert manifest is not None
    if name == "_trace.json":
        (path / name).write_text(json.dumps(manifest_values(manifest)))
    good, before = (path / name).read_bytes(), open_reader(path).query("FROM ops")
    draw = random.Random(3)
    for _ in range(60):
        flip(path / name, draw.randrange(len(good)), draw.randrange(8))
        with contextlib.suppress(TraceFormatError):
            assert open_reader(path).query("FROM ops") == before
        (path / name).write_bytes(good)


def test_a_missing_segment_is_named_when_the_trace_is_opened_and_repair_goes_on_without_it(
    tmp_path: Path,
) -> None:
    path = recorded(tmp_path / "t")
    missing = segments_of(path)[1]
    lost = pq.read_metadata(missing).num_rows
    missing.unlink()
    with pytest.raises(TraceFormatError, match=f"{missing.name}: is missing, with {lost} ops"):
        open_reader(path)
    assert verify(path)[0].where == missing.name
    assert repair(path).ops_lost == lost
    assert open_reader(path).rows == 300 - lost
    assert not any(finding.broken for finding in verify(path))


def test_a_segment_of_another_trace_is_named_and_not_touched_by_repair(tmp_path: Path) -> None:
    path, other = recorded(tmp_path / "t"), recorded(tmp_path / "other", segments=1)
    (foreign,) = segments_of(other)
    (path / foreign.name).write_bytes(foreign.read_bytes())
    with pytest.raises(TraceFormatError, match="does not belong to this trace"):
        open_reader(path)
    assert verify(path)[0].where == foreign.name
    with pytest.raises(TraceFormatError, match="does not belong"):
        repair(path)
    assert (path / foreign.name).read_bytes() == foreign.read_bytes()


def test_a_segment_that_a_crash_left_unlisted_is_read_and_listed_by_repair(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "t", segment_ops=10)
    for i in range(25):
        recorder.record("file:///d/f", i, 1, time.monotonic_ns(), 1)
    recorder.close()
    path = tmp_path / "t"
    manifest = read_manifest(path)
    assert manifest is not None
    (path / "_trace.parquet").unlink()
    (path / "_trace.json").write_text(json.dumps(manifest_values(manifest)))
    assert open_reader(path).rows == 25
    repair(path)
    index = read_index(path)
    assert index is not None
    assert len(index.entries) == len(segments_of(path))
    assert verify(path) == []


def test_a_torn_line_of_the_list_costs_only_itself(tmp_path: Path) -> None:
    path = recorded(tmp_path / "t", segments=1)
    (path / "_segments.jsonl").write_bytes(b'{"name": "seg-x.parquet", "ro')
    with Recorder(path) as recorder:
        recorder.record("file:///d/f", 0, 1, time.monotonic_ns(), 1)
        recorder.flush()
        assert open_reader(path).rows == 101
    assert verify(path) == []
    assert open_reader(path).rows == 101


def test_repair_keeps_the_intact_row_groups_of_a_damaged_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracekit.store.segment.ROW_GROUP_ROWS", 100)
    path = recorded(tmp_path / "t", segments=1, ops=400)
    (segment,) = segments_of(path)
    footer = pq.read_metadata(segment)
    groups = footer.num_row_groups
    assert groups > 2
    latency = footer.row_group(1).column(footer.schema.names.index("latency"))
    flip(segment, latency.data_page_offset + latency.total_compressed_size - 5, 2)
    left = segment.read_bytes()
    done = repair(path)
    assert done.set_aside == (f"_{segment.name}.broken",)
    assert done.ops_lost == footer.row_group(1).num_rows
    assert done.ops_salvaged == footer.num_rows - done.ops_lost
    assert (path / f"_{segment.name}.broken").read_bytes() == left
    assert open_reader(path).rows == done.ops_salvaged
    assert not any(finding.broken for finding in verify(path))


def test_processes_that_join_one_after_another_leave_one_complete_list(tmp_path: Path) -> None:
    for _ in range(3):
        recorded(tmp_path / "t", segments=1)
    index = read_index(tmp_path / "t")
    assert index is not None
    assert sum(entry.rows for entry in index.entries.values()) == 300
    assert verify(tmp_path / "t") == []


def test_a_trace_of_the_first_version_opens_and_is_completed_by_the_next_recorder(tmp_path: Path) -> None:
    path = recorded(tmp_path / "t", segments=1)
    manifest = read_manifest(path)
    assert manifest is not None
    values = {key: value for key, value in manifest_values(manifest).items() if key != "tracekit.digest"}
    (path / "_trace.parquet").unlink()
    (path / "trace.json").write_text(json.dumps(values))
    assert open_reader(path).rows == 100
    assert verify(path) == []
    recorded(path, segments=1)
    assert not (path / "trace.json").exists()
    assert open_reader(path).rows == 200
    assert verify(path) == []


@pytest.mark.parametrize("how", ["recorded", "imported", "extra columns", "many writers"])
def test_other_tools_open_a_trace_as_a_directory(tmp_path: Path, how: str) -> None:
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    path = tmp_path / "t"
    columns = {"uri": ["file:///a"] * 10, "offset": [0] * 10, "len": [1] * 10, "latency": [1] * 10,
               "t_submit": [time.monotonic_ns()] * 10, "sample_id": [0] * 10}  # fmt: skip
    if how == "imported":
        with TraceWriter(path, source="import:test") as writer:
            writer.write(pa.RecordBatch.from_pydict(columns))
    elif how == "extra columns":
        with Recorder(path) as recorder:
            recorder.record_batch(pa.RecordBatch.from_pydict({**columns, "gate_wait": [1] * 10}))
    elif how == "many writers":
        with Recorder(path) as first, Recorder(path) as second:
            for i in range(5):
                first.record("file:///a", i, 1, time.monotonic_ns(), 1)
                second.record("file:///a", i, 1, time.monotonic_ns(), 1)
    else:
        recorded(path, segments=1, ops=10)
    assert pyarrow.dataset.dataset(path, format="parquet").count_rows() == 10
    assert len(pandas.read_parquet(path)) == 10
    assert polars.scan_parquet(path).collect().height == 10
    assert duckdb.execute(f"SELECT count(*) FROM '{path}/*.parquet'").fetchall() == [(10,)]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_the_umask_decides_who_may_read_a_trace(tmp_path: Path, umask: int) -> None:
    import os

    before = os.umask(umask)
    try:
        path = recorded(tmp_path / "t", segments=1)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o777 & ~umask
    assert {file.stat().st_mode & 0o777 for file in path.iterdir()} == {0o666 & ~umask}


def test_names_with_glob_characters_are_literal(tmp_path: Path) -> None:
    def core(path: Path, ops: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = {name: [0] * ops for name in ("offset", "len", "t_submit", "sample_id", "latency")}
        table = conform(pa.table({"uri": ["file:///d/f"] * ops, **columns}))
        write_segment(path, table, {}, {})

    wanted = {
        "p[0].parquet": 7,
        "part*.parquet": 5,
        "what?.parquet": 4,
        "[!a].parquet": 3,
        "a]b[.parquet": 2,
        "\\a?.parquet": 6,
    }
    for name, ops in {
        **wanted,
        "p0.parquet": 1,
        "part1.parquet": 1,
        "whats.parquet": 1,
        "b.parquet": 1,
    }.items():
        core(tmp_path / name, ops)
    core(tmp_path / "**" / "[x]" / "s[0].parquet", 9)
    core(tmp_path / "**" / "[x]" / "s0.parquet", 1)
    count = "SELECT count(*) AS n FROM ops"
    for name, ops in wanted.items():
        assert open_reader(tmp_path / name).query(count).to_pylist() == [{"n": ops}], name
        with pytest.raises(UsageError):
            open_reader(tmp_path / name).query(f"SELECT * FROM '{tmp_path / 'b.parquet'}'")
    assert open_reader(tmp_path / "**" / "[x]").query(count).to_pylist() == [{"n": 10}]


def test_a_directory_that_a_process_was_killed_in_before_it_wrote_anything_becomes_an_empty_trace(
    tmp_path: Path,
) -> None:
    root = tmp_path / "t"
    root.mkdir()
    assert repair(root).to_dict() == {
        **repair(root).to_dict(),
        "ops_salvaged": 0,
        "journals": 0,
        "set_aside": (),
    }
    assert (open_reader(root).rows, verify(root)) == (0, [])
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("x")
    with pytest.raises(TraceFormatError, match="nothing in it is ops"):
        repair(tmp_path / "notes")
    assert [entry.name for entry in (tmp_path / "notes").iterdir()] == ["a.txt"]


def test_a_segment_that_lies_over_another_is_noticed_when_the_trace_is_opened(tmp_path: Path) -> None:
    """Its rows and bytes are those of the list; its ops would count twice, and the other's be lost."""
    path = tmp_path / "t"
    with TraceWriter(path, source="import:test", segment_ops=50) as writer:
        for part in range(2):
            times = list(range(part * 50, part * 50 + 50))
            columns = {"uri": ["file:///d/f"] * 50, "t_submit": times, "offset": [0] * 50, "len": [1] * 50}
            writer.write(
                pa.RecordBatch.from_pydict({**columns, "sample_id": times, "latency": list(range(50))})
            )
    first, second = segments_of(path)
    kept = second.read_bytes()
    data = first.read_bytes()
    index = read_index(path)
    assert index is not None
    entry = index.entries[second.name]
    second.write_bytes(data)
    index.entries[second.name] = replace(entry, bytes=len(data))
    manifest = read_manifest(path)
    assert manifest is not None
    write_sealed(path, manifest, index.entries.values())
    with pytest.raises(TraceFormatError, match=f"{second.name}: is not as it was written"):
        open_reader(path)
    assert any(finding.broken for finding in verify(path))
    done = repair(path)
    assert (done.ops_lost, open_reader(path).rows) == (50, 50)
    assert not any(finding.broken for finding in verify(path))
    assert kept != data


def test_a_list_that_names_a_segment_twice_or_elsewhere_is_damaged(tmp_path: Path) -> None:
    path = recorded(tmp_path / "t", segments=1)
    manifest, index = read_manifest(path), read_index(path)
    assert manifest is not None and index is not None
    (entry,) = index.entries.values()
    for entries in ([entry, entry], [entry, replace(entry, name="../x.parquet")], [replace(entry, rows=-1)]):
        write_sealed(path, manifest, entries)
        for call in (open_reader, verify, repair):
            with pytest.raises(TraceFormatError, match="the list of segments is damaged"):
                call(path)


def test_repair_of_a_trace_on_a_store_says_what_it_needs_and_asks_nobody() -> None:
    with pytest.raises(UsageError, match="repair needs a file system"):
        repair("s3://bucket/t")


def test_a_trace_that_another_process_repairs_is_not_said_to_be_recorded(tmp_path: Path) -> None:
    path = recorded(tmp_path / "t", segments=1)
    with exclusive(path, "repair"), pytest.raises(UsageError, match="repaired or replaced by another"):
        repair(path)
    assert verify(path) == []
