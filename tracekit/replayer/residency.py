"""Page cache residency of local files: measure it, drop it, or fill it.

Residency is measured (cachestat, else mincore) and never assumed: a file that another
process has mapped stays in the cache, and a kernel short of memory evicts pages that were
just read. Dropping and warming are therefore repeated for as long as they help.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tracekit.backends.local.files import failure
from tracekit.errors import BackendError
from tracekit.uri import FILE_SCHEMES, scheme_of, to_path

__all__ = ["Residency", "drop", "local_files", "measure", "resident_bytes", "warm"]

_CACHESTAT = 451
_CHUNK = 4 << 20
_ROUNDS = 8
_FRUITLESS_ROUNDS = 2
_PAUSE_S = 0.005


@dataclass(frozen=True, slots=True)
class Residency:
    """Number of files, their total size, and how many of those bytes the page cache holds."""

    files: int
    bytes: int
    resident_bytes: int

    @property
    def share(self) -> float:
        """Share of the bytes in the page cache, from 0 (cold) to 1 (warm)."""
        return self.resident_bytes / self.bytes if self.bytes else 0.0


def local_files(uris: Iterable[str]) -> list[str]:
    """Return those of `uris` that are readable local files."""
    return [uri for uri in uris if scheme_of(uri) in FILE_SCHEMES and _is_readable(to_path(uri))]


def measure(uris: Iterable[str]) -> Residency:
    """Measure local files; files that have disappeared are left out."""
    files = size = resident = 0
    for uri in uris:
        try:
            total, cached = resident_bytes(uri)
        except BackendError:
            continue
        files, size, resident = files + 1, size + total, resident + cached
    return Residency(files, size, resident)


def drop(uris: Iterable[str]) -> Residency:
    """Write back dirty pages and drop all pages; return what is still resident."""
    return _until(uris, _drop, lambda size, cached: cached)


def warm(uris: Iterable[str]) -> Residency:
    """Read every page into the page cache; return what is resident then."""
    room = memoryview(bytearray(_CHUNK))
    return _until(uris, lambda uri: _warm(uri, room), lambda size, cached: size - cached)


def resident_bytes(uri: str) -> tuple[int, int]:
    """Return the size of a local file and how many of its bytes are in the page cache."""
    with _Opened(uri) as descriptor:
        size = os.fstat(descriptor).st_size
        pages = _cachestat(descriptor)
        if pages is None:
            pages = _mincore(descriptor, size)
        return size, min(pages * mmap.PAGESIZE, size)


def _until(uris: Iterable[str], make: Callable[[str], None], lacking: Callable[[int, int], int]) -> Residency:
    """Apply `make` to all files, and again to those with bytes `lacking`, until that no longer helps."""
    names = list(uris)
    found: dict[str, tuple[int, int]] = {}
    left, least, fruitless = names, -1, 0
    for round_ in range(_ROUNDS):
        time.sleep(_PAUSE_S * round_)  # pages in use cannot be dropped
        for uri in left:
            make(uri)
        found = {uri: resident_bytes(uri) for uri in names}
        left = [uri for uri in names if lacking(*found[uri])]
        lack = sum(lacking(*found[uri]) for uri in left)
        fruitless = 0 if least < 0 or lack < least else fruitless + 1
        least = lack if least < 0 else min(lack, least)
        if not left or fruitless == _FRUITLESS_ROUNDS:
            break
    return Residency(
        len(names), sum(size for size, _ in found.values()), sum(cached for _, cached in found.values())
    )


def _drop(uri: str) -> None:
    with _Opened(uri) as descriptor:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _warm(uri: str, room: memoryview) -> None:
    """Read the missing pages, each twice: the kernel evicts pages that were used once first."""
    with _Opened(uri) as descriptor:
        size = os.fstat(descriptor).st_size
        for start in range(0, size, len(room)):
            length = min(len(room), size - start)
            if _cachestat(descriptor, start, length) == -(-length // mmap.PAGESIZE):
                continue
            for _ in range(2):
                offset = start
                while moved := os.preadv(descriptor, (room[: start + length - offset],), offset):
                    offset += moved


def _is_readable(path: Path) -> bool:
    try:
        return path.is_file() and os.access(path, os.R_OK, effective_ids=True)
    except OSError:  # in a directory without search permission
        return False


class _Opened:
    """Context manager of a read-only descriptor. Raises BackendError."""

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


def _cachestat(descriptor: int, start: int = 0, length: int = 0) -> int | None:
    """Count cached pages from `start` (length 0: to the end) with cachestat(2); None before Linux 6.5."""
    part, answer = (ctypes.c_uint64 * 2)(start, length), (ctypes.c_uint64 * 5)()
    if ctypes.CDLL(None).syscall(_CACHESTAT, descriptor, part, answer, 0) != 0:
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
