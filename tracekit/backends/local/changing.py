"""Changes of local files: range writes, syncs, renames, copies, deletions, and uploads in parts."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator

from tracekit.backends.local.beneath import EVERYWHERE, Fence
from tracekit.backends.local.files import Counters, failure
from tracekit.errors import BackendError, ErrorClass
from tracekit.uri import to_path

__all__ = ["LocalChanger", "LocalFileWriter"]

_COPY_BYTES = 1 << 20
_BLOCK = 4096
"""Offsets, lengths and buffers of O_DIRECT writes are multiples of it."""


class LocalChanger:
    """Changes files of `file://`, or with `direct` of `direct://`. Thread-safe."""

    def __init__(self, counters: Counters, *, direct: bool = False, fence: Fence = EVERYWHERE) -> None:
        self._counters = counters
        self._direct = direct
        self.fence = fence

    def prepare(self, uri: str) -> None:
        """Do nothing: local files need no connection."""

    def open_for_writing(self, uri: str) -> LocalFileWriter:
        with _failing(uri, "open"), self.fence.parent(to_path(uri), make=True):
            pass
        return LocalFileWriter(
            uri, lambda flags: self.fence.open(to_path(uri), flags), self._counters, direct=self._direct
        )

    def upload(self, uri: str) -> _LocalUpload:
        return _LocalUpload(uri, self._counters, self.fence, direct=self._direct)

    def rename(self, uri: str, to_uri: str) -> None:
        with (
            _failing(uri, "rename"),
            self.fence.parent(to_path(uri)) as (folder, name),
            self.fence.parent(to_path(to_uri), make=True) as (to_folder, to_name),
        ):
            os.rename(name, to_name, src_dir_fd=folder, dst_dir_fd=to_folder)

    def copy(self, uri: str, to_uri: str) -> None:
        with _failing(uri, "copy"), to_path(uri).open("rb") as source:
            with self.fence.parent(to_path(to_uri), make=True):
                pass
            target = self.fence.open(to_path(to_uri), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
            with open(target, "wb") as copied:  # noqa: PTH123 - a descriptor
                if os.path.sameopenfile(source.fileno(), copied.fileno()):
                    return  # a store gives an object that is copied onto itself new metadata only
                copied.truncate(0)
                shutil.copyfileobj(source, copied, _COPY_BYTES)

    def sync(self, uri: str) -> None:
        """Call fsync."""
        with _failing(uri, "sync"):
            fd = os.open(to_path(uri), os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def delete(self, uri: str) -> None:
        with _failing(uri, "delete"), self.fence.parent(to_path(uri)) as (folder, name):
            if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                os.rmdir(name, dir_fd=folder)
            else:
                os.unlink(name, dir_fd=folder)


@contextlib.contextmanager
def _failing(uri: str, doing: str) -> Iterator[None]:
    """Raise what the system says as a BackendError."""
    try:
        yield
    except OSError as error:
        raise failure(uri, error, doing) from error


class LocalFileWriter:
    """A file open for writing; with `direct`, whole blocks bypass the page cache.

    What is not a whole block goes through the page cache, and is counted in `buffered_write_bytes`.
    """

    def __init__(self, uri: str, opened: Callable[[int], int], counters: Counters, *, direct: bool) -> None:
        self.uri = uri
        self._counters = counters
        self._fds: list[int] = []
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        try:
            self._fds.append(opened(flags))
            if direct:
                self._fds.append(opened(flags | os.O_DIRECT))
        except OSError as error:
            self.close()
            if direct and error.errno == errno.EINVAL:
                raise BackendError(
                    f"the file system of {to_path(uri)} has no O_DIRECT",
                    "map to file://",
                    ErrorClass.UNSUPPORTED,
                ) from error
            raise failure(uri, error, "open") from error

    @property
    def descriptors(self) -> tuple[int, int]:
        """The file's descriptor, and the one with O_DIRECT; -1 for none."""
        return self._fds[0], self._fds[1] if len(self._fds) > 1 else -1

    def write(self, offset: int, data: memoryview) -> int:
        """Write `data` at byte `offset`."""
        try:
            if len(self._fds) == 1:
                _write_all(self._fds[0], data, offset)
            else:
                self._write_direct(offset, data)
        except OSError as error:
            raise failure(self.uri, error, "write") from error
        return len(data)

    def truncate(self, size: int) -> None:
        """Set the size."""
        try:
            os.ftruncate(self._fds[0], size)
        except (OSError, OverflowError) as error:
            if isinstance(error, OverflowError):
                error = OSError(errno.EFBIG, os.strerror(errno.EFBIG))
            raise failure(self.uri, error, "truncate") from error

    def close(self) -> None:
        fds, self._fds = self._fds, []
        for fd in fds:
            os.close(fd)

    def _write_direct(self, offset: int, data: memoryview) -> None:
        buffered, direct = self._fds
        first, last = -(-offset // _BLOCK) * _BLOCK, (offset + len(data)) // _BLOCK * _BLOCK
        head = first - offset
        if first >= last or _address(data) + head & (_BLOCK - 1):
            self._counters.add("buffered_write_bytes", len(data))
            _write_all(buffered, data, offset)
            return
        rest = offset + len(data) - last
        _write_all(buffered, data[:head], offset)
        _write_all(direct, data[head : len(data) - rest], first)
        _write_all(buffered, data[len(data) - rest :], last)
        self._counters.add("buffered_write_bytes", head + rest)


class _LocalUpload:
    """Parts as ranges of a file beside the target, which takes its name when they are complete."""

    def __init__(self, uri: str, counters: Counters, fence: Fence, *, direct: bool) -> None:
        self._uri = uri
        self._held = contextlib.ExitStack()
        with _failing(uri, "open"):
            self._folder, self._name = self._held.enter_context(fence.parent(to_path(uri), make=True))
        self._aside = f".{self._name[:200]}.{secrets.token_hex(4)}.part"
        self._ends: dict[int, int] = {}
        try:
            self._file = LocalFileWriter(uri, self._opened, counters, direct=direct)
        except BaseException:
            self._held.close()
            raise

    def _opened(self, flags: int) -> int:
        return os.open(self._aside, flags | os.O_NOFOLLOW, 0o666, dir_fd=self._folder)

    def part(self, number: int, offset: int, data: memoryview) -> int:
        """Write the part to its place; one with the same number is replaced, also by a shorter one."""
        self._ends[number] = offset + len(data)
        return self._file.write(offset, data)

    def complete(self) -> None:
        """Give the file its size and its name."""
        self._file.truncate(max(self._ends.values(), default=0))
        with _failing(self._uri, "complete"):
            os.replace(self._aside, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            self._file.close()
        self._held.close()

    def abort(self) -> None:
        """Remove the file."""
        self._file.close()
        with self._held, contextlib.suppress(FileNotFoundError):
            os.unlink(self._aside, dir_fd=self._folder)


def _write_all(fd: int, data: memoryview, offset: int) -> None:
    while len(data):
        done = os.pwrite(fd, data, offset)
        data, offset = data[done:], offset + done


def _address(data: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(data)) if len(data) else 0
