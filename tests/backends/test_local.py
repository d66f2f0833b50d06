"""`file://` and `direct://` on a real disk."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracekit.backends.direct import DirectHandle, alignment_of
from tracekit.backends.file import FileHandle
from tracekit.backends.local import make_sparse
from tracekit.backends.registry import backend_for, known_schemes
from tracekit.errors import BackendError, UsageError

SIZE = 1_000_003


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("data") / "a.bin"
    content = np.random.default_rng(1).bytes(SIZE)
    path.write_bytes(content)
    return path, content


@pytest.mark.parametrize("scheme", ["file", "direct"])
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(offset=st.integers(0, SIZE + 5000), length=st.integers(0, 300_000))
def test_any_range_reads_exactly_its_bytes(
    scheme: str, data: tuple[Path, bytes], offset: int, length: int
) -> None:
    path, content = data
    backend = backend_for(f"{scheme}://{path}")
    handle = backend.open(f"{scheme}://{path}")
    buffer = backend.allocate(length)
    got, ttfb = handle.read_into(offset, buffer)
    handle.close()
    assert bytes(buffer[:got]) == content[offset : offset + length]
    assert ttfb is None


def test_unaligned_direct_reads_are_counted_with_the_bytes_that_they_cost(data: tuple[Path, bytes]) -> None:
    path, _ = data
    backend = backend_for("direct:///")
    handle = backend.open(f"direct://{path}")
    assert isinstance(handle, DirectHandle)
    block = handle.alignment.offset
    handle.read_into(0, backend.allocate(8 * block))
    assert backend.counters == {"direct_reads": 1, "alignment_bytes": 0}
    handle.read_into(1, backend.allocate(block))
    assert backend.counters == {"direct_reads": 2, "alignment_bytes": block}


def test_the_alignment_is_what_the_file_system_takes_and_less_is_refused(data: tuple[Path, bytes]) -> None:
    path, _ = data
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    alignment = alignment_of(descriptor)
    import mmap

    memory = memoryview(mmap.mmap(-1, 8192))
    assert os.preadv(descriptor, (memory[: alignment.offset],), alignment.offset) == alignment.offset
    with pytest.raises(OSError, match="Invalid argument"):
        os.preadv(descriptor, (memory[: alignment.offset // 2],), 0)
    os.close(descriptor)


def test_direct_reads_leave_nothing_in_the_page_cache(tmp_path: Path) -> None:
    import ctypes
    import mmap as mm

    path = tmp_path / "cold.bin"
    path.write_bytes(b"x" * (1 << 20))
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    backend = backend_for("direct:///")
    handle = backend.open(f"direct://{path}")
    got, _ = handle.read_into(0, backend.allocate(1 << 20))
    assert got == 1 << 20
    mapped = mm.mmap(descriptor, 1 << 20, prot=mm.PROT_READ)
    pages = (1 << 20) // mm.PAGESIZE
    resident = (ctypes.c_ubyte * pages)()
    address = np.frombuffer(mapped, np.uint8).__array_interface__["data"][0]
    assert ctypes.CDLL(None).mincore(ctypes.c_void_p(address), ctypes.c_size_t(1 << 20), resident) == 0
    assert sum(byte & 1 for byte in resident) < pages // 4
    os.close(descriptor)


@pytest.mark.parametrize("policy", ["fadvise_sequential", "fadvise_random"])
def test_a_policy_for_the_whole_file_is_one_counted_hint(data: tuple[Path, bytes], policy: str) -> None:
    backend = backend_for("file:///")
    handle = backend.open(f"file://{data[0]}", cache_policy=policy)
    handle.read_into(0, backend.allocate(4096))
    assert isinstance(handle, FileHandle)
    assert (handle.hints, backend.counters["hints_applied"]) == (1, 1)


def test_dontneed_is_a_counted_hint_after_each_read(data: tuple[Path, bytes]) -> None:
    backend = backend_for("file:///")
    handle = backend.open(f"file://{data[0]}", cache_policy="dontneed")
    for at in range(3):
        handle.read_into(at * 4096, backend.allocate(4096))
    assert backend.counters["hints_applied"] == 3


def test_direct_io_on_a_file_uri_reads_past_the_cache_and_is_counted(data: tuple[Path, bytes]) -> None:
    backend = backend_for("file:///")
    handle = backend.open(f"file://{data[0]}", cache_policy="direct_io")
    assert isinstance(handle, DirectHandle)
    handle.read_into(0, backend.allocate(4096))
    assert backend.counters["direct_reads"] == 1


@pytest.mark.parametrize("scheme", ["file", "direct"])
def test_what_cannot_be_read_is_one_line_with_its_class(scheme: str, tmp_path: Path) -> None:
    backend = backend_for(f"{scheme}:///")
    for uri, kind in [
        (f"{scheme}://{tmp_path}/none", "not_found"),
        (f"{scheme}://{tmp_path}", "unsupported"),
    ]:
        with pytest.raises(BackendError, match=str(tmp_path)) as caught:
            backend.open(uri)
        assert caught.value.error_class == kind
        assert "\n" not in str(caught.value)
    with pytest.raises(BackendError, match="No such file"):
        list(backend.list(f"{scheme}://{tmp_path}/none"))
    with pytest.raises(UsageError, match="fadvise_random"):
        backend.open(f"{scheme}://{tmp_path}/none", cache_policy="fadvise_rnd")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_a_file_without_permission_is_class_permission(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"x")
    path.chmod(0)
    child = os.fork()
    if child == 0:
        os.seteuid(65534)
        try:
            backend_for("file:///").open(f"file://{path}")
        except BackendError as error:
            os._exit(0 if error.error_class in ("permission", "not_found") else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_listing_is_recursive_and_in_order_of_uris(tmp_path: Path) -> None:
    for name in ("b/2", "a", "b/1", "c/d/e"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * 3)
    found = list(backend_for("file:///").list(f"file://{tmp_path}"))
    assert [info.uri for info in found] == [
        f"file://{tmp_path}/{name}" for name in ("a", "b/1", "b/2", "c/d/e")
    ]
    assert {info.size for info in found} == {3}


def test_put_appears_whole_refuses_to_overwrite_and_leaves_no_rest(tmp_path: Path) -> None:
    backend, uri = backend_for("file:///"), f"file://{tmp_path}/new/x"
    assert backend.put(uri, b"one") == 3
    with pytest.raises(BackendError) as caught:
        backend.put(uri, b"two")
    assert caught.value.error_class == "exists"
    assert (tmp_path / "new" / "x").read_bytes() == b"one"
    backend.put(uri, b"three", overwrite=True)
    assert (tmp_path / "new" / "x").read_bytes() == b"three"
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["x"]


def test_a_sparse_file_has_its_size_and_takes_no_space(tmp_path: Path) -> None:
    make_sparse(f"file://{tmp_path}/s", 1 << 30)
    status = (tmp_path / "s").stat()
    assert status.st_size == 1 << 30
    assert status.st_blocks * 512 < 1 << 20
    assert stat.S_ISREG(status.st_mode)
    with pytest.raises(BackendError):
        make_sparse(f"file://{tmp_path}/s", 5)


def test_an_unknown_scheme_names_itself_and_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"unknown scheme 'hdfs'.*file://, direct://, s3://, az://"):
        backend_for("hdfs://namenode/data?token=SECRET")
    assert known_schemes() == ("file", "direct", "s3", "az")


def test_preflight_says_whether_a_file_system_has_o_direct(tmp_path: Path) -> None:
    backend = backend_for("direct:///")
    backend.preflight(f"direct://{tmp_path}/not/yet/there")
    proc = Path("/proc/self/status")
    with pytest.raises(BackendError, match="O_DIRECT") as caught:
        backend.preflight(f"direct://{proc}")
    assert caught.value.error_class == "unsupported"
