"""The seal of a footer, and what is said of a footer that is damaged: one line, never a crash, never silence."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_integrity import recorded

from tracekit.errors import TraceFormatError
from tracekit.store.check import verify
from tracekit.store.footer import is_sealed, read_footer
from tracekit.store.layout import SEALED_NAME, segments_of
from tracekit.store.opening import open_file

FLIPS = """
import os, random, sys
from pathlib import Path
from tracekit.errors import TraceFormatError
from tracekit.store.check import verify
good, alone = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2])
length = int.from_bytes(good[-8:-4], "little")
draw, noticed = random.Random(7), 0
for at in draw.sample(range(len(good) - 8 - length, len(good)), 400):
    damaged = bytearray(good)
    damaged[at] ^= 1 << draw.randrange(8)
    alone.write_bytes(bytes(damaged))
    try:
        noticed += bool(verify(alone))
    except TraceFormatError:  # a changed name of a column
        noticed += 1
print(noticed)
"""


def flips_noticed(file: Path, tmp_path: Path) -> int:
    """Return how many of 400 flips in the footer of `file` verify notices; a crash fails the test."""
    done = subprocess.run(
        [sys.executable, "-c", FLIPS, file, tmp_path / "alone.parquet"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout)


def test_every_flip_in_the_footer_of_a_single_sealed_file_is_noticed(tmp_path: Path) -> None:
    (segment,) = segments_of(recorded(tmp_path / "t", segments=1, ops=400))
    good, key = segment.read_bytes(), b"tracekit.footer_digest"
    start = good.rfind(key)
    length = int.from_bytes(good[-8:-4], "little")
    draw, alone = random.Random(3), tmp_path / "alone.parquet"
    for at in draw.sample(range(len(good) - 8 - length, len(good)), 200):
        if start - 2 <= at < start + len(key) + 2:  # without its key the file counts as not sealed
            continue
        damaged = bytearray(good)
        damaged[at] ^= 1 << draw.randrange(8)
        alone.write_bytes(bytes(damaged))
        with pytest.raises(TraceFormatError):
            open_file(alone)


def test_no_flip_in_the_footer_of_another_tools_file_ends_in_a_crash(tmp_path: Path) -> None:
    (segment,) = segments_of(recorded(tmp_path / "t", segments=1, ops=400))
    plain = tmp_path / "plain.parquet"
    pq.write_table(pq.read_table(segment), plain, row_group_size=200)
    assert 100 < flips_noticed(plain, tmp_path) < 400  # a changed name of a key is not noticed


def test_files_made_from_a_sealed_one_by_pyarrow_are_not_taken_for_damaged(tmp_path: Path) -> None:
    (segment,) = segments_of(recorded(tmp_path / "t", segments=1))
    copy = tmp_path / "copy.parquet"
    pq.write_table(pq.read_table(segment).slice(0, 50), copy)
    assert open_file(copy).rows == 50
    assert verify(copy) == []


def test_footers_of_nested_columns_and_odd_names_are_read(tmp_path: Path) -> None:
    table = pa.table(
        {
            "a": [1, 2],
            "s": [{"x": 1, "y": ["a"]}, {"x": 2, "y": []}],
            "l, m": [1.0, 2.0],
            "fixed": pa.array([b"12345678"] * 2, pa.binary(8)),
            "pairs": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64())),
        }
    )
    for rows in range(3):
        file = tmp_path / f"odd[{rows}]*.parquet"
        pq.write_table(table.slice(0, rows), file, row_group_size=1)
        assert read_footer(file).num_rows == rows


def test_verify_refuses_a_file_that_is_no_trace_as_every_other_verb_does(tmp_path: Path) -> None:
    file = tmp_path / "other.parquet"
    pq.write_table(pa.table({"t_submit": [0.5], "uri": ["a"]}), file)
    with pytest.raises(TraceFormatError, match="does not hold ops: column offset is missing"):
        verify(file)


def test_every_parquet_file_of_a_trace_is_sealed(tmp_path: Path) -> None:
    path = recorded(tmp_path / "t")
    assert (path / SEALED_NAME).exists()
    assert all(is_sealed(read_footer(file)) for file in path.glob("*.parquet"))


def test_every_flip_in_the_manifest_is_noticed(tmp_path: Path) -> None:
    path = recorded(tmp_path / "t", segments=1, ops=400)
    manifest = path / SEALED_NAME
    good = manifest.read_bytes()
    key = good.rfind(b"tracekit.footer_digest")
    draw = random.Random(5)
    places = [*range(4), *range(key - 2, key + 28), *draw.sample(range(len(good)), 100)]
    for at in places:
        damaged = bytearray(good)
        damaged[at] ^= 1 << draw.randrange(8)
        manifest.write_bytes(bytes(damaged))
        with pytest.raises(TraceFormatError):
            verify(path)
    manifest.write_bytes(good)
    assert verify(path) == []
