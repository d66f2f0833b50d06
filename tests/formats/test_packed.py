"""Packed logs: read up to a break, whatever the compression and however it was written; other packings are named."""

from __future__ import annotations

import gzip
import lzma
import struct
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from tracekit.errors import TraceFormatError
from tracekit.formats.registry import import_trace
from tracekit.store.reader import open_reader

LINES = [f'{{"uri": "/d/{at * 7919 % 10007}", "t_submit": {at + 1}}}\n' for at in range(20_000)]
TEXT = "".join(LINES).encode()


def zstd(data: bytes) -> bytes:
    packed: bytes = pa.compress(data, codec="zstd", asbytes=True)
    return packed


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress], ids=["gz", "xz"])
@pytest.mark.parametrize("kept", [0.5, 0.99])
def test_a_stream_that_breaks_off_is_read_up_to_the_break(
    tmp_path: Path, pack: Callable[[bytes], bytes], kept: float
) -> None:
    packed = pack(TEXT)
    (tmp_path / "log").write_bytes(packed[: int(len(packed) * kept)])
    done = import_trace("jsonl", tmp_path / "log", tmp_path / "t")
    assert kept * 0.8 * len(LINES) < done.ops < len(LINES)
    assert (done.skipped, done.examples[0].partition(": ")[0]) == (1, f"line {done.ops + 1}")
    times = open_reader(tmp_path / "t").query("SELECT max(t_submit) FROM ops").to_pylist()
    assert times == [{"max(t_submit)": done.ops - 1}]


def test_what_stands_behind_a_whole_stream_costs_no_line(tmp_path: Path) -> None:
    (tmp_path / "padded").write_bytes(gzip.compress(TEXT) + bytes(512))
    done = import_trace("jsonl", tmp_path / "padded", tmp_path / "t")
    assert (done.ops, done.skipped) == (len(LINES), 1)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, zstd], ids=["gz", "xz", "zst"])
def test_several_streams_and_frames_to_pass_over_are_one_log(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    skipped = b"\x5a\x2a\x4d\x18\x04\x00\x00\x00abcd" if pack is zstd else b""
    (tmp_path / "log").write_bytes(skipped + pack(TEXT[:100_000]) + pack(TEXT[100_000:]))
    assert import_trace("jsonl", tmp_path / "log", tmp_path / "t", strict=True).ops == len(LINES)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
def test_a_byte_order_mark_says_how_the_text_is_encoded(tmp_path: Path, encoding: str) -> None:
    mark = "" if encoding in ("utf-16", "utf-8-sig") else "\ufeff"
    text = (mark + "uri,t_submit\r\n/d/ä,1\r\n/d/b,2\r\n").encode(encoding)
    (tmp_path / "log").write_bytes(gzip.compress(text))
    assert import_trace("csv", tmp_path / "log", tmp_path / "t", strict=True).ops == 2
    assert {r["uri"] for r in open_reader(tmp_path / "t").query("FROM ops").to_pylist()} == {
        "file:///d/ä",
        "file:///d/b",
    }


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"PK\x03\x04rest of an archive", "a zip archive"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        (b"\x1f\x9d\x90rest", "compressed by compress"),
        (b"PAR1rest", "a Parquet file"),
        (gzip.compress(gzip.compress(TEXT)), "compressed twice"),
        (gzip.compress(b"name".ljust(257, b"\0") + b"ustar\x0000".ljust(255, b"\0")), "a tar archive"),
    ],
    ids=["zip", "7z", "compress", "parquet", "twice", "tar"],  # gzip's bytes have the time of day in them
)
def test_a_packing_that_is_not_read_is_named(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "log").write_bytes(content)
    with pytest.raises(TraceFormatError, match=f"log is {what}") as caught:
        import_trace("csv", tmp_path / "log", tmp_path / "t")
    assert caught.value.hint


def blktrace_event(at: int, action: int, sector: int, size: int = 4096) -> bytes:
    bits = 1 << 16 | action
    return struct.pack("<IIQQIIIIIHH", 0x65617407, at, at * 1000, sector, size, bits, 5, 8 << 20, 0, 0, 0)


@pytest.mark.parametrize("kept", [0.5, 0.9, 1.0])
def test_a_binary_log_that_breaks_off_is_read_up_to_the_break(tmp_path: Path, kept: float) -> None:
    events = b"".join(
        blktrace_event(at, action, at * 7919 % 100_003 * 8) for at in range(1, 40_001) for action in (7, 8)
    )
    packed = gzip.compress(events)
    cut = packed[: min(int(len(packed) * kept), len(packed) - 1)]
    (tmp_path / "log").write_bytes(cut)
    done = import_trace("blktrace", tmp_path / "log", tmp_path / "t")
    assert kept * 0.8 * 40_000 < done.ops <= 40_000
    assert (done.skipped, "the compressed stream breaks off here" in done.examples[0]) == (1, True)
