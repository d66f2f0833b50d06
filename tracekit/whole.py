"""Makes files appear whole or not at all: they are written aside, synced and renamed.

A crash, a full disk or Ctrl-C never leaves half a file. This module imports nothing of tracekit.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["file_bytes", "fsync_dir", "is_stream", "whole_file"]

_STANDARD = {"/dev/stdout": 1, "/dev/stderr": 2}
_DESCRIPTORS = ("/dev/fd", "/proc/self/fd")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a path to write instead of `path`; it becomes `path` on a clean exit, and nothing otherwise.

    A stream (`is_stream`) is not replaced: it gets the content on a clean exit. An OSError that names
    no file, such as that of a full disk, or the yielded one, gets the name of `path`.
    """
    aside = path
    try:
        if is_stream(path):
            with tempfile.TemporaryDirectory(prefix="tracekit-") as folder:
                aside = Path(folder) / "out"
                yield aside
                _copy_to_stream(aside, path)
            return
        aside = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}.partial")
        try:
            yield aside
            _fsync(aside, os.O_RDONLY)
            aside.replace(path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        fsync_dir(path.parent)
    except OSError as error:
        if error.filename in (None, str(aside), aside) and not isinstance(error, BrokenPipeError):
            error.filename, error.filename2 = str(path), None
        raise


def is_stream(path: Path) -> bool:
    """Whether `path` is a standard stream, a pipe or a device, which is written to and cannot be replaced."""
    if _descriptor(path) is not None:
        return True
    return path.exists() and not path.is_file() and not path.is_dir()


def file_bytes(path: Path) -> bytes:
    """Return the content of a file. Raises OSError for a pipe or a device, too, which may have no end."""
    if is_stream(path):
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", str(path))
    return path.read_bytes()


def _descriptor(path: Path) -> int | None:
    """Return the descriptor of this process that `path` names, if it names one."""
    if str(path.parent) in _DESCRIPTORS and path.name.isdecimal():
        return int(path.name)
    return _STANDARD.get(str(path))


def _copy_to_stream(content: Path, path: Path) -> None:
    descriptor = _descriptor(path)
    opened = os.open(path, os.O_WRONLY) if descriptor is None else os.dup(descriptor)
    with content.open("rb") as source, open(opened, "wb") as stream:  # noqa: PTH123 - a descriptor
        shutil.copyfileobj(source, stream)


def fsync_dir(path: Path) -> None:
    """Make the names in directory `path` durable."""
    _fsync(path, os.O_RDONLY | os.O_DIRECTORY)


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
