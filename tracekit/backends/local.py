"""What `file://` and `direct://` share: names, sizes, writing whole, and errors in one line."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from tracekit.backends.base import ObjectInfo
from tracekit.errors import BackendError
from tracekit.uri import to_path

__all__ = ["failure", "list_files", "make_sparse", "open_for_reading", "put_file", "stat_file"]

_CLASSES = {
    errno.ENOENT: "not_found",
    errno.ENOTDIR: "not_found",
    errno.EACCES: "permission",
    errno.EPERM: "permission",
    errno.ETIMEDOUT: "timeout",
    errno.EEXIST: "exists",
}
_HINTS = {
    "not_found": "check the path, or map it to where the data is",
    "permission": "run as a user who may read it",
    "exists": "overwriting has to be asked for",
}


def failure(uri: str, error: OSError, doing: str = "read") -> BackendError:
    """`error` as a BackendError with its stable class, in one line."""
    kind = _CLASSES.get(error.errno or 0, "io_error")
    return BackendError(
        f"cannot {doing} {uri}: {os.strerror(error.errno or errno.EIO)}", _HINTS.get(kind, ""), kind
    )


def open_for_reading(uri: str, flags: int = 0) -> tuple[int, int]:
    """A descriptor of the file and its size in bytes. Raises BackendError."""
    try:
        descriptor = os.open(to_path(uri), os.O_RDONLY | os.O_CLOEXEC | flags)
    except OSError as error:
        raise failure(uri, error, "open") from error
    status = os.fstat(descriptor)
    if not _readable(status.st_mode):
        os.close(descriptor)
        raise BackendError(f"cannot read {uri}: it is a directory", "name a file", "unsupported")
    # A block device has no st_size; its end is where seeking to the end leads.
    size = status.st_size or (0 if _regular(status.st_mode) else os.lseek(descriptor, 0, os.SEEK_END))
    return descriptor, size


def stat_file(uri: str) -> ObjectInfo:
    """Size of the file. Raises BackendError if there is none, or it is a directory."""
    try:
        status = to_path(uri).stat()
    except OSError as error:
        raise failure(uri, error, "stat") from error
    if not _readable(status.st_mode):
        raise BackendError(f"{uri} is a directory", "name a file", "unsupported")
    return ObjectInfo(uri, status.st_size)


def list_files(uri: str, scheme: str) -> Iterator[ObjectInfo]:
    """Every regular file under the directory (or the file itself), in order of their URIs.

    Links to files are followed, links to directories are not. Raises BackendError if
    there is nothing, or a directory cannot be read.
    """
    root = Path(os.path.abspath(to_path(uri)))
    if root.is_file():
        yield ObjectInfo(f"{scheme}://{root}", root.stat().st_size)
        return
    found: list[tuple[str, int]] = []
    pending = [str(root)]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    elif entry.is_file():
                        found.append((entry.path, entry.stat().st_size))
        except OSError as error:
            raise failure(f"{scheme}://{error.filename or root}", error, "list") from error
    for path, size in sorted(found):
        yield ObjectInfo(f"{scheme}://{path}", size)


def put_file(uri: str, data: bytes | memoryview, *, overwrite: bool) -> int:
    """Write the file so that it appears whole or not at all; bytes written.

    Raises BackendError, class `exists` if it is there and `overwrite` is false.
    """
    path = to_path(uri)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _publish(temporary, path, overwrite)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise failure(uri, error, "write") from error
    return len(data)


def make_sparse(uri: str, size: int, *, overwrite: bool = False) -> None:
    """A file of `size` bytes that takes no space: reads give zeros. Raises as `put_file`."""
    path = to_path(uri)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.truncate(size)
        _publish(temporary, path, overwrite)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise failure(uri, error, "write") from error


def _publish(temporary: Path, path: Path, overwrite: bool) -> None:
    if overwrite:
        temporary.replace(path)
    else:
        os.link(temporary, path)  # unlike rename, fails if the name is taken
        temporary.unlink()


def _regular(mode: int) -> bool:
    return (mode & 0o170000) == 0o100000


def _readable(mode: int) -> bool:
    return (mode & 0o170000) in (0o100000, 0o060000)  # a regular file or a block device
