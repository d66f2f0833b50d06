"""Ops in order of time, streamed, whatever the segments look like."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from tracekit.store import merge
from tracekit.store.merge import ordered_batches
from tracekit.store.reader import open_reader
from tracekit.store.writer import TraceWriter


@examples(40)
@given(
    submits=st.lists(st.integers(0, 500), min_size=0, max_size=300),
    segment_ops=st.integers(1, 50),
    batch_rows=st.integers(1, 20),
)
def test_the_stream_is_the_sorted_trace_and_loses_nothing(
    tmp_path_factory: pytest.TempPathFactory, submits: list[int], segment_ops: int, batch_rows: int
) -> None:
    path = tmp_path_factory.mktemp("merge") / "t"
    with TraceWriter(path, source="import:test", segment_ops=segment_ops) as writer:
        rows = {"uri": ["s3://b/k"] * len(submits), "t_submit": pa.array(submits, pa.int64()),
                "offset": pa.array(range(len(submits)), pa.int64()), "len": [1] * len(submits),
                "latency": [1] * len(submits), "sample_id": pa.array(range(len(submits)), pa.int64())}  # fmt: skip
        writer.write(pa.RecordBatch.from_pydict(rows))
    reader = open_reader(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge, "_BATCH_ROWS", batch_rows)
        tables = list(ordered_batches(reader, ["sample_id"]))
    times = [t for table in tables for t in table.column("t_submit").to_pylist()]
    ids = [i for table in tables for i in table.column("sample_id").to_pylist()]
    assert times == sorted(s - min(submits) for s in submits) if submits else times == []
    assert sorted(ids) == list(range(len(submits)))
    assert all(submits[i] - min(submits) == t for i, t in zip(ids, times, strict=True))


def test_an_unsorted_file_of_another_tool_is_sorted(tmp_path: Path) -> None:
    columns = {"uri": ["a", "b", "c"], "offset": [0, 0, 0], "len": [1, 1, 1], "t_submit": [30, 10, 20],
               "sample_id": [0, 1, 2], "latency": [1, 1, 1]}  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    (table,) = ordered_batches(open_reader(tmp_path / "x.parquet"), ["uri", "op"])
    assert table.column("t_submit").to_pylist() == [10, 20, 30]
    assert table.column("uri").to_pylist() == ["b", "c", "a"]
    assert table.column("op").to_pylist() == ["read"] * 3
