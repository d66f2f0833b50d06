# ruff: noqa: PTH123
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tracekit.capture.command import capture_command
from tracekit.capture.native import NativeEngine
from tracekit.capture.tools.dftracer import library
from tracekit.capture.tools.strace import StraceEngine
from tracekit.errors import UsageError
from tracekit.store.reader import open_reader

needs_dftracer = pytest.mark.skipif(library() is None, reason="dftracer is not installed (extra `capture`)")
needs_strace = pytest.mark.skipif(
    StraceEngine().available() is None
    or subprocess.run(["strace", "-qq", "true"], capture_output=True).returncode != 0,
    reason="strace is not installed, or ptrace is not allowed here",
)
needs_native = pytest.mark.skipif(
    NativeEngine().available() is None, reason="there is no native engine and no C compiler"
)
NATIVE = pytest.param("native", marks=needs_native)
DFTRACER = pytest.param("dftracer", marks=needs_dftracer)
STRACE = pytest.param("strace", marks=needs_strace)
every = pytest.mark.parametrize("method", [NATIVE, DFTRACER, STRACE])
SIZE = 300_000


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data ü.bin"
    path.write_bytes(os.urandom(SIZE))
    return path


def script(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(text))
    return [sys.executable, str(path)]


def rows(trace: Path, where: str = "true") -> list[dict]:
    return open_reader(trace).query(f"SELECT * FROM ops WHERE {where} ORDER BY t_submit").to_pylist()


def facts(found: list[dict]) -> list[tuple]:
    words = {"put": "write"}  # what the readers of other tools' logs call a write of a file
    return [(words.get(row["op"], row["op"]), row["offset"], row["len"], row["bytes"]) for row in found]


@every
def test_an_unmodified_program_is_recorded_with_offsets(method, data, trace, tmp_path):
    program = f"""
        import os
        os.chdir({str(tmp_path)!r})
        fd = os.open({data.name!r}, os.O_RDONLY)
        os.pread(fd, 100, 5000)
        os.read(fd, 10)
        os.lseek(fd, 700, os.SEEK_SET)
        os.read(fd, 20)
        os.read(fd, 30)
        os.posix_fadvise(fd, 0, 4096, os.POSIX_FADV_DONTNEED)
        os.close(fd)
        with open("out.bin", "wb") as file:
            file.write(b"x" * 1000)
    """
    result = capture_command(script(tmp_path, program), trace, method=method)
    assert (result.exit_code, result.method) == (0, method)
    found = rows(trace)
    assert facts([row for row in found if row["uri"] == f"file://{data}"]) == [
        ("read", 5000, 100, 100),
        ("read", 0, 10, 10),
        ("read", 700, 20, 20),
        ("read", 720, 30, 30),
        ("hint", 0, 4096, None),
    ]
    emptied = [("truncate", None, 0, None)]
    assert facts([row for row in found if row["uri"] == f"file://{tmp_path}/out.bin"]) == [
        *emptied, ("write", 0, 1000, 1000)
    ]  # fmt: skip
    assert result.ops == len(found) == 6 + len(emptied)
    assert all(row["latency"] is not None and row["t_submit"] >= 0 for row in found)


@every
def test_threads_and_children_are_seen(method, data, trace, tmp_path):
    program = f"""
        import os, subprocess, threading
        fd = os.open({str(data)!r}, os.O_RDONLY)
        threads = [threading.Thread(target=os.pread, args=(fd, 10, n)) for n in range(4)]
        [thread.start() for thread in threads], [thread.join() for thread in threads]
        if os.fork() == 0:
            own = os.open({str(data)!r}, os.O_RDONLY)
            for n in range(4):
                os.pread(own, 11, n)
            os._exit(0)
        os.wait()
        subprocess.run(["head", "-c", "12", {str(data)!r}], stdout=subprocess.DEVNULL, check=True)
    """
    capture_command(script(tmp_path, program), trace, method=method)
    found = rows(trace, "op = 'read'")
    assert sorted(row["offset"] for row in found if row["len"] == 10) == [0, 1, 2, 3]
    assert {row["len"] for row in found} >= {10, 11}
    assert any(row["bytes"] in (12, 1024, 8192) or row["len"] == 12 for row in found)
    assert len({row["worker"] for row in found}) >= 3


@every
def test_numpy_and_parquet_are_seen(method, trace, tmp_path):
    np = pytest.importorskip("numpy")
    import pyarrow as pa
    import pyarrow.parquet as pq

    np.save(tmp_path / "a.npy", np.arange(10_000))
    pq.write_table(pa.table({"a": list(range(50_000))}), tmp_path / "b.parquet")
    program = f"""
        import numpy, pyarrow.parquet
        numpy.load({str(tmp_path / "a.npy")!r})
        pyarrow.parquet.read_table({str(tmp_path / "b.parquet")!r})
    """
    capture_command(script(tmp_path, program), trace, method=method)
    for name in ("a.npy", "b.parquet"):
        size = (tmp_path / name).stat().st_size
        found = rows(trace, f"uri = 'file://{tmp_path / name}' AND op = 'read'")
        covered: set[int] = set()
        for row in found:
            covered.update(range(row["offset"], row["offset"] + row["bytes"], 100))
        assert sum(row["bytes"] for row in found) >= 0.9 * size
        assert len(covered) >= 0.9 * size / 100


@every
def test_exit_code_streams_and_arguments_pass_through(method, trace, tmp_path):
    program = """
        import sys
        sys.stdout.write(sys.stdin.read().upper() + sys.argv[1]); sys.stderr.write("noted"); sys.exit(7)
    """
    done = subprocess.run(
        [sys.executable, "-m", "tracekit", "capture", "-o", str(trace), "--method", method, "--",
         *script(tmp_path, program), "--json"],
        input="hello ", capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (7, "HELLO --json")
    assert done.stderr.startswith("noted")
    assert open_reader(trace).options["exit_code"] == 7


@pytest.mark.parametrize(
    "method, number",
    [
        pytest.param("dftracer", signal.SIGTERM, marks=needs_dftracer),
        pytest.param("dftracer", signal.SIGINT, marks=needs_dftracer),
        pytest.param("strace", signal.SIGUSR1, marks=needs_strace),
    ],
)
def test_signals_reach_the_command_and_the_trace_is_written(method, number, data, trace, tmp_path):
    program = f"""
        import os, signal, sys, time
        signal.signal({int(number)}, lambda *_: sys.exit(41))
        with open({str(data)!r}, "rb", buffering=0) as file:
            file.read(77)
        print("ready", flush=True)
        time.sleep(20)
    """
    command = [sys.executable, "-m", "tracekit", "capture", "-o", str(trace), "--method", method, "--"]
    running = subprocess.Popen(
        [*command, *script(tmp_path, program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert running.stdout is not None and running.stdout.readline() == b"ready\n"
    running.send_signal(number)
    assert running.wait(timeout=30) == 41
    assert [row["bytes"] for row in rows(trace)] == [77]


@every
def test_a_killed_command_leaves_the_ops_that_it_made(method, data, trace, tmp_path):
    program = f"""
        import os, time
        fd = os.open({str(data)!r}, os.O_RDONLY)
        for n in range({20_000 if method == "dftracer" else 500}):
            os.pread(fd, 10, n)
        time.sleep(0.5)
        os.kill(os.getpid(), 9)
    """
    result = capture_command(script(tmp_path, program), trace, method=method)
    assert result.exit_code == 128 + 9
    assert result.ops >= (10_000 if method == "dftracer" else 500)


@every
def test_include_and_exclude_select_files_and_temporary_files_are_removed(method, trace, tmp_path):
    for name in ("a.npy", "b.npy", "c.txt"):
        (tmp_path / name).write_text("x" * 50)
    command = ["cat", *(str(tmp_path / name) for name in ("a.npy", "b.npy", "c.txt"))]
    with open(os.devnull, "w") as sink:
        before = os.dup(1)
        os.dup2(sink.fileno(), 1)
        try:
            capture_command(command, trace, method=method, include=["*.npy"], exclude=["b.*"])
        finally:
            os.dup2(before, 1)
            os.close(before)
    assert {row["uri"] for row in rows(trace)} == {f"file://{tmp_path}/a.npy"}
    assert not list(tmp_path.glob(".tracekit*"))


@every
def test_metadata_operations_are_recorded_on_request(method, tmp_path, trace):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a").write_text("x")
    program = f"import os; os.listdir({str(tmp_path / 'set')!r}); os.stat({str(tmp_path / 'set' / 'a')!r})"
    capture_command(
        script(tmp_path, program), trace, method=method, metadata=True, include=[f"{tmp_path}/set*"]
    )
    # Python's os.stat goes by a call that DFTracer has no name for.
    assert {row["op"] for row in rows(trace)} == {"list", "stat"} - (
        {"stat"} if method == "dftracer" else set()
    )


@needs_strace
def test_strace_sees_failures_and_copies_in_the_kernel(data, trace, tmp_path):
    program = f"""
        import os
        source, target = os.open({str(data)!r}, os.O_RDONLY), os.open({str(tmp_path / "copy")!r}, os.O_WRONLY | os.O_CREAT)
        os.sendfile(target, source, None, 1000)
        os.copy_file_range(source, target, 500)
        try:
            os.open({str(tmp_path / "none")!r}, os.O_RDONLY)
        except FileNotFoundError:
            pass
    """
    capture_command(
        script(tmp_path, program), trace, method="strace", metadata=True, include=[f"{tmp_path}/*"]
    )
    found = [row for row in rows(trace) if row["uri"].endswith((data.name, "none")) and row["op"] != "list"]
    assert [(row["op"], row["offset"], row["bytes"], row["error"]) for row in found] == [
        ("read", 0, 1000, None),
        ("read", 1000, 500, None),
        ("stat", None, None, "not_found"),
    ]


@every
def test_a_position_that_a_forked_child_moved_is_known_or_unknown_but_never_wrong(
    method, data, trace, tmp_path
):
    program = f"""
        import os
        fd = os.open({str(data)!r}, os.O_RDONLY)
        os.read(fd, 100)
        if os.fork() == 0:
            for n in range(5):
                os.read(fd, 200)
            os._exit(0)
        os.wait()
        os.read(fd, 300)
        os.lseek(fd, 7, os.SEEK_SET)
        os.read(fd, 400)
    """
    capture_command(script(tmp_path, program), trace, method=method)
    found = rows(trace, "op = 'read'")
    known = method != "dftracer"
    assert [(row["offset"], row["len"]) for row in found] == [
        (0, 100), *[(at if known else None, 200) for at in range(100, 1100, 200)], (1100 if known else None, 300), (7, 400)
    ]  # fmt: skip


@every
@pytest.mark.parametrize("dup", ["os.dup2(fd, 50)", "os.dup(fd)"])
def test_a_position_that_a_second_descriptor_moved_is_known_or_unknown_but_never_wrong(
    method, dup, data, trace, tmp_path
):
    if method == "dftracer" and dup == "os.dup(fd)":
        pytest.skip("Python's os.dup is an fcntl, which DFTracer does not log")
    program = f"""
        import os
        fd = os.open({str(data)!r}, os.O_RDONLY)
        os.read(fd, 100)
        second = {dup}
        os.read(second, 50)
        os.read(fd, 300)
        os.lseek(fd, 7, os.SEEK_SET)
        os.read(fd, 400)
    """
    capture_command(script(tmp_path, program), trace, method=method)
    found = [row for row in rows(trace, "op = 'read'") if row["len"] != 50]
    moved = None if method == "dftracer" else 150
    assert [(row["offset"], row["len"]) for row in found][:2] == [(0, 100), (moved, 300)]
    assert found[2]["offset"] in (7, None)


@needs_strace
def test_strace_knows_both_ends_of_copies_and_their_own_offsets(data, trace, tmp_path):
    program = f"""
        import os
        fd, out = os.open({str(data)!r}, os.O_RDONLY), os.open({str(tmp_path / "copy.bin")!r}, os.O_WRONLY | os.O_CREAT)
        os.sendfile(out, fd, 500, 100)
        os.sendfile(out, fd, None, 20)
        os.copy_file_range(fd, out, 30)
        os.copy_file_range(fd, out, 40, offset_src=900, offset_dst=5000)
        os.read(fd, 5)
    """
    capture_command(script(tmp_path, program), trace, method="strace")
    found = rows(trace, "op IN ('read', 'put', 'write')")
    assert facts([row for row in found if row["op"] == "read"]) == [
        ("read", 500, 100, 100), ("read", 0, 20, 20), ("read", 20, 30, 30), ("read", 900, 40, 40), ("read", 50, 5, 5),
    ]  # fmt: skip
    assert facts([row for row in found if row["op"] != "read"]) == [
        ("write", 0, 100, 100), ("write", 100, 20, 20), ("write", 120, 30, 30), ("write", 5000, 40, 40),
    ]  # fmt: skip


@needs_dftracer
def test_what_dftracer_does_not_see_is_reported(trace, tmp_path):
    big = tmp_path / "big.bin"
    big.write_bytes(b"x" * 12_000_000)
    program = f"""
        import ctypes
        libc = ctypes.CDLL(None)
        libc.fdopen.restype = ctypes.c_void_p
        import os
        stream = ctypes.c_void_p(libc.fdopen(os.dup(os.open({str(big)!r}, os.O_RDONLY)), b"rb"))
        buffer = ctypes.create_string_buffer(12_000_000)
        assert libc.fread(buffer, 1, 12_000_000, stream) == 12_000_000
    """
    result = capture_command(script(tmp_path, program), trace, method="dftracer")
    assert result.completeness is not None and (result.completeness.share or 0) < 0.5
    assert any("does not record" in note and "method=native" in note for note in result.notes)


@pytest.mark.skipif(library() is None and shutil.which("strace") is None, reason="there is no other engine")
def test_another_engine_that_auto_had_to_take_is_named_with_the_reason(data, trace, monkeypatch):
    monkeypatch.setattr(NativeEngine, "available", lambda self: None)
    result = capture_command(["dd", f"if={data}", "of=/dev/null", "status=none"], trace)
    assert result.method in ("dftracer", "strace")
    assert result.notes[0].startswith(f"{result.method} recorded, because there is no native engine: ")


@needs_dftracer
def test_little_that_dftracer_does_not_see_is_not_said_to_be_nothing(trace, tmp_path):
    (tmp_path / "small.bin").write_bytes(bytes(1_000_000))
    command = ["dd", f"if={tmp_path / 'small.bin'}", "of=/dev/null", "bs=1000000", "status=none"]
    result = capture_command(command, trace, method="dftracer")
    assert result.completeness is not None and result.completeness.share is None
    assert (result.completeness.read_bytes or 0) >= 1_000_000
    assert not result.completeness.reaches(0.01)


@needs_dftracer
def test_object_clients_and_files_of_one_program_lie_in_one_trace(data, trace, tmp_path, s3_env, s3_bucket):
    pytest.importorskip("boto3", reason="boto3 is not installed")
    s3_env.put(s3_bucket, "k", b"12345")
    program = f"""
        import boto3
        with open({str(data)!r}, "rb", buffering=0) as file:
            file.read(100)
        boto3.client("s3").get_object(Bucket={s3_bucket!r}, Key="k", Range="bytes=1-3")["Body"].read()
        with open({str(data)!r}, "rb", buffering=0) as file:
            file.read(200)
    """
    capture_command(script(tmp_path, program), trace)
    found = rows(trace)
    assert [(row["uri"], row["offset"], row["bytes"]) for row in found] == [
        (f"file://{data}", 0, 100),
        (f"s3://{s3_bucket}/k", 1, 3),
        (f"file://{data}", 0, 200),
    ]


@needs_dftracer
def test_a_torch_loader_that_reads_below_python_has_samples_steps_and_workers(trace, tmp_path):
    pytest.importorskip("torch", reason="torch is not installed (extra `torch`)")
    (tmp_path / "records.bin").write_bytes(bytes(range(16)) * 100)
    program = f"""
        import torch
        from torch.utils.data import DataLoader, Dataset

        class Records(Dataset):
            def __len__(self):
                return 16
            def __getitem__(self, index):
                with open({str(tmp_path / "records.bin")!r}, "rb", buffering=0) as file:
                    file.seek(index * 100)
                    return file.read(100)[0]

        list(DataLoader(Records(), batch_size=4, num_workers=2))
    """
    capture_command(script(tmp_path, program), trace, method="dftracer")
    found = sorted(rows(trace, "uri LIKE '%records.bin'"), key=lambda row: row["offset"])
    assert [row["sample_id"] for row in found] == [row["offset"] // 100 for row in found] == list(range(16))
    assert [row["step"] - found[0]["step"] for row in found] == [index // 4 for index in range(16)]
    assert [row["worker"] for row in found] == [index // 4 % 2 for index in range(16)]


def test_the_method_hooks_needs_no_tool(trace, tmp_path, data):
    program = f"import fsspec; fsspec.open({str(data)!r}, 'rb').open().read(10)"
    pytest.importorskip("fsspec", reason="fsspec is not installed")
    result = capture_command(script(tmp_path, program), trace, method="hooks")
    assert (result.method, result.exit_code) == ("hooks", 0)
    assert {row["uri"] for row in rows(trace)} == {f"file://{data}"}


def test_invalid_arguments_are_reported_in_one_line_and_run_nothing(trace, tmp_path):
    witness = tmp_path / "ran"
    with pytest.raises(UsageError, match="'no-such-program'"):
        capture_command(["no-such-program"], trace)
    (tmp_path / "plain").write_text("#!/bin/sh\n")
    with pytest.raises(UsageError, match="is not executable"):
        capture_command([str(tmp_path / "plain")], trace)
    with pytest.raises(UsageError, match="'gdb'"):
        capture_command(["touch", str(witness)], trace, method="gdb")
    with pytest.raises(UsageError, match="'gopher'"):
        capture_command(["touch", str(witness)], trace, hooks="gopher")
    trace.mkdir()
    (trace / "mine").write_text("x")
    with pytest.raises(UsageError, match="exists"):
        capture_command(["touch", str(witness)], trace)
    assert not witness.exists()


@needs_dftracer
def test_a_command_without_io_leaves_an_empty_trace_and_says_so(trace):
    result = capture_command([shutil.which("true") or "true"], trace)
    assert result.ops == 0 == open_reader(trace).rows
    assert "no storage I/O" in result.notes[0]
    assert json.loads(json.dumps(result.to_dict()))["exit_code"] == 0


@needs_dftracer
def test_secrets_in_the_command_line_do_not_reach_the_trace(trace):
    started = time.time_ns()
    capture_command(["true", "--url=https://h/x?sig=SECRETSIG", "--token=SECRETTOKEN"], trace)
    written = b"".join(path.read_bytes() for path in trace.iterdir())
    assert b"SECRET" not in written and time.time_ns() > started


@every
def test_names_that_are_not_utf_8_are_recorded_and_standard_output_is_not(method, trace, tmp_path):
    odd = os.path.join(os.fsencode(tmp_path), b"\xff.bin")
    with open(odd, "wb") as file:
        file.write(b"x" * 100)
    program = f"""
        import os, sys
        for _ in range(3):
            fd = os.open({odd!r}, os.O_RDONLY)
            os.pread(fd, 50, 7)
            os.close(fd)
        sys.stdout.tell() if sys.stdout.seekable() else None
        print("done", flush=True)
    """
    with (tmp_path / "said").open("w") as said:
        command = [sys.executable, "-m", "tracekit", "capture", "-o", trace, "--method", method, "--",
                   *script(tmp_path, program)]  # fmt: skip
        subprocess.run([str(part) for part in command], stdout=said, check=True)
    assert (tmp_path / "said").read_text() == "done\n"
    found = rows(trace)
    assert facts(found) == [("read", 7, 50, 50)] * 3
    assert {row["uri"] for row in found} == {f"file://{tmp_path}/\ufffd.bin"}


@pytest.mark.parametrize("name", ["day[1]", "what?*"])
def test_a_target_with_glob_characters_in_its_path_is_literal(tmp_path: Path, name: str) -> None:
    data = tmp_path / name / "data.bin"
    data.parent.mkdir()
    data.write_bytes(bytes(1 << 20))
    program = "import sys\nf = open(sys.argv[1], 'rb', buffering=0)\nfor _ in range(16): f.read(65536)\n"
    done = capture_command([sys.executable, "-c", program, str(data)], tmp_path / name / "run[0].trace")
    moved = open_reader(done.path).query(
        "SELECT sum(bytes)::BIGINT AS n FROM ops WHERE uri LIKE '%/data.bin'"
    )
    assert moved.to_pylist() == [{"n": 1 << 20}]


@pytest.mark.parametrize("method", [NATIVE, STRACE])
def test_globs_may_lead_through_symbolic_links(method, trace, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "data").symlink_to("real")
    (tmp_path / "real" / "x.bin").write_bytes(bytes(1000))
    (tmp_path / "real" / "y.bin").write_bytes(bytes(1000))
    command = ["sh", "-c", "cd $0; cat data/x.bin > /dev/null; cat < data/x.bin; cat data/y.bin > /dev/null", str(tmp_path)]  # fmt: skip
    globs = [f"{tmp_path}/data/*"], [f"{tmp_path}/data/y.*"]
    capture_command(command, trace, method=method, hooks="", include=globs[0], exclude=globs[1])
    found = rows(trace, "op = 'read'")
    assert sum(row["bytes"] for row in found) == 2000
    assert {row["uri"].rpartition("/")[2] for row in found} == {"x.bin"}
