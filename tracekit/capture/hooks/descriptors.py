"""Records calls of `os` on descriptors and names: reads and writes, syncs, truncates, renames, removals, copies.

It keeps which descriptors the hooks know; `files` registers those that Python's own files hand out.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable, Iterator
from stat import S_ISREG
from time import monotonic_ns
from typing import Any

from tracekit.capture import session as sessions
from tracekit.capture.outcome import error_class
from tracekit.capture.session import hook_failed, record
from tracekit.copies import asked_of_copy
from tracekit.uri import renamed

__all__ = ["OS_CALLS", "admitted", "known_fds", "open_files", "uri_of_descriptor"]

known_fds: dict[int, str | None] = {}
"""Descriptor -> URI of the files opened here, until they are closed. Others are looked up in /proc."""


open_files: weakref.WeakSet[Any] = weakref.WeakSet()
"""The files of Python that record what they do, under the name in their `_uri`."""


def admitted(path: str) -> str | None:
    session = sessions.active()
    return None if session is None else session.admitted(path)


def uri_of_descriptor(fd: int) -> str | None:
    """The URI of a descriptor, or None if it is not a regular file or the filters exclude it."""
    try:
        return known_fds[fd]
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
    gone = path.endswith(" (deleted)") and not os.path.lexists(path)
    keep = S_ISREG(status.st_mode) and not gone
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
        submit = monotonic_ns()
        fd: int = real(path, flags, mode, dir_fd=dir_fd)
        took = monotonic_ns() - submit
        try:
            known_fds.pop(fd, None)
            known_fds[fd] = uri = uri_of_descriptor(fd)
            if flags & os.O_TRUNC and uri is not None:
                record(uri, None, 0, submit, took, "truncate")
        except Exception as error:  # noqa: BLE001 - the open itself has succeeded
            hook_failed("files", error)
        return fd

    return os_open


def _record_close(real: Any) -> Any:
    def os_close(fd: int) -> None:
        known_fds.pop(fd, None)
        real(fd)

    return os_close


def _record_dup2(real: Any) -> Any:
    def os_dup2(fd: int, fd2: int, inheritable: bool = True) -> int:
        known_fds.pop(fd2, None)
        return int(real(fd, fd2, inheritable))

    return os_dup2


def _record_closerange(real: Any) -> Any:
    def os_closerange(low: int, high: int, /) -> None:
        for fd in [fd for fd in known_fds if low <= fd < high]:
            known_fds.pop(fd, None)
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
        if uri is not None and to_uri is not None:
            _follow(uri, to_uri)

    return rename


def _follow(old: str, new: str) -> None:
    """Give what is open its new name, if it or a directory that it is in was renamed."""
    for fd, uri in list(known_fds.items()):
        known_fds[fd] = None if uri is None else renamed(uri, old, new)
    for file in list(open_files):
        file._uri = None if file._uri is None else renamed(file._uri, old, new)
    session = sessions.active()
    if session is not None:
        session.resolved.clear()  # others are looked up again in /proc


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
            record(uri, offset, asked_of_copy(count, moved), submit, took, kind, moved)


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
        return f"file://{path}" if any_name else admitted(path)
    except Exception as error:  # noqa: BLE001 - the call is made without recording
        hook_failed("files", error)
        return None


OS_CALLS: dict[str, Callable[[Any], Any]] = {
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
