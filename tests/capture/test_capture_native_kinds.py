"""The native engine beside strace in programs that use the C library in less common ways, and what it says it cannot see."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tracekit.capture.command import capture_command
from tracekit.capture.native import NativeEngine
from tracekit.capture.tools.strace import StraceEngine
from tracekit.store.reader import open_reader

pytestmark = pytest.mark.skipif(
    NativeEngine().available() is None or shutil.which("gcc") is None, reason="there is no C compiler"
)
needs_strace = pytest.mark.skipif(
    StraceEngine().available() is None
    or subprocess.run(["strace", "-qq", "true"], capture_output=True).returncode != 0,
    reason="strace is not installed, or ptrace is not allowed here",
)
CASES = {
    "dafp": "descriptors, appends, forks and children: dup2, close_range, posix_spawn, vfork, popen, system",
    "sbe": "streams: ungetc, seeks, scanf, freopen, fdopen, tmpfile, fmemopen, other buffers, dprintf",
    "vkiun": "vectors, copies inside the kernel, written mappings, POSIX AIO, files without a name, calls by syscall()",
    "loj": "other names of the same calls, what the C library opens and closes by itself, calls left by a jump",
}
READER = (
    "#include <fcntl.h>\n#include <unistd.h>\n"
    'int main(void) { static char b[1 << 16]; int f = open("x.bin", O_RDONLY); while (read(f, b, sizeof b) > 0); return 0; }'
)


def compiled(folder: Path, source: str, *flags: str, name: str = "p") -> Path:
    (folder / f"{name}.c").write_text(source)
    done = subprocess.run(
        ["gcc", "-O1", "-w", *flags, "-o", folder / name, folder / f"{name}.c"], capture_output=True
    )
    if done.returncode:
        pytest.skip("it cannot be linked here")
    return folder / name


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = Path(__file__).with_name("kinds.c").read_text()
    return compiled(tmp_path_factory.mktemp("kinds"), source, name="kinds")


def ops(trace: Path) -> Counter[tuple[Any, ...]]:
    """Every op; of appends without the offset, which strace does not know."""
    found: Counter[tuple[Any, ...]] = Counter()
    for row in open_reader(trace).query("SELECT * FROM ops").to_pylist():
        name = re.sub(r"#\d+$|^temp\w{6}$", "#", row["uri"].rpartition("/")[2])
        offset = None if name == "append" else row["offset"]
        found[name, row["op"], offset, row["len"], row["bytes"], row["error"]] += 1
    return found


@needs_strace
@pytest.mark.parametrize("case", CASES, ids=CASES.values())
def test_every_op_equals_that_of_strace(case, kinds, tmp_path, monkeypatch):
    seen = {}
    for method in ("strace", "native"):
        folder = tmp_path / "work"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        monkeypatch.chdir(folder)
        trace = tmp_path / f"{method}.trace"
        done = capture_command(
            [str(kinds), case], trace, method=method, include=[f"{folder}/*"], hooks="", faults=False
        )
        assert done.exit_code == 0
        seen[method] = ops(trace)
    assert seen["native"].total() > 5
    assert seen["native"] == seen["strace"]


def test_appends_have_their_offset(kinds, tmp_path, monkeypatch, trace):
    monkeypatch.chdir(tmp_path)
    capture_command([str(kinds), "a"], trace, method="native", include=[f"{tmp_path}/append"])
    found = open_reader(trace).query("SELECT \"offset\", bytes FROM ops WHERE op = 'write' ORDER BY t_submit")
    ends = 0
    for row in found.to_pylist():
        assert row["offset"] == ends
        ends += row["bytes"]
    assert ends == (tmp_path / "append").stat().st_size


def test_a_write_at_an_offset_of_a_file_that_is_appended_to_has_the_offset_where_it_went(tmp_path, trace):
    code = """
        import os, sys
        fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(fd, bytes(100)), os.pwrite(fd, bytes(10), 5), os.pwrite(fd, bytes(20), 5000)
        fd = os.open(sys.argv[1], os.O_WRONLY)
        os.pwritev(fd, [bytes(30)], 7, os.RWF_APPEND), os.pwritev(fd, [bytes(40)], 7)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "x.bin")]
    capture_command(command, trace, method="native", include=[f"{tmp_path}/x.bin"], hooks="")
    found = open_reader(trace).query('SELECT "offset" FROM ops ORDER BY t_submit').column(0).to_pylist()
    assert found == [0, 100, 110, 130, 7]


def test_a_name_that_ends_as_those_of_deleted_files_do_is_kept(tmp_path, trace):
    name, gone = tmp_path / "x (deleted)", tmp_path / "gone"
    name.write_bytes(bytes(100))
    gone.write_bytes(bytes(200))
    code = """
        import os, sys
        fd, gone = (os.open(name, os.O_RDONLY) for name in sys.argv[1:])
        os.unlink(sys.argv[2])
        os.read(fd, 50), os.dup2(fd, 0), os.dup2(gone, 1)
        os.execvp("sh", ["sh", "-c", "cat; cat <&1 >&2"])
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(name), str(gone)]
    capture_command(command, trace, method="native", include=[f"{tmp_path}/*"], hooks="")
    found = open_reader(trace).query(
        "SELECT uri, sum(bytes) AS b FROM ops WHERE op = 'read' GROUP BY 1 ORDER BY 1"
    )
    assert [tuple(row.values()) for row in found.to_pylist()] == [
        (f"file://{gone}", 200), (f"file://{name}", 100)
    ]  # fmt: skip


def test_streams_of_wide_characters_are_recorded(kinds, tmp_path, monkeypatch, trace):
    """The C library writes what such a stream holds in many small pieces; they are one row a flush."""
    monkeypatch.chdir(tmp_path)
    done = capture_command([str(kinds), "w"], trace, method="native", include=[f"{tmp_path}/wide"], hooks="")
    assert done.exit_code == 0
    found = open_reader(trace).query('SELECT op, "offset", bytes FROM ops ORDER BY t_submit').to_pylist()
    written = [row for row in found if row["op"] == "write"]
    ends = 0
    for row in written:
        assert row["offset"] == ends
        ends += row["bytes"]
    assert ends == (tmp_path / "wide").stat().st_size
    size = ends - written[-1]["bytes"]
    assert (
        sum(row["bytes"] for row in found if row["op"] == "read") == 2 * size + 4096
    )  # rewound, and a buffer read


def test_processes_that_read_one_descriptor_at_once_have_exact_offsets(tmp_path, trace):
    (tmp_path / "x.bin").write_bytes(bytes(60_000))
    code = """
        import os, sys
        fd = os.open(sys.argv[1], os.O_RDONLY)
        children = []
        for _ in range(3):
            if (child := os.fork()) == 0:
                for _ in range(200):
                    os.read(fd, 100)
                os._exit(0)
            children.append(child)
        for child in children:
            os.waitpid(child, 0)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "x.bin")]
    capture_command(command, trace, method="native", include=[f"{tmp_path}/x.bin"], hooks="")
    found = open_reader(trace).query('SELECT "offset" FROM ops ORDER BY 1').column(0).to_pylist()
    assert found == list(range(0, 60_000, 100))


def unseen(command: list[str], trace: Path) -> tuple[str, ...]:
    done = capture_command(command, trace, method="native", hooks="")
    assert done.completeness is not None
    assert not done.completeness.reaches(0.99)
    assert any("programs that were not seen: " in note for note in done.notes)
    assert open_reader(trace).completeness["unseen_programs"] == list(done.completeness.unseen_programs)
    return done.completeness.unseen_programs


def test_programs_that_are_started_with_another_environment_are_named(tmp_path, trace, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.bin").write_bytes(bytes(5000))  # less than the C library may read for itself
    program = compiled(tmp_path, READER)
    for name in "abc":
        (tmp_path / name).symlink_to(program)
    starts = "env -i ./a; (unset LD_PRELOAD; exec ./b); find p -exec env -u TRACEKIT_NATIVE_LOGS ./c ';'; ./p"
    assert unseen(["sh", "-c", starts], trace) == tuple(f"{name} (without the environment)" for name in "abc")


def test_a_static_program_is_named(tmp_path, trace, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.bin").write_bytes(bytes(5000))
    compiled(tmp_path, READER, "-static")
    assert unseen(["sh", "-c", "./p; true"], trace) == ("p (linked statically)",)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of another user")
def test_a_program_that_changes_its_user_is_named(tmp_path, trace, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.bin").write_bytes(bytes(5000))
    program = compiled(tmp_path, READER)
    os.chown(program, 65534, 65534)
    program.chmod(0o4755)
    assert unseen(["sh", "-c", "./p; true"], trace) == ("p (set-user-ID)",)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the root directory")
def test_files_keep_their_names_after_chroot_and_what_is_run_there_is_named(tmp_path, trace):
    jail = tmp_path / "jail"
    (jail / "data").mkdir(parents=True)
    (jail / "data" / "x.bin").write_bytes(bytes(5000))
    compiled(jail, READER, "-static")
    code = f"""
        import os, subprocess
        os.chroot({str(jail)!r})
        os.chdir("/data")
        for name in ("/data/x.bin", "x.bin", "../data/x.bin"):
            fd = os.open(name, os.O_RDONLY)
            os.read(fd, 100)
        try:
            os.execv("/p", ["p"])
        except OSError:
            os._exit(3)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = capture_command(command, trace, method="native", include=[f"{jail}/*"], hooks="")
    assert done.exit_code == 0
    found = open_reader(trace).query("SELECT DISTINCT uri FROM ops WHERE bytes = 100").column(0).to_pylist()
    assert found == [f"file://{jail}/data/x.bin"]
    assert done.completeness is not None and done.completeness.unseen_programs == ("p (linked statically)",)


def test_other_libraries_that_are_preloaded_stay(tmp_path, trace, monkeypatch):
    (tmp_path / "x.bin").write_bytes(bytes(5000))
    other = compiled(tmp_path, 'int puts(const char *); __attribute__((constructor)) void here(void) { puts("here"); }', "-shared", "-fPIC", name="other.so")  # fmt: skip
    monkeypatch.setenv("LD_PRELOAD", str(other))
    out = tmp_path / "out"
    done = capture_command(
        ["sh", "-c", f"cat {tmp_path}/x.bin > {out}; true"], trace, method="native", hooks=""
    )
    assert b"here" in out.read_bytes()
    assert done.completeness is not None and done.completeness.unseen_programs == ()
    assert open_reader(trace).query(
        "SELECT sum(bytes) AS b FROM ops WHERE uri LIKE '%x.bin'"
    ).to_pylist() == [{"b": 5000}]


def test_what_recording_takes_is_measured_in_each_process(tmp_path, trace):
    (tmp_path / "x.bin").write_bytes(bytes(5000))
    code = "import os\nfd = os.open(%r, os.O_RDONLY)\nfor n in range(20000): os.pread(fd, 10, n %% 4000)"
    command = [sys.executable, "-c", code % str(tmp_path / "x.bin")]
    done = capture_command(command, trace, method="native", include=[f"{tmp_path}/*"])
    reader = open_reader(trace)
    (process,) = reader.completeness["processes"]
    assert 0 < process["recording_ns"] < process["cpu_ns"]
    counters = reader.counters
    assert counters["overhead_engine_ns"] == process["recording_ns"]
    assert counters["process_cpu_ns"] == process["cpu_ns"]
    assert any(note.startswith("overhead: recording took ") for note in done.notes)


def test_calls_on_pipes_are_measured_too(tmp_path, trace):
    code = "#include <unistd.h>\nint main(void) { int p[2]; char c = 1; if (pipe(p)) return 1; for (int n = 0; n < 500; n++) if (write(p[1], &c, 1) != read(p[0], &c, 1)) return 2; return 0; }"
    done = capture_command([str(compiled(tmp_path, code))], trace, method="native", hooks="")
    assert done.exit_code == 0
    assert "overhead_engine_ns" in open_reader(trace).counters


def test_a_process_over_the_budget_is_named(tmp_path, trace):
    (tmp_path / "x.bin").write_bytes(bytes(5000))
    code = (
        "import os, time\nfd = os.open(%r, os.O_RDONLY)\nwhile time.process_time() < 1.2: os.pread(fd, 10, 0)"
    )
    command = [sys.executable, "-c", code % str(tmp_path / "x.bin")]
    done = capture_command(command, trace, method="native", include=["nothing"], max_overhead=1e-6)
    assert any("more than max_overhead=1e-06" in note for note in done.notes)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_child_that_may_not_write_its_log_is_named(tmp_path, trace):
    data = tmp_path / "data"
    data.write_bytes(bytes(100_000))
    code = """
        import os, sys
        file = os.open(sys.argv[1], os.O_RDONLY)
        if not (child := os.fork()):
            os.setresuid(65534, 65534, 65534)
            os.read(file, 90_000)
            os._exit(0)
        os.waitpid(child, 0)
    """
    command = [sys.executable, "-S", "-c", textwrap.dedent(code), str(data)]
    done = capture_command(command, trace, method="native", include=[str(data)], hooks="")
    assert done.completeness is not None
    assert [name for name in done.completeness.unseen_programs if "without access to its log" in name]
    assert done.completeness.share is not None and done.completeness.share < 0.5


def test_a_library_that_has_replaced_calls_of_the_c_library_makes_them_itself(tmp_path, trace, monkeypatch):
    """As UCX does, below MPICH and Open MPI: it calls the kernel by number, and expects to arrive there."""
    replaced = (
        "#define _GNU_SOURCE\n#include <sys/syscall.h>\n#include <sys/types.h>\n#include <unistd.h>\n"
        "void *mmap(void *a, size_t n, int p, int f, int d, off_t o) { return (void *)syscall(SYS_mmap, a, n, p, f, d, o); }\n"
        "int munmap(void *a, size_t n) { return syscall(SYS_munmap, a, n); }\n"
        "int close(int d) { return syscall(SYS_close, d); }\n"
    )
    program = (
        "#define _GNU_SOURCE\n#include <fcntl.h>\n#include <sys/mman.h>\n#include <sys/syscall.h>\n#include <unistd.h>\n"
        "static char b[4096];\n"
        "int main(int n, char **v) { int f = open(v[1], O_RDONLY); for (int i = 0; i < 3; i++) pread(f, b, 4096, i * 4096);\n"
        "  syscall(SYS_pread64, f, b, 100, 7); void *m = mmap(0, 4096, PROT_READ, MAP_PRIVATE, f, 0);\n"
        "  if (m == MAP_FAILED || munmap(m, 4096)) return 1; return close(f); }"
    )
    library = compiled(tmp_path, replaced, "-shared", "-fPIC", name="replaced.so")
    data = tmp_path / "data"
    data.write_bytes(bytes(20_000))
    monkeypatch.setenv("LD_PRELOAD", str(library))
    done = capture_command(
        [str(compiled(tmp_path, program)), str(data)], trace, method="native", include=[str(data)]
    )
    assert done.exit_code == 0
    found = (
        open_reader(trace)
        .query("SELECT \"offset\", bytes FROM ops WHERE op = 'read' ORDER BY t_submit")
        .to_pylist()
    )
    assert [(row["offset"], row["bytes"]) for row in found] == [
        (0, 4096),
        (4096, 4096),
        (8192, 4096),
        (7, 100),
    ]


MAKES_CALLS = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <unistd.h>
static char b[10000];
int main(void) {
    int f = open("data", O_RDWR | O_CREAT | O_TRUNC, 0600), o = open("out", O_RDWR | O_CREAT, 0600), p[2];
    write(f, b, 5000); pread(f, b, 100, 7); lseek(f, 0, 0); read(f, b, 10); dup2(f, 50); read(50, b, 30);
    sendfile(o, f, 0, 500); ftruncate(o, 100); fsync(o); rename("out", "out2"); write(o, b, 5); unlink("out2"); close(o);
    pipe(p); write(p[1], b, 10); read(p[0], b, 10); syscall(SYS_read, f, b, 40); syscall(SYS_pread64, f, b, 50, 3);
    FILE *s = fopen("data", "r"); fread(b, 1, 100, s); fclose(s); return close(f);
}
"""
REPLACED = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#ifdef BY_OTHERS
ssize_t read(int f, void *d, size_t n) { struct iovec v = {d, n}; return readv(f, &v, 1); }
ssize_t write(int f, const void *d, size_t n) { struct iovec v = {(void *)d, n}; return writev(f, &v, 1); }
int open(const char *p, int f, ...) { return openat(AT_FDCWD, p, f, 0600); }
#else
ssize_t read(int f, void *d, size_t n) { return syscall(SYS_read, f, d, n); }
ssize_t write(int f, const void *d, size_t n) { return syscall(SYS_write, f, d, n); }
ssize_t pread(int f, void *d, size_t n, off_t o) { return syscall(SYS_pread64, f, d, n, o); }
int open(const char *p, int f, ...) { return syscall(SYS_openat, AT_FDCWD, p, f, 0600); }
int dup2(int a, int b) { return syscall(SYS_dup3, a, b, 0); }
int ftruncate(int f, off_t n) { return syscall(SYS_ftruncate, f, n); }
int fsync(int f) { return syscall(SYS_fsync, f); }
int rename(const char *a, const char *b) { return syscall(SYS_renameat2, AT_FDCWD, a, AT_FDCWD, b, 0); }
int unlink(const char *a) { return syscall(SYS_unlinkat, AT_FDCWD, a, 0); }
int close(int f) { return syscall(SYS_close, f); }
ssize_t sendfile(int o, int i, off_t *at, size_t n) { return syscall(SYS_sendfile, o, i, at, n); }
#endif
"""


@pytest.mark.parametrize("where", ["preloaded", "in the program"])
@pytest.mark.parametrize("how", ["BY_NUMBER", "BY_OTHERS"])
def test_a_call_that_is_made_by_a_replaced_function_is_recorded_once(where, how, tmp_path, monkeypatch):
    """The replacement calls a function of the engine in turn: `syscall`, or another function."""
    plain = compiled(tmp_path, MAKES_CALLS, name="plain")
    if where == "preloaded":
        library = compiled(tmp_path, REPLACED, "-shared", "-fPIC", f"-D{how}", name="replaced.so")
        replaced = plain
    else:
        library = None
        replaced = compiled(tmp_path, REPLACED + MAKES_CALLS, f"-D{how}", name="replaced")
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    seen: list[Counter[tuple[Any, ...]]] = []
    for program in (plain, replaced):
        for left in folder.iterdir():
            left.unlink()
        if program is replaced and library is not None:
            monkeypatch.setenv("LD_PRELOAD", str(library))
        trace = tmp_path / f"{len(seen)}.trace"
        done = capture_command([str(program)], trace, method="native", include=[f"{folder}/*"], hooks="")
        assert done.exit_code == 0
        seen.append(ops(trace))
    assert seen[0] == seen[1]
    assert seen[0].total() == 15


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a device")
@pytest.mark.parametrize("method", ["native", "strace"])
def test_where_gpudirect_storage_is_used_the_share_is_unknown(method, tmp_path, trace):
    if method == "strace" and shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    device = Path("/dev/nvidia-fs-of-a-test")  # what /dev/null is: only that it is opened matters
    try:
        os.mknod(device, stat.S_IFCHR | 0o600, os.makedev(1, 3))
        done = capture_command(["cat", str(device), "/dev/null"], trace, method=method)
    except PermissionError:
        pytest.skip("devices cannot be made or opened here")
    finally:
        device.unlink(missing_ok=True)
    kept = done.completeness
    assert done.exit_code == 0 and kept is not None
    assert (kept.share, kept.unseen) == (None, ("GPUDirect Storage",))
    assert any("GPUDirect Storage was used" in note for note in done.notes)
