"""strace's output: a real program's calls, offsets through seeks, dups and forks, odd lines."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tracekit.errors import TraceFormatError
from tracekit.formats.registry import import_trace
from tracekit.store.reader import open_reader

STRACE = shutil.which("strace")


def rows(path: Path, where: str = "true") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (
        open_reader(path).query(f"FROM ops WHERE {where} ORDER BY t_submit").to_pylist()
    )
    return found


def brought(tmp_path: Path, lines: list[str], *, strict: bool = True) -> list[dict[str, Any]]:
    (tmp_path / "log").write_text("\n".join(lines) + "\n")
    import_trace("strace", tmp_path / "log", tmp_path / "t", strict=strict, overwrite=True)
    return rows(tmp_path / "t")


@pytest.mark.skipif(STRACE is None, reason="strace is not installed")
def test_a_real_programs_reads_come_in_with_their_offsets(tmp_path: Path) -> None:
    data = tmp_path / "data file.bin"
    data.write_bytes(bytes(1 << 20))
    program = (
        "import os, sys, threading\n"
        "fd = os.open(sys.argv[1], os.O_RDONLY)\n"
        "os.read(fd, 1000); os.read(fd, 50); os.lseek(fd, 5000, 0); os.read(fd, 7)\n"
        "os.pread(fd, 4096, 8192); os.preadv(fd, [bytearray(10), bytearray(20)], 77)\n"
        "t = threading.Thread(target=lambda: os.read(fd, 11)); t.start(); t.join()\n"
        "pid = os.fork()\n"
        "if not pid: os.read(fd, 13); os._exit(0)\n"
        "os.waitpid(pid, 0); os.read(fd, 17)\n"
        "out = os.open(sys.argv[1] + '.out', os.O_CREAT | os.O_WRONLY); os.write(out, b'x' * 5); os.write(out, b'y' * 6)\n"
        "os.stat(sys.argv[1] + '.none') if os.path.exists(sys.argv[1] + '.none') else None\n"
    )
    calls = "openat,open,read,pread64,preadv,preadv2,write,lseek,close,stat,newfstatat,statx,clone,clone3,fork,vfork,dup,dup2,fcntl"
    command = [str(STRACE), "-f", "-ttt", "-T", "-y", "-s", "0", "-e", f"trace={calls}", "-o", str(tmp_path / "log"),
               sys.executable, "-c", program, str(data)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode and "ptrace" in done.stderr.lower():
        pytest.skip("ptrace is not allowed here")
    assert done.returncode == 0, done.stderr
    assert import_trace("strace", tmp_path / "log", tmp_path / "t", strict=True).skipped == 0
    got = rows(tmp_path / "t", f"op = 'read' AND uri = 'file://{data}'")
    assert [(r["offset"], r["len"]) for r in got] == [
        (0, 1000), (1000, 50), (5000, 7), (8192, 4096), (77, None), (5007, 11), (5018, 13), (5031, 17)
    ]  # fmt: skip
    assert all(r["bytes"] == (r["len"] or 30) and r["latency"] > 0 for r in got)
    assert len({r["worker"] for r in got}) == 3
    written = rows(tmp_path / "t", f"op = 'write' AND uri = 'file://{data}.out'")
    assert [(r["offset"], r["len"]) for r in written] == [(0, 5), (5, 6)]
    missing = rows(tmp_path / "t", f"op = 'stat' AND uri = 'file://{data}.none'")
    assert missing[0]["error"] == "not_found"


@pytest.mark.skipif(STRACE is None, reason="strace is not installed")
@pytest.mark.parametrize(
    "more", [["-n"], ["-i"], ["-Y"], ["-k"], ["-C"], ["-n", "-i", "-Y", "-yy", "-C"], ["-x"], ["-v"]]
)
def test_what_an_option_of_strace_adds_to_its_lines_changes_no_op(tmp_path: Path, more: list[str]) -> None:
    (tmp_path / "data").write_bytes(bytes(3000))
    program = "import os, sys\nfor fd in [os.open(sys.argv[1], 0)] * 3: os.read(fd, 1000)\nos.wait() if os.fork() else os.read(fd, 9)"
    command = [str(STRACE), "-f", "-ttt", "-T", "-y", *more, "-e", "trace=openat,read,fork,clone,vfork,close", "-o", str(tmp_path / "log"),
               sys.executable, "-c", program, str(tmp_path / "data")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode and ("ptrace" in done.stderr.lower() or "not supported" in done.stderr):
        pytest.skip(f"strace cannot do this here: {done.stderr.strip()[:80]}")
    assert done.returncode == 0, done.stderr
    assert import_trace("strace", tmp_path / "log", tmp_path / "t", strict=True).skipped == 0
    got = rows(tmp_path / "t", f"op = 'read' AND uri = 'file://{tmp_path}/data'")
    assert [(r["offset"], r["bytes"]) for r in got] == [(0, 1000), (1000, 1000), (2000, 1000), (3000, 0)]


def test_calls_that_other_threads_interrupt_are_put_together(tmp_path: Path) -> None:
    first, second = brought(
        tmp_path,
        ["7 1700000000.000001 pread64(3</d/a>,  <unfinished ...>",
         "8 1700000000.000002 pread64(3</d/a>, \"\"..., 10, 20) = 10 <0.000003>",
         "7 1700000000.000009 <... pread64 resumed>\"\"..., 100, 200) = 100 <0.000008>",
         "8 1700000000.000012 +++ exited with 0 +++"],
    )  # fmt: skip
    assert (first["offset"], first["len"], first["latency"], first["t_submit"]) == (200, 100, 8000, 0)
    assert (second["offset"], second["t_submit"]) == (20, 1000)


def test_a_descriptor_opened_before_the_log_has_no_offset_until_a_seek(tmp_path: Path) -> None:
    got = brought(
        tmp_path,
        ["1700000000.1 read(3</d/a>, \"\", 10) = 10 <0.1>", "1700000000.2 lseek(3</d/a>, 0, SEEK_CUR) = 500 <0.1>",
         "1700000000.3 dup(3</d/a>) = 4</d/a> <0.1>", "1700000000.4 read(4</d/a>, \"a) = 3\", 10) = 10 <0.1>",
         "1700000000.5 read(3</d/a>, \"\", 10) = -1 EIO (Input/output error) <0.1>", "1700000000.6 read(9, \"\", 10) = 10 <0.1>",
         "1700000000.7 read(3</d/a>, \"\", 10) = ?"],
    )  # fmt: skip
    assert [(r["offset"], r["bytes"], r["error"]) for r in got] == [
        (None, 10, None), (500, 10, None), (510, 0, "io_error"), (510, None, None)
    ]  # fmt: skip
    assert got[-1]["latency"] is None


def test_vectors_say_what_was_asked_for_where_strace_wrote_them_out(tmp_path: Path) -> None:
    got = brought(
        tmp_path,
        ['1.1 preadv(3</d/a>, [{iov_base=""..., iov_len=10}, {iov_base=""..., iov_len=20}], 2, 7) = 25 <0.1>',
         '1.2 preadv(3</d/a>, [{iov_base=""..., iov_len=10}, ...], 2, 7) = 25 <0.1>'],
    )  # fmt: skip
    assert [(r["offset"], r["len"], r["bytes"]) for r in got] == [(7, 30, 25), (7, None, 25)]


def test_times_of_day_escapes_and_append_are_understood(tmp_path: Path) -> None:
    got = brought(
        tmp_path,
        ["[pid  12] 01:00:00.5 openat(AT_FDCWD, \"/d/\\303\\244\\\"b\", O_WRONLY|O_APPEND) = 3 <0.1>",
         "[pid  12] 01:00:01.5 write(3, \"\"..., 10) = 10 <0.1>",
         "[pid  12] 01:00:02.5 openat(AT_FDCWD</w>, \"rel\", O_RDONLY) = -1 EACCES (Permission denied) <0.1>"],
    )  # fmt: skip
    assert [(r["uri"], r["op"], r["offset"], r["error"]) for r in got] == [
        ('file:///d/ä"b', "stat", None, None), ('file:///d/ä"b', "write", None, None), ("file:///w/rel", "stat", None, "permission")
    ]  # fmt: skip


def test_a_time_of_day_that_goes_back_is_the_next_day(tmp_path: Path) -> None:
    got = brought(
        tmp_path,
        ['7 23:59:59.5 openat(AT_FDCWD, "/d/a", O_RDONLY) = 3 <0.1>', '7 23:59:59.9 read(3, "", 10) = 10 <0.1>',
         '7 00:00:00.1 read(3, "", 10) = 10 <0.1>', '7 00:00:00.3 read(3, "", 10) = 10 <0.1>'],
    )  # fmt: skip
    assert [(r["t_submit"] // 10**6, r["offset"]) for r in got] == [(0, None), (400, 0), (600, 10), (800, 20)]


def test_relative_times_are_added_up_and_reported(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(
        '7      0.000000 openat(AT_FDCWD, "/d/a", O_RDONLY) = 3\n7      0.000100 read(3, "", 10) = 10\n'
        "7      0.000200 --- SIGCHLD {si_signo=SIGCHLD} ---\n"
        '7      0.000300 read(3, "", 10) = 10\n'
    )
    done = import_trace("strace", tmp_path / "log", tmp_path / "t", strict=True)
    assert any("relative times" in note for note in done.notes)
    got = rows(tmp_path / "t")
    assert [(r["t_submit"], r["offset"]) for r in got] == [(0, None), (100_000, 0), (600_000, 10)]


def test_relative_times_beside_absolute_ones_and_without_a_pid_are_read(tmp_path: Path) -> None:
    beside = ['7 1700000000.1 (+     0.000000) pread64(3</d/a>, "", 10, 0) = 10 <0.1>',
              '7 1700000000.4 (+     0.300000) pread64(3</d/a>, "", 10, 5) = 10 <0.1>']  # fmt: skip
    assert [(r["t_submit"], r["offset"]) for r in brought(tmp_path, beside)] == [(0, 0), (300_000_000, 5)]
    alone = [
        '     0.000000 pread64(3</d/a>, "", 10, 0) = 10',
        '     0.300000 pread64(3</d/a>, "", 10, 5) = 10',
    ]
    assert [(r["t_submit"], r["offset"]) for r in brought(tmp_path, alone)] == [(0, 0), (300_000_000, 5)]


def test_a_child_that_appears_before_its_fork_returns_shares_its_parents_files(tmp_path: Path) -> None:
    got = brought(
        tmp_path,
        ['7 1700000000.1 openat(AT_FDCWD, "/d/a", O_RDONLY) = 3 <0.1>', '7 1700000000.2 read(3, "", 10) = 10 <0.1>',
         "7 1700000000.3 clone(child_stack=NULL, flags=CLONE_CHILD_CLEARTID|SIGCHLD <unfinished ...>",
         '8 1700000000.4 read(3, "", 5) = 5 <0.1>', '8 1700000000.5 openat(AT_FDCWD, "/d/b", O_RDONLY) = 4 <0.1>',
         "7 1700000000.6 <... clone resumed>) = 8 <0.3>",
         '8 1700000000.7 read(4, "", 3) = 3 <0.1>', '7 1700000000.8 read(3, "", 10) = 10 <0.1>'],
    )  # fmt: skip
    reads = [(r["uri"], r["offset"], r["worker"]) for r in got if r["op"] == "read"]
    assert reads == [
        ("file:///d/a", 0, 0),
        ("file:///d/a", 10, 1),
        ("file:///d/b", 0, 1),
        ("file:///d/a", 15, 0),
    ]


def test_positions_are_unknown_after_two_concurrent_forks(tmp_path: Path) -> None:
    got = brought(
        tmp_path,
        ['6 1700000000.1 openat(AT_FDCWD, "/d/a", O_RDONLY) = 3</d/a> <0.1>',
         "6 1700000000.2 clone(flags=SIGCHLD) = 7 <0.1>",
         "6 1700000000.3 clone(flags=SIGCHLD <unfinished ...>", "7 1700000000.3 clone(flags=SIGCHLD <unfinished ...>",
         '8 1700000000.4 read(3</d/a>, "", 5) = 5 <0.1>', "6 1700000000.5 <... clone resumed>) = 8 <0.1>",
         "7 1700000000.5 <... clone resumed>) = 9 <0.1>", '6 1700000000.6 read(3</d/a>, "", 5) = 5 <0.1>'],
    )  # fmt: skip
    assert [r["offset"] for r in got if r["op"] == "read"] == [None, None]


def test_copies_inside_the_kernel_are_a_read_and_a_write(tmp_path: Path) -> None:
    got = brought(
        tmp_path,
        ['7 1700000000.1 openat(AT_FDCWD, "/d/a", O_RDONLY) = 3</d/a> <0.1>',
         '7 1700000000.2 openat(AT_FDCWD, "/d/b", O_WRONLY) = 4</d/b> <0.1>',
         "7 1700000000.3 sendfile(4</d/b>, 3</d/a>, [500] => [600], 200) = 100 <0.1>",
         "7 1700000000.4 sendfile(4</d/b>, 3</d/a>, NULL, 20) = 20 <0.1>",
         "7 1700000000.5 copy_file_range(3</d/a>, NULL, 4</d/b>, [7], 30, 0) = 30 <0.1>",
         '7 1700000000.6 read(3</d/a>, "", 5 <unfinished ...>', "7 1700000000.7 <... read resumed>) = 5 <0.1>",
         '7 1700000000.8 write(4</d/b>, "", 5) = 5 <0.1>'],
    )  # fmt: skip
    assert [(r["op"], r["uri"][-1], r["offset"], r["len"], r["bytes"]) for r in got if r["op"] != "stat"] == [
        ("read", "a", 500, 200, 100), ("write", "b", 0, 200, 100), ("read", "a", 0, 20, 20), ("write", "b", 100, 20, 20),
        ("read", "a", 20, 30, 30), ("write", "b", 7, 30, 30), ("read", "a", 50, 5, 5), ("write", "b", 120, 5, 5),
    ]  # fmt: skip


def test_after_a_call_that_cannot_be_read_positions_are_unknown(tmp_path: Path) -> None:
    lines = ['7 1700000000.1 openat(AT_FDCWD, "/d/a", O_RDONLY) = 3 <0.1>', '7 1700000000.2 read(3, "", 5) = 5 <0.1>',
             '7 1700000000.3 read(3, "", 5strace: Process 9 attached', '7 1700000000.4 read(3, "", 5) = 5 <0.1>',
             "7 1700000000.5 lseek(3, 0, SEEK_SET) = 0 <0.1>", '7 1700000000.6 read(3, "", 5) = 5 <0.1>']  # fmt: skip
    got = brought(tmp_path, lines, strict=False)
    assert [r["offset"] for r in got if r["op"] == "read"] == [0, None, 0]


def test_a_log_that_names_processes_only_once_there_are_two_is_one_stream_a_thread(tmp_path: Path) -> None:
    got = brought(
        tmp_path,
        ['1700000000.1 openat(AT_FDCWD, "/d/a", O_RDONLY) = 3 <0.1>', "1700000000.2 clone(flags=SIGCHLD) = 8 <0.1>",
         '[pid     8] 1700000000.3 read(3, "", 5) = 5 <0.1>', '[pid     7] 1700000000.4 read(3, "", 5) = 5 <0.1>',
         "[pid     8] 1700000000.5 +++ exited with 0 +++", '1700000000.6 read(3, "", 5) = 5 <0.1>'],
    )  # fmt: skip
    assert [(r["offset"], r["worker"]) for r in got if r["op"] == "read"] == [(0, 1), (5, 0), (10, 0)]


def test_bad_lines_are_counted_and_a_file_of_another_format_is_refused_in_one_line(tmp_path: Path) -> None:
    good = '1700000000.1 pread64(3</d/a>, "", 10, 0) = 10 <0.1>'
    bad = [
        "what",
        "1700000000.1 pread64(3",
        "7 1700000000.1 <... read resumed>) = 3 <0.1>",
        "99999999999.1 read(3) = 1",
    ]
    (tmp_path / "log").write_text("\n".join([good, *bad, good]))
    done = import_trace("strace", tmp_path / "log", tmp_path / "t")
    assert (done.ops, done.skipped) == (2, len(bad))
    with pytest.raises(TraceFormatError, match="line 2: "):
        import_trace("strace", tmp_path / "log", tmp_path / "s", strict=True)
    (tmp_path / "log").write_text("hello\n")
    with pytest.raises(TraceFormatError, match="no strace call"):
        import_trace("strace", tmp_path / "log", tmp_path / "s")


def test_a_call_whose_arguments_are_torn_is_no_op_of_unknown_length(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        '7 1700000000.3 pread64(3</d/a>) = 3 <0.1>\n7 1700000000.4 read(3</d/a>, ""..., 10) = 7 <0.1>\n'
    )
    done = import_trace("strace", log, tmp_path / "t.trace")
    assert done.ops >= 1
    lengths = open_reader(tmp_path / "t.trace").query("SELECT len FROM ops ORDER BY t_submit").to_pylist()
    assert lengths[-1] == {"len": 10}


def test_an_offset_of_minus_one_reads_and_writes_at_the_position_and_moves_it(tmp_path: Path) -> None:
    got = brought(
        tmp_path,
        ['7 1700000000.1 openat(AT_FDCWD, "/d/a", O_RDWR) = 3 <0.1>',
         '7 1700000000.2 preadv2(3</d/a>, [{iov_base="", iov_len=40}], 1, -1, RWF_HIPRI) = 30 <0.1>',
         '7 1700000000.3 pwritev2(3</d/a>, [{iov_base="", iov_len=5}], 1, -1, 0) = 5 <0.1>',
         '7 1700000000.4 preadv2(3</d/a>, [{iov_base="", iov_len=9}], 1, 500, 0) = 9 <0.1>',
         '7 1700000000.5 read(3</d/a>, "", 10) = 10 <0.1>'],
    )  # fmt: skip
    assert [(r["offset"], r["len"], r["bytes"]) for r in got if r["op"] != "stat"] == [
        (0, 40, 30), (30, 5, 5), (500, 9, 9), (35, 10, 10)
    ]  # fmt: skip


def test_requests_of_io_submit_are_ops_and_those_not_taken_or_cut_short_are_reported(tmp_path: Path) -> None:
    one = "{aio_data=0, aio_lio_opcode=IOCB_CMD_%s, aio_fildes=4</d/a>, aio_buf=0x1, aio_nbytes=%d, aio_offset=%d}"
    vector = (
        "{aio_data=0, aio_lio_opcode=IOCB_CMD_PREADV, aio_fildes=4</d/a>, "
        "aio_buf=[{iov_base=0x1, iov_len=10}, {iov_base=0x2, iov_len=20}], aio_offset=9}"
    )
    old = '{data=0, pwrite, fildes=4, str=""..., nbytes=7, offset=70}'
    sync = "{aio_data=0, aio_lio_opcode=IOCB_CMD_FSYNC, aio_fildes=4</d/a>}"
    never = one % ("PREAD", 1, 999)
    lines = [
        f"7 1700000000.1 io_submit(0x7f, 5, [{one % ('PREAD', 100, 7)}, {vector}, {old}, {sync}, {never}]) = 4 <0.1>",
        "7 1700000000.2 io_submit(0x7f, 3, [...]) = 3 <0.1>",
        "7 1700000000.3 io_submit(0x7f, 3, [...]) = -1 EAGAIN (Resource temporarily unavailable) <0.1>",
    ]
    (tmp_path / "log").write_text("\n".join(lines) + "\n")
    done = import_trace("strace", tmp_path / "log", tmp_path / "t", strict=True)
    assert [(r["op"], r["offset"], r["len"], r["bytes"], r["latency"]) for r in rows(tmp_path / "t")] == [
        ("read", 7, 100, None, None), ("read", 9, 30, None, None), ("write", 70, 7, None, None),
        ("sync", None, None, None, None)
    ]  # fmt: skip
    notes = " | ".join(done.notes)
    assert "4 ops of io_submit have no latency" in notes
    assert "3 requests of io_submit left out" in notes


def test_storage_calls_without_a_row_are_counted_by_name(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(
        '7 1700000000.1 pread64(3</d/a>, "", 10, 0) = 10 <0.1>\n'
        "7 1700000000.2 io_uring_enter(9, 1, 1, 0, NULL, 8) = 1 <0.1>\n"
        * 2
        + '7 1700000000.3 syncfs(3</d/a>) = 0 <0.1>\n7 1700000000.4 link("/a", "/b") = 0 <0.1>\n'
        "7 1700000000.5 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, 3</d/a>, 0) = 0x7f00 <0.1>\n"
        "[ Process PID=7 runs in 32 bit mode. ]\n7 1700000000.6 exit_group(0) = ?\n"
    )
    done = import_trace("strace", tmp_path / "log", tmp_path / "t", strict=True)
    assert done.ops == 2
    assert done.notes == (
        "io_uring_enter: 2 calls left out; their requests are in memory, not in the log",
        "calls left out, which are not ops of the schema: link 1, syncfs 1",
        "files mapped into memory: 1; reads through a mapping are not in the log",
    )


def test_syncs_truncates_and_renames_are_ops(tmp_path: Path) -> None:
    got = brought(
        tmp_path,
        ['7 1700000000.1 openat(AT_FDCWD</w>, "a", O_WRONLY|O_CREAT|O_TRUNC, 0666) = 3</w/a> <0.1>',
         '7 1700000000.2 fsync(3</w/a>) = 0 <0.1>', "7 1700000000.3 fdatasync(3</w/a>) = -1 EIO (Input/output error) <0.1>",
         "7 1700000000.4 sync_file_range(3</w/a>, 4096, 8192, SYNC_FILE_RANGE_WRITE) = 0 <0.1>",
         "7 1700000000.5 ftruncate(3</w/a>, 77) = 0 <0.1>", '7 1700000000.6 truncate("/w/b, c", 5) = 0 <0.1>',
         '7 1700000000.7 rename("/w/a", "/w/b") = 0 <0.1>',
         '7 1700000000.8 renameat2(AT_FDCWD</w>, "x \\"y", 4</v>, "../z", RENAME_NOREPLACE) = 0 <0.1>',
         '7 1700000000.9 renameat2(AT_FDCWD</w>, "a", AT_FDCWD</w>, "b", RENAME_EXCHANGE) = 0 <0.1>',
         '7 1700000001.0 rename("a", "b") = 0 <0.1>'],
    )  # fmt: skip
    assert [(r["op"], r["uri"], r["to_uri"], r["offset"], r["len"], r["error"]) for r in got] == [
        ("truncate", "file:///w/a", None, None, 0, None), ("sync", "file:///w/a", None, None, None, None),
        ("sync", "file:///w/a", None, None, None, "io_error"), ("sync", "file:///w/a", None, 4096, 8192, None),
        ("truncate", "file:///w/a", None, None, 77, None), ("truncate", "file:///w/b, c", None, None, 5, None),
        ("rename", "file:///w/a", "file:///w/b", None, None, None), ("rename", 'file:///w/x "y', "file:///z", None, None, None),
        ("rename", "file:///w/a", "file:///w/b", None, None, None),
    ]  # fmt: skip


def test_close_range_closes_and_a_process_number_used_twice_is_two_streams(tmp_path: Path) -> None:
    got = brought(
        tmp_path,
        ['7 1700000000.1 openat(AT_FDCWD, "/d/a", O_RDONLY) = 3 <0.1>', '7 1700000000.2 read(3, "", 10) = 10 <0.1>',
         "7 1700000000.3 close_range(4, 4294967295, 0) = 0 <0.1>", '7 1700000000.4 read(3, "", 10) = 10 <0.1>',
         "7 1700000000.5 close_range(3, 4294967295, CLOSE_RANGE_CLOEXEC) = 0 <0.1>",
         '7 1700000000.6 read(3, "", 10) = 10 <0.1>', "7 1700000000.7 close_range(3, ~0U, 0) = 0 <0.1>",
         '7 1700000000.8 read(3</d/b>, "", 10) = 10 <0.1>', '7 1700000001.0 read(3</d/b>, "", 10 <unfinished ...>',
         "7 1700000001.1 +++ killed by SIGKILL +++", '7 1700000001.2 read(3</d/b>, "", 10) = 10 <0.1>'],
    )  # fmt: skip
    assert [(r["uri"][-1], r["offset"], r["bytes"], r["worker"]) for r in got if r["op"] == "read"] == [
        ("a", 0, 10, 0), ("a", 10, 10, 0), ("a", 20, 10, 0), ("b", None, 10, 0), ("b", None, None, 0), ("b", None, 10, 1)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "call", ['read(3</d/a>, ""..., 100) = 500', 'write(3</d/a>, ""..., 100) = 101', "sendfile(4</d/b>, 3</d/a>, NULL, 9) = 10"]
)  # fmt: skip
def test_a_call_that_moved_more_than_it_asked_for_is_a_bad_line(tmp_path: Path, call: str) -> None:
    lines = [
        '7 1700000000.000000 openat(AT_FDCWD, "/d/a", O_RDWR) = 3</d/a> <0.000010>',
        f"7 1700000000.000100 {call} <0.000010>",
        '7 1700000000.000200 read(3</d/a>, ""..., 10) = 10 <0.000010>',
        "7 1700000000.000300 lseek(3</d/a>, 50, SEEK_SET) = 50 <0.000010>",
        '7 1700000000.000400 read(3</d/a>, ""..., 10) = 4 <0.000010>',
    ]
    (tmp_path / "log").write_text("\n".join(lines) + "\n")
    done = import_trace("strace", tmp_path / "log", tmp_path / "t")
    assert done.skipped == call.count("</d/") and "line 2: it moved more bytes" in done.examples[0]
    found = [(r["offset"], r["bytes"]) for r in rows(tmp_path / "t", "op = 'read'")]
    assert found == [(None, 10), (50, 4)]  # where the damaged call left the position is unknown
    with pytest.raises(TraceFormatError, match="moved more bytes"):
        import_trace("strace", tmp_path / "log", tmp_path / "s", strict=True)


@pytest.mark.parametrize("names", ["-y", ""])
def test_what_is_renamed_while_open_goes_on_under_its_new_name(tmp_path: Path, names: str) -> None:
    def fd(path: str) -> str:
        return f"3<{path}>" if names else "3"

    lines = [
        f'7 1700000000.000000 openat(AT_FDCWD, "/d/part", O_WRONLY|O_CREAT|O_TRUNC, 0666) = {fd("/d/part")} <0.000010>',
        f'7 1700000000.000100 write({fd("/d/part")}, ""..., 10) = 10 <0.000010>',
        '7 1700000000.000200 rename("/d/part", "/d/done") = 0 <0.000010>',
        f'7 1700000000.000300 write({fd("/d/done")}, ""..., 20) = 20 <0.000010>',
        '7 1700000000.000400 rename("/d", "/e") = 0 <0.000010>',
        f'7 1700000000.000500 write({fd("/e/done")}, ""..., 30) = 30 <0.000010>',
        '7 1700000000.000600 rename("/e/done", "/f/x") = -1 ENOENT (No such file or directory) <0.000010>',
        f'7 1700000000.000700 write({fd("/e/done")}, ""..., 40) = 40 <0.000010>',
    ]
    got = [(r["uri"], r["offset"], r["len"]) for r in brought(tmp_path, lines) if r["op"] == "write"]
    assert got == [
        ("file:///d/part", 0, 10), ("file:///d/done", 10, 20), ("file:///e/done", 30, 30), ("file:///e/done", 60, 40)
    ]  # fmt: skip


_CALLS = [
    ("7", 'openat(AT_FDCWD, "/d/a", O_RDWR) = 3</d/a>'),
    ("7", 'read(3</d/a>, ""..., 10) = 10'),
    ("7", 'read(3</d/a>, "with \\"quotes\\", 9) = 9", 10) = 4'),
    ("7", 'pread64(3</d/a>, ""..., 10, 100) = 10'),
    ("7", 'read(3</d/a>, ""..., 10) = 0'),
    ("7", 'write(3</d/a>, ""..., 20) = 20'),
    ("7", "dup(3</d/a>) = 4</d/a>"),
    ("7", 'read(4</d/a>, ""..., 10) = 10'),
    ("7", 'read(3</d/b>, ""..., 10) = 10'),
    ("7", 'read(3</d/b>, ""..., 10) = 10'),
    ("7", "lseek(3</d/b>, 50, SEEK_SET) = 50"),
    ("7", 'read(3</d/b (deleted)>, ""..., 10) = 10'),
    ("7", 'read(3</d/b>(deleted), ""..., 10) = 10'),
    ("7", "clone(child_stack=NULL, flags=SIGCHLD) = 8"),
    ("8", 'read(3</d/b>, ""..., 10) = 10'),
    ("8", 'pwrite64(5</d/\\303\\244>, ""..., 10, 7) = 10'),
    ("8", 'write(1</dev/null>, ""..., 10) = 10'),
    ("8", 'write(1</dev/null>, ""..., 10) = 10'),
    ("7", 'read(3</d/b>, ""..., 10) = -1 EIO (Input/output error)'),
    ("7", 'read(3</d/b>, ""..., 10) = 10'),
    ("9", 'read(3</d/b>, ""..., 10) = 10'),
]


def test_a_line_as_most_are_is_read_as_one_in_another_form(tmp_path: Path) -> None:
    def read(form: str) -> list[dict[str, Any]]:
        times = (f"1700000000.{at:06d}" for at in range(1, 100))
        lines = [
            form.format(pid=pid, time=time, call=call)
            for (pid, call), time in zip(_CALLS, times, strict=False)
        ]
        return brought(tmp_path, lines)

    common = read("{pid} {time} {call} <0.000009>")
    assert common == read("[pid {pid}] {time} {call} <0.000009>")
    assert [r["offset"] for r in common] == [
        None, 0, 10, 100, 14, 14, 34, None, None, 50, 60, 70, 7, None, None, 80, 80, None
    ]  # fmt: skip


def _alone(*calls: str) -> list[str]:
    return [f"7 1700000000.{at:06d} {call} <0.000001>" for at, call in enumerate(calls, 1)]


def test_the_mark_of_a_deleted_file_is_no_part_of_its_name_and_a_name_that_looks_like_it_is(
    tmp_path: Path,
) -> None:
    lines = _alone(
        'openat(AT_FDCWD, "/d/a", O_RDONLY) = 3</d/a>',
        'read(3</d/a (deleted)>, ""..., 10) = 10',
        'read(3</d/a>(deleted), ""..., 20) = 20',
        'openat(AT_FDCWD, "/d/b (deleted)", O_RDONLY) = 4</d/b (deleted)>',
        'read(4</d/b (deleted)>, ""..., 30) = 30',
        'read(4</d/b (deleted) (deleted)>, ""..., 40) = 40',
        'read(4</d/b (deleted)>(deleted), ""..., 50) = 50',
        'openat(AT_FDCWD, "/d", O_RDWR|O_TMPFILE, 0600) = 5</d/#7 (deleted)>',
        'write(5</d/#7 (deleted)>, ""..., 60) = 60',
        'openat(AT_FDCWD</e (deleted)>, "f", O_RDONLY) = -1 ENOENT (No such file or directory)',
    )
    found = [
        (row["uri"], row["offset"], row["bytes"])
        for row in brought(tmp_path, lines)
        if row["op"] != "stat" or row["error"]
    ]
    assert found == [
        ("file:///d/a", 0, 10), ("file:///d/a", 10, 20),
        ("file:///d/b (deleted)", 0, 30), ("file:///d/b (deleted)", 30, 40), ("file:///d/b (deleted)", 70, 50),
        ("file:///d/#7", 0, 60), ("file:///e (deleted)/f", None, None),
    ]  # fmt: skip


def test_a_write_that_appends_goes_to_the_end_wherever_the_position_is(tmp_path: Path) -> None:
    opened = 'openat(AT_FDCWD, "/d/a", O_RDWR|O_APPEND) = 3</d/a>'
    write, end = 'write(3</d/a>, ""..., 7) = 7', "lseek(3</d/a>, 0, SEEK_END) = 700"
    got = brought(
        tmp_path,
        _alone(opened, write, "lseek(3</d/a>, 0, SEEK_CUR) = 507", write, "lseek(3</d/a>, 0, SEEK_SET) = 0", write, end, write, write,
               'pwrite64(3</d/a>, ""..., 7, 100) = 7', write),
    )  # fmt: skip
    assert [r["offset"] for r in got] == [None, None, 507, None, 700, 707, None, None]
    flags = "fcntl(3</d/a>, F_SETFL, O_RDWR{}) = 0"
    once = 'pwritev2(3</d/a>, [{iov_base="", iov_len=7}], 1, -1, RWF_APPEND) = 7'
    got = brought(
        tmp_path,
        _alone('openat(AT_FDCWD, "/O_APPEND", O_RDWR) = 3</d/a>', write, flags.format("|O_APPEND"), write, flags.format(""),
               "lseek(3</d/a>, 10, SEEK_SET) = 10", write, once, write),
    )  # fmt: skip
    assert [r["offset"] for r in got] == [None, 0, None, 10, None, None]


def test_a_call_that_a_signal_interrupted_has_moved_nothing(tmp_path: Path) -> None:
    read = 'read(3</d/a>, ""..., 7) = '
    got = brought(
        tmp_path,
        _alone('openat(AT_FDCWD, "/d/a", O_RDWR) = 3</d/a>', f"{read}? ERESTARTSYS (To be restarted if SA_RESTART is set)",
               f"{read}7", f"{read}? ERESTART_RESTARTBLOCK (Interrupted by signal)", f"{read}7"),
    )  # fmt: skip
    assert [(r["offset"], r["bytes"], r["error"]) for r in got[1:]] == [
        (0, 0, "cancelled"), (0, 7, None), (7, 0, "cancelled"), (7, 7, None)
    ]  # fmt: skip


def test_a_thread_that_unshares_its_descriptors_closes_none_of_the_others(tmp_path: Path) -> None:
    lines = [
        '7 1700000000.000001 openat(AT_FDCWD, "/d/a", O_RDONLY) = 3</d/a> <0.000001>',
        "7 1700000000.000002 clone3({flags=CLONE_VM|CLONE_FILES|CLONE_THREAD}, 88) = 8 <0.000001>",
        '8 1700000000.000003 read(3</d/a>, ""..., 5) = 5 <0.000001>',
        "8 1700000000.000004 close_range(3, 4294967295, CLOSE_RANGE_UNSHARE) = 0 <0.000001>",
        '7 1700000000.000005 read(3</d/a>, ""..., 6) = 6 <0.000001>',
    ]
    assert [(r["offset"], r["worker"]) for r in brought(tmp_path, lines)] == [(None, 0), (0, 1), (5, 0)]


def test_threads_that_are_not_in_the_log_are_counted(tmp_path: Path) -> None:
    begin = ['1700000000.000001 openat(AT_FDCWD, "/d/a", O_RDONLY) = 3</d/a> <0.000001>',
             "1700000000.000002 clone3({flags=CLONE_VM|CLONE_FILES|CLONE_THREAD}, 88) = 8 <0.000001>"]  # fmt: skip
    said = []
    for name, more in (("one", []), ("both", ["[pid 8] 1700000000.000003 +++ exited with 0 +++"])):
        (tmp_path / name).write_text("\n".join([*begin, *more]) + "\n")
        done = import_trace("strace", tmp_path / name, tmp_path / "t", strict=True, overwrite=True)
        said.append([note for note in done.notes if "are not in the log" in note])
    assert [len(notes) for notes in said] == [1, 0]
    assert said[0][0].startswith("1 threads or processes that began")


def test_a_directory_that_is_removed_is_no_op(tmp_path: Path) -> None:
    lines = _alone(
        'unlinkat(AT_FDCWD, "/d/AT_REMOVEDIR", 0) = 0',
        'unlinkat(AT_FDCWD, "/d", AT_REMOVEDIR) = 0',
        'rmdir("/e") = 0',
    )
    assert [(row["op"], row["uri"]) for row in brought(tmp_path, lines)] == [
        ("delete", "file:///d/AT_REMOVEDIR")
    ]
