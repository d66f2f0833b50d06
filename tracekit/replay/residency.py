"""How much of a trace's local files the page cache holds, and making that none or all.

Residency is measured (cachestat, else mincore), never assumed: a file that another
process has mapped does not leave the cache because it was asked to.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tracekit.backends.local import failure
from tracekit.uri import FILE_SCHEMES, scheme_of, to_path

__all__ = ["Residency", "drop", "local_files", "measure", "resident_bytes", "warm"]

_CACHESTAT = 451
_CHUNK = 4 << 20


@dataclass(frozen=True, slots=True)
class Residency:
    """Of how many files, how many bytes, how many were in the page cache."""

    files: int
    bytes: int
    resident_bytes: int

    @property
    def share(self) -> float:
        """0 (cold) to 1 (warm)."""
        return self.resident_bytes / self.bytes if self.bytes else 0.0


def local_files(uris: Iterable[str]) -> list[str]:
    """Those of `uris` that are local files that exist."""
    return [uri for uri in uris if scheme_of(uri) in FILE_SCHEMES and to_path(uri).is_file()]


def measure(uris: Iterable[str]) -> Residency:
    """Residency of local files."""
    files = size = resident = 0
    for uri in uris:
        total, cached = resident_bytes(uri)
        files, size, resident = files + 1, size + total, resident + cached
    return Residency(files, size, resident)


def drop(uris: Iterable[str]) -> None:
    """Write what is dirty, and ask the kernel to forget every page."""
    for uri in uris:
        with _Opened(uri) as descriptor:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def warm(uris: Iterable[str]) -> None:
    """Read every page in."""
    room = memoryview(bytearray(_CHUNK))
    for uri in uris:
        with _Opened(uri) as descriptor:
            offset = 0
            while moved := os.preadv(descriptor, (room,), offset):
                offset += moved


def resident_bytes(uri: str) -> tuple[int, int]:
    """(size, bytes of it in the page cache) of a local file."""
    with _Opened(uri) as descriptor:
        size = os.fstat(descriptor).st_size
        pages = _cachestat(descriptor)
        if pages is None:
            pages = _mincore(descriptor, size)
        return size, min(pages * mmap.PAGESIZE, size)


class _Opened:
    """A descriptor for as long as it is needed; failures as BackendError."""

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def __enter__(self) -> int:
        try:
            self._descriptor = os.open(to_path(self._uri), os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise failure(self._uri, error, "open") from error
        return self._descriptor

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def _cachestat(descriptor: int) -> int | None:
    """Cached pages of a file by cachestat(2), Linux 6.5 on; None where there is none."""
    everything, answer = (ctypes.c_uint64 * 2)(0, 0), (ctypes.c_uint64 * 5)()
    if ctypes.CDLL(None).syscall(_CACHESTAT, descriptor, everything, answer, 0) != 0:
        return None
    return int(answer[0])


def _mincore(descriptor: int, size: int) -> int:
    if size == 0:
        return 0
    with mmap.mmap(descriptor, size, prot=mmap.PROT_READ) as mapped:
        pages = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
        view = np.frombuffer(mapped, np.uint8)
        ctypes.CDLL(None).mincore(
            ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(size), ctypes.c_void_p(pages.ctypes.data)
        )
        del view
        return int((pages & 1).sum())
