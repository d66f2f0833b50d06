"""`file://` and `direct://`: local files, through the page cache or past it.

The schemes differ in the handle that `open` returns; everything else is the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from tracekit.backends.base import ObjectInfo
from tracekit.backends.local.beneath import Fence
from tracekit.backends.local.changing import LocalChanger
from tracekit.backends.local.direct import DirectHandle, probe_folder
from tracekit.backends.local.file import FileHandle
from tracekit.backends.local.files import (
    Counters,
    aligned_buffer,
    check_mode,
    list_files,
    preflight_path,
    stat_file,
    write_whole,
)
from tracekit.errors import UsageError

__all__ = ["LocalBackend", "direct_backend", "file_backend"]


class LocalBackend:
    """Local files. Thread-safe.

    Counts `hints_applied`, `direct_reads`, `alignment_bytes` (read beyond the request, to whole blocks)
    and `skipped_links`; with O_DIRECT also `buffered_write_bytes` (writes that are not whole blocks). The page cache mode `direct_io` opens a file of `file://` as `direct://` does.
    """

    remote = False

    def __init__(self, scheme: Literal["file", "direct"] = "file") -> None:
        self.scheme: str = scheme
        hints = ["hints_applied"] if scheme == "file" else []
        self._counters = Counters(*hints, "direct_reads", "alignment_bytes")
        self.counters = self._counters.values
        self.changer = LocalChanger(self._counters, direct=scheme == "direct")

    def enclose(self, fence: Fence) -> None:
        """Change nothing outside `fence` from now on."""
        self.changer.fence = fence

    def preflight(self, uri: str) -> None:
        """Raise BackendError if there is nothing readable at `uri`, or no O_DIRECT where it is needed."""
        path = preflight_path(uri)
        if self.scheme != "direct":
            return
        first = next(self.list(uri), None) if path.is_dir() else None
        if first is None and path.is_dir():
            probe_folder(uri, path)
        else:
            self.open(first.uri if first else uri).close()

    def list(self, uri: str) -> Iterator[ObjectInfo]:
        return list_files(uri, self.scheme, self._counters)

    def stat(self, uri: str) -> ObjectInfo:
        return stat_file(uri, self.scheme)

    def open(self, uri: str, *, page_cache_mode: str = "default") -> FileHandle | DirectHandle:
        """Open for reading and give the mode's hint for the whole file; with O_DIRECT there is none to give."""
        check_mode(page_cache_mode)
        if self.scheme == "direct" or page_cache_mode == "direct_io":
            return DirectHandle(uri, self._counters)
        return FileHandle(uri, page_cache_mode, self._counters)

    def put(self, uri: str, data: bytes | memoryview, *, overwrite: bool = False) -> int:
        """Write the whole file; it is synced and dropped from the page cache."""
        return write_whole(
            uri, (data,), memoryview(data).nbytes, overwrite=overwrite, fence=self.changer.fence
        )

    def allocate(self, nbytes: int) -> memoryview:
        return aligned_buffer(nbytes)

    def close(self) -> None:
        """Do nothing: whoever opened a handle closes it."""

    async def aclose(self) -> None:
        """Do nothing: local files do not belong to an event loop."""


def file_backend(**options: object) -> LocalBackend:
    """Return the backend of `file://`. Raises UsageError for any option: it takes none."""
    return _without_options("file", options)


def direct_backend(**options: object) -> LocalBackend:
    """Return the backend of `direct://`. Raises UsageError for any option: it takes none."""
    return _without_options("direct", options)


def _without_options(scheme: Literal["file", "direct"], options: dict[str, object]) -> LocalBackend:
    if options:
        raise UsageError(f"{scheme}: unknown option {next(iter(options))!r}", f"{scheme}:// takes no options")
    return LocalBackend(scheme)
