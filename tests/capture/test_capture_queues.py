"""Requests that are put into queues of the kernel: libaio's io_submit, and io_uring."""

from __future__ import annotations

import ctypes.util
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tracekit.capture.command import CaptureResult, capture_command
from tracekit.capture.native import NativeEngine
from tracekit.reporting.table import completeness_in_words
from tracekit.store.reader import open_reader

pytestmark = pytest.mark.skipif(
    NativeEngine().available() is None or shutil.which("gcc") is None, reason="there is no C compiler"
)


@pytest.fixture(scope="module")
def queues(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("queues") / "queues"
    source = Path(__file__).with_name("queues.c")
    if subprocess.run(["gcc", "-O1", "-w", "-o", program, source], capture_output=True).returncode:
        pytest.skip("the headers of the kernel are too old")
    return program


def run(program: Path, how: str, trace: Path, where: Path, **options: Any) -> CaptureResult:
    (where / "x.bin").write_bytes(bytes(100_000))
    command = ["sh", "-c", f'cd "{where}"; exec "{program}" {how}']
    done = capture_command(command, trace, include=[f"{where}/*"], hooks="", **options)
    if done.exit_code == 77:
        pytest.skip("the kernel does not allow it here")
    assert done.exit_code == 0
    return done


def rows(trace: Path) -> list[tuple[Any, ...]]:
    found = open_reader(trace).query('SELECT uri, op, "offset", len, bytes, error FROM ops ORDER BY t_submit')
    return [(row.pop("uri").rpartition("/")[2], *row.values()) for row in found.to_pylist()]


def test_requests_of_io_submit_are_recorded_with_what_they_moved(queues, tmp_path, trace):
    done = run(queues, "a", trace, tmp_path, method="native")
    assert rows(trace) == [
        ("x.bin", "read", 100, 5000, 5000, None), ("x.bin", "read", 7000, 300, 300, None),
        ("aio.out", "write", 50, 3000, 3000, None), ("x.bin", "read", 99_000, 5000, 1000, None),
    ]  # fmt: skip
    assert done.completeness is not None
    assert (done.completeness.share, done.completeness.unseen) == (1.0, ())
    assert (done.completeness.read_bytes, done.completeness.written_bytes) == (6300, 3000)


def test_requests_of_io_uring_are_recorded_with_what_they_moved(queues, tmp_path, trace):
    done = run(queues, "r", trace, tmp_path, method="native")
    pairs = [
        ("x.bin", "read", 4096 * n + part, 1000 + part, 1000 + part, None)
        for n in range(20)
        for part in (0, 1000)
    ]
    assert rows(trace) == [
        *pairs, ("x.bin", "read", 70_000, 300, 300, None), ("ring.out", "write", 10, 1234, 1234, None),
        ("ring.out", "sync", None, None, None, None), ("x.bin", "read", 99_000, 5000, 1000, None),
    ]  # fmt: skip
    assert done.completeness is not None
    assert (done.completeness.share, done.completeness.unseen) == (1.0, ())


def test_the_place_of_a_request_is_unknown_where_the_kernel_decides_it(queues, tmp_path, trace):
    run(queues, "e", trace, tmp_path, method="native")
    assert rows(trace) == [
        ("x.bin", "read", None, 100, 100, None), ("x.bin", "read", None, 100, 100, None),
        ("x.bin", "read", 200, 8, 8, None),
        ("end.out", "write", None, 300, 300, None), ("end.out", "write", None, 400, 400, None),
    ]  # fmt: skip


def test_bytes_of_queues_do_not_hide_what_else_was_missed(queues, tmp_path, trace):
    """The kernel counts the bytes of calls alone."""
    (tmp_path / "p.c").write_text(
        "#include <fcntl.h>\n#include <unistd.h>\nstatic char b[50000];\n"
        'int main(void) { int f = open("x.bin", O_RDONLY); for (int n = 0; n < 9; n++) pread(f, b, sizeof b, 0); return 0; }'
    )
    if subprocess.run(
        ["gcc", "-static", "-w", "-o", tmp_path / "p", tmp_path / "p.c"], capture_output=True
    ).returncode:
        pytest.skip("the static C library is not installed")
    both = tmp_path / "both"
    both.write_text(f'#!/bin/sh\n"{queues}" r || exit\n./p\n')
    both.chmod(0o755)
    done = run(both, "", trace, tmp_path, method="native")
    assert done.completeness is not None and done.completeness.share is not None
    assert done.completeness.share < 0.2


@pytest.mark.parametrize(("method", "how", "name"), [("native", "p", "io_uring"), ("native", "x", "io_uring"), ("strace", "r", "io_uring"), ("strace", "a", "io_submit")])  # fmt: skip
def test_queues_that_an_engine_does_not_see_through_make_the_share_unknown(
    method, how, name, queues, tmp_path, trace
):
    if method == "strace" and subprocess.run(["sh", "-c", "strace -qq true"], capture_output=True).returncode:
        pytest.skip("strace is not installed, or ptrace is not allowed here")
    done = run(queues, how, trace, tmp_path, method=method, require_complete=0.1)
    assert done.completeness is not None
    assert (done.completeness.share, done.completeness.unseen, done.complete) == (None, (name,), False)
    assert any(note.startswith(f"{name} was used") for note in done.notes)
    assert completeness_in_words(open_reader(trace).completeness).endswith(f"unknown; {name} not seen")


def test_libaio_s_own_functions_are_followed_too(tmp_path, trace):
    library = ctypes.util.find_library("aio")
    if library is None:
        pytest.skip("libaio is not installed")
    (tmp_path / "x.bin").write_bytes(bytes(9000))
    code = f"""
        import ctypes, os, struct, sys
        aio = ctypes.CDLL(None)  # the preloaded library comes first
        real = ctypes.CDLL({library!r}, mode=ctypes.RTLD_GLOBAL)
        context = ctypes.c_void_p()
        if real.io_setup(4, ctypes.byref(context)):
            raise SystemExit(77)
        data = ctypes.create_string_buffer(4000)
        file = os.open({str(tmp_path / "x.bin")!r}, os.O_RDONLY)
        block = struct.pack("<QIIHHIQQq16x", 0, 0, 0, 0, 0, file, ctypes.addressof(data), 4000, 6000)
        kept = ctypes.create_string_buffer(block)
        asked = (ctypes.c_void_p * 1)(ctypes.addressof(kept))
        assert aio.io_submit(context, 1, asked) == 1
        assert aio.io_getevents(context, 1, 1, ctypes.create_string_buffer(32), None) == 1
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = capture_command(command, trace, method="native", include=[f"{tmp_path}/x.bin"], hooks="")
    if done.exit_code == 77:
        pytest.skip("the kernel does not allow it here")
    assert done.exit_code == 0
    assert rows(trace) == [("x.bin", "read", 6000, 4000, 3000, None)]
