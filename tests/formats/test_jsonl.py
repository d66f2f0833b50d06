"""JSON lines: the five keys, everything else kept, bad lines numbered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tracekit.errors import TraceFormatError
from tracekit.formats.registry import export_trace, import_trace
from tracekit.schema import OP_KINDS, OPS
from tracekit.store.reader import open_reader
from tracekit.store.writer import TraceWriter


def rows(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = open_reader(path).query("SELECT * FROM ops ORDER BY t_submit").to_pylist()
    return found


def test_the_core_keys_make_an_op_and_other_keys_are_kept(tmp_path: Path) -> None:
    log = tmp_path / "l.jsonl"
    log.write_text(
        '{"uri": "s3://b/k?sig=secret", "offset": 5, "len": 10, "t_submit": 1700000000000000000, "sample_id": 3}\n'
        '{"uri": "/d/a", "len": 10, "t_submit": 1700000000000000007, "op": "get", "tag": {"a": [1]}, "host": "h"}\n'
    )
    import_trace("jsonl", log, tmp_path / "t", strict=True)
    first, second = rows(tmp_path / "t")
    assert (first["uri"], first["offset"], first["sample_id"], first["latency"]) == ("s3://b/k", 5, 3, None)
    assert (second["uri"], second["offset"], second["op"], second["host"]) == (
        "file:///d/a",
        None,
        "get",
        "h",
    )
    assert second["tag"] == '{"a": [1]}'
    assert open_reader(tmp_path / "t").epoch_unix_ns == 1700000000000000000


def test_each_bad_line_is_reported_by_its_number(tmp_path: Path) -> None:
    good = '{"uri": "/d/a", "t_submit": 5}'
    bad = ["{", "[]", '{"uri": "/d/a"}', '{"t_submit": 5}', '{"uri": 5, "t_submit": 5}', '{"uri": "/d", "t_submit": NaN}',
           '{"uri": "/d", "t_submit": 1.5}', '{"uri": "/d", "t_submit": 5, "len": -1}', '{"uri": "", "t_submit": 5}',
           '{"uri": "/d", "t_submit": 1e300}', '{"uri": "/d", "t_submit": "5"}', '{"uri": "/d", "t_submit": true}',
           '{"uri": "\\ud800", "t_submit": 5}', '{"uri": "/d", "t_submit": 5, "op": "fly"}', "[" * 100_000]  # fmt: skip
    log = tmp_path / "l.jsonl"
    log.write_text("\r\n".join([good, "", *bad, good.replace("5", "6.0")]))
    done = import_trace("jsonl", log, tmp_path / "t")
    assert (done.ops, done.skipped) == (2, len(bad))
    for index, line in enumerate(bad):
        log.write_text(f"{good}\n\n{good}\n{line}\n{good}\n")
        with pytest.raises(TraceFormatError, match="line 4:"):
            import_trace("jsonl", log, tmp_path / f"s{index}", strict=True)


def test_an_extra_key_that_changes_its_type_between_blocks_is_reported(tmp_path: Path) -> None:
    log = tmp_path / "l.jsonl"
    with log.open("w") as file:
        for index in range(300_000):
            value = index if index < 250_000 else '"later text"'
            file.write(f'{{"uri": "/d/a-long-enough-name-{index}", "t_submit": {index}, "note": {value}}}\n')
    done = import_trace("jsonl", log, tmp_path / "t", strict=True)
    assert done.ops == 300_000
    assert any("changes its type" in note for note in done.notes)


def test_nulls_are_left_out_of_the_lines_written(tmp_path: Path) -> None:
    log = tmp_path / "l.jsonl"
    log.write_text('{"uri":"/d/a","t_submit":5,"len":1}\n{"uri":"/d/a","t_submit":6}\n')
    import_trace("jsonl", log, tmp_path / "t")
    export_trace("jsonl", tmp_path / "t", tmp_path / "o.jsonl")
    text = (tmp_path / "o.jsonl").read_text()
    assert "null" not in text
    assert text.count("\n") == 2


def test_keys_and_values_of_the_wrong_type_are_bad_lines(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_bytes(
        b'{"uri":"/a","t_submit":9,"latency\xb9":7}\n'
        b'{"uri":"/b","t_submit":8,"tag":"\xff"}\n'
        b'{"uri":"/c","t_submit":7,"\\ud800x":3}\n'
        b'{"uri":"/d\xc3\xa9","t_submit":5}\n'
    )
    done = import_trace("jsonl", log, tmp_path / "t.trace")
    assert done.ops == 1
    assert done.skipped == 3
    assert done.examples == ("line 1: not UTF-8", "line 2: not UTF-8", "line 3: a key is not text")
    assert open_reader(tmp_path / "t.trace").query("SELECT uri FROM ops").to_pylist() == [
        {"uri": "file:///d\u00e9"}
    ]


def test_a_relative_name_is_a_file_of_the_root_as_it_is_in_csv(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"uri": "a/b", "t_submit": 1}\n{"uri": "/c", "t_submit": 2}\n')
    (tmp_path / "log.csv").write_text("uri,t_submit\na/b,1\n/c,2\n")
    for name in ("jsonl", "csv"):
        import_trace(name, tmp_path / f"log.{name}", tmp_path / name, strict=True)
        uris = open_reader(tmp_path / name).query("SELECT uri FROM ops ORDER BY t_submit").to_pylist()
        assert [row["uri"] for row in uris] == ["file:///a/b", "file:///c"]


@pytest.mark.parametrize("format", ["jsonl", "csv"])
def test_every_column_of_the_schema_survives_an_export_and_an_import(tmp_path: Path, format: str) -> None:
    full: dict[str, Any] = {
        "uri": "file:///d/a b", "offset": 1, "len": 20, "bytes": 3, "latency": 40, "ttfb": 5, "tries": 6, "wait_ns": 7,
        "sample_id": 8, "step": 9, "rank": 10, "worker": 11, "part": 12, "to_uri": "file:///d/\u00e9", "error": "timeout",
        "t_due": 13,
    }  # fmt: skip
    ops = [
        {
            "t_submit": at,
            "op": kind,
            **{name: None if name in left_out else value for name, value in full.items()},
        }
        for at, (kind, left_out) in enumerate(
            [(kind, ()) for kind in OP_KINDS]
            + [("rename", full.keys() - {"uri", "to_uri", "rank", "worker"})]
        )
    ]
    with TraceWriter(tmp_path / "t", source="import:test", epoch_unix_ns=1_700_000_000 * 10**9) as writer:
        writer.write(pa.RecordBatch.from_pylist(ops, schema=OPS))
    export_trace(format, tmp_path / "t", tmp_path / "log")
    done = import_trace(format, tmp_path / "log", tmp_path / "again", strict=True)
    assert (done.ops, rows(tmp_path / "again")) == (len(ops), rows(tmp_path / "t"))
    assert {
        name for row in rows(tmp_path / "again") for name, value in row.items() if value is None
    } < full.keys()
