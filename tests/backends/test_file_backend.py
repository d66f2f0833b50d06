"""`file://` on real files: bytes, hints, listing order, whole writes, errors of one line."""

from __future__ import annotations

import asyncio
import ctypes
import mmap
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tracekit.backends.base import Backend, Moved
from tracekit.backends.local.backend import LocalBackend
from tracekit.backends.local.files import make_file, make_sparse, seeded_content
from tracekit.errors import BackendError, UsageError

PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_pages(path: Path) -> int:
    """Return the number of the file's pages in the page cache (mincore)."""
    size = path.stat().st_size
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) as mapped:
        held = (ctypes.c_ubyte * -(-size // PAGE))()
        window = (ctypes.c_char * size).from_buffer(mapped)
        assert ctypes.CDLL(None).mincore(ctypes.byref(window), ctypes.c_size_t(size), held) == 0
        del window
        return sum(page & 1 for page in held)


@pytest.fixture
def backend() -> LocalBackend:
    return LocalBackend()


@pytest.fixture
def blob(tmp_path: Path) -> tuple[Path, bytes]:
    data = os.urandom(100_003)
    path = tmp_path / "blob"
    path.write_bytes(data)
    os.sync()
    return path, data


def test_it_is_a_backend(backend: LocalBackend) -> None:
    checked: Backend = backend
    assert checked.scheme == "file"


@pytest.mark.parametrize(("offset", "length"), [(0, 100_003), (0, 0), (1, 4095), (99_999, 4), (4096, 8192)])
def test_a_read_fills_the_buffer_from_the_offset(
    backend: LocalBackend, blob: tuple[Path, bytes], offset: int, length: int
) -> None:
    path, data = blob
    handle = backend.open(f"file://{path}")
    buffer = backend.allocate(length)
    assert handle.size == len(data)
    assert handle.read_into(offset, buffer) == Moved(length)
    assert buffer == data[offset : offset + length]
    handle.close()
    handle.close()


@pytest.mark.parametrize("offset", [99_000, 100_003, 200_000])
def test_a_read_past_the_end_is_short_and_not_an_error(
    backend: LocalBackend, blob: tuple[Path, bytes], offset: int
) -> None:
    path, data = blob
    handle = backend.open(f"file://{path}")
    buffer = backend.allocate(8192)
    count = handle.read_into(offset, buffer).nbytes
    assert count == max(0, len(data) - offset)
    assert buffer[:count] == data[offset:]
    handle.close()


def test_many_threads_may_read_one_handle(backend: LocalBackend, blob: tuple[Path, bytes]) -> None:
    path, data = blob
    handle = backend.open(f"file://{path}", page_cache_mode="dontneed")
    wrong: list[int] = []

    def read(start: int) -> None:
        buffer = backend.allocate(1000)
        for offset in range(start, 90_000, 7919):
            if handle.read_into(offset, buffer).nbytes != 1000 or buffer != data[offset : offset + 1000]:
                wrong.append(offset)

    threads = [threading.Thread(target=read, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    handle.close()
    assert not wrong
    reads = sum(len(range(n, 90_000, 7919)) for n in range(8))
    assert backend.counters["hints_applied"] == reads + 1


@pytest.mark.parametrize(
    ("policy", "kind"), [("fadvise_sequential", "sequential"), ("fadvise_random", "random")]
)
def test_a_mode_gives_one_hint_for_the_whole_file_at_open(
    backend: LocalBackend, blob: tuple[Path, bytes], policy: str, kind: str
) -> None:
    path, data = blob
    handle = backend.open(f"file://{path}", page_cache_mode=policy)
    hint = handle.open_hint
    assert hint is not None
    assert (hint.kind, hint.offset, hint.length) == (kind, 0, len(data))
    assert handle.read_into(0, backend.allocate(10)) == Moved(10)
    assert backend.counters["hints_applied"] == 1
    handle.close()


def test_the_default_mode_gives_no_hint(backend: LocalBackend, blob: tuple[Path, bytes]) -> None:
    handle = backend.open(f"file://{blob[0]}")
    handle.read_into(0, backend.allocate(10))
    assert backend.counters["hints_applied"] == 0
    handle.close()


def test_dontneed_drops_the_file_at_open_and_each_read_after_it(
    backend: LocalBackend, blob: tuple[Path, bytes]
) -> None:
    path, _ = blob
    path.read_bytes()
    assert resident_pages(path) > 0
    handle = backend.open(f"file://{path}", page_cache_mode="dontneed")
    assert resident_pages(path) == 0
    moved = handle.read_into(5000, backend.allocate(100))
    hint = moved.hint
    assert moved.nbytes == 100
    assert hint is not None
    assert (hint.kind, hint.offset, hint.length) == ("dontneed", 4096, 4096)
    assert backend.counters["hints_applied"] == 2
    handle.close()


def test_a_random_hint_stops_the_kernel_from_reading_ahead(
    backend: LocalBackend, blob: tuple[Path, bytes]
) -> None:
    path, _ = blob
    backend.open(f"file://{path}", page_cache_mode="dontneed").close()
    handle = backend.open(f"file://{path}", page_cache_mode="fadvise_random")
    handle.read_into(0, backend.allocate(100))
    assert resident_pages(path) == 1
    handle.close()


def test_direct_io_on_a_file_uri_bypasses_the_page_cache(
    backend: LocalBackend, blob: tuple[Path, bytes]
) -> None:
    path, data = blob
    backend.open(f"file://{path}", page_cache_mode="dontneed").close()
    handle = backend.open(f"file://{path}", page_cache_mode="direct_io")
    buffer = backend.allocate(len(data))
    assert handle.read_into(0, buffer).nbytes == len(data)
    assert buffer == data
    assert backend.counters["direct_reads"] == 1
    assert resident_pages(path) == 0
    handle.close()


def test_an_unknown_page_cache_mode_is_refused_with_the_known_ones(
    backend: LocalBackend, blob: tuple[Path, bytes]
) -> None:
    with pytest.raises(UsageError, match=r"page_cache_mode='willneed' .*fadvise_random"):
        backend.open(f"file://{blob[0]}", page_cache_mode="willneed")


def test_a_listing_is_recursive_and_in_uri_order(backend: LocalBackend, tmp_path: Path) -> None:
    for name in ("b/x", "a.txt", "a/z", "a/b/c", "a-1", "a0", "ü?#%"):
        path = tmp_path / "d" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    os.mkfifo(tmp_path / "d" / "pipe")
    (tmp_path / "d" / "dangling").symlink_to("nowhere")
    (tmp_path / "d" / "loop").symlink_to(tmp_path / "d")
    listed = list(backend.list(f"file://{tmp_path}/d"))
    uris = [info.uri for info in listed]
    assert uris == sorted(uris)
    assert len(uris) == 7
    assert all(Path(info.uri.removeprefix("file://")).stat().st_size == info.size for info in listed)
    assert [info.uri for info in backend.list(f"file://{tmp_path}/d/a0")] == [f"file://{tmp_path}/d/a0"]


def test_a_file_name_that_is_not_utf_8_is_refused(backend: LocalBackend, tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff")).write_bytes(b"")
    with pytest.raises(BackendError, match="not UTF-8") as caught:
        list(backend.list(f"file://{tmp_path}"))
    str(caught.value).encode()


def test_a_missing_file_is_not_found_everywhere(backend: LocalBackend, tmp_path: Path) -> None:
    uri = f"file://{tmp_path}/missing"
    for call in (backend.open, backend.stat, backend.preflight, lambda uri: list(backend.list(uri))):
        with pytest.raises(BackendError, match="missing: No such file") as caught:
            call(uri)
        assert caught.value.error_class == "not_found"


def test_an_unreadable_file_has_the_class_permission(blob: tuple[Path, bytes]) -> None:
    blob[0].chmod(0)
    code = (
        "import os, sys\n"
        "from tracekit.backends.local.backend import LocalBackend; from tracekit.errors import BackendError\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "try: LocalBackend().open(sys.argv[1])\n"
        "except BackendError as error: print(error.error_class)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, f"file://{blob[0]}"], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "permission", done.stderr


def test_directories_and_pipes_cannot_be_read(backend: LocalBackend, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("", "/pipe"):
        for call in (backend.open, backend.stat):
            with pytest.raises(BackendError, match="not a file") as caught:
                call(f"file://{tmp_path}{name}")
            assert caught.value.error_class == "unsupported"


def test_preflight_takes_a_file_or_a_directory(backend: LocalBackend, blob: tuple[Path, bytes]) -> None:
    backend.preflight(f"file://{blob[0]}")
    backend.preflight(f"file://{blob[0].parent}")


def test_put_creates_folders_and_refuses_an_existing_file(backend: LocalBackend, tmp_path: Path) -> None:
    uri = f"file://{tmp_path}/new/folder/object"
    assert backend.put(uri, b"first") == 5
    with pytest.raises(BackendError) as caught:
        backend.put(uri, b"second")
    assert caught.value.error_class == "exists"
    assert backend.stat(uri).size == 5
    assert backend.put(uri, memoryview(b"second"), overwrite=True) == 6
    assert [path.name for path in (tmp_path / "new/folder").iterdir()] == ["object"]


def test_a_put_that_fails_leaves_nothing(backend: LocalBackend, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BackendError):
        backend.put(f"file://{tmp_path}/file/below", b"data")
    (tmp_path / "taken").mkdir()
    with pytest.raises(BackendError):
        backend.put(f"file://{tmp_path}/taken", b"data", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken"]


def test_a_sparse_file_has_its_size_and_takes_no_space(tmp_path: Path) -> None:
    uri = f"file://{tmp_path}/sparse"
    assert make_sparse(uri, 1 << 40) == 1 << 40
    found = (tmp_path / "sparse").stat()
    assert (found.st_size, found.st_blocks) == (1 << 40, 0)
    with pytest.raises(BackendError) as caught:
        make_sparse(uri, 10)
    assert caught.value.error_class == "exists"


def test_seeded_content_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    size = (1 << 20) + 12_345
    make_file(f"file://{tmp_path}/a", size, seed=7)
    make_file(f"file://{tmp_path}/b", size, seed=7)
    make_file(f"file://{tmp_path}/c", size, seed=8)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert len(a) == size
    assert a == b != c
    assert b"".join(bytes(chunk) for chunk in seeded_content(size, 7)) == a
    assert len(set(a[:4096])) > 200


def test_a_name_with_a_nul_byte_is_not_found(backend: LocalBackend) -> None:
    with pytest.raises(BackendError) as caught:
        backend.open("file:///a\0b")
    assert caught.value.error_class == "not_found"
    for ask in (backend.stat, backend.preflight, lambda uri: list(backend.list(uri))):
        with pytest.raises(UsageError, match="NUL"):
            ask("file:///a\0b")


@pytest.mark.parametrize("nbytes", [1 << 61, (1 << 63) - 1, 1 << 64])
def test_a_buffer_larger_than_memory_is_an_error_with_a_class(backend: LocalBackend, nbytes: int) -> None:
    with pytest.raises(BackendError, match="cannot allocate") as caught:
        backend.allocate(nbytes)
    assert caught.value.error_class == "out_of_memory"


def test_a_whole_file_is_read_up_to_a_limit_in_threads_and_on_a_loop(
    backend: LocalBackend, blob: tuple[Path, bytes]
) -> None:
    path, data = blob
    handle = backend.open(f"file://{path}")
    for most in (None, 0, 1, 5000, len(data) + 1):
        got, moved = handle.get(most)
        assert (bytes(got), moved) == (data[:most], Moved(len(data[:most])))
        assert bytes(asyncio.run(handle.aget(most))[0]) == data[:most]
    buffer = backend.allocate(10)
    assert asyncio.run(handle.aread_into(3, buffer)) == Moved(10)
    assert bytes(buffer) == data[3:13]
    handle.close()
