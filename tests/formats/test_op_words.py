"""Words for ops: unknown ones are named with the way out, and a mapping says what they mean."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tracekit.errors import TraceFormatError, UsageError
from tracekit.formats.registry import import_trace
from tracekit.store.reader import open_reader

_CODES = "t_submit,uri,op,len\n1,a,2a,1\n2,a,28,2\n3,a,28,3\n4,a,99,4\n5,a,Get,5\n"


def _ops(path: Path) -> list[tuple[str, int]]:
    rows = open_reader(path).query("SELECT op, len FROM ops ORDER BY t_submit").to_pylist()
    return [(row["op"], row["len"]) for row in rows]


def test_codes_are_mapped_left_out_on_request_and_unknown_ones_counted(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(_CODES)
    done = import_trace("csv", tmp_path / "log", tmp_path / "t", map_ops="op:28=read; 2A=none")
    assert _ops(tmp_path / "t") == [("read", 2), ("read", 3), ("get", 5)]
    assert done.skipped == 1
    assert done.examples == ("line 5: unknown op '99'",)
    assert done.notes == ("unknown op words: '99' 1; say what they mean with map_ops=", "left out: 2a 1")


@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_a_log_of_unknown_words_alone_names_one_and_the_fix(tmp_path: Path, format: str) -> None:
    row = {"t_submit": 1, "uri": "a", "op": "zap"}
    (tmp_path / "log").write_text("t_submit,uri,op\n1,a,zap\n" if format == "csv" else json.dumps(row) + "\n")
    with pytest.raises(TraceFormatError, match="unknown op 'zap'") as caught:
        import_trace(format, tmp_path / "log", tmp_path / "t")
    assert caught.value.hint == "say what the op words mean, such as map_ops='zap=read'"
    import_trace(format, tmp_path / "log", tmp_path / "t", map_ops="zap=delete")
    assert [op for op, _ in _ops(tmp_path / "t")] == ["delete"]


def test_a_mapping_comes_before_our_own_words_and_before_a_presets(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("t_submit,uri,op,len\n1,a,read,1\n")
    import_trace("csv", tmp_path / "log", tmp_path / "t", map_ops="read=get")
    assert _ops(tmp_path / "t") == [("get", 1)]


@pytest.mark.parametrize("spec", ["28", "28=", "=read", "28=fly", "28=read,29"])
def test_a_wrong_mapping_is_named(tmp_path: Path, spec: str) -> None:
    (tmp_path / "log").write_text(_CODES)
    with pytest.raises(UsageError, match="is not a mapping"):
        import_trace("csv", tmp_path / "log", tmp_path / "t", map_ops=spec)


@pytest.mark.parametrize("word", ["pread64", "preadv2", "pwrite64", "pwritev2", "PREAD64"])
def test_calls_of_the_kernel_are_words_for_ops(tmp_path: Path, word: str) -> None:
    (tmp_path / "log").write_text(f"t_submit,uri,op,len\n1,a,{word},1\n")
    import_trace("csv", tmp_path / "log", tmp_path / "t")
    assert _ops(tmp_path / "t") == [("write" if "write" in word else "read", 1)]
