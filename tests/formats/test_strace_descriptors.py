"""What strace's options and the life of a process do to descriptors: sockets, devices, exec, directories, the end of a trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tracekit.formats.registry import ImportResult, import_trace
from tracekit.store.reader import open_reader


def brought(tmp_path: Path, *calls: str) -> tuple[list[dict[str, Any]], ImportResult]:
    """Import one call a line, at ascending times; a call may begin with its process, which else is 7."""
    lines = []
    for at, call in enumerate(calls):
        pid, _, rest = call.partition(" ") if call.split(" ")[0].isdigit() else ("7", "", call)
        lines.append(f"{pid} 1700000000.{at:06} {rest}\n")
    (tmp_path / "log").write_text("".join(lines))
    done = import_trace("strace", tmp_path / "log", tmp_path / "t", strict=True, overwrite=True)
    return open_reader(tmp_path / "t").query("FROM ops ORDER BY t_submit, op").to_pylist(), done


def reads(rows: list[dict[str, Any]]) -> list[tuple[str, int | None]]:
    return [(row["uri"], row["offset"]) for row in rows if row["op"] == "read"]


def test_details_of_sockets_and_devices_hide_no_file(tmp_path: Path) -> None:
    rows, done = brought(
        tmp_path,
        'pread64(3</dev/sda<block 8:0>>, "", 512, 1024) = 512 <0.000001>',
        "sendfile(4<TCP:[10.0.0.1:80->10.0.0.2:4242]>, 5</d/a>, [0] => [100], 100) = 100 <0.000001>",
        'read(6<UNIX-STREAM:[12->13,"/run/x.sock"]>, "", 10) = 10 <0.000001>',
        'read(8<TCPv6:[[::1]:36264->[::1]:6060]>, "", 10) = 10 <0.000001>',
        'openat(AT_FDCWD</d>, "/dev/sdb", O_RDONLY) = 9</dev/sdb<block 8:16>> <0.000001>',
        'read(9</dev/sdb<block 8:16>>, "", 10) = 10 <0.000001>',
    )
    assert reads(rows) == [("file:///dev/sda", 1024), ("file:///d/a", 0), ("file:///dev/sdb", 0)]
    assert not any("left out" in note for note in done.notes)


def test_a_name_below_a_directory_that_the_log_has_seen_opened_is_whole_without_its_path(
    tmp_path: Path,
) -> None:
    rows, _ = brought(
        tmp_path,
        'openat(AT_FDCWD, "/d", O_RDONLY|O_DIRECTORY) = 3 <0.000001>',
        'openat(3, "sub/a", O_RDONLY) = 4 <0.000001>',
        'read(4, "", 10) = 10 <0.000001>',
        'newfstatat(3, "b", {st_mode=S_IFREG|0644}, 0) = 0 <0.000001>',
        'unlinkat(3, "c", 0) = 0 <0.000001>',
        'renameat(3, "x", 3, "y") = 0 <0.000001>',
        'openat(9, "unknown", O_RDONLY) = 5 <0.000001>',
    )
    assert [(row["uri"], row["op"]) for row in rows] == [
        ("file:///d", "stat"),
        ("file:///d/sub/a", "stat"),
        ("file:///d/sub/a", "read"),
        ("file:///d/b", "stat"),
        ("file:///d/c", "delete"),
        ("file:///d/x", "rename"),
    ]
    assert rows[-1]["to_uri"] == "file:///d/y"


def test_an_exec_closes_the_descriptors_that_say_so(tmp_path: Path) -> None:
    rows, done = brought(
        tmp_path,
        'openat(AT_FDCWD, "/d/a", O_RDONLY|O_CLOEXEC) = 3 <0.000001>',
        'openat(AT_FDCWD, "/d/b", O_RDONLY|O_CLOEXEC) = 4 <0.000001>',
        "dup2(4, 5) = 5 <0.000001>",
        "fcntl(3, F_DUPFD_CLOEXEC, 6) = 6 <0.000001>",
        'openat(AT_FDCWD, "/d/c", O_RDONLY) = 7 <0.000001>',
        "fcntl(7, F_SETFD, FD_CLOEXEC) = 0 <0.000001>",
        "fcntl(4, F_SETFD, 0) = 0 <0.000001>",
        'execve("/bin/x", [""...], 0x7ffd /* 9 vars */) = 0 <0.000001>',
        *(f'read({number}, "", 10) = 10 <0.000001>' for number in (3, 4, 5, 6, 7)),
    )
    assert reads(rows) == [("file:///d/b", 0), ("file:///d/b", 10)]
    assert any(note.startswith("3 ops left out (") for note in done.notes)


def test_every_op_on_a_file_without_a_name_is_counted_by_kind(tmp_path: Path) -> None:
    rows, done = brought(
        tmp_path,
        'openat(AT_FDCWD, "/d/a", O_RDONLY) = 3 <0.000001>',
        *(f"{call} = 0 <0.000001>" for call in ("fsync(4)", "fsync(5)", "ftruncate(4, 9)", "getdents64(6, 0x1, 9)", "fstat(4, {})")),
        'openat(AT_FDCWD, "relative", O_RDONLY) = 7 <0.000001>',
        "write(-1, \"\", 5) = -1 EBADF (Bad file descriptor) <0.000001>",
    )  # fmt: skip
    assert [row["uri"] for row in rows] == ["file:///d/a"]
    assert any(
        note.startswith("6 ops left out (list 1, stat 2, sync 2, truncate 1), because the log does not name")
        for note in done.notes
    )


@pytest.mark.parametrize(
    "call", ['read(;, "", 10) = 10', "fsync() = 0", "lseek(x, 0, SEEK_SET) = 0", "close(a) = 0"]
)
def test_a_call_whose_descriptor_cannot_be_read_is_a_bad_line(tmp_path: Path, call: str) -> None:
    """And it may have been any descriptor, whose position is unknown from then on."""
    (tmp_path / "log").write_text(
        '7 1700000000.000001 openat(AT_FDCWD, "/d/a", O_RDONLY) = 3 <0.000001>\n'
        f"7 1700000000.000002 {call} <0.000001>\n"
        '7 1700000000.000003 read(3, "", 10) = 10 <0.000001>\n'
    )
    done = import_trace("strace", tmp_path / "log", tmp_path / "t")
    assert done.skipped == 1
    assert "line 2: its descriptor cannot be read" in done.examples[0]
    assert open_reader(tmp_path / "t").query("SELECT \"offset\" FROM ops WHERE op = 'read'").to_pylist() == [
        {"offset": None}
    ]


def test_an_exec_of_a_child_leaves_the_descriptors_of_its_parent(tmp_path: Path) -> None:
    rows, _ = brought(
        tmp_path,
        'openat(AT_FDCWD, "/d/a", O_RDONLY|O_CLOEXEC) = 3 <0.000001>',
        "vfork( <unfinished ...>",
        '8 execve("/bin/x", [""...], 0x7ffd /* 9 vars */ <unfinished ...>',
        "7 <... vfork resumed>) = 8 <0.000001>",
        "8 <... execve resumed>) = 0 <0.000001>",
        '7 read(3, "", 10) = 10 <0.000001>',
        '8 openat(AT_FDCWD, "/d/b", O_RDONLY) = 3 <0.000001>',
        '8 read(3, "", 10) = 10 <0.000001>',
    )
    assert reads(rows) == [("file:///d/a", 0), ("file:///d/b", 0)]


def test_a_thread_that_executes_a_program_goes_on_under_the_number_of_its_process(tmp_path: Path) -> None:
    rows, done = brought(
        tmp_path,
        'openat(AT_FDCWD, "/d/a", O_RDONLY) = 3 <0.000001>',
        "clone3({flags=CLONE_VM|CLONE_FILES|CLONE_THREAD}, 88) = 8 <0.000001>",
        '7 read(3, "", 10 <unfinished ...>',
        '8 execve("/bin/x", [""...], 0x7ffd /* 9 vars */ <unfinished ...>',
        "7 +++ superseded by execve in pid 8 +++",
        "7 <... execve resumed>) = 0 <0.000001>",
        '7 pread64(3, "", 10, 50) = 10 <0.000001>',
    )
    assert [(row["offset"], row["bytes"], row["latency"]) for row in rows if row["op"] == "read"] == [
        (0, None, None),
        (50, 10, 1000),
    ]
    assert not any("that began are not in the log" in note for note in done.notes)


def test_calls_that_strace_did_not_wait_for_never_ended(tmp_path: Path) -> None:
    rows, done = brought(
        tmp_path,
        'read(3</d/a>, "", 10) = 10 <0.000001>',
        "read(3</d/a>,  <detached ...>",
        "8 read(4</d/b>,  <unfinished ...>",
        "8 <... read resumed> <unfinished ...>) = ?",
        "9 read(4</d/b>, 0x1, 10) = ? <unavailable>",
    )
    assert [row["latency"] for row in rows] == [1000, None, None, None]
    assert not any("without a duration" in note for note in done.notes)


def test_data_that_strace_writes_out_is_no_bad_line(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(
        '7 1700000000.000001 read(3</d/a>, "ab", 10) = 2 <0.000001>\n | 00000  61 62                     ab  |\n'
    )
    assert import_trace("strace", tmp_path / "log", tmp_path / "t", strict=True).ops == 1


def test_a_request_of_io_submit_ends_with_the_call_that_reaps_it(tmp_path: Path) -> None:
    def submit(data: str, offset: int) -> str:
        fields = f"aio_lio_opcode=IOCB_CMD_PREAD, aio_fildes=3</d/a>, aio_buf=0x1, aio_nbytes=512, aio_offset={offset}"
        return f"io_submit(0x7f10, 1, [{{{data}{fields}}}]) = 1 <0.000001>"

    rows, done = brought(
        tmp_path,
        submit("aio_data=0x10, ", 0),
        submit("aio_data=0x20, ", 512),
        submit("", 1024),
        "io_getevents(0x7f99, 1, 1, [{data=0x10, obj=0x5, res=512, res2=0}], NULL) = 1 <0.000010>",
        "io_getevents(0x7f10, 1, 2, [{data=0x20, obj=0x6, res=-5, res2=0}, {data=0x10, obj=0x5, res=500, res2=0}], NULL) = 2"
        " <0.000010>",
        submit("aio_data=0x10, ", 2048),
        submit("aio_data=0x30, ", 4096),
        submit("aio_data=0x30, ", 8192),
        "io_getevents(0x7f10, 1, 1, [{data=0x30, obj=0x5, res=512, res2=0}], NULL) = 1 <0.000010>",
    )
    assert [(row["offset"], row["bytes"], row["latency"], row["error"]) for row in rows] == [
        (0, 500, 14_000, None),
        (512, 0, 13_000, "io_error"),
        (1024, None, None, None),
        (2048, None, None, None),
        (4096, None, None, None),
        (8192, None, None, None),
    ]
    assert any(note.startswith("4 ops of io_submit have no latency") for note in done.notes)
