"""Reads through memory maps: the pages that a program touches, in order, by the kernel's page faults."""

from __future__ import annotations

import mmap
import os
import random
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tracekit.capture.command import capture_command
from tracekit.capture.faults.log import _FAULT, FaultLog, Follower, _joined
from tracekit.capture.faults.maps import Maps
from tracekit.capture.faults.perf import EXECUTED, EXITED, FORKED, MAPPED, Change, reason_against
from tracekit.capture.native import NativeEngine
from tracekit.store.reader import open_reader

PAGE = mmap.PAGESIZE
needs_faults = pytest.mark.skipif(bool(reason_against()), reason=reason_against())


def mapped(pid: int, address: int, length: int, offset: int = 0, **more: Any) -> Change:
    return Change(MAPPED, 0, pid, address=address, length=length, offset=offset, **more)


def find(maps: Maps, pid: int, *addresses: int) -> list[tuple[int, int]]:
    file, offset, _ = maps.find(pid, np.array(addresses, np.int64))
    return [(f, o if f >= 0 else -1) for f, o in zip(file.tolist(), offset.tolist(), strict=True)]


def test_an_address_is_a_page_of_the_file_mapped_there() -> None:
    maps = Maps()
    maps.apply(mapped(1, 10 * PAGE, 4 * PAGE, 2 * PAGE), 7)
    assert find(maps, 1, 10 * PAGE - 1, 10 * PAGE, 13 * PAGE + 5, 14 * PAGE) == [
        (-1, -1), (7, 2 * PAGE), (7, 5 * PAGE), (-1, -1)
    ]  # fmt: skip
    assert find(maps, 2, 10 * PAGE) == [(-1, -1)]


def test_a_new_mapping_replaces_what_it_covers() -> None:
    maps = Maps()
    maps.apply(mapped(1, 10 * PAGE, 10 * PAGE), 0)
    maps.apply(mapped(1, 12 * PAGE, 2 * PAGE, 50 * PAGE), 1)
    maps.apply(mapped(1, 15 * PAGE, PAGE))  # no file
    assert find(maps, 1, *(page * PAGE for page in (11, 12, 13, 14, 15, 16, 19, 20))) == [
        (0, PAGE), (1, 50 * PAGE), (1, 51 * PAGE), (0, 4 * PAGE), (-1, -1), (0, 6 * PAGE), (0, 9 * PAGE), (-1, -1),
    ]  # fmt: skip


def test_a_child_has_its_parent_s_mappings_until_it_runs_a_program() -> None:
    maps = Maps()
    maps.apply(mapped(1, 10 * PAGE, PAGE), 3)
    maps.apply(Change(FORKED, 0, 2, 1))
    maps.apply(Change(EXITED, 0, 1))
    assert (find(maps, 1, 10 * PAGE), find(maps, 2, 10 * PAGE)) == ([(-1, -1)], [(3, 0)])
    maps.apply(Change(EXECUTED, 0, 2))
    assert find(maps, 2, 10 * PAGE) == [(-1, -1)]


def rows(trace: Path, where: str = "fault IS NOT NULL") -> list[dict[str, Any]]:
    return open_reader(trace).query(f"SELECT * FROM ops WHERE {where} ORDER BY t_submit").to_pylist()


def pages(found: list[dict[str, Any]]) -> list[int]:
    """The pages of rows, one by one."""
    return [
        page
        for row in found
        for page in range(row["offset"] // PAGE, -(-(row["offset"] + row["len"]) // PAGE))
    ]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.npy"
    np.save(path, np.arange(1 << 21, dtype=np.int64))  # 16 MiB
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return path


def capture(tmp_path: Path, trace: Path, text: str, *arguments: object, **options: Any) -> Any:
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(text))
    result = capture_command([sys.executable, str(program), *map(str, arguments)], trace, **options)
    assert result.exit_code == 0
    return result


TOUCH = """
    import mmap
    import random
    import sys
    import numpy as np
    array = np.load(sys.argv[1], mmap_mode="r")
    array.base.madvise(mmap.MADV_RANDOM) if isinstance(array.base, mmap.mmap) else array._mmap.madvise(mmap.MADV_RANDOM)
    random.seed(1)
    for _ in range(300):
        int(array[random.randrange(1, 4096) * 512])
"""


@needs_faults
def test_pages_of_a_numpy_memmap_are_recorded_in_the_order_of_their_first_touch(
    data: Path, trace: Path, tmp_path: Path
) -> None:
    result = capture(tmp_path, trace, TOUCH, data)
    random.seed(1)
    header = 128
    wanted = list(dict.fromkeys((random.randrange(1, 4096) * 4096 + header) // PAGE for _ in range(300)))
    found = [row for row in rows(trace) if row["uri"] == f"file://{data}"]
    assert [page for page in pages(found) if page] == wanted
    assert {row["op"] for row in found} == {"read"}
    assert all(row["latency"] is not None and row["bytes"] == row["len"] for row in found)
    assert {row["fault"] for row in found} <= {"major", "minor"}
    assert any("page faults" in note for note in result.notes)


@needs_faults
def test_a_fault_tells_storage_from_the_page_cache(data: Path, trace: Path, tmp_path: Path) -> None:
    data.read_bytes()
    capture(tmp_path, trace, TOUCH, data)
    assert {row["fault"] for row in rows(trace, f"uri = 'file://{data}' AND fault IS NOT NULL")} == {"minor"}


@needs_faults
def test_a_forked_worker_s_touches_are_its_own(data: Path, trace: Path, tmp_path: Path) -> None:
    program = """
        import mmap
        import os
        import sys
        with open(sys.argv[1], "rb") as file:
            pages = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        pages.madvise(mmap.MADV_RANDOM)
        pages[5 * mmap.PAGESIZE]
        if not (child := os.fork()):
            pages[9 * mmap.PAGESIZE]
            os._exit(0)
        os.waitpid(child, 0)
    """
    capture(tmp_path, trace, program, data)
    found = [row for row in rows(trace) if row["uri"] == f"file://{data}"]
    assert pages(found) == [5, 9]
    assert found[0]["worker"] != found[1]["worker"]


@needs_faults
def test_pages_touched_one_after_the_other_are_joined_in_rows_that_do_not_overlap(
    data: Path, trace: Path, tmp_path: Path
) -> None:
    program = """
        import mmap
        import sys
        with open(sys.argv[1], "rb") as file:
            pages = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        for at in range(0, len(pages), mmap.PAGESIZE):
            pages[at]
    """
    data.read_bytes()
    capture(tmp_path, trace, program, data)
    found = [row for row in rows(trace) if row["uri"] == f"file://{data}"]
    touched = pages(found)
    assert touched == sorted(set(touched))
    assert 0 < sum(row["bytes"] for row in found) <= data.stat().st_size


def faults(*pages_of_file: int, major: int = 0, pause: int = 1000, base: int = 1024) -> Any:
    """Faults of one thread on these pages, which lie from the page `base` of its memory on."""
    made = np.zeros(len(pages_of_file), _FAULT)
    made["offset"] = np.array(pages_of_file) * PAGE
    made["address"] = made["offset"] + base * PAGE
    made["time"] = np.arange(len(pages_of_file)) * pause
    made["took"], made["major"] = 100, major
    return made


def spans(joined: Any) -> list[tuple[int, int]]:
    return [(int(one["offset"]) // PAGE, int(one["length"]) // PAGE) for one in joined]


def test_neighbouring_faults_are_one_read() -> None:
    assert spans(_joined(faults(3, 4, 4, 5, 7))) == [(3, 3), (7, 1)]
    assert _joined(faults(3, 4))["took"].tolist() == [1100]


def test_a_minor_fault_covers_what_the_kernel_maps_around_it_if_the_next_one_follows() -> None:
    assert spans(_joined(faults(0, 16, 32))) == [(0, 33)]
    assert spans(_joined(faults(5, 16))) == [(5, 12)]
    assert spans(_joined(faults(0, 16, base=1030))) == [(0, 1), (16, 1)]  # aligned in memory, not in the file
    assert spans(_joined(faults(0, 16, major=1))) == [(0, 1), (16, 1)]
    assert spans(_joined(faults(0, 17))) == [(0, 1), (17, 1)]


def test_faults_of_other_threads_kinds_files_and_times_are_not_joined() -> None:
    for name in ("tid", "pid", "file", "major"):
        pair = faults(3, 4)
        pair[name] = (0, 1)
        assert spans(_joined(pair)) == [(3, 1), (4, 1)], name
    assert len(_joined(faults(3, 4, pause=10_000_000))) == 2


@needs_faults
def test_writable_shared_pages_are_counted_and_not_taken_for_reads(
    data: Path, trace: Path, tmp_path: Path
) -> None:
    program = """
        import sys
        import numpy as np
        np.load(sys.argv[1], mmap_mode="r+")[:] = 0
    """
    result = capture(tmp_path, trace, program, data)
    assert all(row.get("fault") is None for row in rows(trace, "op = 'read'"))
    assert any("look alike" in note for note in result.notes)


@needs_faults
def test_reads_by_calls_are_not_counted_twice(data: Path, trace: Path, tmp_path: Path) -> None:
    program = """
        import os
        import sys
        import numpy as np
        np.load(sys.argv[1])
        np.save(sys.argv[2], np.load(sys.argv[1], mmap_mode="r"))
    """
    out = tmp_path / "copy.npy"
    result = capture(tmp_path, trace, program, data, out)
    assert result.completeness.share == 1.0
    by_calls = [row for row in rows(trace, "true") if row.get("fault") is None]
    assert (
        sum(row["bytes"] for row in by_calls if row["op"] == "read")
        == result.completeness.recorded_read_bytes
    )
    assert {row["uri"] for row in rows(trace)} <= {f"file://{data}"}


@needs_faults
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_faults_are_followed_under_other_engines(data: Path, trace: Path, tmp_path: Path) -> None:
    capture(tmp_path, trace, TOUCH, data, method="strace")
    assert len(rows(trace, f"uri = 'file://{data}' AND fault IS NOT NULL")) > 100


@needs_faults
@pytest.mark.skipif(NativeEngine().available() is None, reason="there is no native engine")
def test_a_process_is_followed_from_its_first_file_that_is_kept(data: Path, tmp_path: Path) -> None:
    asked: list[str] = []
    (tmp_path / "work" / "logs").mkdir(parents=True)
    code = f"""
        import mmap
        def touched(name):
            with open(name, "rb") as file:
                pages = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            return pages[0] + pages[mmap.PAGESIZE]
        touched({__file__!r}), touched({__file__!r})
    """

    def admits(uri: str) -> bool:
        asked.append(uri)
        return uri.endswith(".npy")

    def run(code: str) -> FaultLog:
        shutil.rmtree(tmp_path / "work" / "touched", ignore_errors=True)
        tool = NativeEngine().available() or ""
        argv = [sys.executable, "-S", "-c", textwrap.dedent(code)]
        argv, more = NativeEngine().start(
            tool, argv, tmp_path / "work" / "logs", {}, metadata=False, memory=True
        )
        follower = Follower(tmp_path / "work" / "touched", admits, on_demand=True)
        try:
            subprocess.run(argv, env={**os.environ, **more}, check=True)
        finally:
            follower.close()
        return FaultLog(tmp_path / "work" / "touched")

    assert run(code).files == 0
    assert asked == [f"file://{__file__}"]  # once, though it is mapped twice
    found = run(f"{textwrap.dedent(code)}\ntouched({str(data)!r})")
    assert {uri for part in found.batches() for uri in part.column("uri").to_pylist()} == {f"file://{data}"}


@needs_faults
def test_threads_from_before_the_first_mapping_are_followed(data: Path, trace: Path, tmp_path: Path) -> None:
    program = """
        import mmap
        import sys
        import threading
        ready = threading.Event()
        def touch(page):
            ready.wait()
            pages[page * mmap.PAGESIZE]
        threads = [threading.Thread(target=touch, args=(page,)) for page in (100, 200, 300)]
        for thread in threads:
            thread.start()
        with open(sys.argv[1], "rb") as file:
            pages = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        pages.madvise(mmap.MADV_RANDOM)
        ready.set()
        for thread in threads:
            thread.join()
        pages[400 * mmap.PAGESIZE]
        late = threading.Thread(target=touch, args=(500,))
        late.start()
        late.join()
    """
    capture(tmp_path, trace, program, data)
    assert sorted(pages(rows(trace))) == [100, 200, 300, 400, 500]


@needs_faults
@pytest.mark.parametrize("library", ["safetensors", "pyarrow"])
def test_libraries_that_map_their_files_are_recorded(
    library: str, data: Path, trace: Path, tmp_path: Path
) -> None:
    pytest.importorskip(f"{library}.numpy" if library == "safetensors" else library)
    programs = {
        "safetensors": """
            import sys
            import numpy as np
            from safetensors import numpy, safe_open
            numpy.save_file({"x": np.arange(1 << 18)}, sys.argv[2])
            with safe_open(sys.argv[2], "numpy") as file:
                file.get_tensor("x").sum()
        """,
        "pyarrow": """
            import sys
            import pyarrow as pa
            with pa.OSFile(sys.argv[2], "w") as file:
                file.write(bytes(1 << 21))
            with pa.memory_map(sys.argv[2]) as file:
                sum(file.read_buffer(1 << 21).to_pybytes())
        """,
    }
    out = tmp_path / "made.bin"
    capture(tmp_path, trace, programs[library], data, out)
    found = [row for row in rows(trace) if row["uri"] == f"file://{out}"]
    assert found
    assert all(0 <= row["offset"] <= row["offset"] + row["bytes"] <= out.stat().st_size for row in found)


@needs_faults
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_pages_of_programs_are_left_out(trace: Path, tmp_path: Path) -> None:
    program = tmp_path / "cat"
    shutil.copy(shutil.which("cat") or "", program)
    command = [str(program), __file__]
    result = capture_command(command, trace, method="strace", include=[f"{tmp_path}/*", __file__])
    assert {row["uri"] for row in rows(trace, "true")} == {f"file://{__file__}"}
    assert not any("page faults" in note for note in result.notes)


@needs_faults
def test_they_can_be_left_out(data: Path, trace: Path, tmp_path: Path) -> None:
    result = capture(tmp_path, trace, TOUCH, data, faults=False)
    assert rows(trace, "fault IS NULL") and not rows(trace)
    assert any("reads through a mapping are not recorded" in note for note in result.notes)


@needs_faults
def test_a_kernel_that_refuses_is_said_with_its_reason() -> None:
    program = """
        import resource
        from tracekit.capture.faults.perf import reason_against
        resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4))
        print(reason_against())
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert "perf_event_open: Too many open files" in done.stdout, done.stderr


def test_a_log_that_is_absent_has_no_rows(tmp_path: Path) -> None:
    log = FaultLog(tmp_path / "absent")
    assert (list(log.batches()), log.lost) == ([], 0)
