"""`direct://`: local files past the page cache, by O_DIRECT, and never any other way.

A read whose offset, length and memory are aligned goes straight into the caller's
buffer; any other is widened to whole blocks in a scratch buffer, sliced, and its extra
bytes counted. A file system without O_DIRECT is an error, never a buffered read.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tracekit.backends.base import Hint, ObjectInfo
from tracekit.backends.local.files import (
    Counters,
    aligned_buffer,
    check_policy,
    failure,
    list_files,
    open_for_reading,
    preflight_path,
    stat_file,
    write_whole,
)
from tracekit.errors import BackendError, ErrorClass, UsageError
from tracekit.uri import to_path

__all__ = ["Alignment", "DirectBackend", "DirectHandle", "alignment_of", "backend"]

_SCRATCH_BYTES = 4 << 20
_AT_EMPTY_PATH = 0x1000
_STATX_DIOALIGN = 0x2000
_STATX_SIZE = 256
_DIO_ALIGN_AT = 152  # of stx_dio_mem_align and, after it, stx_dio_offset_align in struct statx
_scratch = threading.local()


class DirectBackend:
    """Local files read with O_DIRECT. Thread-safe.

    Counts `direct_reads` and `alignment_bytes` (read beyond what was asked, to whole blocks).
    """

    scheme = "direct"

    def __init__(self) -> None:
        self._counters = Counters("direct_reads", "alignment_bytes")
        self.counters = self._counters.values

    def preflight(self, uri: str) -> None:
        """Raise BackendError if `uri` is not there or its file system has no O_DIRECT."""
        path = preflight_path(uri)
        if not path.is_dir():
            self.open(uri).close()
            return
        first = next(list_files(uri, self.scheme), None)
        if first is None:
            _probe_folder(uri, path)
        else:
            self.open(first.uri).close()

    def list(self, uri: str) -> Iterator[ObjectInfo]:
        return list_files(uri, self.scheme)

    def stat(self, uri: str) -> ObjectInfo:
        return stat_file(uri, self.scheme)

    def open(self, uri: str, *, cache_policy: str = "default") -> DirectHandle:
        """Open with O_DIRECT. Cache hints have no object here and none is applied."""
        check_policy(cache_policy)
        return DirectHandle(uri, self._counters)

    def put(self, uri: str, data: bytes | memoryview, *, overwrite: bool = False) -> int:
        """Write the whole file; it is synced and dropped from the page cache."""
        return write_whole(uri, (data,), memoryview(data).nbytes, overwrite=overwrite)

    def allocate(self, nbytes: int) -> memoryview:
        return aligned_buffer(nbytes)

    def close(self) -> None:
        """Nothing is held: handles are their openers' to close."""


@dataclass(frozen=True, slots=True)
class Alignment:
    """What O_DIRECT demands of offsets and lengths, and of memory: bytes, powers of two."""

    offset: int
    memory: int


class DirectHandle:
    """A file open with O_DIRECT; also what `file://` gives for the policy `direct_io`.

    `fd` and `alignment` are for engines that read it themselves.
    """

    open_hint: Hint | None = None

    def __init__(self, uri: str, counters: Counters) -> None:
        self.uri = uri
        self._counters = counters
        try:
            self.fd, self.size = open_for_reading(uri, os.O_DIRECT)
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise _no_o_direct(uri) from error
            raise failure(uri, error, "open") from error
        try:
            self.alignment = alignment_of(self.fd)
        except OSError as error:
            self.close()
            raise _no_o_direct(uri) from error

    def read_into(self, offset: int, buffer: memoryview) -> tuple[int, int | None]:
        """Fill `buffer` from `offset`, in place where alignment allows; (bytes read, None)."""
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
        return done, None

    def read_hinted(self, offset: int, buffer: memoryview) -> tuple[int, int | None, Hint | None]:
        return (*self.read_into(offset, buffer), None)

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def _read_some(self, offset: int, buffer: memoryview) -> int:
        """One preadv: bytes that landed in `buffer`, 0 at the end of the file."""
        block = self.alignment.offset
        whole = len(buffer) - len(buffer) % block
        if whole == 0 or offset % block or _address(buffer) % self.alignment.memory:
            return self._read_widened(offset, buffer)
        if whole == len(buffer):
            return os.preadv(self.fd, (buffer,), offset)
        tail = _scratch_of(block)
        got = os.preadv(self.fd, (buffer[:whole], tail), offset)
        if got <= whole:
            return got
        self._counters.add("alignment_bytes", max(0, got - len(buffer)))
        wanted = min(got, len(buffer))
        buffer[whole:wanted] = tail[: wanted - whole]
        return wanted

    def _read_widened(self, offset: int, buffer: memoryview) -> int:
        """Whole blocks around the range through the scratch buffer, at most its size at once."""
        block = self.alignment.offset
        start = offset - offset % block
        ahead = offset - start
        room = max(_SCRATCH_BYTES, 2 * block)
        scratch = _scratch_of(min(-(-(ahead + len(buffer)) // block) * block, room))
        got = os.preadv(self.fd, (scratch,), start)
        wanted = max(0, min(got - ahead, len(buffer)))
        self._counters.add("alignment_bytes", got - wanted)
        buffer[:wanted] = scratch[ahead : ahead + wanted]
        return wanted


def backend(**options: object) -> DirectBackend:
    """The backend of `direct://`, which takes no options. Raises UsageError for any."""
    if options:
        raise UsageError(f"direct: option {next(iter(options))!r} is unknown", "direct:// takes none")
    return DirectBackend()


def alignment_of(fd: int) -> Alignment:
    """What O_DIRECT demands of this file: as statx tells (Linux 6.1 on), else its block size.

    Raises OSError if statx says that the file has none. See statx(2), STATX_DIOALIGN.
    """
    told = _statx_alignment(fd)
    if told is not None:
        if not told.offset or not told.memory:
            raise OSError(errno.EINVAL, "no O_DIRECT")
        return told
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


def _probe_folder(uri: str, folder: Path) -> None:
    """Try O_DIRECT on an unnamed file in `folder`, for targets that hold no file yet."""
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise _no_o_direct(uri) from error
        # Any other says only that no file can be made here: its files, once there, will tell.


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
