"""`file://`: local files through the page cache, with the cache policy said to the kernel.

Reads are `preadv` into the caller's buffer. Every fadvise that is applied is counted in
`hints_applied` and handed to the caller, who records it. The policy `direct_io` reads as
`direct://` does. Nothing is read twice or ahead here: that is the kernel's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from tracekit.backends.base import Hint, ObjectInfo
from tracekit.backends.local.direct import DirectHandle
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

    Counts `hints_applied`; under the policy `direct_io` also `direct_reads` and
    `alignment_bytes`.
    """

    scheme = "file"

    def __init__(self) -> None:
        self._counters = Counters("hints_applied", "direct_reads", "alignment_bytes")
        self.counters = self._counters.values

    def preflight(self, uri: str) -> None:
        """Raise BackendError in one line if there is nothing readable at `uri`."""
        preflight_path(uri)

    def list(self, uri: str) -> Iterator[ObjectInfo]:
        return list_files(uri, self.scheme)

    def stat(self, uri: str) -> ObjectInfo:
        return stat_file(uri, self.scheme)

    def open(self, uri: str, *, cache_policy: str = "default") -> FileHandle | DirectHandle:
        """Open for reading, the policy's hint for the whole file applied; as `direct://` for `direct_io`."""
        check_policy(cache_policy)
        if cache_policy == "direct_io":
            return DirectHandle(uri, self._counters)
        return FileHandle(uri, cache_policy, self._counters)

    def put(self, uri: str, data: bytes | memoryview, *, overwrite: bool = False) -> int:
        """Write the whole file; it is synced and dropped from the page cache."""
        return write_whole(uri, (data,), memoryview(data).nbytes, overwrite=overwrite)

    def allocate(self, nbytes: int) -> memoryview:
        return aligned_buffer(nbytes)

    def close(self) -> None:
        """Nothing is held: handles are their openers' to close."""


class FileHandle:
    """A file open for buffered reads, its policy's hints applied.

    Under `dontneed` the file's pages are dropped at open and each read's pages after it.
    `fd` is for engines that read it themselves.
    """

    def __init__(self, uri: str, cache_policy: str, counters: Counters) -> None:
        self.uri = uri
        self._counters = counters
        self._drop = cache_policy == "dontneed"
        try:
            self.fd, self.size = open_for_reading(uri)
        except OSError as error:
            raise failure(uri, error, "open") from error
        self.open_hint: Hint | None = None
        if cache_policy in _OPEN_HINTS:
            kind, advice = _OPEN_HINTS[cache_policy]
            self.open_hint = self._advise(kind, advice, 0, self.size)

    def read_into(self, offset: int, buffer: memoryview) -> tuple[int, int | None]:
        """Fill `buffer` from `offset`; under `dontneed` the pages are dropped after it."""
        return self.read_hinted(offset, buffer)[:2]

    def read_hinted(self, offset: int, buffer: memoryview) -> tuple[int, int | None, Hint | None]:
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
            return done, None, None
        # The kernel keeps pages that the range covers only in part.
        first = offset - offset % _PAGE_BYTES
        length = -(-(offset + done - first) // _PAGE_BYTES) * _PAGE_BYTES
        return done, None, self._advise("dontneed", os.POSIX_FADV_DONTNEED, first, length)

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
    """The backend of `file://`, which takes no options. Raises UsageError for any."""
    if options:
        raise UsageError(f"file: option {next(iter(options))!r} is unknown", "file:// takes none")
    return FileBackend()
