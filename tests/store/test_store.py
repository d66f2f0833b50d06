"""The trace on disk: what is a trace, what is not, and what a crash leaves."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from tracekit import schema
from tracekit.errors import TraceFormatError, UsageError
from tracekit.metrics.snapshot import snapshot
from tracekit.recorder import Recorder
from tracekit.replayer.compare import compare
from tracekit.store.check import repair, verify
from tracekit.store.layout import segments_of
from tracekit.store.manifest import manifest_values, new_manifest, write_manifest
from tracekit.store.merge import ordered_batches
from tracekit.store.reader import open_reader
from tracekit.store.target import check_target
from tracekit.store.writer import TraceWriter

CORE: dict[str, list[Any]] = {"uri": ["s3://b/k", "s3://b/k"], "offset": [0, 131072], "len": [131072, 131072], "t_submit": [5, 7],
        "sample_id": [1, 2], "latency": [10, 20]}  # fmt: skip


def write_core(path: Path, **changes: object) -> Path:
    columns = {**CORE, **changes}
    pq.write_table(pa.table({k: v for k, v in columns.items() if v is not None}), path)
    return path


def recorded(path: Path, n: int = 1000) -> Path:
    with Recorder(path) as recorder:
        for i in range(n):
            recorder.record("file:///d/a", i * 4096, 4096, time.monotonic_ns(), 1000, sample_id=i)
    return path


def test_a_file_with_only_the_core_six_columns_is_a_trace(tmp_path: Path) -> None:
    reader = open_reader(write_core(tmp_path / "core.parquet"))
    assert reader.rows == 2
    (first, second) = reader.query("SELECT * FROM ops").to_pylist()
    assert list(first) == schema.OPS.names
    assert (first["op"], first["bytes"], first["rank"], first["worker"]) == ("read", 131072, 0, 0)
    assert second["offset"] == 131072
    assert first["error"] is None


def test_narrow_integers_and_plain_strings_are_accepted_and_extra_columns_kept(tmp_path: Path) -> None:
    path = write_core(tmp_path / "t.parquet", len=pa.array([1, 2], pa.int32()), colour=["red", "blue"])
    table = open_reader(path).query("SELECT len, colour FROM ops ORDER BY len")
    assert table.to_pylist() == [{"len": 1, "colour": "red"}, {"len": 2, "colour": "blue"}]


@pytest.mark.parametrize("kind", [pa.uint8(), pa.int16(), pa.uint32(), pa.uint64()], ids=str)
def test_every_width_of_integers_is_measured_and_replayed_alike(tmp_path: Path, kind: pa.DataType) -> None:
    small = {"offset": [0, 64], "len": [64, 64], "t_submit": [5, 7], "sample_id": [1, 2], "latency": [10, 20]}
    plain = open_reader(write_core(tmp_path / "plain.parquet", **small))
    narrow = open_reader(
        write_core(tmp_path / "t.parquet", **{k: pa.array(v, kind) for k, v in small.items()})
    )
    assert narrow.query("SELECT * FROM ops").schema.field("t_submit").type == pa.int64()
    assert snapshot(narrow).to_json() == snapshot(plain).to_json()
    assert pa.Table.from_batches(narrow.batches()) == pa.Table.from_batches(plain.batches())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"latency": [-5, 10]}, "ops have a negative"),
        ({"latency": [2**63 - 1, 10]}, "end past what 64 bits hold"),
        ({"t_submit": pa.array([2**64 - 1, 7], pa.uint64())}, "values that no op can have"),
    ],
)
def test_impossible_values_are_an_error_of_the_trace_and_verify_names_them(
    tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    path = write_core(tmp_path / "t.parquet", **changes)
    with pytest.raises(TraceFormatError, match=r"tracekit verify|fit the op schema") as caught:
        snapshot(open_reader(path))
    assert "\n" not in str(caught.value)
    assert any(words in finding.what and finding.broken for finding in verify(path))
    with contextlib.suppress(TraceFormatError):  # or a figure, but nothing else
        compare(path, path)


@pytest.mark.parametrize("name", ["t_submit", "uri"])
def test_ops_without_a_time_or_a_name_are_refused_when_the_trace_is_opened(tmp_path: Path, name: str) -> None:
    kind = pa.int64() if name == "t_submit" else pa.string()
    path = write_core(tmp_path / "t.parquet", **{name: pa.array([CORE[name][0], None], kind)})
    with pytest.raises(TraceFormatError, match=f"1 ops have no {name}"):
        open_reader(path)
    assert verify(path)[0].broken


@pytest.mark.parametrize("key", ["epoch_unix_ns", "counters", "options"])
def test_damaged_metadata_is_named_in_one_line(tmp_path: Path, key: str) -> None:
    table = pa.table(CORE).replace_schema_metadata({f"tracekit.{key}": "{bad"})
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(TraceFormatError, match=r"t\.parquet: its tracekit metadata is damaged"):
        open_reader(tmp_path / "t.parquet")


def test_a_journal_that_is_finished_while_the_trace_is_open_is_read_where_it_went(tmp_path: Path) -> None:
    with Recorder(tmp_path / "t") as recorder:
        for i in range(100):
            recorder.record("file:///d/a", i, 1, time.monotonic_ns(), 1000, sample_id=i)
        recorder.flush()
        reader = open_reader(tmp_path / "t")
        assert [segment.journal for segment in reader.segments] == [True]
    assert not list((tmp_path / "t").glob(".*.journal"))
    assert reader.query("SELECT count(DISTINCT sample_id) AS n FROM ops").to_pylist() == [{"n": 100}]
    assert sum(len(table) for table in ordered_batches(reader, ["uri"])) == 100


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"latency": [1.5, 2.5]}, "column latency is double, not integer"),
        ({"uri": [1, 2]}, "column uri is int64, not text"),
        ({"t_submit": ["a", "b"]}, "column t_submit is string"),
        ({"sample_id": None}, "column sample_id is missing"),
    ],
)
def test_a_wrong_column_is_named_in_one_line(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    with pytest.raises(TraceFormatError, match=words) as caught:
        open_reader(write_core(tmp_path / "t.parquet", **changes))
    assert "\n" not in str(caught.value)


def test_a_path_that_is_not_a_trace_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("hello")
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("x")
    whole = write_core(tmp_path / "whole.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    for name, words in [("text.parquet", "not a Parquet file"), ("empty", "is not a trace"), ("other", "is not a trace"),
                        ("cut.parquet", "truncated"), ("absent", "no such trace")]:  # fmt: skip
        with pytest.raises(TraceFormatError, match=words) as caught:
            open_reader(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_repair_without_room_names_the_segment_and_keeps_the_journal(tmp_path: Path) -> None:
    with Recorder(tmp_path / "t") as recorder:
        for i in range(100):
            recorder.record(f"file:///d/{os.urandom(40).hex()}", i, 1, time.monotonic_ns(), 1)
        recorder.flush()
        shutil.copytree(tmp_path / "t", tmp_path / "left")
    run = subprocess.run(
        [sys.executable, "-m", "tracekit", "repair", str(tmp_path / "left")], capture_output=True, text=True,
        timeout=60, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)),
    )  # fmt: skip
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert ".parquet: cannot write it" in run.stderr
    assert open_reader(tmp_path / "left").rows == 100


def test_repair_does_not_touch_a_trace_of_another_version(tmp_path: Path) -> None:
    foreign, newer = tmp_path / "foreign", tmp_path / "newer"
    foreign.mkdir()
    pq.write_table(pa.table({"pixels": [1, 2]}), foreign / "train.parquet")
    recorded(newer)
    table = pa.table(CORE).replace_schema_metadata({"tracekit.schema_version": "99"})
    pq.write_table(table, newer / "next.parquet")
    for path, words in ((foreign, "is not a trace"), (newer, "version 99")):
        before = sorted(entry.name for entry in path.iterdir())
        with pytest.raises(TraceFormatError, match=words):
            repair(path)
        assert sorted(entry.name for entry in path.iterdir()) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_empty_directory_can_take_a_trace(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "t").mkdir(mode=0o750)
    check_target(tmp_path / "t", overwrite=overwrite)
    assert (tmp_path / "t").is_dir()
    with TraceWriter(tmp_path / "t", source="import:test", overwrite=overwrite) as writer:
        writer.write(pa.RecordBatch.from_pydict(CORE))
    assert open_reader(tmp_path / "t").rows == 2


def test_a_newer_schema_version_is_refused_and_named(tmp_path: Path) -> None:
    path = recorded(tmp_path / "t")
    values = manifest_values(replace(new_manifest(), schema_version=99))
    (path / "_trace.json").write_text(json.dumps(values))
    with pytest.raises(TraceFormatError, match=r"version 99.*upgrade"):
        open_reader(path)
    table = pa.table(CORE).replace_schema_metadata({"tracekit.schema_version": "99"})
    pq.write_table(table, tmp_path / "new.parquet")
    with pytest.raises(TraceFormatError, match="version 99"):
        open_reader(tmp_path / "new.parquet")


PUTS: dict[str, list[Any]] = CORE | {"op": ["put", "put"], "offset": [0, None]}


@pytest.mark.parametrize("version, first", [(None, "write"), ("1", "write"), ("2", "put")])
def test_a_put_with_an_offset_is_a_write_before_version_2(
    tmp_path: Path, version: str | None, first: str
) -> None:
    labels = {} if version is None else {"tracekit.schema_version": version}
    pq.write_table(pa.table(PUTS).replace_schema_metadata(labels), tmp_path / "a.parquet")
    before = (tmp_path / "a.parquet").read_bytes()
    reader = open_reader(tmp_path / "a.parquet")
    rows = reader.query("SELECT op, tries, wait_ns, part, to_uri FROM ops ORDER BY t_submit").to_pylist()
    nothing = {"tries": None, "wait_ns": None, "part": None, "to_uri": None}
    assert rows == [{"op": first} | nothing, {"op": "put"} | nothing]
    merged = pa.concat_tables(ordered_batches(reader, ["op"]))
    assert merged.to_pydict() == {"t_submit": [5, 7], "op": [first, "put"]}
    assert reader.schema_versions == (() if version is None else (int(version),))
    with TraceWriter(tmp_path / "new", source="import:test") as writer:
        for batch in reader.batches():
            writer.write(batch)
    written = open_reader(tmp_path / "new")
    assert (written.schema_versions, written.query("SELECT op FROM ops").to_pydict()["op"]) == (
        (2,),
        [first, "put"],
    )
    assert (tmp_path / "a.parquet").read_bytes() == before


def test_a_trace_may_hold_segments_of_both_versions(tmp_path: Path) -> None:
    for name, version in (("old", "1"), ("new", "2")):
        table = pa.table(PUTS).replace_schema_metadata({"tracekit.schema_version": version})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    reader = open_reader([tmp_path / "old.parquet", tmp_path / "new.parquet"])
    assert reader.schema_versions == (1, 2)
    counted = reader.query("SELECT op, count(*) AS n FROM ops GROUP BY op ORDER BY op").to_pylist()
    assert counted == [{"op": "put", "n": 3}, {"op": "write", "n": 1}]


def test_a_segment_has_the_documented_encoding_and_metadata(tmp_path: Path) -> None:
    path = recorded(tmp_path / "t")
    (segment,) = segments_of(path)
    meta = pq.read_metadata(segment)
    keys = {key.decode() for key in meta.metadata}
    assert {f"tracekit.{name}" for name in ("schema_version", "trace_id", "segment", "epoch_unix_ns", "host", "pid",
            "rank", "world_size", "source", "options", "version")} <= keys  # fmt: skip
    assert meta.metadata[b"tracekit.world_size"] == b""  # nobody said how many ranks there are
    for index in range(meta.num_columns):
        column = meta.row_group(0).column(index)
        assert column.compression == "ZSTD"
        if column.physical_type in ("INT64", "INT32"):
            assert "DELTA_BINARY_PACKED" in column.encodings, column
        else:
            assert "RLE_DICTIONARY" in column.encodings, column
    units = {field.name: field.metadata[b"unit"].decode() for field in pq.read_schema(segment)}
    assert units["t_submit"] == "ns"
    assert units["len"] == "bytes"


def test_a_realistic_loader_trace_takes_at_most_8_bytes_an_op(tmp_path: Path) -> None:
    import random

    rng = random.Random(7)
    with Recorder(tmp_path / "t") as recorder:
        t = time.monotonic_ns()
        per_shard, step_ops = 2048, 32
        for i in range(200_000):
            t += max(2_000, int(rng.gauss(30_000, 8_000)))
            stream = i % 8
            at = i // 8
            shard, block = (at // per_shard) * 8 + stream, at % per_shard
            recorder.record(
                f"file:///data/train-{shard:05d}.tar", block * 131072, 131072, t, int(rng.lognormvariate(12, 0.4)),
                bytes=131072, sample_id=shard * per_shard + block, step=i // step_ops, worker=stream,
            )  # fmt: skip
    reader = open_reader(tmp_path / "t")
    per_op = sum(segment.file_bytes for segment in reader.segments) / reader.rows
    assert per_op <= 8


def test_a_torn_journal_gives_every_whole_batch_and_repair_makes_it_whole(tmp_path: Path) -> None:
    code = (
        "import os, sys, time\nfrom tracekit.recorder import Recorder\nr = Recorder(sys.argv[1])\n"
        "for part in range(3):\n"
        "    for i in range(100): r.record('file:///x', i, 1, time.monotonic_ns(), 1, sample_id=part * 100 + i)\n"
        "    r.flush()\n"
        "os._exit(0)\n"
    )
    path = tmp_path / "t"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=60)
    (journal,) = path.glob(".*.journal")
    os.truncate(journal, journal.stat().st_size - 50)
    reader = open_reader(path)
    assert reader.rows == 200
    assert reader.unfinished[0].torn_bytes > 0
    assert [f.broken for f in verify(path)] == [True]
    done = repair(path)
    assert done.ops_salvaged == 200
    assert done.torn_bytes > 0
    assert verify(path) == []
    found = open_reader(path).query("SELECT sample_id FROM ops ORDER BY 1").column(0).to_pylist()
    assert found == list(range(200))


@examples(25)
@given(cut=st.floats(0, 1))
def test_a_journal_cut_anywhere_opens_with_a_prefix_of_its_ops(
    tmp_path_factory: pytest.TempPathFactory, cut: float
) -> None:
    from tracekit.store.journal import JournalWriter
    from tracekit.store.segment import conform

    path = tmp_path_factory.mktemp("cut")
    batches = [
        conform(
            pa.RecordBatch.from_pydict({**{k: v * 10 for k, v in CORE.items()}, "step": [part] * 20})
        ).to_batches()[0]
        for part in range(4)
    ]
    schema_ = batches[0].schema
    writer = JournalWriter(path / ".seg-a.journal", schema_)
    ends = []
    for batch in batches:
        writer.append(batch, {})
        ends.append((path / ".seg-a.journal").stat().st_size)
    size = int(ends[-1] * cut)
    os.truncate(path / ".seg-a.journal", size)
    write_manifest(path, new_manifest())
    assert open_reader(path).rows == 20 * sum(end <= size for end in ends)


def test_a_truncated_segment_is_named_and_set_aside_by_repair(tmp_path: Path) -> None:
    path = recorded(tmp_path / "t")
    recorded(path)
    broken = segments_of(path)[0]
    os.truncate(broken, broken.stat().st_size - 10)
    with pytest.raises(TraceFormatError, match=broken.name):
        open_reader(path)
    assert verify(path)[0].broken
    assert repair(path).set_aside == (f"_{broken.name}.broken",)
    assert open_reader(path).rows == 1000


def test_verify_names_flipped_bits_in_the_data(tmp_path: Path) -> None:
    path = recorded(tmp_path / "t", 50_000)
    (segment,) = segments_of(path)
    data = bytearray(segment.read_bytes())
    for at in range(1000, 1400):
        data[at] ^= 0xFF
    segment.write_bytes(data)
    assert any(finding.broken for finding in verify(path))


def test_verify_names_impossible_ops(tmp_path: Path) -> None:
    found = verify(write_core(tmp_path / "t.parquet", latency=[-1, 5]))
    assert [f.what for f in found] == [
        "1 ops have a negative offset, len, bytes, latency, ttfb, tries or wait_ns"
    ]


def test_imported_batches_in_any_order_come_back_in_time_order_from_their_epoch(tmp_path: Path) -> None:
    base = 1_700_000_000_000_000_000
    with TraceWriter(tmp_path / "t", source="import:test", segment_ops=10) as writer:
        for start in (50, 0, 20):
            rows = range(start, start + 20)
            writer.write(
                pa.RecordBatch.from_pydict(
                    {
                        "uri": ["file:///a?b"] * 20,
                        "offset": list(rows),
                        "len": [1] * 20,
                        "latency": [1] * 20,
                        "t_submit": [base + r for r in rows],
                        "sample_id": list(rows),
                    }
                )
            )
    reader = open_reader(tmp_path / "t")
    submits = reader.query("SELECT t_submit FROM ops").column(0).to_pylist()
    assert submits == sorted([*range(50, 70), *range(20), *range(20, 40)])
    assert reader.epoch_unix_ns == base
    assert reader.source == "import:test"
    assert sum(batch.num_rows for batch in reader.batches(["t_submit", "uri"])) == 60


def test_a_failed_import_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), TraceWriter(tmp_path / "t", source="import:test") as writer:
        writer.write(pa.RecordBatch.from_pydict(CORE))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_an_existing_target_is_refused_unless_it_is_a_trace_to_overwrite(tmp_path: Path) -> None:
    recorded(tmp_path / "t")
    with pytest.raises(UsageError, match="exists"):
        TraceWriter(tmp_path / "t", source="x")
    with TraceWriter(tmp_path / "t", source="x", overwrite=True) as writer:
        writer.write(pa.RecordBatch.from_pydict(CORE))
    assert open_reader(tmp_path / "t").rows == 2
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not a trace"):
        TraceWriter(tmp_path / "notes", source="x", overwrite=True)
    assert (tmp_path / "notes" / "a.txt").exists()


def test_a_connection_reads_the_trace_and_nothing_else(tmp_path: Path) -> None:
    reader = open_reader(recorded(tmp_path / "t"))
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    for sql in (
        f"SELECT * FROM read_csv('{secret}')",
        f"COPY (SELECT 1) TO '{tmp_path / 'out.csv'}'",
        "SET enable_external_access = true",
        "INSTALL httpfs",
        f"ATTACH '{tmp_path / 'x.db'}'",
    ):
        with pytest.raises(UsageError):
            reader.query(sql)
    assert not (tmp_path / "out.csv").exists()
    assert not (tmp_path / "x.db").exists()
    assert reader.query("SELECT count(*) AS n FROM ops").column("n").to_pylist() == [1000]


def test_no_statement_overwrites_the_files_of_the_trace(tmp_path: Path) -> None:
    recorded(tmp_path / "t")
    (segment,) = segments_of(tmp_path / "t")
    before, reader = segment.read_bytes(), open_reader(tmp_path / "t")
    copy = f"COPY (SELECT 1) TO '{segment}' (FORMAT csv, USE_TMP_FILE false)"
    hidden = f"WITH x AS ({copy}) SELECT 1 AS a"
    quoted = hidden.replace("'", "''")
    for sql in (
        copy,
        hidden,
        f"EXPLAIN {copy}",
        f"EXPLAIN ANALYZE {copy}",
        f"EXPLAIN ANALYZE {hidden}",
        f"explain analyze (format json) {copy}",
        f"/* */ EXPLAIN /* */ ANALYZE {copy}",
        f"EXPLAIN EXPLAIN ANALYZE {copy}",
        f"FROM query('{quoted}')",
        f"FROM json_execute_serialized_sql(json_serialize_sql('{quoted}'))",
        f"EXPLAIN ANALYZE FROM json_execute_serialized_sql(json_serialize_sql('{quoted}'))",
    ):
        with pytest.raises(UsageError):
            reader.query(sql)
        assert segment.read_bytes() == before, sql
    for sql in (
        "EXPLAIN FROM ops",
        "EXPLAIN ANALYZE (FORMAT json) FROM ops",
        "DESCRIBE ops",
        "SUMMARIZE ops",
    ):
        assert reader.query(sql).num_rows, sql


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) AS n FROM ops a JOIN ops b ON a.t_submit < b.t_submit",
        "SELECT count(*) AS n FROM ops a ASOF JOIN ops b ON a.t_submit >= b.t_submit",
        "WITH merge_update_delete AS (FROM ops) SELECT count(*) AS n FROM merge_update_delete",
        "SELECT 'insert copy_to attach execute' AS \"create\" FROM ops LIMIT 1",
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 5) SELECT max(n) FROM t",
    ],
)
def test_every_select_runs_whatever_operators_or_words_it_has(tmp_path: Path, sql: str) -> None:
    assert open_reader(recorded(tmp_path / "t")).query(sql).num_rows == 1


def test_rows_of_a_trace_being_recorded_can_be_read_meanwhile(tmp_path: Path) -> None:
    with Recorder(tmp_path / "t", segment_ops=500) as recorder:
        for i in range(1200):
            recorder.record("file:///x", i, 1, time.monotonic_ns(), 1)
        recorder.flush()
        assert open_reader(tmp_path / "t").rows == 1200


def test_a_null_in_a_dictionary_is_a_null_of_the_column(tmp_path: Path) -> None:
    error = pa.DictionaryArray.from_arrays(pa.array([0, 1, 1]), pa.array([None, "timeout"]))
    columns = {"uri": ["s3://b/k"] * 3, "offset": [0] * 3, "len": [1] * 3, "t_submit": [1, 2, 3], "sample_id": [1] * 3,
               "latency": [1] * 3, "error": error}  # fmt: skip
    with TraceWriter(tmp_path / "t", source="import:test") as writer:
        writer.write(pa.RecordBatch.from_pydict(columns))
        writer.write(pa.RecordBatch.from_pydict({**columns, "error": [None, "exists", None]}))
    found = (
        open_reader(tmp_path / "t")
        .query("SELECT error FROM ops ORDER BY t_submit, error NULLS FIRST")
        .column(0)
    )
    assert found.to_pylist() == [None, None, "exists", "timeout", None, "timeout"]


def test_a_file_that_pandas_wrote_with_gaps_or_an_index_is_refused_with_the_call_that_helps(
    tmp_path: Path,
) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame(CORE | {"latency": [None, 5]})
    for broken in (frame, frame.set_index("sample_id")):
        broken.to_parquet(tmp_path / "t.parquet")
        with pytest.raises(TraceFormatError, match=r"reset_index\(\)\.convert_dtypes\(\)") as caught:
            open_reader(tmp_path / "t.parquet")
        assert "\n" not in str(caught.value)
        broken.reset_index().convert_dtypes().to_parquet(tmp_path / "t.parquet")
        assert open_reader(tmp_path / "t.parquet").rows == 2
