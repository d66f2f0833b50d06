"""What `file://` and `direct://` share: listing, sizes, opening, whole writes, errors.

The two schemes differ only in how they read bytes, which is not done here.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import stat as stat_module
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from tracekit.backends.base import Handle, Moved, ObjectInfo
from tracekit.backends.local.beneath import EVERYWHERE, Fence
from tracekit.errors import BackendError, ErrorClass, UsageError
from tracekit.options import PAGE_CACHE_MODES
from tracekit.uri import from_path, to_path
from tracekit.validation import choosing

__all__ = [
    "Counters",
    "aligned_buffer",
    "allocation_failure",
    "aread_into",
    "aread_whole",
    "check_mode",
    "failure",
    "list_files",
    "make_file",
    "make_sparse",
    "open_for_reading",
    "preflight_path",
    "read_whole",
    "seeded_content",
    "stat_file",
    "write_whole",
]

MEMORY_ALIGNMENT = 4096
_CONTENT_CHUNK_BYTES = 1 << 20
_LEADS_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
"""Errors of a symbolic link to nothing, through a file, or to itself."""
_HINTS = {
    ErrorClass.NOT_FOUND: "check the path, or map it to where the data is",
    ErrorClass.PERMISSION: "run as a user with access",
    ErrorClass.EXISTS: "give overwrite=True, or choose another target",
}
_HINTS_BY_ERRNO = {
    errno.EMFILE: "raise `ulimit -n` or use fewer workers",
    errno.ENOSPC: "free some space, or choose another disk",
}


class Counters:
    """Named counts that several threads may add to; `values` holds them."""

    __slots__ = ("_lock", "values")

    def __init__(self, *names: str) -> None:
        self.values: dict[str, int] = dict.fromkeys(names, 0)
        self._lock = threading.Lock()

    def add(self, name: str, n: int = 1) -> None:
        with self._lock:
            self.values[name] = self.values.get(name, 0) + n


def failure(uri: str, error: OSError, doing: str = "read") -> BackendError:
    """Return `error` as a BackendError: one line, an error class, and a hint where there is one."""
    number = error.errno or errno.EIO
    kind = ErrorClass.from_errno(number)
    hint = _HINTS_BY_ERRNO.get(number) or _HINTS.get(kind, "")
    return BackendError(f"cannot {doing} {uri}: {os.strerror(number)}", hint, kind)


def check_mode(page_cache_mode: str) -> None:
    """Raise UsageError for an unknown page cache mode."""
    if page_cache_mode not in PAGE_CACHE_MODES:
        raise UsageError(
            f"unknown page_cache_mode={page_cache_mode!r}", choosing(page_cache_mode, PAGE_CACHE_MODES)
        )


def aligned_buffer(nbytes: int) -> memoryview:
    """Return a writable buffer at a page boundary, as O_DIRECT requires; it is not zeroed.

    Raises BackendError of class `out_of_memory` if there is no room for it.
    """
    try:
        room = np.empty(nbytes + MEMORY_ALIGNMENT, np.uint8)
    except (MemoryError, ValueError, OverflowError):  # numpy has an error of its own for each size
        raise allocation_failure(nbytes) from None
    start = -room.ctypes.data % MEMORY_ALIGNMENT
    return room.data[start : start + nbytes]


def allocation_failure(nbytes: int) -> BackendError:
    """Return the error for a buffer of `nbytes` bytes that cannot be allocated."""
    return BackendError(
        f"cannot allocate a buffer of {nbytes} bytes", "read less at once", ErrorClass.OUT_OF_MEMORY
    )


def open_for_reading(uri: str, flags: int = 0) -> tuple[int, int]:
    """Open a file or block device; return its descriptor and its size in bytes.

    Raises OSError if it cannot be opened, and BackendError for directories, pipes and sockets.
    """
    local = uri.startswith(("file:///", "direct:///"))
    path = uri.partition("://")[2] if local else to_path(uri)  # making a Path costs more than opening it
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags)
    except ValueError as error:  # no file name contains a NUL
        raise FileNotFoundError(errno.ENOENT, str(error)) from error
    except OSError as error:
        # With O_DIRECT, a directory or a pipe fails as a file system without O_DIRECT does.
        if error.errno == errno.EINVAL and _is_special(Path(path).stat().st_mode):
            raise _no_file(uri) from error
        raise
    try:
        status = os.fstat(descriptor)
        if _is_special(status.st_mode):
            raise _no_file(uri)
        if stat_module.S_ISBLK(status.st_mode):
            return descriptor, os.lseek(descriptor, 0, os.SEEK_END)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, status.st_size


def read_whole(handle: Handle, most: int | None = None) -> tuple[memoryview, Moved]:
    """Read the file of `handle` into a new buffer, at most its first `most` bytes."""
    buffer = aligned_buffer(handle.size if most is None else min(most, handle.size))
    moved = handle.read_into(0, buffer)
    return buffer[: moved.nbytes], moved


async def aread_whole(handle: Handle, most: int | None = None) -> tuple[memoryview, Moved]:
    """`get` of `handle` in a thread."""
    return await asyncio.to_thread(handle.get, most)


async def aread_into(handle: Handle, offset: int, buffer: memoryview) -> Moved:
    """`read_into` of `handle` in a thread."""
    return await asyncio.to_thread(handle.read_into, offset, buffer)


def preflight_path(uri: str) -> Path:
    """Return the local path of `uri`. Raises BackendError if it cannot be opened or listed."""
    path = to_path(uri)
    try:
        if path.is_dir():
            with os.scandir(path):
                return path
        os.close(open_for_reading(uri)[0])
    except OSError as error:
        raise failure(uri, error, "open") from error
    return path


def stat_file(uri: str, scheme: str) -> ObjectInfo:
    """Return URI and size of the file or block device at `uri`. Raises BackendError for anything else."""
    path = to_path(uri)
    try:
        status = path.stat()
        if stat_module.S_ISBLK(status.st_mode):
            descriptor, size = open_for_reading(uri)
            os.close(descriptor)
            return ObjectInfo(from_path(path, scheme), size)
    except OSError as error:
        raise failure(uri, error, "stat") from error
    if not stat_module.S_ISREG(status.st_mode):
        raise _no_file(uri)
    return ObjectInfo(from_path(path, scheme), status.st_size)


def list_files(uri: str, scheme: str, counters: Counters) -> Iterator[ObjectInfo]:
    """Yield every regular file at or below `uri`, in URI order; symbolic links are followed.

    Links that lead nowhere, to themselves or to one of their own parents are skipped and
    counted in `skipped_links`. Devices, sockets and pipes are left out.
    """
    path = to_path(uri)
    try:
        is_folder = stat_module.S_ISDIR(path.stat().st_mode)
    except OSError as error:
        raise failure(uri, error, "list") from error
    if not is_folder:
        yield stat_file(uri, scheme)
        return
    for found, size in _walk(os.path.abspath(path), scheme, counters, ()):
        yield ObjectInfo(f"{scheme}://{found}", size)


def write_whole(
    uri: str,
    chunks: Iterable[bytes | memoryview],
    size: int,
    *,
    overwrite: bool,
    sync: bool = True,
    fence: Fence = EVERYWHERE,
) -> int:
    """Write `chunks` to the file at `uri`, which appears whole or not at all; return its size.

    The file gets `size` bytes: where the chunks are shorter, the rest is a hole. With `sync`, data
    and name are on stable storage on return, and the data is out of the page cache. `fence` says where it may be.
    """
    path = to_path(uri)
    try:
        if not overwrite and path.exists():
            raise FileExistsError(errno.EEXIST, "already exists")
        with fence.parent(path, make=True) as (folder, name):
            aside = f".{name[:200]}.{secrets.token_hex(4)}.part"
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                file = os.open(aside, flags, 0o666, dir_fd=folder)
                try:
                    for chunk in chunks:
                        _write_all(file, memoryview(chunk).cast("B"))
                    os.ftruncate(file, size)
                    if sync:
                        os.fsync(file)
                        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(file)
                _give_name(folder, aside, name, overwrite=overwrite)
                if sync:
                    _fsync_folder(folder)
            finally:
                with contextlib.suppress(OSError):  # gone already, if it got its name
                    os.unlink(aside, dir_fd=folder)
    except OSError as error:
        raise failure(uri, error, "write") from error
    return size


def make_file(uri: str, size: int, *, seed: int, overwrite: bool = False, fence: Fence = EVERYWHERE) -> int:
    """Make a file of `size` bytes of seeded content, whole or not at all; return its size.

    Raises BackendError of class `exists` if it is there and `overwrite` is false.
    """
    return write_whole(uri, seeded_content(size, seed), size, overwrite=overwrite, fence=fence)


def make_sparse(uri: str, size: int, *, overwrite: bool = False, fence: Fence = EVERYWHERE) -> int:
    """Like `make_file`, but the file is a hole: it takes no space and reads as zeros."""
    return write_whole(uri, (), size, overwrite=overwrite, sync=False, fence=fence)


def seeded_content(size: int, seed: int, first: int = 0) -> Iterator[memoryview]:
    """Yield `size` incompressible bytes in chunks of 1 MiB, the same for the same seed.

    They are the bytes from `first`, a multiple of 1 MiB, of a longer content.
    """
    words = np.random.Philox(key=seed)
    words.advance(first // 32)  # of 32 bytes each
    random = np.random.Generator(words)
    for start in range(0, size, _CONTENT_CHUNK_BYTES):
        chunk = random.integers(0, 1 << 64, _CONTENT_CHUNK_BYTES // 8, dtype=np.uint64)
        yield chunk.view(np.uint8).data[: min(_CONTENT_CHUNK_BYTES, size - start)]


def _is_special(mode: int) -> bool:
    return not stat_module.S_ISREG(mode) and not stat_module.S_ISBLK(mode)


def _no_file(uri: str) -> BackendError:
    return BackendError(
        f"cannot read {uri}: not a file", "name a file, not a directory or a pipe", ErrorClass.UNSUPPORTED
    )


def _walk(
    folder: str, scheme: str, counters: Counters, parents: tuple[tuple[int, int], ...]
) -> Iterator[tuple[str, int]]:
    try:
        info = Path(folder).stat()
        if (info.st_dev, info.st_ino) in parents:
            counters.add("skipped_links")
            return
        with os.scandir(folder) as entries:
            # A folder sorts with its slash, so that the whole listing is in URI order.
            named = sorted(
                (entry.name + "/" if _is_dir(entry) else entry.name, entry.path) for entry in entries
            )
    except OSError as error:
        raise failure(f"{scheme}://{folder}", error, "list") from error
    for name, path in named:
        if name.endswith("/"):
            yield from _walk(path, scheme, counters, (*parents, (info.st_dev, info.st_ino)))
            continue
        try:
            found = Path(path).stat()
        except OSError as error:
            if error.errno == errno.ENOENT and not Path(path).is_symlink():
                continue  # deleted since the directory was read
            if error.errno not in _LEADS_NOWHERE:
                raise failure(f"{scheme}://{path}", error, "stat") from error
            counters.add("skipped_links")
            continue
        if stat_module.S_ISREG(found.st_mode):
            yield _nameable(path, scheme), found.st_size


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno not in _LEADS_NOWHERE:
            raise
        return False


def _nameable(path: str, scheme: str) -> str:
    try:
        path.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode(errors="replace")
        raise BackendError(
            f"{scheme}://{shown}: the name is not UTF-8", "rename the file", ErrorClass.UNSUPPORTED
        ) from None
    return path


def _write_all(descriptor: int, data: memoryview) -> None:
    while len(data):
        data = data[os.write(descriptor, data) :]


def _give_name(folder: int, aside: str, name: str, *, overwrite: bool) -> None:
    if overwrite:
        os.replace(aside, name, src_dir_fd=folder, dst_dir_fd=folder)
        return
    try:  # unlike a rename, this fails if the name has appeared meanwhile
        os.link(aside, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        with contextlib.suppress(FileNotFoundError):
            os.stat(name, dir_fd=folder)
            raise FileExistsError(errno.EEXIST, "already exists") from None
        os.replace(aside, name, src_dir_fd=folder, dst_dir_fd=folder)  # no hard links on this file system


def _fsync_folder(folder: int) -> None:
    opened = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=folder)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
