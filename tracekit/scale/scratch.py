"""Directories for temporary files, which a later run removes if the process that made one was killed.

Whoever makes one holds a lock in it, which the kernel drops with the process and its children. Only a directory whose
lock file can be locked is removed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["LOCK_NAME", "scratch_directory"]

LOCK_NAME = ".tracekit-lock"


@contextmanager
def scratch_directory(prefix: str) -> Iterator[Path]:
    """Yield a new directory, and remove it at the end. Those of the same prefix that killed processes left go first."""
    _sweep(prefix)
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    lock = -1
    try:
        with suppress(OSError):  # no locks here: then nobody removes it but us
            lock = _locked(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock >= 0:
            os.close(lock)


def _locked(folder: Path) -> int:
    """Make the lock file of `folder`, which has its name only once it is locked; return its descriptor."""
    unnamed = folder / f"{LOCK_NAME}.new"
    lock = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unnamed.rename(folder / LOCK_NAME)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _sweep(prefix: str) -> None:
    """Remove the directories of this user that killed processes left."""
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with suppress(OSError):  # gone meanwhile, without a lock file, or in use
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                continue
            lock = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
