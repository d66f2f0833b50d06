"""The fingerprint of a recording: the same from footers and from rows, and another for any other rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from test_integrity import recorded

from tracekit.schema import OPS
from tracekit.store import fingerprint as module
from tracekit.store.fingerprint import fingerprint
from tracekit.store.layout import segments_of
from tracekit.store.reader import open_reader
from tracekit.store.totals import totals
from tracekit.store.writer import TraceWriter

ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "t_submit": st.integers(0, 10_000),
            "uri": st.sampled_from(["file:///a", "file:///b", "s3://b/ü"]),
            "op": st.sampled_from(["read", "put", "rename", "hint"]),
            "offset": st.one_of(st.none(), st.integers(0, 1 << 40)),
            "len": st.one_of(st.none(), st.integers(0, 1 << 40)),
            "bytes": st.one_of(st.none(), st.integers(0, 1 << 40)),
            "latency": st.one_of(st.none(), st.integers(0, 1 << 40)),
            "sample_id": st.one_of(st.none(), st.integers(-5, 5)),
            "rank": st.one_of(st.none(), st.integers(-3, 3)),
            "part": st.one_of(st.none(), st.integers(1, 4)),
            "to_uri": st.sampled_from([None, "file:///c"]),
            "error": st.sampled_from([None, "timeout"]),
        }
    ),
    max_size=30,
)


def written(path: Path, rows: list[dict[str, Any]], *, segment_ops: int = 1 << 20) -> Path:
    fields = [OPS.field(name) for name in rows[0]] if rows else []
    with TraceWriter(path, source="import:test", epoch_unix_ns=0, segment_ops=segment_ops) as writer:
        for first in range(0, len(rows), 7):
            part = rows[first : first + 7]
            arrays = {
                field.name: pa.array(
                    [row[field.name] for row in part],
                    pa.string() if pa.types.is_dictionary(field.type) else field.type,
                )
                for field in fields
            }
            writer.write(pa.RecordBatch.from_pydict(arrays))
    return path


def from_rows(path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The fingerprint of a trace as if none of its segments kept its own."""
    with monkeypatch.context() as patched:
        patched.setattr(module, "FINGERPRINT", "absent")
        return fingerprint(open_reader(path))


@given(rows=ROWS)
@examples(40)
def test_the_fingerprint_kept_in_footers_is_that_of_the_rows(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    root = tmp_path_factory.mktemp("f")
    whole, cut = written(root / "whole", rows), written(root / "cut", rows, segment_ops=3)
    with pytest.MonkeyPatch.context() as patch:
        assert fingerprint(open_reader(whole)) == from_rows(whole, patch)
        assert fingerprint(open_reader(cut)) == from_rows(cut, patch)
    assert fingerprint(open_reader(cut)) == fingerprint(open_reader(whole))


CHANGES: list[dict[str, Any]] = [
    {"t_submit": 8}, {"uri": "file:///b"}, {"op": "get"}, {"offset": 1}, {"offset": None}, {"len": 11},
    {"bytes": 9}, {"latency": 6}, {"latency": None}, {"sample_id": 0}, {"rank": 1}, {"part": 1},
    {"to_uri": "file:///c"}, {"error": "timeout"},
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_any_changed_value_gives_another_fingerprint(tmp_path: Path, change: dict[str, Any]) -> None:
    row = {"t_submit": 7, "uri": "file:///a", "op": "read", "offset": 0, "len": 10, "bytes": 10, "latency": 5,
           "sample_id": None, "rank": 0, "part": None, "to_uri": None, "error": None}  # fmt: skip
    rows = [row, {**row, "t_submit": 9, "offset": 4}]
    before = fingerprint(open_reader(written(tmp_path / "a", rows)))
    after = fingerprint(open_reader(written(tmp_path / "b", [{**row, **change}, rows[1]])))
    assert before != after
    assert before.startswith("2-")


def test_files_that_carry_the_metadata_of_a_segment_are_judged_by_their_rows(tmp_path: Path) -> None:
    (segment,) = segments_of(recorded(tmp_path / "t", segments=1))
    part = tmp_path / "part.parquet"
    pq.write_table(pq.read_table(segment).slice(0, 40), part)
    assert b"tracekit.fingerprint" in pq.read_metadata(part).metadata
    assert fingerprint(open_reader(part)).startswith("40-")
    assert fingerprint(open_reader(segment)).startswith("100-")
    assert totals(open_reader(part)).bytes == 40 * 4096


def test_a_copy_of_all_rows_in_another_order_has_the_same_fingerprint(tmp_path: Path) -> None:
    path = recorded(tmp_path / "t")
    rows = pa.concat_tables([pq.read_table(file) for file in reversed(segments_of(path))])
    copy = tmp_path / "copy.parquet"
    pq.write_table(rows.replace_schema_metadata(None), copy)
    assert fingerprint(open_reader(copy)) == fingerprint(open_reader(path))
