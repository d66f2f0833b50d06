"""nfsdump's text: calls and replies become ops by client and transaction, and what has no other half is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tracekit.errors import TraceFormatError
from tracekit.formats.registry import import_trace
from tracekit.store.reader import open_reader

FILE, FOLDER = "aa" * 32, "bb" * 32
ATTRIBUTES = "ftype 1 mode 180 nlink 1 uid 1 gid 1 size 72520 used 74000 rdev 0 rdev2 0 fsid 1 fileid 2 atime 1.0 mtime 1.0 ctime 1.0"  # fmt: skip


def call(at: str, client: str, xid: str, number: str, what: str, version: int = 3) -> str:
    return f"1006231504.{at} {client} 10.0.0.9.0801 T C{version} {xid} {number} {what} con = XXX len = XXX"


def reply(at: str, client: str, xid: str, number: str, what: str, version: int = 3) -> str:
    return f"1006231504.{at} 10.0.0.9.0801 {client} T R{version} {xid} {number} {what} status=0 pl = 0 con = 1 len = 1"


def rows(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = open_reader(path).query("SELECT * FROM ops ORDER BY t_submit").to_pylist()
    return found


def brought(folder: Path, lines: list[str]) -> tuple[list[dict[str, Any]], Any]:
    (folder / "log").write_text("\n".join(lines) + "\n")
    done = import_trace("nfsdump", folder / "log", folder / "t", overwrite=True)
    return rows(folder / "t"), done


def test_a_call_and_its_reply_are_one_op_with_hexadecimal_offset_and_count(tmp_path: Path) -> None:
    found, done = brought(
        tmp_path,
        [
            call("100000", "10.0.0.1.03fd", "f1", "6", f"read fh {FILE} off c000 count 2000"),
            call("100010", "10.0.0.2.03fd", "f1", "7", f"write fh {FILE} off 16000 count 2000 stable U"),
            reply("100500", "10.0.0.2.03fd", "f1", "7", f"write OK {ATTRIBUTES} count 1000 stable U"),
            reply("120000", "10.0.0.1.03fd", "f1", "6", f"read OK {ATTRIBUTES} count 800 eof 1"),
            call("130000", "10.0.0.1.03fd", "f2", "6", f"read fh {FILE} offset 10 count 20 tcount 20", 2),
            call("140000", "10.0.0.1.03fd", "f3", "15", f"commit file {FILE} off 0 count 0"),
            reply("140001", "10.0.0.1.03fd", "f3", "15", f"commit OK {ATTRIBUTES}"),
        ],
    )
    uri = f"nfs://10.0.0.9/{FILE}"
    assert [
        (r["op"], r["uri"], r["offset"], r["len"], r["bytes"], r["latency"], r["rank"]) for r in found
    ] == [
        ("read", uri, 0xC000, 0x2000, 0x800, 20_000_000, 0),
        ("write", uri, 0x16000, 0x2000, 0x1000, 490_000, 1),
        ("read", uri, 0x10, 0x20, None, None, 0),
        ("sync", uri, None, None, 0, 1000, 0),
    ]
    assert open_reader(tmp_path / "t").epoch_unix_ns == 1006231504_100000000
    assert "1 calls have no reply in the log" in done.notes


def test_a_file_is_known_by_its_handle_once_the_log_says_which_it_is(tmp_path: Path) -> None:
    name = f'fh {FOLDER} name "a b"'
    found, _ = brought(
        tmp_path,
        [
            call("1", "10.0.0.1.1", "1", "3", f"lookup {name}"),
            reply("2", "10.0.0.1.1", "1", "3", f"lookup OK fh {FILE} {ATTRIBUTES}"),
            call("3", "10.0.0.1.1", "2", "c", f"remove {name}"),
            reply("4", "10.0.0.1.1", "2", "c", f"remove OK {ATTRIBUTES}"),
            call("5", "10.0.0.1.1", "3", "3", f"lookup {name}"),
            reply("6", "10.0.0.1.1", "3", "3", "lookup 2"),
        ],
    )
    assert [(r["op"], r["uri"].rpartition("/")[2], r["error"]) for r in found] == [
        ("stat", FILE, None),
        ("delete", FILE, None),
        ("stat", "a b", "not_found"),
    ]


def test_what_is_sent_again_left_out_or_without_a_call_is_counted(tmp_path: Path) -> None:
    read = call("1", "10.0.0.1.1", "1", "6", f"read fh {FILE} off 0 count 10")
    found, done = brought(
        tmp_path,
        [
            read,
            read,
            reply("9", "10.0.0.1.1", "1", "6", f"read OK {ATTRIBUTES} count 10 eof 0"),
            reply("9", "10.0.0.1.1", "7", "6", f"read OK {ATTRIBUTES} count 10 eof 0"),
            call("10", "10.0.0.1.1", "2", "e", f'rename fh {FOLDER} name "a" fh2 {FOLDER} name2 "b"'),
            reply("11", "10.0.0.1.1", "2", "e", "rename OK "),
            call("12", "10.0.0.1.1", "3", "2", f"setattr fh {FILE} size 1000"),
            reply("13", "10.0.0.1.1", "3", "2", "setattr OK "),
            call("14", "10.0.0.1.1", "4", "2", f"setattr fh {FILE} mode 1b6"),
            call("15", "10.0.0.1.1", "5", "e", "rename SHORT PACKET"),
            "not a line",
        ],
    )
    assert [(r["op"], r["len"], r["tries"]) for r in found] == [("read", 16, 2), ("truncate", 4096, 1)]
    assert done.skipped == 2
    assert "1 replies have no call in the log and are left out" in done.notes
    assert "left out: rename 1, setattr 1" in done.notes


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("nothing of the kind\n")
    with pytest.raises(TraceFormatError, match="contains no op that can be read"):
        import_trace("nfsdump", tmp_path / "log", tmp_path / "t")
