"""Text of others on a terminal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracekit.printable import printable


@given(text=st.text())
def test_no_control_or_bidirectional_character_is_left_and_other_text_is_kept(text: str) -> None:
    shown = printable(text)
    assert not any((ord(mark) < 32 and mark not in "\t\n") or 127 <= ord(mark) < 160 for mark in shown)
    assert not any(0x202A <= ord(mark) <= 0x202E or 0x2066 <= ord(mark) <= 0x2069 for mark in shown)
    assert printable(shown) == shown
    if text.isprintable():
        assert shown == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [("\x1b[31m", "\\x1b[31m"), ("\x9b", "\\x9b"), ("a\u202eb", "a\\u202eb"), ("a\tb\n", "a\tb\n")],
)
def test_escapes_are_spelled_as_in_python(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize("verb", ["query", "replay", "info", "compare"])
def test_names_with_escape_sequences_are_shown_escaped_by_the_command_line(tmp_path: Path, verb: str) -> None:
    names = ["file:///d/\x1b]0;owned\x07f", "file:///d/\x9b31m", "file:///d/\u202egnp"]
    columns = {name: [0] * 3 for name in ("offset", "len", "t_submit", "sample_id", "latency")}
    pq.write_table(pa.table({"uri": names, **columns}), tmp_path / "a.parquet")
    trace = str(tmp_path / "a.parquet")
    more = {"query": ["SELECT uri FROM ops"], "compare": [trace]}.get(verb, [])
    run = subprocess.run(
        [sys.executable, "-m", "tracekit", verb, trace, *more], capture_output=True, text=True, timeout=300
    )
    assert printable(run.stdout + run.stderr) == run.stdout + run.stderr
    assert verb != "query" or "\\x1b]0;owned\\x07f" in run.stdout
