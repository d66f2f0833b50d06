"""`direct://`: O_DIRECT reads past the page cache, never a silent fall back to buffered ones.

The kernel wants offset, length and memory aligned. A read that is all three goes straight
into the caller's buffer; any other is widened to whole blocks, read into an aligned
buffer of the thread, and sliced. What was read beyond the request is counted.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tracekit.backends.base import CACHE_POLICIES, Handle, ObjectInfo
from tracekit.backends.local import failure, list_files, open_for_reading, put_file, stat_file
from tracekit.errors import BackendError, UsageError
from tracekit.uri import to_path

__all__ = ["Alignment", "DirectBackend", "DirectHandle", "alignment_of", "backend"]

_NO_O_DIRECT = "use file:// with page_cache_mode=dontneed, or a disk file system such as ext4 or xfs"


def backend(**options: Any) -> DirectBackend:
    """The backend of `direct://`; it takes no options. Raises UsageError for any."""
    if options:
        raise UsageError(
            f"direct:// has no option {', '.join(options)}", "leave it out, or use s3:// or az://"
        )
    return DirectBackend()


@dataclass(frozen=True, slots=True)
class Alignment:
    """What O_DIRECT demands of a file: of offsets and lengths, and of memory. Bytes, powers of two."""

    offset: int
    memory: int


class DirectBackend:
    """Unbuffered local files. Thread-safe. `counters` may be another backend's, to count into."""

    scheme = "direct"

    def __init__(self, counters: dict[str, int] | None = None) -> None:
        self.counters: dict[str, int] = {} if counters is None else counters
        self.counters.setdefault("direct_reads", 0)
        self.counters.setdefault("alignment_bytes", 0)
        self._lock = threading.Lock()

    def preflight(self, uri: str) -> None:
        """Raise BackendError in one line if the file system under `uri` has no O_DIRECT."""
        path = Path(os.path.abspath(to_path(uri)))
        probe = path if path.is_file() else next((p for p in _files_below(path)), None)
        if probe is None:
            while not path.exists():
                path = path.parent
            _probe_directory(uri, path)
            return
        try:
            os.close(os.open(probe, os.O_RDONLY | os.O_DIRECT))
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise _unsupported(uri, path) from error
            raise failure(uri, error, "open") from error

    def list(self, uri: str) -> Iterator[ObjectInfo]:
        return list_files(uri, self.scheme)

    def stat(self, uri: str) -> ObjectInfo:
        return stat_file(uri)

    def open(self, uri: str, *, cache_policy: str = "default") -> Handle:
        """Open with O_DIRECT; policies are accepted, and have no page cache to act on.

        Raises BackendError class `unsupported` if the file system has no O_DIRECT.
        """
        if cache_policy not in CACHE_POLICIES:
            raise UsageError(
                f"page_cache_mode: {cache_policy!r} is unknown", f"choose {', '.join(CACHE_POLICIES)}"
            )
        try:
            descriptor, size = open_for_reading(uri, os.O_DIRECT)
        except BackendError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EINVAL:
                raise _unsupported(uri, to_path(uri)) from error
            raise
        return DirectHandle(self, uri, descriptor, size, alignment_of(descriptor))

    def put(self, uri: str, data: bytes | memoryview, *, overwrite: bool = False) -> int:
        return put_file(uri, data, overwrite=overwrite)

    def allocate(self, nbytes: int) -> memoryview:
        """Page-aligned memory, so that an aligned read of any file system goes straight into it."""
        return memoryview(mmap.mmap(-1, max(nbytes, 1)))[:nbytes]

    def close(self) -> None:
        """Nothing is kept open."""

    def add(self, reads: int, extra_bytes: int) -> None:
        """Count reads, and bytes read beyond what was asked."""
        with self._lock:
            self.counters["direct_reads"] += reads
            self.counters["alignment_bytes"] += extra_bytes


class DirectHandle:
    """A file open with O_DIRECT. Threads keep an aligned buffer each for unaligned reads."""

    __slots__ = ("_backend", "_local", "alignment", "fd", "hints", "size", "uri")

    def __init__(self, backend: DirectBackend, uri: str, fd: int, size: int, alignment: Alignment) -> None:
        self.uri = uri
        self.size = size
        self.fd = fd
        self.hints = 0
        self.alignment = alignment
        self._backend = backend
        self._local = threading.local()

    def read_into(self, offset: int, buffer: memoryview) -> tuple[int, int | None]:
        """As the protocol says; an unaligned read costs a wider one and a copy."""
        block = self.alignment.offset
        length = len(buffer)
        if length == 0 or offset >= self.size:
            return 0, None
        try:
            if offset % block == 0 and length % block == 0 and _address(buffer) % self.alignment.memory == 0:
                done = self._read(offset, buffer)
                self._backend.add(1, 0)
                return done, None
            start = offset - offset % block
            wide = -(-(offset + length) // block) * block - start
            scratch = self._scratch(wide)
            got = self._read(start, scratch[:wide])
        except OSError as error:
            raise failure(self.uri, error) from error
        done = max(0, min(got - (offset - start), length))
        buffer[:done] = scratch[offset - start : offset - start + done]
        self._backend.add(1, got - done)
        return done, None

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _read(self, offset: int, buffer: memoryview) -> int:
        """Whole blocks until the buffer is full or the file ends (its last block may be short)."""
        done = os.preadv(self.fd, (buffer,), offset)
        while 0 < done < len(buffer) and offset + done < self.size and done % self.alignment.offset == 0:
            more = os.preadv(self.fd, (buffer[done:],), offset + done)
            if more == 0:
                break
            done += more
        return done

    def _scratch(self, nbytes: int) -> memoryview:
        scratch: memoryview | None = getattr(self._local, "buffer", None)
        if scratch is None or len(scratch) < nbytes:
            scratch = memoryview(mmap.mmap(-1, nbytes))
            self._local.buffer = scratch
        return scratch


def alignment_of(descriptor: int) -> Alignment:
    """What O_DIRECT demands of this file, from statx (Linux 6.1 on), else its block size.

    Source: statx(2), STATX_DIOALIGN: `stx_dio_mem_align`, `stx_dio_offset_align`.
    """
    found = _statx_dio(descriptor)
    if found is not None:
        return found
    block = max(os.fstat(descriptor).st_blksize, 512)
    return Alignment(offset=block, memory=block)


def _statx_dio(descriptor: int) -> Alignment | None:
    at_empty_path, statx_dioalign = 0x1000, 0x2000
    try:
        statx = ctypes.CDLL(None, use_errno=True).statx
    except AttributeError:  # a C library older than statx
        return None
    record = ctypes.create_string_buffer(256)
    if statx(descriptor, b"", at_empty_path, statx_dioalign, record) != 0:
        return None
    fields = np.frombuffer(record.raw, np.uint32)
    # struct statx: stx_mask at byte 0, stx_dio_mem_align at 152, stx_dio_offset_align at 156.
    memory, offset = int(fields[38]), int(fields[39])
    if not int(fields[0]) & statx_dioalign or memory == 0 or offset == 0:
        return None
    return Alignment(offset=offset, memory=memory)


def _address(buffer: memoryview) -> int:
    return int(np.frombuffer(buffer, np.uint8).__array_interface__["data"][0])


def _files_below(path: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(path):
        for name in names:
            yield Path(folder, name)


def _probe_directory(uri: str, folder: Path) -> None:
    """Try O_DIRECT on an unnamed file in `folder`, for targets that hold no file yet."""
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_DIRECT, 0o600))
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise _unsupported(uri, folder) from error
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EACCES, errno.EROFS, errno.ENOENT):
            raise failure(uri, error, "open") from error


def _unsupported(uri: str, path: Path) -> BackendError:
    return BackendError(f"{uri}: the file system of {path} has no O_DIRECT", _NO_O_DIRECT, "unsupported")
