"""The native engine sees what strace sees, and does no harm."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import programs

from tracekit.capture.command import capture_command
from tracekit.capture.conversion import convert
from tracekit.capture.job import recoverable
from tracekit.capture.native import NativeEngine
from tracekit.capture.native.records import CHUNK_BYTES, HEADER_BYTES
from tracekit.capture.tools.strace import StraceEngine
from tracekit.processes import start_of
from tracekit.store.reader import open_reader

pytestmark = pytest.mark.skipif(
    NativeEngine().available() is None, reason="there is no native engine and no C compiler"
)
needs_strace = pytest.mark.skipif(
    StraceEngine().available() is None
    or subprocess.run(["strace", "-qq", "true"], capture_output=True).returncode != 0,
    reason="strace is not installed, or ptrace is not allowed here",
)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code)]


def at_store(endpoint: str, bucket: str, code: str) -> list[str]:
    """A program that knows the bucket, and has Arrow's client for it: `arrow()`."""
    pytest.importorskip("pyarrow.fs")
    prelude = f"""
        ENDPOINT, BUCKET = {endpoint!r}, {bucket!r}
        def arrow():
            from pyarrow.fs import S3FileSystem
            return S3FileSystem(endpoint_override=ENDPOINT.removeprefix("http://"), scheme="http")
    """
    return python(textwrap.dedent(prelude) + textwrap.dedent(code))


def rows(trace: Path, where: str = "true") -> list[dict[str, Any]]:
    return open_reader(trace).query(f"SELECT * FROM ops WHERE {where} ORDER BY t_submit").to_pylist()


def data_ops(trace: Path) -> Counter[tuple[object, ...]]:
    """Reads and writes: name, direction, length, bytes; and the offset where strace knows it (not of appends)."""
    found: Counter[tuple[object, ...]] = Counter()
    for row in rows(trace, "op IN ('read', 'write', 'put')"):
        kind = "read" if row["op"] == "read" else "write"
        found[row["uri"].rsplit("/", 1)[-1], kind, row["offset"], row["len"], row["bytes"]] += 1
    return found


@needs_strace
@pytest.mark.parametrize("name", programs.COMMANDS)
def test_bytes_ops_and_offsets_equal_those_of_strace(name, tmp_path, monkeypatch):
    if (reason := programs.missing(name)) is not None:
        pytest.skip(reason)
    seen = {}
    for method in ("strace", "native"):
        folder = tmp_path / "work"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        programs.prepare(folder, name)
        monkeypatch.chdir(folder)
        trace = tmp_path / f"{method}.trace"
        done = capture_command(programs.COMMANDS[name], trace, method=method, include=[f"{folder}/*"])
        assert done.exit_code == 0
        seen[method] = data_ops(trace)
    assert seen["native"].total() > 0
    assert seen["native"] == seen["strace"]


def test_files_opened_relative_to_a_directory_are_seen_by_name(tmp_path, trace):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x.bin").write_bytes(bytes(4000))
    code = f"""
        import os
        folder = os.open({str(tmp_path / "data")!r}, os.O_RDONLY)
        file = os.open("x.bin", os.O_RDONLY, dir_fd=folder)
        up = os.open("../data/./x.bin", os.O_RDONLY, dir_fd=folder)
        os.pread(file, 100, 1000), os.pread(up, 100, 2000)
    """
    capture_command(python(code), trace, method="native", include=[f"{tmp_path}/data/*"])
    assert [(row["uri"], row["offset"]) for row in rows(trace)] == [
        (f"file://{tmp_path}/data/x.bin", 1000), (f"file://{tmp_path}/data/x.bin", 2000)
    ]  # fmt: skip


def test_what_is_done_to_files_has_its_own_kinds(tmp_path, trace, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = """
        import os
        fd = os.open("a", os.O_RDWR | os.O_CREAT)
        os.write(fd, b"x" * 10); os.fsync(fd); os.fdatasync(fd); os.ftruncate(fd, 4)
        os.rename("a", "b"); os.truncate("b", 2); os.unlink("b")
    """
    capture_command(python(code), trace, method="native", include=[f"{tmp_path}/*"])
    a, b = f"file://{tmp_path}/a", f"file://{tmp_path}/b"
    assert [(row["op"], row["uri"], row["len"], row["to_uri"]) for row in rows(trace)] == [
        ("write", a, 10, None), ("sync", a, None, None), ("sync", a, None, None), ("truncate", a, 4, None),
        ("rename", a, None, b), ("truncate", b, 2, None), ("delete", b, None, None),
    ]  # fmt: skip


def test_each_of_many_names_is_that_of_its_ops(tmp_path, trace, monkeypatch):
    """More than the engine remembers at once; a forked child goes on with those of its parent."""
    monkeypatch.chdir(tmp_path)
    code = """
        import contextlib, os
        def delete(names):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{name}")
        delete(range(33_000))
        delete([*range(33_000), 5])
        if not os.fork():
            delete(range(32_999, 34_000))
            os._exit(0)
        os.wait()
    """
    capture_command(python(code), trace, method="native", include=[f"{tmp_path}/*"], hooks="")
    found = open_reader(trace).query("SELECT uri FROM ops WHERE op = 'delete' ORDER BY t_submit")
    expected = [*range(33_000), *range(33_000), 5, *range(32_999, 34_000)]
    assert found.column(0).to_pylist() == [f"file://{tmp_path}/{name}" for name in expected]


@pytest.mark.parametrize("included", [True, False])
def test_files_of_shared_memory_are_recorded_if_a_glob_includes_them(included, tmp_path, trace):
    if not Path("/dev/shm").is_dir():
        pytest.skip("there is no shared memory")
    code = """
        import os
        from multiprocessing.shared_memory import SharedMemory
        shared = SharedMemory(create=True, size=5000)
        shared.buf[0] = 1
        named = f"/dev/shm/tracekit-test-{os.getpid()}"
        with open(named, "wb", buffering=0) as file:
            file.write(bytes(70_000))
        fd = os.open(named, os.O_RDONLY)
        os.unlink(named)
        os.pread(fd, 60_000, 0)
        shared.close(), shared.unlink()
    """
    include = ["/dev/shm/*"] if included else []
    done = capture_command(python(code), trace, method="native", include=include, hooks="")
    found = [(row["op"], row["bytes"]) for row in rows(trace, "op IN ('write', 'read')")]
    assert found == ([("write", 70_000), ("read", 60_000)] if included else [])
    assert done.completeness is not None
    assert (done.completeness.mapped_files, done.completeness.share) == (1 if included else 0, 1.0)


def test_what_is_renamed_while_open_goes_on_under_its_new_name(tmp_path, trace, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = """
        import os
        os.mkdir("parts")
        a, b = (os.open(f"parts/{name}", os.O_RDWR | os.O_CREAT) for name in "ab")
        os.write(a, b"1"), os.write(b, b"2")
        os.rename("parts/a", "parts/c")
        os.write(a, b"3"), os.write(b, b"4")
        os.rename("parts", "all")
        os.write(a, b"5"), os.write(b, b"6")
    """
    capture_command(python(code), trace, method="native", include=[f"{tmp_path}/*"])
    names = [row["uri"].removeprefix(f"file://{tmp_path}/") for row in rows(trace) if row["op"] == "write"]
    assert names == ["parts/a", "parts/b", "parts/c", "parts/b", "all/c", "all/b"]


def test_a_process_killed_by_sigkill_loses_nothing(tmp_path, trace):
    (tmp_path / "x.bin").write_bytes(bytes(4000))
    code = f"""
        import os
        fd = os.open({str(tmp_path / "x.bin")!r}, os.O_RDONLY)
        for n in range(3000):
            os.pread(fd, 10, n)
        if os.fork() == 0:
            for n in range(5):
                os.pread(fd, 11, n)
            os.kill(os.getpid(), 9)
        os.wait()
        os.kill(os.getpid(), 9)
    """
    done = capture_command(python(code), trace, method="native", include=[f"{tmp_path}/x.bin"])
    assert done.exit_code == 128 + 9
    assert Counter(row["len"] for row in rows(trace)) == {10: 3000, 11: 5}


def test_threads_that_end_leave_their_room_in_the_log_to_others(tmp_path, trace):
    (tmp_path / "x.bin").write_bytes(bytes(1000))
    code = f"""
        import os, threading
        os.chdir({str(tmp_path)!r})
        file = os.open("x.bin", os.O_RDONLY)
        for n in range(64):
            thread = threading.Thread(target=os.pread, args=(file, 10, n))
            thread.start()
            thread.join()
            while len(os.listdir("/proc/self/task")) > 1:  # join returns before the thread has left
                pass
        [log] = [log for log in os.scandir(os.environ["TRACEKIT_NATIVE_LOGS"]) if log.name.startswith(f"{{os.getpid()}}-")]
        print(log.stat().st_size, file=open("size", "w"))
    """
    capture_command(python(code), trace, method="native", include=[f"{tmp_path}/x.bin"])
    assert sorted(row["offset"] for row in rows(trace)) == [*range(64)]
    assert (
        int((tmp_path / "size").read_text()) == HEADER_BYTES + 3 * CHUNK_BYTES
    )  # names; the main thread; the others


def test_a_shared_position_is_exact_for_threads_and_forks(tmp_path, trace):
    (tmp_path / "x.bin").write_bytes(bytes(80_000))
    code = f"""
        import os, threading
        fd = os.open({str(tmp_path / "x.bin")!r}, os.O_RDONLY)
        def work():
            for _ in range(100):
                os.read(fd, 100)
        threads = [threading.Thread(target=work) for _ in range(4)]
        [t.start() for t in threads], [t.join() for t in threads]
        if os.fork() == 0:
            os.read(fd, 100)
            os._exit(0)
        os.wait()
        os.read(fd, 100)
    """
    capture_command(python(code), trace, method="native", include=[f"{tmp_path}/x.bin"])
    assert sorted(row["offset"] for row in rows(trace)) == list(range(0, 40_200, 100))


def test_a_child_of_vfork_does_not_change_what_is_known_of_its_parents_descriptors(tmp_path, trace):
    for name in ("in.bin", "other.bin"):
        (tmp_path / name).write_bytes(bytes(1000))
    code = f"""
        import os, subprocess
        fd = os.open({str(tmp_path / "in.bin")!r}, os.O_RDONLY)
        with open({str(tmp_path / "other.bin")!r}, "rb", buffering=0) as other, open(os.devnull, "wb") as sink:
            subprocess.run(["cat"], stdin=other, stdout=sink, check=True)
        os.read(fd, 10)
    """
    capture_command(python(code), trace, method="native", include=[f"{tmp_path}/*.bin"])
    assert [row["uri"] for row in rows(trace, "bytes = 10")] == [f"file://{tmp_path}/in.bin"]
    assert sum(row["bytes"] for row in rows(trace, "op = 'read' AND uri LIKE '%other.bin'")) == 1000


def test_a_program_that_closes_every_descriptor_is_still_recorded(tmp_path, trace):
    (tmp_path / "x.bin").write_bytes(bytes(4000))
    code = f"""
        import os
        os.closerange(3, 1000)
        fd = os.open({str(tmp_path / "x.bin")!r}, os.O_RDONLY)
        for n in range(2000):
            os.pread(fd, 10, n)
    """
    done = capture_command(python(code), trace, method="native", include=[f"{tmp_path}/x.bin"])
    assert (done.exit_code, done.ops) == (0, 2000)


def test_errors_of_calls_reach_the_program_and_the_trace(tmp_path, trace):
    (tmp_path / "x.bin").write_bytes(b"x")
    code = f"""
        import os
        fd = os.open({str(tmp_path / "x.bin")!r}, os.O_WRONLY)
        try:
            os.pread(fd, 10, 0)
        except OSError as error:
            raise SystemExit(error.errno)
    """
    done = capture_command(python(code), trace, method="native", include=[f"{tmp_path}/x.bin"])
    assert done.exit_code == 9  # EBADF
    assert [(row["op"], row["bytes"], row["error"]) for row in rows(trace)] == [("read", 0, "io_error")]


@pytest.mark.parametrize("most_kib", [8, 100])
def test_a_limit_of_file_sizes_ends_the_log_and_not_the_program(most_kib, tmp_path, trace):
    (tmp_path / "x.bin").write_bytes(bytes(50_000))
    command = f"ulimit -f {most_kib}; dd if={tmp_path}/x.bin of=/dev/null bs=10"
    done = capture_command(["bash", "-c", command], trace, method="native", include=[f"{tmp_path}/x.bin"])
    assert done.exit_code == 0
    assert len(rows(trace)) < 5000
    assert done.completeness is not None and not done.completeness.reaches(0.9)
    assert most_kib == 8 or any("`ulimit -f` is reached" in note for note in done.notes)


def test_the_captures_own_files_are_never_recorded(tmp_path, trace):
    (tmp_path / "x.bin").write_bytes(bytes(100))
    code = f"import tracekit\nfor _ in range(50):\n    open({str(tmp_path / 'x.bin')!r}, 'rb').read()"
    capture_command(python(code), trace, include=["*"], hooks="auto", method="native")
    assert not [row["uri"] for row in rows(trace) if ".tracekit-" in row["uri"] or str(trace) in row["uri"]]
    assert len(rows(trace, "uri LIKE '%x.bin' AND bytes = 100")) == 50


def test_completeness_is_whole_for_what_is_seen_and_kept_in_the_trace(tmp_path, trace):
    (tmp_path / "x.bin").write_bytes(bytes(3_000_000))
    done = capture_command(
        ["dd", f"if={tmp_path}/x.bin", f"of={tmp_path}/y.bin", "status=none"], trace, method="native"
    )
    assert done.completeness is not None and done.completeness.share == 1.0
    kept = open_reader(trace).completeness
    assert (kept["share"], kept["recorded_read_bytes"], kept["recorded_written_bytes"]) == (
        1.0,
        3_000_000,
        3_000_000,
    )
    assert [process["program"] for process in kept["processes"]] == ["dd"]


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
def test_what_the_engine_reads_for_itself_does_not_count_as_missed(tmp_path, trace):
    (tmp_path / "data").write_bytes(bytes(1000))
    code = f"""
        import mmap, os
        maps = [mmap.mmap(-1, 4096) for _ in range(3000)]  # the engine reads the list of them
        open({str(tmp_path / "data")!r}, "rb").read()
        for number in range(1, 5):
            if not os.fork():
                library = mmap.mmap(-1, 4096 * number, prot=mmap.PROT_READ | mmap.PROT_EXEC)  # as of its own
                os.close(os.open(os.devnull, os.O_RDONLY))  # or it has no log
                os._exit(0)
            os.wait()
    """
    done = capture_command(python(code), trace, method="native", include=[f"{tmp_path}/data"])
    kept = done.completeness
    assert kept is not None and (kept.share, kept.read_bytes) == (1.0, 1000)


def test_a_python_in_which_the_hooks_could_not_start_is_counted_and_its_files_are_recorded(tmp_path, trace):
    (tmp_path / "data").write_bytes(bytes(1000))
    read = f"open({str(tmp_path / 'data')!r}, 'rb').read()"
    done = capture_command(
        ["sh", "-c", f'{sys.executable} -S -c "$0"; {sys.executable} -c "$0"', read],
        trace,
        include=[f"{tmp_path}/data"],
    )
    assert done.completeness is not None and done.completeness.unhooked_pythons == 1
    assert any("hooks could not start: 1; their samples" in note for note in done.notes)
    assert [row["bytes"] for row in rows(trace, "fault IS NULL AND bytes > 0")] == [1000, 1000]


def test_what_the_c_library_reads_to_find_users_and_groups_does_not_count_as_missed(tmp_path, trace):
    (tmp_path / "data").write_bytes(bytes(1000))
    code = f"""
        import grp, os, pwd
        open({str(tmp_path / "data")!r}, "rb").read()
        for number in range(500):
            assert pwd.getpwuid(0).pw_uid == pwd.getpwnam("root").pw_uid == grp.getgrgid(0).gr_gid
        os.getgrouplist("root", 0)
    """
    done = capture_command(python(code), trace, method="native", include=[f"{tmp_path}/data"])
    kept = done.completeness
    assert kept is not None and (kept.share, kept.read_bytes) == (1.0, 1000)


def test_bytes_that_the_engine_cannot_see_lower_the_share_and_are_named(tmp_path, trace):
    (tmp_path / "x.bin").write_bytes(bytes(9_000_000))
    (tmp_path / "p.c").write_text(
        '#include <fcntl.h>\n#include <unistd.h>\nint main(void) { static char b[1 << 20]; int f = open("x.bin", O_RDONLY);'
        " while (read(f, b, sizeof b) > 0); return 0; }"
    )
    if subprocess.run(
        ["gcc", "-static", "-o", tmp_path / "p", tmp_path / "p.c"], capture_output=True
    ).returncode:
        pytest.skip("the static C library is not installed")
    done = capture_command(["sh", "-c", f"cd {tmp_path}; ./p; true"], trace, method="native")
    assert done.completeness is not None and (done.completeness.share or 0) < 0.01
    assert not done.completeness.reaches(0.99)
    assert any("MiB" in note and "linked statically" in note for note in done.notes)
    assert "no storage I/O was recorded" in done.notes  # and nothing of filters


@pytest.mark.parametrize("waits", [True, False])
def test_what_a_process_without_a_parent_moves_counts(waits, tmp_path, trace):
    (tmp_path / "x.bin").write_bytes(bytes(9_000_000))
    (tmp_path / "p.c").write_text(
        '#include <fcntl.h>\n#include <unistd.h>\nint main(void) { static char b[1 << 20]; int f = open("x.bin", O_RDONLY);'
        ' while (read(f, b, sizeof b) > 0); close(creat("done", 0600)); pause(); return 0; }'
    )
    if subprocess.run(
        ["gcc", "-static", "-o", tmp_path / "p", tmp_path / "p.c"], capture_output=True
    ).returncode:
        pytest.skip("the static C library is not installed")
    end = "kill $(cat pid); while [ -d /proc/$(cat pid) ]; do sleep 0.1; done; " if waits else ""
    command = (
        f"cd {tmp_path}; (./p </dev/null >/dev/null 2>&1 & echo $! > pid); while [ ! -e done ]; do sleep 0.1; done;"
        f" {end}head -c 5000000 x.bin > y.bin; exit 3"
    )
    done = tracekit("capture", "-o", trace, "--require-complete", "0.9", "--", "sh", "-c", command)
    if not waits:
        os.kill(int((tmp_path / "pid").read_text()), 9)
    kept = open_reader(trace).completeness
    assert done.returncode == 3
    assert kept["read_bytes"] >= 13_900_000 and kept["share"] < 0.6, kept


def test_a_native_object_client_is_named_with_the_bytes_that_it_moved(tmp_path, trace, s3_env, s3_bucket):
    s3_env.put(s3_bucket, "k", bytes(200_000))
    code = """
        with arrow().open_input_file(f"{BUCKET}/k") as file:
            file.read_at(100_000, 5000)
    """
    done = capture_command(at_store(s3_env.endpoint, s3_bucket, code), trace, method="native")
    assert done.completeness is not None
    assert done.completeness.native_clients == ("libarrow",)
    assert (done.completeness.unrecorded_client_bytes or 0) >= 100_000
    assert not done.completeness.reaches(0.99)
    assert any("libarrow" in note for note in done.notes)


def test_what_a_native_object_client_uploads_is_missed_too(tmp_path, trace, s3_env, s3_bucket):
    (tmp_path / "local").write_bytes(bytes(3_000_000))
    code = f"""
        data = open({str(tmp_path / "local")!r}, "rb").read()
        with arrow().open_output_stream(f"{{BUCKET}}/up") as file:
            file.write(data)
    """
    command = at_store(s3_env.endpoint, s3_bucket, code)
    done = capture_command(command, trace, method="native", require_complete=0.9)
    assert done.completeness is not None and not done.complete
    assert 3_000_000 <= (done.completeness.unrecorded_client_bytes or 0) < 3_100_000


@pytest.mark.parametrize("connected_before", [0, 100])
def test_what_goes_through_the_port_of_a_store_is_missed_whatever_the_client_is(
    tmp_path, trace, s3_env, s3_bucket, monkeypatch, connected_before
):
    s3_env.put(s3_bucket, "k", bytes(100_000))
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_env.endpoint)
    where = s3_env.endpoint.removeprefix("http://")
    code = f"""
        import socket
        for _ in range({connected_before}):
            with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
                server.accept()[0].close()
        with socket.create_connection({where.split(":")!r}) as client:
            client.sendall(b"POST / HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 70000\\r\\n\\r\\n" + bytes(70_000))
            assert client.recv(1000)
    """
    done = capture_command(python(code), trace, method="native", hooks=())
    kept = done.completeness
    assert kept is not None and kept.native_clients == (f"port {where.split(':')[1]} (AWS_ENDPOINT_URL)",)
    assert 70_000 <= (kept.unrecorded_client_bytes or 0) < 72_000 and not kept.reaches(0.5)
    assert any("port " in note and "not seen as ops" in note for note in done.notes)


def test_what_the_ranks_of_a_job_send_to_each_other_is_not_taken_for_an_object_clients(tmp_path, trace):
    pytest.importorskip("torch")
    pytest.importorskip("pyarrow.fs")
    code = f"""
        import os
        import pyarrow.fs, torch
        from torch import distributed
        rank = int(os.fork() == 0)
        meeting = "file://{tmp_path}/meeting"
        distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
        gradients = torch.ones(1_000_000)
        distributed.all_reduce(gradients)
        assert gradients[0] == 2
        open("{tmp_path}/" + str(rank), "wb").write(bytes(100_000))
        distributed.destroy_process_group()
        if rank:
            os._exit(0)
        assert os.wait()[1] == 0
    """
    kept = capture_command(python(code), trace, method="native", include=[f"{tmp_path}/*"]).completeness
    assert kept is not None and kept.reaches(0.99)
    assert (kept.native_clients, kept.unrecorded_client_bytes) == ((), 0)
    through = {
        (Path(each["library"]).name, each["bytes"] > 1_000_000)
        for p in kept.processes
        for each in p["sockets"]
    }
    assert ("libtorch_cpu.so", True) in through


def test_what_python_itself_sends_elsewhere_is_not_taken_for_an_object_clients(tmp_path, trace):
    pytest.importorskip("pyarrow.fs")
    code = """
        import os, socket
        import pyarrow.fs
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
            client.sendall(bytes(100_000))
    """
    kept = capture_command(python(code), trace, method="native", hooks=()).completeness
    assert kept is not None and (kept.unrecorded_client_bytes, kept.native_clients) == (0, ())
    assert [each["bytes"] for p in kept.processes for each in p["sockets"]] == [100_000]


def test_requests_over_uncounted_sockets_do_not_hide_those_of_a_native_client(
    tmp_path, trace, s3_env, s3_bucket, monkeypatch
):
    pytest.importorskip("boto3")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    s3_env.put(s3_bucket, "k", bytes(2_000_000))
    code = """
        import boto3
        with arrow().open_input_file(f"{BUCKET}/k") as file:
            assert len(file.read_at(500_000, 0)) == 500_000
        client = boto3.client("s3", endpoint_url=ENDPOINT)
        assert len(client.get_object(Bucket=BUCKET, Key="k")["Body"].read()) == 2_000_000
    """
    kept = capture_command(at_store(s3_env.endpoint, s3_bucket, code), trace, method="native").completeness
    assert kept is not None and kept.object_bytes == 2_000_000
    assert kept.native_clients and 450_000 <= (kept.unrecorded_client_bytes or 0) < 510_000


def test_what_a_process_serves_to_others_is_not_taken_for_an_object_clients(tmp_path, trace):
    pytest.importorskip("pyarrow.fs")
    code = """
        import os, socket
        server = socket.create_server(("127.0.0.1", 0))
        if os.fork() == 0:
            with socket.create_connection(server.getsockname()) as client:
                client.sendall(b"x")
                while client.recv(1 << 20): pass
            os._exit(0)
        import pyarrow.fs
        with socket.create_server(("127.0.0.1", 0)) as other, socket.create_connection(other.getsockname()) as mine:
            mine.sendall(b"x")
        with server.accept()[0] as accepted:
            assert os.read(accepted.fileno(), 1) == b"x"
            accepted.sendall(bytes(10_000_000))
        assert os.wait()[1] == 0
    """
    kept = capture_command(python(code), trace, method="native", hooks=()).completeness
    assert kept is not None and (kept.unrecorded_client_bytes, kept.native_clients) == (0, ())


def test_what_fastsafetensors_reads_is_recorded(tmp_path, trace):
    pytest.importorskip("fastsafetensors", reason="fastsafetensors is not installed")
    weights = tmp_path / "m.safetensors"
    code = f"""
        import torch
        from fastsafetensors import SafeTensorsFileLoader, SingleGroup
        from safetensors.torch import save_file
        save_file({{"a": torch.ones(1000, 100)}}, {str(weights)!r})
        loader = SafeTensorsFileLoader(SingleGroup(), "cpu", nogds=True)
        loader.add_filenames({{0: [{str(weights)!r}]}})
        assert loader.copy_files_to_device().get_tensor("a").sum() == 100_000
    """
    capture_command(python(code), trace, method="native", include=[str(weights)])
    read = {(row["offset"], row["bytes"]) for row in rows(trace, "op = 'read' AND fault IS NULL")}
    assert (0, weights.stat().st_size) in read


def two_clients(endpoint: str, bucket: str, size: int) -> list[str]:
    """A program that reads the object `k`, of 2 MB, with boto3, and whose child reads `size` bytes of it with Arrow."""
    pytest.importorskip("boto3")
    code = f"""
        import os
        if os.fork():
            os.wait()
            import boto3
            assert len(boto3.client("s3").get_object(Bucket=BUCKET, Key="k")["Body"].read()) == 2_000_000
        else:
            with arrow().open_input_file(f"{{BUCKET}}/k") as file:
                assert len(file.read_at({size}, 5000)) == {size}
            os._exit(0)
    """
    return at_store(endpoint, bucket, code)


NATIVE_READS = {
    "s3torchconnector": """
        from s3torchconnector import S3ClientConfig
        from s3torchconnector._s3client import S3Client
        plain = S3ClientConfig(force_path_style=True)
        client = S3Client("us-east-1", endpoint=ENDPOINT, s3client_config=plain)
        assert sum(map(len, client.get_object(BUCKET, "k"))) == 300_000
    """,
    "obstore": """
        from obstore.store import S3Store
        http = {"allow_http": True}
        store = S3Store(BUCKET, endpoint=ENDPOINT, client_options=http, region="us-east-1")
        assert len(store.get("k").bytes()) == 300_000
    """,
    "tensorstore": """
        import tensorstore
        spec = {"driver": "s3", "bucket": BUCKET, "endpoint": ENDPOINT, "aws_region": "us-east-1"}
        assert len(tensorstore.KvStore.open(spec).result().read("k").result().value) == 300_000
    """,
}


@pytest.mark.parametrize("client", NATIVE_READS)
def test_a_native_client_on_any_port_is_named_and_its_bytes_are_missed(
    trace, s3_env, s3_bucket, client, monkeypatch
):
    pytest.importorskip(client)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    s3_env.put(s3_bucket, "k", bytes(300_000))
    command = at_store(s3_env.endpoint, s3_bucket, NATIVE_READS[client])
    kept = capture_command(command, trace, method="native", hooks="numpy").completeness
    assert kept is not None and (kept.unrecorded_client_bytes or 0) >= 300_000 and not kept.reaches(0.01)
    assert any(client in name for name in kept.native_clients)


def test_a_native_client_is_named_where_its_process_was_killed(trace, s3_env, s3_bucket, monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    s3_env.put(s3_bucket, "k", bytes(300_000))
    code = """
        import os
        with arrow().open_input_file(f"{BUCKET}/k") as file:
            assert len(file.read()) == 300_000
        os.kill(os.getpid(), 9)
    """
    kept = capture_command(at_store(s3_env.endpoint, s3_bucket, code), trace, method="native").completeness
    assert kept is not None and kept.native_clients == ("libarrow",)
    assert (kept.unrecorded_client_bytes or 0) >= 300_000 and not kept.reaches(0.01)


def test_requests_that_one_process_recorded_do_not_hide_those_of_another(
    tmp_path, trace, s3_env, s3_bucket, monkeypatch
):
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_env.endpoint)
    s3_env.put(s3_bucket, "k", bytes(2_000_000))
    done = capture_command(two_clients(s3_env.endpoint, s3_bucket, 100_000), trace, method="native")
    assert done.completeness is not None and done.completeness.object_bytes == 2_000_000
    assert 100_000 <= (done.completeness.unrecorded_client_bytes or 0) < 110_000


def test_requests_through_the_proxy_do_not_hide_those_of_a_client_that_is_not_led_to_it(
    tmp_path, trace, s3_env, s3_bucket, monkeypatch
):
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_env.endpoint)
    s3_env.put(s3_bucket, "k", bytes(2_000_000))
    done = capture_command(
        two_clients(s3_env.endpoint, s3_bucket, 500_000), trace, method="native", proxy=True
    )
    kept = done.completeness
    assert kept is not None and kept.object_bytes == 2_000_000
    assert 440_000 <= (kept.unrecorded_client_bytes or 0) < 510_000


def test_requests_without_a_body_through_the_proxy_are_not_missed(
    tmp_path, trace, s3_env, s3_bucket, monkeypatch
):
    pytest.importorskip("pyarrow.fs")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_env.endpoint)
    s3_env.put(s3_bucket, "k", bytes(1000))
    code = f"""
        from pyarrow.fs import FileSystem
        store, path = FileSystem.from_uri("s3://{s3_bucket}/k")
        assert store.get_file_info(path).size == 1000
    """
    done = capture_command(python(code), trace, method="native", proxy=True)
    kept = done.completeness
    assert kept is not None and (kept.share, kept.unrecorded_client_bytes) == (1.0, 0)
    assert [row["op"] for row in rows(trace)] == ["stat"]


def tracekit(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tracekit", *map(str, arguments)], capture_output=True, text=True
    )


def test_require_complete_decides_the_exit_code(tmp_path, trace):
    (tmp_path / "x.bin").write_bytes(bytes(100_000))
    copy = ["--", "cp", tmp_path / "x.bin", tmp_path / "y.bin"]
    asked = ["capture", "-o", trace, "--require-complete", "0.99", "--overwrite"]
    assert tracekit(*asked, "--method", "native", *copy).returncode == 0
    unknown = tracekit(*asked, "--method", "hooks", *copy)
    assert unknown.returncode == 1
    assert "--require-complete 0.99 is not reached" in unknown.stderr
    assert tracekit(*asked, "--method", "native", "--", "sh", "-c", "exit 5").returncode == 5


def test_info_shows_the_completeness(tmp_path, trace):
    (tmp_path / "x.bin").write_bytes(bytes(100_000))
    capture_command(["cp", str(tmp_path / "x.bin"), str(tmp_path / "y.bin")], trace, method="native")
    assert "100.0%" in tracekit("info", trace).stdout
    kept = json.loads(tracekit("info", trace, "--json").stdout)["completeness"]
    assert (kept["share"], kept["read_bytes"], kept["written_bytes"]) == (1.0, 100_000, 100_000)


def test_the_capture_page_names_every_program_that_is_compared() -> None:
    page = (Path(__file__).parents[2] / "docs" / "capture.md").read_text(encoding="utf-8")
    section = page.split("### The native engine", 1)[1].split("\n### ", 1)[0]
    assert [name for name in programs.COMMANDS if f"`{name}`" not in section] == []


def test_the_logs_of_a_killed_capture_can_be_recovered(tmp_path, trace):
    (tmp_path / "x.bin").write_bytes(bytes(1000))
    code = f"""
        import os
        fd = os.open({str(tmp_path / "x.bin")!r}, os.O_RDONLY)
        for n in range(50):
            os.pread(fd, 10, n)
        os.kill(os.getppid(), 9)
    """
    command = ["--include", f"{tmp_path}/x.bin", "--", *python(code)]
    assert tracekit("capture", "-o", trace, "--method", "native", *command).returncode == -9
    assert not trace.exists()
    [settings] = tmp_path.glob(".tracekit-capture-*/capture.json")
    facts = json.loads(settings.read_text()) | {"pid": os.getpid()}  # the number is another process's by now
    settings.write_text(json.dumps(facts | {"started": start_of(os.getpid())}))
    assert tracekit("capture", "-o", trace, "--recover").returncode == 2
    settings.write_text(json.dumps(facts))
    version = {log: log.read_bytes()[8:12] for log in settings.parent.glob("logs/*.log")}
    for log in version:
        with log.open("r+b") as file:
            file.seek(8)
            file.write(b"\x02")
    other = tracekit("capture", "-o", trace, "--recover")
    assert (other.returncode, other.stderr.count("another version of tracekit")) == (2, 1)
    for log, written in version.items():
        with log.open("r+b") as file:
            file.seek(8)
            file.write(written)
    again = tracekit("capture", "-o", trace, "--recover")
    assert (again.returncode, len(rows(trace))) == (0, 50), again.stderr
    assert "completeness: unknown" in again.stderr
    assert open_reader(trace).options["method"] == "native"
    assert not list(tmp_path.glob(".tracekit-*"))
    nothing = tracekit("capture", "-o", tmp_path / "b.trace", "--recover")
    assert nothing.returncode == 2 and nothing.stderr.count("\n") == 1


def test_a_capture_whose_bytes_the_kernel_does_not_count_is_not_said_to_be_complete(tmp_path, trace):
    (tmp_path / "x.bin").write_bytes(bytes(1000))
    code = f"""
        import os
        os.pread(os.open({str(tmp_path / "x.bin")!r}, os.O_RDONLY), 1000, 0)
        os.kill(os.getppid(), 9)
    """
    tracekit(
        "capture", "-o", trace, "--method", "native", "--include", f"{tmp_path}/x.bin", "--", *python(code)
    )
    found = convert(recoverable(trace), 0, None, require_complete=0.5, overwrite=False)
    assert (found.ops, found.completeness, found.complete) == (1, None, False)
    assert any("/proc/self/io cannot be read" in note for note in found.notes)


def test_logs_that_are_deleted_during_the_run_are_an_error(tmp_path, trace):
    done = tracekit("capture", "-o", trace, "--", "sh", "-c", f"rm -r {tmp_path}/.tracekit-capture-*")
    assert done.returncode == 2
    assert "deleted while the command ran" in done.stderr
    assert not trace.exists()
