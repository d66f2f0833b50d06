"""Totals of a trace, taken from the footers of its segments."""

from __future__ import annotations

import json
import time
from pathlib import Path
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from tracekit import schema
from tracekit.recorder import Recorder
from tracekit.store import totals as module
from tracekit.store.opening import SegmentInfo
from tracekit.store.reader import TraceReader, open_reader
from tracekit.store.segment import conform, write_segment
from tracekit.store.totals import Totals, distinct_uris, totals
from tracekit.store.writer import TraceWriter

OPS = st.lists(
    st.fixed_dictionaries(
        {
            "op": st.sampled_from(["read", "get", "put", "stat", "hint"]),
            "len": st.one_of(st.none(), st.integers(0, 1 << 40)),
            "bytes": st.one_of(st.none(), st.integers(0, 1 << 40)),
            "latency": st.one_of(st.none(), st.integers(0, 1 << 40)),
            "rank": st.one_of(st.none(), st.integers(-3, 3)),
            "worker": st.one_of(st.none(), st.sampled_from([0, 1, -1, 2**31 - 1, -(2**31)])),
            "error": st.sampled_from([None, "timeout"]),
        }
    ),
    max_size=40,
)


def asked(reader: TraceReader) -> Totals:
    sql = "SELECT coalesce(sum(bytes), 0)::BIGINT AS b, count(DISTINCT (rank, worker)) AS s FROM ops"
    row = reader.query(sql).to_pylist()[0]
    return Totals(row["b"], row["s"])


@examples(60)
@given(ops=OPS)
def test_totals_from_footers_equal_those_of_a_query(
    tmp_path_factory: pytest.TempPathFactory, ops: list[dict[str, object]]
) -> None:
    path = tmp_path_factory.mktemp("t") / "trace"
    with TraceWriter(path, source="import:test", epoch_unix_ns=0, segment_ops=7) as writer:
        for at, op in enumerate(ops):
            row = {"t_submit": at, "uri": "file:///a", "offset": 0, "sample_id": 0, **op}
            writer.write(pa.RecordBatch.from_pylist([row], schema=schema.OPS))
    reader = open_reader(path)
    assert totals(reader) == asked(reader)


def test_totals_of_a_live_trace_come_from_a_query(tmp_path: Path) -> None:
    with Recorder(tmp_path / "t", worker=5) as recorder:
        for i in range(100):
            recorder.record("file:///a", i, 10, time.monotonic_ns(), 1, bytes=10, worker=i % 3)
        recorder.flush()
        assert totals(open_reader(tmp_path / "t")) == Totals(1000, 3)
    assert totals(open_reader(tmp_path / "t")) == Totals(1000, 3)


def test_totals_of_a_six_column_file_come_from_a_query(tmp_path: Path) -> None:
    columns = {"uri": ["a"], "offset": [0], "len": [7], "t_submit": [1], "sample_id": [0], "latency": [3]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    assert totals(open_reader(tmp_path / "t.parquet")) == Totals(7, 1)


def test_totals_of_more_streams_than_a_footer_holds_come_from_a_query(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_STREAMS", 2)
    columns = {"uri": ["a"] * 5, "offset": [0] * 5, "len": [7] * 5, "t_submit": list(range(5)),
               "sample_id": [0] * 5, "latency": [3] * 5, "worker": list(range(5))}  # fmt: skip
    with TraceWriter(tmp_path / "t", source="import:test", epoch_unix_ns=0) as writer:
        writer.write(pa.RecordBatch.from_pydict(columns))
    assert "streams" not in open_reader(tmp_path / "t").segments[0].metadata
    assert totals(open_reader(tmp_path / "t")) == Totals(35, 5)


@examples(60)
@given(ops=OPS, least=st.sampled_from([0, 2, 100]), text=st.sampled_from([0, 40, 80, 8192]))
def test_distinct_uris_from_footers_and_from_the_column_alone_are_those_of_the_view(
    tmp_path_factory: pytest.TempPathFactory, ops: list[dict[str, object]], least: int, text: int
) -> None:
    path = tmp_path_factory.mktemp("t") / "trace"
    with (
        mock.patch.multiple(module, _LEAST_OPS=least, _MOST_TEXT=text),
        TraceWriter(path, source="import:test", epoch_unix_ns=0, segment_ops=3) as writer,
    ):
        for at, op in enumerate(ops):
            row = {"t_submit": at, "uri": f"file:///ü{at % 5}{op['op']}", "offset": 0, **op}
            writer.write(pa.RecordBatch.from_pylist([row], schema=schema.OPS))
    reader = open_reader(path)
    for segment in reader.segments:
        names = {f"file:///ü{at % 5}{op['op']}" for at, op in list(enumerate(ops))[segment_ops(segment)]}
        fits = segment.rows >= least and len(json.dumps(list(names))) <= text
        assert ("uris" in segment.metadata) == fits
    for kinds in (("read", "get"), ("read", "get", "put", "stat", "hint")):
        wanted = {f"file:///ü{at % 5}{op['op']}" for at, op in enumerate(ops) if op["op"] in kinds}
        assert distinct_uris(reader, kinds) == tuple(sorted(wanted))


def segment_ops(segment: SegmentInfo) -> slice:
    """Which ops of a trace with segments of three a segment has."""
    number = int(segment.path.stem.rpartition("-")[2])
    return slice(3 * number, 3 * number + 3)


def test_a_segment_written_with_the_labels_of_another_describes_its_own_ops(tmp_path: Path) -> None:
    ops = conform(
        pa.RecordBatch.from_pydict({"t_submit": [1, 2], "uri": ["file:///a", "file:///b"], "worker": [1, 2]})
    )
    stale = {"uris": '["file:///of another"]', "streams": "[[9, 9]]", "kinds": '["put"]', "host": "h"}
    with mock.patch.multiple(module, _LEAST_OPS=100, _MOST_STREAMS=1):
        labels = {f"{schema.META_PREFIX}{key}".encode(): text.encode() for key, text in stale.items()}
        write_segment(tmp_path / "seg-0.parquet", ops, labels, {})
    (segment,) = open_reader(tmp_path / "seg-0.parquet").segments
    known = {key: segment.metadata.get(key) for key in stale}
    assert known == {"uris": None, "streams": None, "kinds": '["read"]', "host": "h"}


def test_names_of_a_long_segment_are_in_its_footer_and_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, names = 250_000, [f"file:///{i}" for i in range(50)]
    with TraceWriter(tmp_path / "t", source="import:test", epoch_unix_ns=0, segment_ops=100_000) as writer:
        columns = {
            "t_submit": range(rows),
            "uri": [names[i % 50] for i in range(rows)],
            "op": ["read"] * rows,
        }
        writer.write(pa.RecordBatch.from_pydict({**columns, "t_submit": list(range(rows))}))
    reader = open_reader(tmp_path / "t")
    read = mock.Mock(return_value=set())
    monkeypatch.setattr(module, "_read_uris", read)
    found = distinct_uris(reader, ("read",))
    listed = [segment for segment in reader.segments if segment.rows >= 100_000]
    assert found == tuple(sorted(names)) and len(listed) >= 2
    assert len(read.call_args.args[0]) == len(reader.segments) - len(listed)
