"""Local files read through the page cache, with fadvise hints as the page cache mode says.

Reads are `preadv` into the caller's buffer. Every hint is counted in `hints_applied` and
returned to the caller, who records it.
"""

from __future__ import annotations

import os
import time

from tracekit.backends.base import Hint, Moved
from tracekit.backends.local.files import (
    Counters,
    aread_into,
    aread_whole,
    failure,
    open_for_reading,
    read_whole,
)

__all__ = ["FileHandle"]

_OPEN_HINTS = {
    "fadvise_sequential": ("sequential", os.POSIX_FADV_SEQUENTIAL),
    "fadvise_random": ("random", os.POSIX_FADV_RANDOM),
    "dontneed": ("dontneed", os.POSIX_FADV_DONTNEED),
}
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class FileHandle:
    """A file open for buffered reads.

    In the mode `dontneed` the pages of the file are dropped at open, those of a read after it.
    """

    get = read_whole
    aread_into = aread_into
    aget = aread_whole

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
