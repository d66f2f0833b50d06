# ruff: noqa: PTH123, SIM115, BLE001
import io
import itertools
import os
import tempfile
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

import tracekit.capture.hooks.files
from tracekit import capture
from tracekit.capture import sample, step

SIZE = 100_000


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.bin"
    path.write_bytes(os.urandom(SIZE))
    return path


def test_reads_are_recorded_as_the_kernel_saw_them(data, trace, ops):
    raw = data.read_bytes()
    with capture.start(trace, hooks=["files"]), step(3), open(data, "rb", buffering=4096) as file:
        with sample(7):
            file.seek(10_000)
            assert file.read(50_000) == raw[10_000:60_000]
        assert file.read(10) == raw[60_000:60_010]
    found = ops(trace)
    assert {row["uri"] for row in found} == {f"file://{data}"}
    assert sum(row["bytes"] for row in found if row["sample_id"] == 7) >= 50_000
    assert all(row["step"] == 3 and row["error"] is None and row["latency"] > 0 for row in found)
    assert found[0]["offset"] <= 10_000
    for before, after in itertools.pairwise(found):
        assert after["offset"] == before["offset"] + before["bytes"]


def test_os_calls_carry_their_offsets(data, trace, ops):
    with capture.start(trace, hooks=["files"]):
        fd = os.open(data, os.O_RDONLY)
        os.pread(fd, 100, 5000)
        os.lseek(fd, 300, os.SEEK_SET)
        os.read(fd, 50)
        os.read(fd, 60)
        os.preadv(fd, [bytearray(10), bytearray(20)], 77)
        os.posix_fadvise(fd, 0, 4096, os.POSIX_FADV_DONTNEED)
        os.close(fd)
    assert [(r["op"], r["offset"], r["len"], r["bytes"]) for r in ops(trace)] == [
        ("read", 5000, 100, 100),
        ("read", 300, 50, 50),
        ("read", 350, 60, 60),
        ("read", 77, 30, 30),
        ("hint", 0, 4096, None),
    ]


def test_writes_are_recorded(tmp_path, trace, ops):
    path = tmp_path / "out.bin"
    with capture.start(trace, hooks=["files"]):
        with open(path, "wb") as file:
            file.write(b"x" * 20_000)
        with open(path, "ab", buffering=0) as file:
            file.write(b"y" * 10)
    assert [(r["op"], r["len"], r["bytes"]) for r in ops(trace)] == [
        ("truncate", 0, None), ("write", 20_000, 20_000), ("write", 10, 10),
    ]  # fmt: skip
    assert path.read_bytes() == b"x" * 20_000 + b"y" * 10


def test_a_file_that_is_emptied_when_it_is_opened_is_truncated(tmp_path, trace, ops):
    path = tmp_path / "out.bin"
    with capture.start(trace, hooks=["files"]):
        path.write_text("text")
        os.close(os.open(path, os.O_RDWR | os.O_TRUNC))
        for mode in ("x", "a", "r+", "w"):
            with open(tmp_path / f"{mode}.bin" if mode == "x" else path, mode):
                pass
        with open(os.devnull, "w"):
            pass
    assert [(r["op"], r["uri"], r["offset"], r["len"]) for r in ops(trace) if r["op"] != "write"] == [
        ("truncate", f"file://{path}", None, 0)
    ] * 3


def test_a_descriptor_moved_from_outside_is_seen(data, trace, ops):
    with capture.start(trace, hooks=["files"]), open(data, "rb", buffering=0) as file:
        os.lseek(file.fileno(), 1234, os.SEEK_SET)
        file.read(10)
        os.pread(file.fileno(), 5, 99)
    assert [(r["offset"], r["len"]) for r in ops(trace)] == [(1234, 10), (99, 5)]


def test_a_reused_descriptor_never_names_the_former_file(data, tmp_path, trace, ops):
    other = tmp_path / "other.bin"
    other.write_bytes(b"o" * 100)
    with capture.start(trace, hooks=["files"]):
        first = os.open(data, os.O_RDONLY)
        with os.fdopen(first, "rb", buffering=0) as file:
            file.read(1)
        second = os.open(other, os.O_RDONLY)
        assert second == first
        os.read(second, 3)
        os.close(second)
    assert [r["uri"] for r in ops(trace)][-1] == f"file://{other}"


def test_pathlib_and_text_are_recorded(tmp_path, trace, ops):
    path = tmp_path / "ü?#.txt"
    path.write_text("grüß\r\ngott\n", encoding="utf-8", newline="")
    with capture.start(trace, hooks=["files"]):
        assert path.read_text(encoding="utf-8") == "grüß\ngott\n"
        with open(path, encoding="utf-8", newline="") as file:
            assert file.mode == "r"
            assert list(file) == ["grüß\r\n", "gott\n"]
    found = ops(trace)
    assert {row["uri"] for row in found} == {f"file://{path}"}
    assert sum(row["bytes"] for row in found) == 2 * path.stat().st_size


def test_a_missing_file_raises_as_before_and_leaves_its_error(tmp_path, trace, ops):
    with capture.start(trace, hooks=["files"]):
        with pytest.raises(FileNotFoundError) as failed:
            open(tmp_path / "none")
        assert os.fspath(failed.value.filename) == str(tmp_path / "none")
    assert [(r["op"], r["error"]) for r in ops(trace)] == [("stat", "not_found")]


@pytest.mark.parametrize(
    "arguments",
    [
        ("rw",), ("",), ("b",), ("rbt",), ("z",), ("r", 0), ("rb", -1, "utf-8"),
        ("r", -1, None, None, "x"), ("r", -1, "no-such-encoding"), (3,), ("r", "x"), ("rb+", 16), ("w+",),
    ],
)  # fmt: skip
def test_arguments_are_judged_as_the_built_in_open_judges_them(arguments, data, trace):
    def outcome(opener):
        try:
            with opener(data, *arguments) as file:
                return (
                    type(file),
                    file.mode,
                    file.readable(),
                    file.writable(),
                    getattr(file, "encoding", None),
                )
        except Exception as error:
            return type(error), str(error)

    plain = outcome(open)
    if not data.exists() or data.stat().st_size != SIZE:
        data.write_bytes(os.urandom(SIZE))
    with capture.start(trace, hooks=["files"]):
        assert outcome(open) == plain


def test_pipes_and_devices_are_not_recorded(tmp_path, trace, ops):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with capture.start(trace, hooks=["files"], include=["*"]):
        end = os.open(fifo, os.O_RDWR)
        with open(fifo, "rb", buffering=0) as file:
            os.write(end, b"hello")
            assert file.read(5) == b"hello"
        os.close(end)
        left, right = os.pipe()
        os.write(right, b"x")
        os.read(left, 1)
        os.close(left)
        os.close(right)
    assert ops(trace) == []


def test_defaults_leave_out_the_interpreter_and_the_trace_itself(data, trace, ops):
    with capture.start(trace, hooks=["files"]) as running:
        Path(io.__file__).read_bytes()
        Path("/etc/hostname").exists() and Path("/proc/self/status").read_text()
        running.recorder.flush()
        next(iter(trace.iterdir())).read_bytes()
        data.read_bytes()
    assert {row["uri"] for row in ops(trace)} == {f"file://{data}"}


def test_include_and_exclude_choose(tmp_path, trace, ops):
    for name in ("a.npy", "b.npy", "c.txt"):
        (tmp_path / name).write_text("x")
    with capture.start(trace, hooks=["files"], include=["*.npy"], exclude=["b.*"]):
        for name in ("a.npy", "b.npy", "c.txt"):
            (tmp_path / name).read_bytes()
    assert {row["uri"] for row in ops(trace)} == {f"file://{tmp_path}/a.npy"}


def test_temporary_files_and_file_objects_work_as_before(trace):
    with capture.start(trace, hooks=["files"]):
        with tempfile.NamedTemporaryFile() as file, tempfile.TemporaryFile("w+") as text:
            file.write(b"hello")
            file.flush()
            assert Path(file.name).read_bytes() == b"hello"
            text.write("abc")
            text.seek(0)
            assert text.read() == "abc"
        with open(os.devnull, "w") as sink:
            print("x", file=sink)


def test_open_without_a_capture_is_the_built_in_one(data):
    with tracekit.capture.hooks.files.open(data, "rb") as file:
        assert type(cast(io.BufferedReader, file).raw) is io.FileIO


def test_open_of_tracekit_needs_no_patch(data, trace, ops):
    with capture.start(trace, hooks=[]), tracekit.capture.hooks.files.open(data, "rb") as file:
        file.read()
    assert sum(row["bytes"] for row in ops(trace)) == SIZE


_step = st.one_of(
    st.tuples(st.just("seek"), st.integers(0, 30_000)),
    st.tuples(st.just("read"), st.integers(0, 20_000)),
    st.tuples(st.just("write"), st.binary(max_size=3000)),
    st.tuples(st.just("tell"), st.none()),
    st.tuples(st.just("truncate"), st.integers(0, 30_000)),
    st.tuples(st.just("fileno"), st.none()),
    st.tuples(st.just("flush"), st.none()),
)


@examples(60)
@given(st.lists(_step, max_size=12), st.sampled_from(["r+b", "w+b", "a+b"]), st.sampled_from([-1, 0, 512]))
def test_any_sequence_of_calls_gives_what_the_built_in_file_gives(steps, mode, buffering):
    with tempfile.TemporaryDirectory() as work:
        outcomes = []
        for name in ("plain", "recorded"):
            path = Path(work, name)
            path.write_bytes(bytes(range(256)) * 40)
            log = []
            opener = open if name == "plain" else tracekit.capture.hooks.files.open
            with capture.start(Path(work, f"{name}.trace"), hooks=[]), opener(path, mode, buffering) as file:
                for call, value in steps:
                    result = getattr(file, call)(*(() if value is None else (value,)))
                    log.append(None if call == "fileno" else result)
            outcomes.append((log, path.read_bytes()))
        assert outcomes[0] == outcomes[1]


def test_names_that_are_not_utf_8_do_not_end_the_recording(tmp_path, trace, ops):
    odd = os.path.join(os.fsencode(tmp_path), b"\xff.bin")
    with open(odd, "wb") as file:
        file.write(b"x" * 100)
    (tmp_path / "b.bin").write_bytes(b"y" * 10)
    with capture.start(trace, hooks=["files"]):
        with open(odd, "rb", buffering=0) as file:
            assert file.read(100) == b"x" * 100
        assert (tmp_path / "b.bin").read_bytes() == b"y" * 10
    read = {r["uri"] for r in ops(trace) if r["op"] == "read"}
    assert read == {f"file://{tmp_path}/\ufffd.bin", f"file://{tmp_path}/b.bin"}


def test_a_path_object_and_a_closed_direction_show_as_without_the_hook(data, tmp_path, trace):
    def outcome(call):
        try:
            return call()
        except (OSError, TypeError) as error:
            return type(error), getattr(error, "filename", None)

    def facts():
        with open(data, "rb", buffering=0) as file, open(tmp_path / "out", "wb", buffering=0) as out:
            return [
                file.name,
                open(os.fsencode(data), "rb").name,
                outcome(lambda: open(tmp_path / "none", "rb")),
                outcome(lambda: out.read()),
                outcome(lambda: out.readall()),
                outcome(lambda: file.read(cast(Any, "3"))),
                len(file.read(None)),
            ]

    without = facts()
    with capture.start(trace, hooks=["files"]):
        assert facts() == without
