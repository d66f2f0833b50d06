"""`direct://`: bytes and counters; it never falls back to the page cache."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from properties import examples

from tracekit.backends.base import Backend, Moved
from tracekit.backends.local.backend import LocalBackend
from tracekit.backends.local.direct import DirectHandle
from tracekit.errors import BackendError, UsageError

SIZE = 1_000_003


@pytest.fixture(scope="module")
def blob(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("direct") / "blob"
    data = os.urandom(SIZE)
    path.write_bytes(data)
    try:
        LocalBackend("direct").preflight(f"direct://{path}")
    except BackendError as error:
        pytest.skip(str(error))
    return path, data


def block_of(path: Path) -> int:
    handle = LocalBackend("direct").open(f"direct://{path}")
    assert isinstance(handle, DirectHandle)
    handle.close()
    return handle.alignment.offset


def test_it_is_a_backend() -> None:
    checked: Backend = LocalBackend("direct")
    assert checked.scheme == "direct"


def test_buffers_are_page_aligned() -> None:
    for nbytes in (1, 511, 4096, 1 << 20):
        buffer = LocalBackend("direct").allocate(nbytes)
        assert len(buffer) == nbytes
        assert ctypes.addressof(ctypes.c_char.from_buffer(buffer)) % mmap.PAGESIZE == 0


@examples(150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    offset=st.integers(0, SIZE + 10_000),
    length=st.integers(0, 200_000),
    shift=st.integers(0, 4096),
    aligned=st.booleans(),
)
def test_any_range_into_any_memory_gives_the_file_s_bytes(
    blob: tuple[Path, bytes], offset: int, length: int, shift: int, aligned: bool
) -> None:
    path, data = blob
    backend = LocalBackend("direct")
    if aligned:
        offset -= offset % 4096
        shift = 0
    buffer = backend.allocate(length + shift)[shift:]
    handle = backend.open(f"direct://{path}")
    moved = handle.read_into(offset, buffer)
    count, first = moved.nbytes, moved.ttfb
    handle.close()
    assert first is None
    assert count == max(0, min(length, SIZE - offset))
    assert buffer[:count] == data[offset : offset + count]


def test_an_aligned_read_moves_no_byte_more(blob: tuple[Path, bytes]) -> None:
    path, data = blob
    backend = LocalBackend("direct")
    handle = backend.open(f"direct://{path}")
    buffer = backend.allocate(131_072)
    assert handle.read_into(65_536, buffer).nbytes == 131_072
    assert buffer == data[65_536 : 65_536 + 131_072]
    assert backend.counters == {"direct_reads": 1, "alignment_bytes": 0}
    handle.close()


def test_the_bytes_of_widening_are_counted(blob: tuple[Path, bytes]) -> None:
    path, _ = blob
    block = block_of(path)
    backend = LocalBackend("direct")
    handle = backend.open(f"direct://{path}")
    handle.read_into(block + 1, backend.allocate(10))
    assert backend.counters == {"direct_reads": 1, "alignment_bytes": block - 10}
    handle.read_into(0, backend.allocate(2 * block + 10))
    assert backend.counters == {"direct_reads": 2, "alignment_bytes": 2 * (block - 10)}
    handle.close()


def test_the_end_of_the_file_is_read_once(blob: tuple[Path, bytes]) -> None:
    path, data = blob
    backend = LocalBackend("direct")
    handle = backend.open(f"direct://{path}")
    buffer = backend.allocate(1 << 20)
    assert handle.read_into(0, buffer).nbytes == SIZE
    assert buffer[:SIZE] == data
    assert backend.counters == {"direct_reads": 1, "alignment_bytes": 0}
    handle.close()


def test_a_read_larger_than_the_scratch_buffer_is_whole(tmp_path: Path, blob: tuple[Path, bytes]) -> None:
    big = tmp_path / "big"
    data = os.urandom(9_000_001)
    big.write_bytes(data)
    backend = LocalBackend("direct")
    handle = backend.open(f"direct://{big}")
    buffer = backend.allocate(8_999_000)
    assert handle.read_into(777, buffer).nbytes == 8_999_000
    assert buffer == data[777 : 777 + 8_999_000]
    handle.close()


def test_cache_hints_have_no_object(blob: tuple[Path, bytes]) -> None:
    backend = LocalBackend("direct")
    handle = backend.open(f"direct://{blob[0]}", page_cache_mode="fadvise_random")
    assert handle.open_hint is None
    assert handle.read_into(0, backend.allocate(4096)) == Moved(4096)
    handle.close()


def test_a_file_system_without_o_direct_is_refused_in_one_line() -> None:
    uri = "direct:///proc/self/status"
    for call in (LocalBackend("direct").preflight, LocalBackend("direct").open):
        with pytest.raises(BackendError, match=r"no O_DIRECT .*file://") as caught:
            call(uri)
        assert caught.value.error_class == "unsupported"
        assert "\n" not in str(caught.value)
    with pytest.raises(BackendError, match="no O_DIRECT"):
        LocalBackend().open("file:///proc/self/status", page_cache_mode="direct_io")


def test_preflight_of_a_directory_tries_a_file_in_it(blob: tuple[Path, bytes], tmp_path: Path) -> None:
    LocalBackend("direct").preflight(f"direct://{blob[0].parent}")
    LocalBackend("direct").preflight(f"direct://{tmp_path}")
    with pytest.raises(BackendError, match="no O_DIRECT"):
        LocalBackend("direct").preflight("direct:///proc/sys/kernel")


def test_missing_files_are_not_found(tmp_path: Path) -> None:
    for call in (LocalBackend("direct").preflight, LocalBackend("direct").open, LocalBackend("direct").stat):
        with pytest.raises(BackendError) as caught:
            call(f"direct://{tmp_path}/missing")
        assert caught.value.error_class == "not_found"


def test_listing_stat_and_put_keep_the_scheme(tmp_path: Path) -> None:
    backend = LocalBackend("direct")
    uri = f"direct://{tmp_path}/a/b"
    assert backend.put(uri, b"12345") == 5
    assert backend.stat(uri).uri == uri
    assert [(info.uri, info.size) for info in backend.list(f"direct://{tmp_path}")] == [(uri, 5)]


def test_an_unknown_page_cache_mode_is_refused(blob: tuple[Path, bytes]) -> None:
    with pytest.raises(UsageError, match="unknown"):
        LocalBackend("direct").open(f"direct://{blob[0]}", page_cache_mode="nope")


def test_the_alignment_is_what_the_file_system_takes_and_less_is_refused(blob: tuple[Path, bytes]) -> None:
    handle = LocalBackend("direct").open(f"direct://{blob[0]}")
    assert isinstance(handle, DirectHandle)
    for block in (handle.alignment.memory, handle.alignment.offset):
        assert block > 0
        assert block & (block - 1) == 0
    memory = LocalBackend("direct").allocate(2 * handle.alignment.offset)
    fd = os.open(blob[0], os.O_RDONLY | os.O_DIRECT)
    assert os.preadv(fd, (memory,), handle.alignment.offset) == len(memory)
    with pytest.raises(OSError, match="Invalid argument"):
        os.preadv(fd, (memory[: handle.alignment.offset // 2],), 0)
    os.close(fd)
    handle.close()
