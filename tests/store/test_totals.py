"""Totals of a trace, taken from the footers of its segments."""

from __future__ import annotations

import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from tracekit import schema
from tracekit.recorder import Recorder
from tracekit.store import totals as module
from tracekit.store.reader import TraceReader, open_reader
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


@examples(40)
@given(ops=OPS)
def test_distinct_uris_from_the_column_alone_are_those_of_the_view(
    tmp_path_factory: pytest.TempPathFactory, ops: list[dict[str, object]]
) -> None:
    path = tmp_path_factory.mktemp("t") / "trace"
    with TraceWriter(path, source="import:test", epoch_unix_ns=0, segment_ops=3) as writer:
        for at, op in enumerate(ops):
            row = {"t_submit": at, "uri": f"file:///{at % 5}{op['op']}", "offset": 0, **op}
            writer.write(pa.RecordBatch.from_pylist([row], schema=schema.OPS))
    reader = open_reader(path)
    for kinds in (("read", "get"), ("read", "get", "put", "stat", "hint")):
        wanted = {f"file:///{at % 5}{op['op']}" for at, op in enumerate(ops) if op["op"] in kinds}
        assert distinct_uris(reader, kinds) == tuple(sorted(wanted))
