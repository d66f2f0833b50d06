"""Local files read past the page cache, with O_DIRECT.

An aligned read goes straight into the caller's buffer. Any other is widened to whole
blocks in a scratch buffer and cut; the extra bytes are counted. A file system without
O_DIRECT is an error: nothing falls back to a buffered read.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tracekit.backends.base import Hint, Moved
from tracekit.backends.local.files import (
    Counters,
    aligned_buffer,
    aread_into,
    aread_whole,
    failure,
    open_for_reading,
    read_whole,
)
from tracekit.errors import BackendError, ErrorClass
from tracekit.uri import to_path

__all__ = ["Alignment", "DirectHandle", "alignment_of", "probe_folder"]

_SCRATCH_BYTES = 4 << 20
_AT_EMPTY_PATH = 0x1000
_STATX_DIOALIGN = 0x2000
_STATX_SIZE = 256
_DIO_ALIGN_AT = 152  # of stx_dio_mem_align and, after it, stx_dio_offset_align in struct statx
_scratch = threading.local()


@dataclass(frozen=True, slots=True)
class Alignment:
    """What O_DIRECT requires of offsets and lengths, and of memory: bytes, powers of two."""

    offset: int
    memory: int


class DirectHandle:
    """A file open with O_DIRECT: of `direct://`, or of `file://` in the mode `direct_io`."""

    open_hint: Hint | None = None
    fd = -1  # reads have to be aligned, so that nobody else can make them
    get = read_whole
    aread_into = aread_into
    aget = aread_whole

    def __init__(self, uri: str, counters: Counters) -> None:
        self.uri = uri
        self._counters = counters
        try:
            self._fd, self.size = open_for_reading(uri, os.O_DIRECT)
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise _no_o_direct(uri) from error
            raise failure(uri, error, "open") from error
        try:
            self.alignment = alignment_of(self._fd)
        except OSError as error:
            self.close()
            raise _no_o_direct(uri) from error

    def read_into(self, offset: int, buffer: memoryview) -> Moved:
        """Fill `buffer` from `offset` on, in place where alignment allows."""
        self._counters.add("direct_reads")
        done = 0
        try:
            while done < len(buffer):
                moved = self._read_some(offset + done, buffer[done:])
                done += moved
                if moved == 0 or (offset + done) % self.alignment.offset:
                    break  # O_DIRECT moves whole blocks but at the end of the file
        except OSError as error:
            raise failure(self.uri, error) from error
        return Moved(done)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _read_some(self, offset: int, buffer: memoryview) -> int:
        """Read with one preadv; return the bytes placed in `buffer`, 0 at the end of the file."""
        block = self.alignment.offset
        whole = len(buffer) - len(buffer) % block
        if whole == 0 or offset % block or _address(buffer) % self.alignment.memory:
            return self._read_widened(offset, buffer)
        if whole == len(buffer):
            return os.preadv(self._fd, (buffer,), offset)
        tail = _scratch_of(block)
        got = os.preadv(self._fd, (buffer[:whole], tail), offset)
        if got <= whole:
            return got
        self._counters.add("alignment_bytes", max(0, got - len(buffer)))
        wanted = min(got, len(buffer))
        buffer[whole:wanted] = tail[: wanted - whole]
        return wanted

    def _read_widened(self, offset: int, buffer: memoryview) -> int:
        """Read the whole blocks around the range into the scratch buffer, at most its size at once."""
        block = self.alignment.offset
        start = offset - offset % block
        ahead = offset - start
        room = max(_SCRATCH_BYTES, 2 * block)
        scratch = _scratch_of(min(-(-(ahead + len(buffer)) // block) * block, room))
        got = os.preadv(self._fd, (scratch,), start)
        wanted = max(0, min(got - ahead, len(buffer)))
        self._counters.add("alignment_bytes", got - wanted)
        buffer[:wanted] = scratch[ahead : ahead + wanted]
        return wanted


def alignment_of(fd: int) -> Alignment:
    """Return what O_DIRECT requires for this file: from statx (Linux 6.1 or later), else its block size.

    Raises OSError if statx says that the file does not support it. See statx(2), STATX_DIOALIGN.
    """
    reported = _statx_alignment(fd)
    if reported is not None:
        if not reported.offset or not reported.memory:
            raise OSError(errno.EINVAL, "no O_DIRECT")
        return reported
    size = os.fstat(fd).st_blksize
    block = size if 512 <= size <= 65_536 and size & (size - 1) == 0 else 4096
    return Alignment(block, block)


def _statx_alignment(fd: int) -> Alignment | None:
    statx = _statx()
    answer = ctypes.create_string_buffer(_STATX_SIZE)
    if statx is None or statx(fd, b"", _AT_EMPTY_PATH, _STATX_DIOALIGN, answer) != 0:
        return None
    (mask,) = struct.unpack_from("I", answer, 0)
    if not mask & _STATX_DIOALIGN:
        return None
    memory, offset = struct.unpack_from("II", answer, _DIO_ALIGN_AT)
    return Alignment(offset, memory)


@cache
def _statx() -> Any:
    return getattr(ctypes.CDLL(None), "statx", None)


def probe_folder(uri: str, folder: Path) -> None:
    """Try O_DIRECT with an unnamed file in `folder`, for a target that holds no file yet."""
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise _no_o_direct(uri) from error
        # Any other error means only that no file can be made here. Opening a real one will tell.


def _no_o_direct(uri: str) -> BackendError:
    return BackendError(
        f"the file system of {to_path(uri)} has no O_DIRECT",
        "use file:// with page_cache_mode=dontneed, or a disk file system such as ext4 or xfs",
        ErrorClass.UNSUPPORTED,
    )


def _address(buffer: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def _scratch_of(nbytes: int) -> memoryview:
    """This thread's aligned scratch buffer, grown to at least `nbytes`."""
    held: memoryview | None = getattr(_scratch, "buffer", None)
    if held is None or len(held) < nbytes:
        held = _scratch.buffer = aligned_buffer(nbytes)
    return held[:nbytes]
