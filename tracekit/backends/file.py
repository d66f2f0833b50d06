"""`file://`: buffered reads through the page cache, with the hints that a cache policy asks for.

Reads go by `os.preadv` into the caller's buffer. Every hint given to the kernel is
counted; nothing here records ops.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Iterator
from typing import Any

from tracekit.backends.base import CACHE_POLICIES, Backend, Handle, ObjectInfo
from tracekit.backends.local import failure, list_files, open_for_reading, put_file, stat_file
from tracekit.errors import UsageError

__all__ = ["FileBackend", "FileHandle", "backend"]

_ADVICE = {
    "fadvise_sequential": os.POSIX_FADV_SEQUENTIAL,
    "fadvise_random": os.POSIX_FADV_RANDOM,
}


def backend(**options: Any) -> FileBackend:
    """The backend of `file://`; it takes no options. Raises UsageError for any."""
    if options:
        raise UsageError(f"file:// has no option {', '.join(options)}", "leave it out, or use s3:// or az://")
    return FileBackend()


class FileBackend:
    """Buffered local files. Thread-safe."""

    scheme = "file"

    def __init__(self) -> None:
        self.counters: dict[str, int] = {"hints_applied": 0}
        self._lock = threading.Lock()
        self._direct: Backend | None = None

    def preflight(self, uri: str) -> None:
        """Local files can always be read this way."""

    def list(self, uri: str) -> Iterator[ObjectInfo]:
        return list_files(uri, self.scheme)

    def stat(self, uri: str) -> ObjectInfo:
        return stat_file(uri)

    def open(self, uri: str, *, cache_policy: str = "default") -> Handle:
        """Open for reading; SEQUENTIAL or RANDOM is advised here, `dontneed` after each read.

        `direct_io` opens the file as `direct://` does. Raises BackendError, or UsageError
        for an unknown policy.
        """
        if cache_policy not in CACHE_POLICIES:
            raise UsageError(
                f"page_cache_mode: {cache_policy!r} is unknown", f"choose {', '.join(CACHE_POLICIES)}"
            )
        if cache_policy == "direct_io":
            return self._direct_backend().open(uri)
        descriptor, size = open_for_reading(uri)
        handle = FileHandle(self, uri, descriptor, size, dontneed=cache_policy == "dontneed")
        if cache_policy in _ADVICE:
            handle.advise(_ADVICE[cache_policy])
        return handle

    def put(self, uri: str, data: bytes | memoryview, *, overwrite: bool = False) -> int:
        return put_file(uri, data, overwrite=overwrite)

    def allocate(self, nbytes: int) -> memoryview:
        return memoryview(mmap.mmap(-1, max(nbytes, 1)))[:nbytes]

    def close(self) -> None:
        """Nothing is kept open."""

    def hinted(self, n: int = 1) -> None:
        """Count hints that handles gave."""
        with self._lock:
            self.counters["hints_applied"] += n

    def _direct_backend(self) -> Backend:
        with self._lock:
            if self._direct is None:
                from tracekit.backends.direct import DirectBackend

                self._direct = DirectBackend(self.counters)
            return self._direct


class FileHandle:
    """An open file. `fd` is for engines that read it themselves; `hints` counts advice given."""

    __slots__ = ("_backend", "_dontneed", "fd", "hints", "size", "uri")

    def __init__(self, backend: FileBackend, uri: str, fd: int, size: int, *, dontneed: bool) -> None:
        self.uri = uri
        self.size = size
        self.fd = fd
        self.hints = 0
        self._backend = backend
        self._dontneed = dontneed

    def read_into(self, offset: int, buffer: memoryview) -> tuple[int, int | None]:
        """As the protocol says; loops over what the kernel cuts short before the file's end."""
        try:
            done = os.preadv(self.fd, (buffer,), offset)
            while 0 < done < len(buffer):
                more = os.preadv(self.fd, (buffer[done:],), offset + done)
                if more == 0:
                    break
                done += more
            if self._dontneed:
                self.advise(os.POSIX_FADV_DONTNEED, offset, len(buffer))
        except OSError as error:
            raise failure(self.uri, error) from error
        return done, None

    def advise(self, advice: int, offset: int = 0, length: int = 0) -> None:
        """Give the kernel one hint and count it. Raises BackendError if it refuses."""
        try:
            os.posix_fadvise(self.fd, offset, length, advice)
        except OSError as error:
            raise failure(self.uri, error, "advise") from error
        self.hints += 1
        self._backend.hinted()

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
