"""What a log counts of itself is compared with what was read: a difference is reported, and the trace says that it is not whole."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import pytest

from tracekit.errors import TraceFormatError
from tracekit.formats.registry import ImportResult, import_trace
from tracekit.store.reader import open_reader

STRACE = shutil.which("strace")
needs_dftracer = pytest.mark.skipif(find_spec("dftracer") is None, reason="DFTracer is not installed")
LINES = [
    '7 1700000000.000000 openat(AT_FDCWD, "/d/a", O_RDONLY) = 3</d/a> <0.000010>',
    '7 1700000000.001000 openat(AT_FDCWD, "/d/b", O_RDONLY) = -1 ENOENT (No such file or directory) <0.000010>',
    '7 1700000000.002000 pread64(3</d/a>, ""..., 4096, 0) = 4096 <0.000020>',
    '7 1700000000.003000 pread64(3</d/a>, ""..., 4096, 4096) = 4096 <0.000020>',
    "7 1700000000.004000 exit_group(0) = ?",
    "7 1700000000.005000 +++ exited with 0 +++",
]
OPLOG_HEADER = "idx\tthread\top\tclient_id\tn_objects\tbytes\tendpoint\tfile\terror\tstart\tfirst_byte\tend\tduration_ns\n"
OPLOG_LINE = "0\t1\tGET\tc\t1\t10\ts3://b/\tk\t\t2026-01-02T03:04:05.1Z\t\t2026-01-02T03:04:06Z\t900000000\n"
TABLE = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.00    0.000040          20         2           pread64
 40.00    0.000020          10         2         1 openat
------ ----------- ----------- --------- --------- ----------------
100.00    0.000060                     4         1 total
"""


def imported(tmp_path: Path, format: str, text: str) -> tuple[ImportResult, list[str]]:
    """Import a log; return the result, and what its completeness says is missing."""
    log = tmp_path / "log"
    log.write_text(text)
    done = import_trace(format, log, tmp_path / "t", overwrite=True)
    unseen: list[str] = open_reader(tmp_path / "t").completeness.get("unseen", [])
    return done, unseen


def test_a_strace_log_is_compared_with_the_table_that_it_ends_with(tmp_path: Path) -> None:
    done, unseen = imported(tmp_path, "strace", "\n".join(LINES) + "\n" + TABLE)
    assert (done.skipped, unseen) == (0, [])
    _, unseen = imported(tmp_path, "strace", "\n".join([*LINES[:1], *LINES[3:]]) + "\n" + TABLE)
    assert unseen == [
        "the log does not show the calls that its own totals count: openat 1 of 2, pread64 1 of 2",
        "the log does not show the failed calls that its own totals count: openat 0 of 1",
    ]


def test_a_table_without_calls_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(TraceFormatError, match=r"contains only the totals of its calls \(-c\)"):
        imported(tmp_path, "strace", TABLE)


@pytest.mark.skipif(STRACE is None, reason="strace is not installed")
def test_the_table_of_a_real_run_agrees_with_its_calls(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(9000))
    program = (
        "import os, threading\n"
        "def go(i):\n"
        "    fd = os.open('f', os.O_RDONLY); os.pread(fd, 100, i); os.close(fd)\n"
        "    try: os.open('none', os.O_RDONLY)\n"
        "    except OSError: pass\n"
        "for t in [threading.Thread(target=go, args=(i,)) for i in range(4)]: t.start()\n"
    )
    log = tmp_path / "log"
    options = ["-f", "-ttt", "-T", "-y", "-s", "0", "-C", "-e", "trace=desc,file,process", "-o", str(log)]
    command = [str(STRACE), *options, sys.executable, "-S", "-I", "-c", program]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=60)
    text = log.read_text()
    done, unseen = imported(tmp_path, "strace", text)
    assert (done.skipped, unseen) == (0, [])
    dropped = "".join(
        line for line in text.splitlines(keepends=True) if "pread64(" not in line or "f>" not in line
    )
    assert dropped != text
    _, unseen = imported(tmp_path, "strace", dropped)
    assert "own totals count: pread64" in unseen[-1]


def test_a_trace_of_blocks_that_has_lost_events_is_not_whole(tmp_path: Path) -> None:
    line = "  8,0    0        1     0.{:09d}   77  {}   R 0 + 8 [x]\n"
    lines = line.format(100, "D") + line.format(300, "C")
    totals = "CPU0 (x):\n Reads Queued: 2, 8KiB\t Writes Queued: 0, 0KiB\n Reads Completed: 2, 8KiB\t Writes Completed: 0, 0KiB\n"
    _, unseen = imported(tmp_path, "blktrace", lines + totals)
    assert unseen == ["the log has 1 of the 2 completions that its own totals count"]


def test_a_fio_iolog_that_does_not_close_its_files_may_be_cut_short(tmp_path: Path) -> None:
    lines = [
        "fio version 3 iolog",
        "1 /d/a add",
        "1 /d/b add",
        "2 /d/a open",
        "2 /d/b open",
        "3 /d/a read 0 4096",
        "4 /d/b close",
        "5 /d/a close",
    ]
    _, unseen = imported(tmp_path, "fio", "\n".join(lines) + "\n")
    assert unseen == []
    _, unseen = imported(tmp_path, "fio", "\n".join(lines[:-1]) + "\n")
    assert unseen == ["the log ends while 1 of its files are open: fio closes them, so it may be cut short"]


@pytest.mark.parametrize("format", ["warp", "s3dlio"])
def test_the_numbers_of_an_op_log_say_how_many_of_its_ops_are_missing(tmp_path: Path, format: str) -> None:
    header = OPLOG_HEADER
    lines = [f"{at}{OPLOG_LINE[1:]}" for at in range(20)]
    _, unseen = imported(tmp_path, format, header + "".join(lines))
    assert unseen == []
    _, unseen = imported(tmp_path, format, header + "".join(lines[:5] + lines[8:]))
    assert unseen == ["the log has 17 of the 20 ops that its own numbers (idx) count"]


def dftracer_log(folder: Path, name: str = "a.pfw", **variables: str) -> Path:
    """The log that the real DFTracer writes of a program with 12 reads, one of them in a forked child, and 3 opens."""
    preload = Path(str(files("dftracer"))) / "lib64" / "libdftracer_preload.so"
    if not preload.exists():
        pytest.skip("this version of DFTracer has its library elsewhere")
    (folder / "data").write_bytes(bytes(1000))
    program = (
        f"import os\ndata = {str(folder / 'data')!r}\n"
        "for _ in range(2):\n"
        "    fd = os.open(data, os.O_RDONLY)\n"
        "    while os.read(fd, 250): pass\n"
        "    os.close(fd)\n"
        "if not os.fork():\n"
        "    fd = os.open(data, os.O_RDONLY); os.read(fd, 7); os.read(fd, 7); os._exit(0)\n"
        "os.wait()\n"
    )
    (folder / "logs").mkdir(exist_ok=True)
    environ = {**os.environ, "LD_PRELOAD": str(preload), "DFTRACER_ENABLE": "1", "DFTRACER_INIT": "PRELOAD", "DFTRACER_INC_METADATA": "1",
               "DFTRACER_LOG_FILE": str(folder / "logs" / "log"), "DFTRACER_DATA_DIR": str(folder), "DFTRACER_TRACE_COMPRESSION": "0"}  # fmt: skip
    command = [sys.executable, "-S", "-I", "-c", program]
    subprocess.run(command, check=True, cwd=folder, env={**environ, **variables}, timeout=60)
    return folder / "logs"


@needs_dftracer
def test_a_dftracer_log_is_compared_with_the_number_of_its_events(tmp_path: Path) -> None:
    logs = dftracer_log(tmp_path)
    done = import_trace("dftracer", logs, tmp_path / "whole")
    reads = (
        open_reader(tmp_path / "whole").query("SELECT count(*) AS n FROM ops WHERE op = 'read'").to_pylist()
    )
    assert (done.skipped, reads) == (0, [{"n": 12}])
    assert open_reader(tmp_path / "whole").completeness == {}
    (parent,) = logs.glob("*-preload.pfw")
    lines = parent.read_text().splitlines(keepends=True)
    kept = [line for line in lines if '"count":250' not in line]
    assert len(lines) - len(kept) == 10
    held = sum('"id":' in line for line in kept) - 1
    _, unseen = imported(tmp_path, "dftracer", "".join(kept))
    assert unseen == [f"the log has {held} of the {held + 10} events that its own totals count"]


@needs_dftracer
def test_a_dftracer_log_without_the_end_of_its_process_may_be_cut_short(tmp_path: Path) -> None:
    logs = dftracer_log(tmp_path)
    (parent,) = logs.glob("*-preload.pfw")
    lines = parent.read_text().splitlines(keepends=True)
    _, unseen = imported(tmp_path, "dftracer", "".join(lines[:-1]))
    no_end = "1 of 1 processes have no end in the log: they were killed or became another program, or the log is cut short"
    assert unseen == [no_end]
    first = next(at for at, line in enumerate(lines) if '"count":250' in line)
    held = sum('"id":' in line for line in lines[:-1]) - 1
    _, unseen = imported(tmp_path, "dftracer", "".join([*lines[:first], *lines[first + 1 : -1]]))
    assert unseen == [f"the log has {held} of the {held + 1} events that its own totals count", no_end]


@needs_dftracer
def test_an_empty_dftracer_log_is_of_a_process_that_was_killed_or_replaced(tmp_path: Path) -> None:
    logs = dftracer_log(tmp_path)
    (logs / "log-killed.pfw").touch()
    import_trace("dftracer", logs, tmp_path / "t")
    assert open_reader(tmp_path / "t").completeness["unseen"] == [
        "1 of the logs are empty: their processes were killed or became another program"
    ]


@needs_dftracer
def test_calls_that_dftracer_has_only_summed_up_are_counted(tmp_path: Path) -> None:
    logs = dftracer_log(tmp_path, DFTRACER_ENABLE_AGGREGATION="1", DFTRACER_AGGREGATION_TYPE="FULL")
    (parent,) = logs.glob("*-preload.pfw")
    with pytest.raises(TraceFormatError, match="contains calls as sums only"):
        import_trace("dftracer", logs, tmp_path / "t")
    line = (
        parent.read_text()
        .splitlines()[-1]
        .replace('"ph":3', '"ph":1')
        .replace('"args":{', '"dur":1,"args":{"fname":"/a",')
    )
    assert '"dft_cnt":' in line
    _, unseen = imported(tmp_path, "dftracer", parent.read_text() + line + "\n")
    assert [text for text in unseen if "as sums only (aggregation), without times of their own" in text]


@pytest.mark.parametrize(
    "format, text",
    [
        ("strace", LINES[2]),
        ("s3dlio", OPLOG_HEADER + OPLOG_LINE.rstrip("\n")),
        ("csv", "uri,t_submit,len\n/a,5,4096"),
        ("blktrace", "  8,0    1        4     0.000006270   697  D   R 223490 + 8 [x]"),
    ],
)
def test_a_last_line_without_an_end_may_be_cut_short(tmp_path: Path, format: str, text: str) -> None:
    """Its last number may lack digits, which no one can see."""
    done, unseen = imported(tmp_path, format, text + "\n")
    assert (done.ops, unseen) == (1, [])
    done, unseen = imported(tmp_path, format, text)
    last = text.count("\n") + 1
    assert done.ops == 1
    assert unseen == [
        f"line {last}, the last, has no line end: the log may be cut short, and that line with it"
    ]


def test_a_last_line_of_json_is_whole_if_it_can_be_read(tmp_path: Path) -> None:
    _, unseen = imported(tmp_path, "jsonl", '{"uri": "/a", "t_submit": 5}')
    assert unseen == []
