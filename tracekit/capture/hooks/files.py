"""Records Python file I/O: `tracekit.open`, and the opt-in patch of `open` and `os.pread`.

A recorded file is an `io.FileIO` below the usual buffers, so each row is a request to the
kernel, with its offset, length and time. What C code does with a descriptor (numpy's
`fromfile`, mmap) is not recorded here but by `tracekit capture`. Arguments that this module
does not know are passed to the built-in `open`.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import os
from collections.abc import Callable, Iterator
from stat import S_ISREG
from time import monotonic_ns
from types import ModuleType
from typing import IO, Any

from tracekit.capture import session as sessions
from tracekit.capture.outcome import error_class
from tracekit.capture.session import hook_failed, record
from tracekit.capture.writes import WRITE_KINDS

__all__ = ["RecordedFileIO", "install", "open", "uri_of_descriptor"]

_real_open = io.open
_readinto, _read, _readall, _write, _tell, _truncate = (
    io.FileIO.readinto, io.FileIO.read, io.FileIO.readall, io.FileIO.write, io.FileIO.tell, io.FileIO.truncate,
)  # fmt: skip
_ABILITIES: tuple[set[Any], ...] = (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks)
_MODES = frozenset("rwxab+t")


class RecordedFileIO(io.FileIO):
    """A raw file that records each read and write. It otherwise behaves like `io.FileIO`."""

    def __init__(
        self, file: Any, mode: str = "r", closefd: bool = True, opener: Any = None, uri: str | None = None
    ) -> None:
        super().__init__(file, mode, closefd, opener)
        if _known_fds:
            _known_fds.pop(super().fileno(), None)  # registered by an opener's os.open; this object closes it
        self._uri = uri
        self._handed_out = False

    def readinto(self, buffer: Any, /) -> int | None:
        uri = self._uri
        if uri is None:
            return _readinto(self, buffer)
        begin = _tell(self)
        submit = monotonic_ns()
        try:
            moved = _readinto(self, buffer)
        except OSError as error:
            self._failed("read", begin, memoryview(buffer).nbytes, submit, error)
            raise
        took = monotonic_ns() - submit
        asked = buffer.nbytes if type(buffer) is memoryview else memoryview(buffer).nbytes
        record(uri, begin, asked, submit, took, "read", moved)
        return moved

    def read(self, size: int | None = -1, /) -> bytes | None:  # type: ignore[override]
        return self._read(_read, size if isinstance(size, int) and size >= 0 else None, size)

    def readall(self) -> bytes | None:  # type: ignore[override]
        return self._read(_readall, None)

    def write(self, data: Any, /) -> int | None:  # type: ignore[override]
        if self._uri is None:
            return _write(self, data)
        begin = None if "a" in self.mode else _tell(self)
        submit = monotonic_ns()
        try:
            moved = _write(self, data)
        except OSError as error:
            self._failed("write", begin, memoryview(data).nbytes, submit, error)
            raise
        took = monotonic_ns() - submit
        if begin is None and moved is not None:
            begin = _tell(self) - moved  # the position of an append is known only afterwards
        record(self._uri, begin, memoryview(data).nbytes, submit, took, "write", moved)
        return moved

    def truncate(self, size: int | None = None, /) -> int:
        submit = monotonic_ns()
        try:
            left = _truncate(self, size)
        except OSError as error:
            self._failed("truncate", None, size, submit, error)
            raise
        if self._uri is not None:
            record(self._uri, None, left, submit, monotonic_ns() - submit, "truncate")
        return left

    def fileno(self) -> int:
        fd = super().fileno()
        if not self._handed_out:
            self._handed_out = True  # from now on the descriptor may be used directly
            _known_fds[fd] = self._uri
        return fd

    def close(self) -> None:
        if self._handed_out and not self.closed:
            _known_fds.pop(super().fileno(), None)
        super().close()

    def _read(self, call: Any, asked: int | None, *size: int | None) -> bytes | None:
        uri = self._uri
        if uri is None:
            return call(self, *size)  # type: ignore[no-any-return]
        begin = _tell(self)
        submit = monotonic_ns()
        try:
            data: bytes | None = call(self, *size)
        except OSError as error:
            self._failed("read", begin, asked, submit, error)
            raise
        took = monotonic_ns() - submit
        if data is not None:
            moved = len(data)
            record(uri, begin, moved if asked is None else asked, submit, took, "read", moved)
        return data

    def _failed(self, op: str, begin: int | None, length: int | None, submit: int, error: OSError) -> None:
        if self._uri is not None:
            took = monotonic_ns() - submit
            moved = 0 if op in WRITE_KINDS or op == "read" else None
            record(self._uri, begin, length, submit, took, op, moved, None, error_class(error))


def open(
    file: Any,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Callable[[str, int], int] | None = None,
) -> IO[Any]:
    """Open a file like the built-in `open`, and record its reads and writes while a capture is active."""
    uri = None
    if sessions.active() is not None and _plain(file, mode, buffering, encoding, errors, newline):
        try:
            name = os.fspath(file)
            uri = _admitted(os.path.abspath(os.fsdecode(name)))
        except Exception as error:  # noqa: BLE001 - the file is opened without recording
            hook_failed("files", error)
    if uri is None or opener is not None:
        opened = _real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        if _known_fds:
            _known_fds.pop(opened.fileno(), None)
        return opened
    submit = monotonic_ns()
    try:
        raw = RecordedFileIO(name, mode.replace("b", "").replace("t", ""), closefd, opener, uri)
    except OSError as error:
        if "r" in mode:
            record(uri, None, None, submit, monotonic_ns() - submit, "stat", None, None, error_class(error))
        raise
    return _buffered(raw, mode, buffering, encoding, errors, newline)


def install(_: ModuleType) -> Callable[[], None]:
    """Replace the built-in `open`, and record `os.read`, `os.pread` and related calls."""
    patches: list[tuple[Any, str, Any]] = [(builtins, "open", open), (io, "open", open)]
    patches += [(os, name, make(getattr(os, name))) for name, make in _OS_CALLS.items() if hasattr(os, name)]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in patches]
    for owner, name, new in patches:
        setattr(owner, name, new)
    for able in _ABILITIES:  # shutil asks them what a function accepts
        able.update(new for (_, _, new), (_, _, old) in zip(patches, before, strict=True) if old in able)

    def undo() -> None:
        for owner, name, old in before:
            setattr(owner, name, old)
        for able in _ABILITIES:
            able.difference_update(new for _, _, new in patches)
        _known_fds.clear()

    return undo


_known_fds: dict[int, str | None] = {}
"""Descriptor -> URI of the files opened here, until they are closed. Others are looked up in /proc."""


def _admitted(path: str) -> str | None:
    session = sessions.active()
    return None if session is None else session.admitted(path)


def _plain(
    file: Any, mode: Any, buffering: Any, encoding: str | None, errors: str | None, newline: str | None
) -> bool:
    """Whether `_buffered` treats the arguments as the built-in `open` does.

    All other arguments, including invalid ones, are passed to the built-in, which raises its own errors.
    """
    if not isinstance(mode, str) or not isinstance(file, (str, bytes, os.PathLike)):
        return False
    letters = set(mode)
    binary = "b" in letters
    return (
        len(letters) == len(mode)
        and letters <= _MODES
        and sum(letter in letters for letter in "rwxa") == 1
        and not (binary and "t" in letters)
        and isinstance(buffering, int)
        and (buffering != 0 or binary)
        and (buffering != 1 or not binary)
        and not (binary and (encoding is not None or errors is not None or newline is not None))
        and newline in (None, "", "\n", "\r", "\r\n")
    )


def _buffered(
    raw: RecordedFileIO,
    mode: str,
    buffering: int,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
) -> IO[Any]:
    """Wrap a raw file in the buffers that the built-in `open` uses."""
    result: Any = raw
    try:
        status = os.fstat(io.FileIO.fileno(raw))
        if not S_ISREG(status.st_mode):
            raw._uri = None  # a terminal, a pipe or a device is not storage
        line_buffering = buffering == 1 or (buffering < 0 and raw._uri is None and raw.isatty())
        if buffering < 0 or line_buffering:
            buffering = status.st_blksize if status.st_blksize > 1 else io.DEFAULT_BUFFER_SIZE
        if buffering == 0:
            return result  # type: ignore[no-any-return]
        if "+" in mode:
            result = io.BufferedRandom(raw, buffering)
        elif "r" in mode:
            result = io.BufferedReader(raw, buffering)
        else:
            result = io.BufferedWriter(raw, buffering)
        if "b" in mode:
            return result  # type: ignore[no-any-return]
        result = io.TextIOWrapper(result, io.text_encoding(encoding, 3), errors, newline, line_buffering)
        result.mode = mode
        return result  # type: ignore[no-any-return]
    except BaseException:
        result.close()
        raise


def uri_of_descriptor(fd: int) -> str | None:
    """The URI of a descriptor, or None if it is not a regular file or the filters exclude it."""
    try:
        return _known_fds[fd]
    except KeyError:
        pass
    session = sessions.active()
    if session is None:
        return None
    try:
        status = os.fstat(fd)
        known = session.resolved.get(fd)
        if known is not None and known[0] == status.st_dev and known[1] == status.st_ino:
            return known[2]
        path = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115 - no Path objects in host code
    except (OSError, TypeError):
        return None
    keep = S_ISREG(status.st_mode) and not path.endswith(" (deleted)")
    uri = session.admitted(path) if keep else None
    session.resolved[fd] = (status.st_dev, status.st_ino, uri)
    return uri


def _position_of(fd: int) -> int | None:
    try:
        return os.lseek(fd, 0, os.SEEK_CUR)
    except OSError:
        return None


def _record_open(real: Any) -> Any:
    def os_open(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        fd: int = real(path, flags, mode, dir_fd=dir_fd)
        try:
            _known_fds.pop(fd, None)
            _known_fds[fd] = uri_of_descriptor(fd)
        except Exception as error:  # noqa: BLE001 - the open itself has succeeded
            hook_failed("files", error)
        return fd

    return os_open


def _record_close(real: Any) -> Any:
    def os_close(fd: int) -> None:
        _known_fds.pop(fd, None)
        real(fd)

    return os_close


def _record_dup2(real: Any) -> Any:
    def os_dup2(fd: int, fd2: int, inheritable: bool = True) -> int:
        _known_fds.pop(fd2, None)
        return int(real(fd, fd2, inheritable))

    return os_dup2


def _record_closerange(real: Any) -> Any:
    def os_closerange(low: int, high: int, /) -> None:
        for fd in [fd for fd in _known_fds if low <= fd < high]:
            _known_fds.pop(fd, None)
        real(low, high)

    return os_closerange


def _nbytes(buffers: Any) -> int:
    return sum(memoryview(buffer).nbytes for buffer in buffers)


def _transfer(op: str, length: Callable[[Any], int], offset_at: int | None) -> Callable[[Any], Any]:
    """Return a function that wraps a call `(fd, what, [offset, ...])` which moves bytes."""

    def wrap(real: Any) -> Any:
        def call(fd: int, what: Any, *more: Any, **named: Any) -> Any:
            uri = uri_of_descriptor(fd) if sessions.active() is not None else None
            if uri is None:
                return real(fd, what, *more, **named)
            if offset_at is None:
                offset = _position_of(fd)
            else:
                offset = more[offset_at] if len(more) > offset_at else named.get("offset")
            submit = monotonic_ns()
            try:
                result = real(fd, what, *more, **named)
            except OSError as error:
                took = monotonic_ns() - submit
                record(uri, offset, length(what), submit, took, op, 0, None, error_class(error))
                raise
            took = monotonic_ns() - submit
            moved = result if isinstance(result, int) else len(result)
            record(uri, offset, length(what), submit, took, op, moved)
            return result

        call.__name__ = call.__qualname__ = real.__name__
        return call

    return wrap


def _record_fadvise(real: Any) -> Any:
    def posix_fadvise(fd: int, offset: int, length: int, advice: int, /) -> None:
        uri = uri_of_descriptor(fd) if sessions.active() is not None else None
        submit = monotonic_ns()
        real(fd, offset, length, advice)
        if uri is not None:
            record(uri, offset, length, submit, monotonic_ns() - submit, "hint")

    return posix_fadvise


def _record_sync(real: Any) -> Any:
    def sync(fd: Any) -> None:
        uri = None
        if sessions.active() is not None:
            uri = uri_of_descriptor(fd if isinstance(fd, int) else fd.fileno())
        with _timed(uri, "sync"):
            real(fd)

    return sync


def _record_ftruncate(real: Any) -> Any:
    def ftruncate(fd: int, length: int, /) -> None:
        uri = uri_of_descriptor(fd) if sessions.active() is not None else None
        with _timed(uri, "truncate", length):
            real(fd, length)

    return ftruncate


def _record_truncate(real: Any) -> Any:
    def truncate(path: Any, length: int) -> None:
        uri = uri_of_descriptor(path) if isinstance(path, int) else _uri_of_name(path)
        with _timed(uri, "truncate", length):
            real(path, length)

    return truncate


def _record_remove(real: Any) -> Any:
    def remove(path: Any, *, dir_fd: int | None = None) -> None:
        with _timed(_uri_of_name(path, dir_fd), "delete"):
            real(path, dir_fd=dir_fd)

    return remove


def _record_rename(real: Any) -> Any:
    def rename(src: Any, dst: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
        uri = _uri_of_name(src, src_dir_fd)
        to_uri = _uri_of_name(dst, dst_dir_fd, any_name=uri is not None)
        with _timed(uri, "rename", None, to_uri):
            real(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    return rename


def _record_sendfile(real: Any) -> Any:
    def sendfile(out_fd: int, in_fd: int, offset: int | None, count: int, *more: Any, **named: Any) -> Any:
        if sessions.active() is None:
            return real(out_fd, in_fd, offset, count, *more, **named)
        at_out = _position_of(out_fd)
        at_in = _position_of(in_fd) if offset is None else offset
        submit = monotonic_ns()
        moved = real(out_fd, in_fd, offset, count, *more, **named)
        _copied(in_fd, at_in, out_fd, at_out, count, submit, moved)
        return moved

    return sendfile


def _record_copy_range(real: Any) -> Any:
    def copy_file_range(
        src: int, dst: int, count: int, offset_src: int | None = None, offset_dst: int | None = None
    ) -> Any:
        if sessions.active() is None:
            return real(src, dst, count, offset_src, offset_dst)
        at_in = _position_of(src) if offset_src is None else offset_src
        at_out = _position_of(dst) if offset_dst is None else offset_dst
        submit = monotonic_ns()
        moved = real(src, dst, count, offset_src, offset_dst)
        _copied(src, at_in, dst, at_out, count, submit, moved)
        return moved

    return copy_file_range


def _copied(
    source: int, at: int | None, target: int, to: int | None, count: int, submit: int, moved: int
) -> None:
    """Record a copy inside the kernel: a read and a write."""
    took = monotonic_ns() - submit
    for fd, offset, kind in ((source, at, "read"), (target, to, "write")):
        uri = uri_of_descriptor(fd)
        if uri is not None:
            record(uri, offset, count, submit, took, kind, moved)


@contextlib.contextmanager
def _timed(
    uri: str | None, kind: str, length: int | None = None, to_uri: str | None = None
) -> Iterator[None]:
    """Record the call in the block, unless `uri` is None."""
    submit = monotonic_ns()
    failure = None
    try:
        yield
    except OSError as error:
        failure = error_class(error)
        raise
    finally:
        if uri is not None:
            took = monotonic_ns() - submit
            record(uri, None, length, submit, took, kind, None, None, failure, to_uri=to_uri)


def _uri_of_name(name: Any, dir_fd: int | None = None, *, any_name: bool = False) -> str | None:
    """The URI of a path that a call was given; None if it is not recorded. `any_name`: whatever the filters say."""
    if sessions.active() is None:
        return None
    try:
        path = os.fsdecode(name)
        if dir_fd is not None and not path.startswith("/"):
            path = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), path)  # noqa: PTH115
        path = os.path.abspath(path)
        return f"file://{path}" if any_name else _admitted(path)
    except Exception as error:  # noqa: BLE001 - the call is made without recording
        hook_failed("files", error)
        return None


_OS_CALLS: dict[str, Callable[[Any], Any]] = {
    "open": _record_open,
    "close": _record_close,
    "dup2": _record_dup2,
    "closerange": _record_closerange,
    "read": _transfer("read", int, None),
    "pread": _transfer("read", int, 0),
    "readv": _transfer("read", _nbytes, None),
    "preadv": _transfer("read", _nbytes, 0),
    "write": _transfer("write", lambda data: memoryview(data).nbytes, None),
    "pwrite": _transfer("write", lambda data: memoryview(data).nbytes, 0),
    "writev": _transfer("write", _nbytes, None),
    "pwritev": _transfer("write", _nbytes, 0),
    "posix_fadvise": _record_fadvise,
    "fsync": _record_sync,
    "fdatasync": _record_sync,
    "ftruncate": _record_ftruncate,
    "truncate": _record_truncate,
    "remove": _record_remove,
    "unlink": _record_remove,
    "rename": _record_rename,
    "replace": _record_rename,
    "sendfile": _record_sendfile,
    "copy_file_range": _record_copy_range,
}
