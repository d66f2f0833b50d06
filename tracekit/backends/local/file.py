"""`file://`: local files through the page cache, with fadvise hints as the page cache mode says.

Reads are `preadv` into the caller's buffer. Every hint is counted in `hints_applied` and
returned to the caller, who records it. The mode `direct_io` reads as `direct://` does.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator

from tracekit.backends.base import Hint, Moved, ObjectInfo
from tracekit.backends.local.direct import DirectHandle
from tracekit.backends.local.files import (
    Counters,
    aligned_buffer,
    check_mode,
    failure,
    list_files,
    open_for_reading,
    preflight_path,
    read_whole,
    stat_file,
    write_whole,
)
from tracekit.errors import UsageError

__all__ = ["FileBackend", "FileHandle", "backend"]

_OPEN_HINTS = {
    "fadvise_sequential": ("sequential", os.POSIX_FADV_SEQUENTIAL),
    "fadvise_random": ("random", os.POSIX_FADV_RANDOM),
    "dontneed": ("dontneed", os.POSIX_FADV_DONTNEED),
}
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class FileBackend:
    """Local files through the page cache. Thread-safe.

    Counts `hints_applied` and `skipped_links`; in the mode `direct_io` also `direct_reads`
    and `alignment_bytes`.
    """

    scheme = "file"
    remote = False

    def __init__(self) -> None:
        self._counters = Counters("hints_applied", "direct_reads", "alignment_bytes")
        self.counters = self._counters.values

    def preflight(self, uri: str) -> None:
        """Raise BackendError in one line if there is nothing readable at `uri`."""
        preflight_path(uri)

    def list(self, uri: str) -> Iterator[ObjectInfo]:
        return list_files(uri, self.scheme, self._counters)

    def stat(self, uri: str) -> ObjectInfo:
        return stat_file(uri, self.scheme)

    def open(self, uri: str, *, page_cache_mode: str = "default") -> FileHandle | DirectHandle:
        """Open for reading and give the mode's hint for the whole file."""
        check_mode(page_cache_mode)
        if page_cache_mode == "direct_io":
            return DirectHandle(uri, self._counters)
        return FileHandle(uri, page_cache_mode, self._counters)

    def put(self, uri: str, data: bytes | memoryview, *, overwrite: bool = False) -> int:
        """Write the whole file; it is synced and dropped from the page cache."""
        return write_whole(uri, (data,), memoryview(data).nbytes, overwrite=overwrite)

    def allocate(self, nbytes: int) -> memoryview:
        return aligned_buffer(nbytes)

    def close(self) -> None:
        """Do nothing: whoever opened a handle closes it."""

    async def aclose(self) -> None:
        """Do nothing: local files do not belong to an event loop."""


class FileHandle:
    """A file open for buffered reads.

    In the mode `dontneed` the pages of the file are dropped at open, those of a read after it.
    """

    def __init__(self, uri: str, page_cache_mode: str, counters: Counters) -> None:
        self.uri = uri
        self._counters = counters
        self._drop = page_cache_mode == "dontneed"
        try:
            self.fd, self.size = open_for_reading(uri)
        except OSError as error:
            raise failure(uri, error, "open") from error
        self.open_hint: Hint | None = None
        if page_cache_mode in _OPEN_HINTS:
            kind, advice = _OPEN_HINTS[page_cache_mode]
            self.open_hint = self._advise(kind, advice, 0, self.size)

    def read_into(self, offset: int, buffer: memoryview) -> Moved:
        """Fill `buffer` from `offset` on; in the mode `dontneed`, drop the pages afterwards."""
        try:
            done = os.preadv(self.fd, (buffer,), offset)
            # At the end of the file another call would move nothing, at the price of a request.
            while 0 < done < len(buffer) and offset + done < os.fstat(self.fd).st_size:
                moved = os.preadv(self.fd, (buffer[done:],), offset + done)
                if moved == 0:
                    break
                done += moved
        except OSError as error:
            raise failure(self.uri, error) from error
        if not self._drop or not done:
            return Moved(done)
        # The kernel keeps pages that the range covers only in part.
        first = offset - offset % _PAGE_BYTES
        length = -(-(offset + done - first) // _PAGE_BYTES) * _PAGE_BYTES
        return Moved(done, None, self._advise("dontneed", os.POSIX_FADV_DONTNEED, first, length))

    def get(self, most: int | None = None) -> tuple[memoryview, Moved]:
        """Read the file, at most its first `most` bytes."""
        return read_whole(self, most)

    async def aread_into(self, offset: int, buffer: memoryview) -> Moved:
        """`read_into` in a thread."""
        return await asyncio.to_thread(self.read_into, offset, buffer)

    async def aget(self, most: int | None = None) -> tuple[memoryview, Moved]:
        """`get` in a thread."""
        return await asyncio.to_thread(self.get, most)

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def _advise(self, kind: str, advice: int, offset: int, length: int) -> Hint:
        start = time.monotonic_ns()
        try:
            os.posix_fadvise(self.fd, offset, length, advice)
        except OSError as error:
            raise failure(self.uri, error, "advise") from error
        latency = time.monotonic_ns() - start
        self._counters.add("hints_applied")
        return Hint(kind, offset, length, start, latency)


def backend(**options: object) -> FileBackend:
    """Return the backend of `file://`. Raises UsageError for any option: it takes none."""
    if options:
        raise UsageError(f"file: unknown option {next(iter(options))!r}", "file:// takes no options")
    return FileBackend()
