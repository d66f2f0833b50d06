"""Gives parts of a file's disk space back while others have the file mapped."""

from __future__ import annotations

import ctypes
import errno
import os

__all__ = ["punch_hole"]

_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_libc = ctypes.CDLL(None, use_errno=True)


def punch_hole(file: int, offset: int, length: int) -> bool:
    """Free the blocks of the range, which reads as zeros from now on; False if the file system cannot."""
    mode = _KEEP_SIZE | _PUNCH_HOLE
    if _libc.fallocate(file, mode, ctypes.c_long(offset), ctypes.c_long(length)) == 0:
        return True
    if (number := ctypes.get_errno()) in (errno.EOPNOTSUPP, errno.ENOSYS):
        return False
    raise OSError(number, os.strerror(number))
