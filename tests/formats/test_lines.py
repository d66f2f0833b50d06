"""Text logs in blocks: blank lines cost next to nothing and do not shift line numbers."""

from __future__ import annotations

import gzip
from pathlib import Path

from tracekit.formats.base import Tally
from tracekit.formats.text.lines import blocks, decoded_lines


def test_blank_lines_are_skipped_and_counted(tmp_path: Path) -> None:
    log = tmp_path / "log.gz"
    blank = b"\n" * (1 << 20)
    log.write_bytes(gzip.compress(blank * 20 + b"one\n\n \ntwo\n" + blank * 5 + b"three", 1))
    tally = Tally(log)
    found = list(blocks(log, tally, block_bytes=1 << 20))
    assert len(found) <= 4
    lines = [line for block in found for line in decoded_lines(block, tally)]
    first = 20 * (1 << 20) + 1
    assert lines == [(first, "one"), (first + 3, "two"), (first + 4 + 5 * (1 << 20), "three")]
    assert not tally.skipped


def test_a_log_of_blank_lines_has_no_blocks(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"\r\n \n\t\n" * 1000)
    assert list(blocks(tmp_path / "log", Tally(tmp_path / "log"))) == []
