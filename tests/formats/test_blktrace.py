"""blktrace: binary files that are made by the book, and what the real blkparse says of them, are the same ops."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from tracekit.errors import TraceFormatError
from tracekit.formats.registry import import_trace
from tracekit.store.reader import open_reader

BLKPARSE = shutil.which("blkparse")
READ, WRITE, FLUSH, SYNC, QUEUE, ISSUE, COMPLETE, FS, NOTIFY, DISCARD = (
    1 << n for n in (0, 1, 2, 3, 4, 6, 7, 8, 10, 13)
)
DEVICE = 8 << 20


def rows(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = open_reader(path).query("SELECT * FROM ops ORDER BY t_submit").to_pylist()
    return found


def event(at: int, action: int, bits: int, sector: int, size: int, *, error: int = 0, pid: int = 7, number: int = 1,
          extra: bytes = b"", cpu: int = 0) -> bytes:  # fmt: skip
    head = struct.pack(
        "<IIQQIIIIIHH",
        0x65617407,
        number,
        at,
        sector,
        size,
        action | bits << 16,
        pid,
        DEVICE,
        cpu,
        error,
        len(extra),
    )
    return head + extra


def queued(at: int, bits: int, sector: int, size: int) -> bytes:
    return event(at, 1, bits | QUEUE | FS, sector, size)


def issued(at: int, bits: int, sector: int, size: int) -> bytes:
    return event(at, 7, bits | ISSUE | FS, sector, size)


def completed(at: int, bits: int, sector: int, size: int, error: int = 0) -> bytes:
    return event(at, 8, bits | COMPLETE | FS, sector, size, error=error, pid=0)


STARTED = event(1000, 1, NOTIFY, 0, 0, extra=struct.pack("<II", 1_700_000_000, 500), number=0)


def test_requests_that_end_on_another_cpu_are_put_together(tmp_path: Path) -> None:
    first, second = tmp_path / "sda.blktrace.0", tmp_path / "sda.blktrace.1"
    first.write_bytes(
        STARTED + queued(2000, READ, 80, 4096) + issued(3000, READ, 80, 4096) + issued(4000, WRITE | SYNC, 800, 8192)
        + issued(5000, FLUSH, 0, 0) + issued(5500, WRITE | DISCARD, 0, 1 << 20) + issued(6000, READ, 8, 512)
    )  # fmt: skip
    second.write_bytes(
        STARTED
        + completed(9000, READ, 80, 4096)
        + completed(9500, WRITE, 800, 8192, 5)
        + completed(9600, READ, 999, 512)
    )
    done = import_trace("blktrace", tmp_path / "sda.blktrace.*", tmp_path / "t")
    assert [
        (r["op"], r["uri"], r["offset"], r["len"], r["bytes"], r["latency"], r["error"])
        for r in rows(tmp_path / "t")
    ] == [
        ("read", "block://8,0", 40960, 4096, 4096, 6000, None),
        ("write", "block://8,0", 409600, 8192, 0, 5500, "io_error"),
        ("sync", "block://8,0", None, None, None, None, None),
        ("read", "block://8,0", 4096, 512, None, None, None),
    ]
    assert open_reader(tmp_path / "t").epoch_unix_ns == 1_700_000_000_000_000_500 + 2000
    notes = " | ".join(done.notes)
    assert "2 requests were not completed" in notes
    assert "1 completions have no beginning" in notes
    assert "discard or other request 1" in notes


TEXT = """  8,0    1        1     0.000000000   697  Q   R 223490 + 8 [kjournald]
  8,0    1        2     0.000001829   697  G   R 223490 + 8 [kjournald]
  8,0    1        3     0.000003000   697  P   N [kjournald]
  8,0    1        4     0.000006270   697  D   R 223490 + 8 [kjournald]
  8,0    1        5     0.000007000   698  D  WS 300000 + 16 [fio]
  8,0    1        6     0.000008000   698  m   N cfq698 alloced
  8,0    0        1     0.001000000     0  C   R 223490 + 8 [0]
  8,0    0        2     0.002000000     0  C  WS 300000 + 16 [-5]
CPU0 (sda):
 Reads Queued:           1,        4KiB\t Writes Queued:           1,        8KiB
"""


def test_the_text_of_blkparse_is_read_up_to_its_totals(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(TEXT)
    done = import_trace("blktrace", tmp_path / "log", tmp_path / "t", strict=True)
    assert [(r["op"], r["offset"], r["len"], r["latency"], r["error"]) for r in rows(tmp_path / "t")] == [
        ("read", 223490 * 512, 4096, 993_730, None), ("write", 300000 * 512, 8192, 1_993_000, "io_error")
    ]  # fmt: skip
    assert done.skipped == 0
    (tmp_path / "log").write_text("hello\n")
    with pytest.raises(TraceFormatError, match="line 1: not a line of blkparse"):
        import_trace("blktrace", tmp_path / "log", tmp_path / "s")


def test_a_log_without_issues_has_requests_from_queueing(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(
        "".join(line for line in TEXT.splitlines(keepends=True) if "  D  " not in line)
    )
    done = import_trace("blktrace", tmp_path / "log", tmp_path / "t")
    assert [(r["op"], r["latency"]) for r in rows(tmp_path / "t")] == [("read", 1_000_000)]
    assert any("from queueing" in note for note in done.notes)


def test_a_file_that_is_cut_short_or_damaged_says_so(tmp_path: Path) -> None:
    data = STARTED + issued(1, READ, 8, 512) + completed(2, READ, 8, 512)
    for cut in (len(data) - 5, len(data) - 40):
        (tmp_path / "log").write_bytes(data[:cut])
        assert (
            "ends inside an event"
            in import_trace("blktrace", tmp_path / "log", tmp_path / "t", overwrite=True).examples[0]
        )
    (tmp_path / "log").write_bytes(data + b"\xff" * 48)
    assert (
        "not an event of blktrace"
        in import_trace("blktrace", tmp_path / "log", tmp_path / "t", overwrite=True).examples[0]
    )


_requests = st.lists(
    st.tuples(st.integers(1, 1000), st.sampled_from([READ, WRITE]), st.integers(1, 64), st.integers(1, 100)),
    min_size=1,
    max_size=12,
)


@pytest.mark.skipif(BLKPARSE is None, reason="blkparse is not installed")
@examples(15)
@given(_requests)
def test_binary_files_and_the_real_blkparse_give_the_same_ops(
    tmp_path_factory: pytest.TempPathFactory, requests: list[tuple[int, int, int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("blk")
    at, events = 2000, STARTED
    for place, (gap, bits, sectors, took) in enumerate(requests):
        at += gap * 1000
        sector = 1000 * (place + 1)
        for build, when in ((queued, at), (issued, at + 10), (completed, at + 10 + took)):
            events += build(when, bits, sector, sectors * 512)
        at += 10 + took
    (folder / "sda.blktrace.0").write_bytes(events)
    text = subprocess.run(
        [str(BLKPARSE), "-q", "-i", "sda"], cwd=folder, capture_output=True, timeout=60, check=True
    ).stdout
    (folder / "text").write_bytes(text)
    for name, log in (("a", "sda.blktrace.0"), ("b", "text")):
        assert import_trace("blktrace", folder / log, folder / name, strict=True).ops == len(requests)
    first, second = rows(folder / "a"), rows(folder / "b")
    keys = ("t_submit", "op", "uri", "offset", "len", "bytes", "latency")
    assert [[row[key] for key in keys] for row in first] == [[row[key] for key in keys] for row in second]


def test_a_request_that_is_completed_in_parts_ends_with_its_last_one(tmp_path: Path) -> None:
    parts = [issued(100, READ, 64, 8192), issued(110, READ, 200, 4096), completed(300, READ, 64, 4096),
             completed(350, READ, 200, 4096, error=5), completed(400, READ, 72, 4096)]  # fmt: skip
    (tmp_path / "sda.blktrace.0").write_bytes(b"".join(parts))
    import_trace("blktrace", tmp_path / "sda.blktrace.0", tmp_path / "t", strict=True)
    assert [(r["offset"], r["len"], r["bytes"], r["latency"], r["error"]) for r in rows(tmp_path / "t")] == [
        (32768, 8192, 8192, 300, None),
        (102400, 4096, 0, 240, "io_error"),
    ]


def test_events_that_the_sequence_numbers_leave_out_are_reported(tmp_path: Path) -> None:
    log = [event(at, 7 if at % 2 else 8, READ, 8, 4096, number=at) for at in range(1, 9)]
    (tmp_path / "log").write_bytes(b"".join(log[:2] + log[6:]))
    done = import_trace("blktrace", tmp_path / "log", tmp_path / "t")
    assert any(
        note.endswith("by its sequence numbers, 4 events were lost before they were written")
        for note in done.notes
    )
    (tmp_path / "log").write_bytes(b"".join(log))
    whole = import_trace("blktrace", tmp_path / "log", tmp_path / "s")
    assert not any("lost" in note for note in whole.notes)


def test_a_text_is_checked_against_its_own_totals(tmp_path: Path) -> None:
    lines = [
        f"  8,0    {n % 2}  {n}     0.00000{n}000   697  {'DC'[n % 2]}   R {8 * (n // 2)} + 8 [x]\n"
        for n in range(8)
    ]
    cpu = " Reads Queued: 4, 16KiB\t Writes Queued: 0, 0KiB\n Reads Completed:        {}, 8KiB\t Writes Completed:        0,        0KiB\n"
    totals = f"CPU0 (sda):\n{cpu.format(1)}CPU1 (sda):\n{cpu.format(3)}\nTotal (sda):\n{cpu.format(4)}\nEvents (sda): 8 entries\n"
    (tmp_path / "log").write_text("".join(lines) + totals + "Skips: 0 forward (0 -   0.0%)\n")
    whole = import_trace("blktrace", tmp_path / "log", tmp_path / "t", strict=True)
    assert (whole.ops, [note for note in whole.notes if "of the" in note or "skipped" in note]) == (4, [])
    (tmp_path / "log").write_text("".join(lines[:5]) + totals + "Skips: 2 forward (1,003 -  5.0%)\n")
    said = import_trace("blktrace", tmp_path / "log", tmp_path / "s", strict=True).notes
    assert "the log has 2 of the 4 completions that its own totals count" in said
    assert "blkparse has skipped 1003 events, which were lost before they were written" in said
