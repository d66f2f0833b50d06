"""Changes of local files: range writes, syncs, renames, copies, deletions, and uploads in parts."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import shutil

from tracekit.backends.local.files import Counters, failure
from tracekit.errors import BackendError, ErrorClass
from tracekit.uri import from_path, to_path

__all__ = ["LocalChanger", "LocalFileWriter"]

_BLOCK = 4096
"""Offsets, lengths and buffers of O_DIRECT writes are multiples of it."""


class LocalChanger:
    """Changes files of `file://`, or with `direct` of `direct://`. Thread-safe."""

    def __init__(self, counters: Counters, *, direct: bool = False) -> None:
        self._counters = counters
        self._direct = direct

    def prepare(self, uri: str) -> None:
        """Do nothing: local files need no connection."""

    def open_for_writing(self, uri: str) -> LocalFileWriter:
        return LocalFileWriter(uri, self._counters, direct=self._direct)

    def upload(self, uri: str) -> _LocalUpload:
        return _LocalUpload(uri, self._counters, direct=self._direct)

    def rename(self, uri: str, to_uri: str) -> None:
        try:
            target = to_path(to_uri)
            target.parent.mkdir(parents=True, exist_ok=True)
            to_path(uri).rename(target)
        except OSError as error:
            raise failure(uri, error, "rename") from error

    def copy(self, uri: str, to_uri: str) -> None:
        try:
            target = to_path(to_uri)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(to_path(uri), target)
        except shutil.SameFileError as error:
            raise BackendError(f"cannot copy {uri}: onto itself", "", ErrorClass.EXISTS) from error
        except OSError as error:
            raise failure(uri, error, "copy") from error

    def sync(self, uri: str) -> None:
        """Call fsync."""
        try:
            fd = os.open(to_path(uri), os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise failure(uri, error, "sync") from error

    def delete(self, uri: str) -> None:
        path = to_path(uri)
        try:
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink()
        except OSError as error:
            raise failure(uri, error, "delete") from error


class LocalFileWriter:
    """A file open for writing; with `direct`, whole blocks bypass the page cache.

    What is not a whole block goes through the page cache, and is counted in `buffered_write_bytes`.
    """

    def __init__(self, uri: str, counters: Counters, *, direct: bool) -> None:
        self.uri = uri
        self._counters = counters
        self._fds: list[int] = []
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        path = to_path(uri)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fds.append(os.open(path, flags, 0o666))
            if direct:
                self._fds.append(os.open(path, flags | os.O_DIRECT))
        except OSError as error:
            self.close()
            if direct and error.errno == errno.EINVAL:
                raise BackendError(
                    f"the file system of {path} has no O_DIRECT", "map to file://", ErrorClass.UNSUPPORTED
                ) from error
            raise failure(uri, error, "open") from error

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

    def __init__(self, uri: str, counters: Counters, *, direct: bool) -> None:
        self._path = to_path(uri)
        self._aside = self._path.with_name(f".{self._path.name[:200]}.{secrets.token_hex(4)}.part")
        self._file = LocalFileWriter(from_path(self._aside, "file"), counters, direct=direct)
        self._uri = uri

    def part(self, number: int, offset: int, data: memoryview) -> int:
        """Write the part to its place."""
        return self._file.write(offset, data)

    def complete(self) -> None:
        """Give the file its name."""
        self._file.close()
        try:
            self._aside.replace(self._path)
        except OSError as error:
            raise failure(self._uri, error, "complete") from error

    def abort(self) -> None:
        """Remove the file."""
        self._file.close()
        with contextlib.suppress(FileNotFoundError):
            self._aside.unlink()


def _write_all(fd: int, data: memoryview, offset: int) -> None:
    while len(data):
        done = os.pwrite(fd, data, offset)
        data, offset = data[done:], offset + done


def _address(data: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(data)) if len(data) else 0
