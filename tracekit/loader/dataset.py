"""A dataset: the samples below a directory, prefix or glob, each a byte range of an object.

Listing is done once and in URI order, so that a sample's id is its place in that order.
It holds one name and size for each object, not an object for each sample. It reads no
sample: that is the loader's.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from tracekit.backends.base import Backend
from tracekit.backends.registry import applicable, backend_for
from tracekit.errors import BackendError, ErrorClass, UsageError
from tracekit.loader.options import LoaderOptions
from tracekit.recorder import Recorder
from tracekit.uri import FILE_SCHEMES, clean, from_path, scheme_of, to_path, with_scheme

__all__ = ["Dataset", "SampleRange", "create_dataset"]


class SampleRange(NamedTuple):
    """Where a sample's bytes are; `whole` if they are the whole object."""

    sample_id: int
    uri: str
    offset: int
    length: int
    whole: bool


class Dataset:
    """Samples in URI order, and the backend that reads them. A context manager; `close` ends both."""

    def __init__(
        self, uri: str, objects: list[tuple[str, int]], backend: Backend, sample_bytes: int | None
    ) -> None:
        self.uri = uri
        self.backend = backend
        self.sample_bytes = sample_bytes
        self.uris = [name for name, _ in objects]
        self.sizes = np.array([size for _, size in objects], np.int64)
        counts = np.ones(len(objects), np.int64)
        if sample_bytes is not None:
            counts = np.maximum(1, -(-self.sizes // min(sample_bytes, 1 << 62)))
        self._ends = np.cumsum(counts)
        """Of each object: the id after its last sample."""

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, sample_id: int) -> SampleRange:
        if not 0 <= sample_id < len(self):
            raise IndexError(f"sample {sample_id} of {len(self)}")
        if self.sample_bytes is None:
            return SampleRange(sample_id, self.uris[sample_id], 0, int(self.sizes[sample_id]), True)
        index = int(np.searchsorted(self._ends, sample_id, side="right"))
        size = int(self.sizes[index])
        first = int(self._ends[index - 1]) if index else 0
        offset = (sample_id - first) * self.sample_bytes
        length = min(self.sample_bytes, size - offset)
        return SampleRange(sample_id, self.uris[index], offset, length, length == size)

    def __iter__(self) -> Iterator[SampleRange]:
        return (self[sample_id] for sample_id in range(len(self)))

    @property
    def total_bytes(self) -> int:
        """Bytes of all objects."""
        return int(self.sizes.sum())

    def close(self) -> None:
        self.backend.close()

    def __enter__(self) -> Dataset:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def create_dataset(
    uri: str,
    options: LoaderOptions | Mapping[str, Any] | None = None,
    *,
    recorder: Recorder | None = None,
    **given: Any,
) -> Dataset:
    """List the samples below a directory, prefix or glob, or those of one object.

    In a glob `*` and `?` stay within a folder and `**` goes through folders; object stores
    know `*` and `[...]` only. With `sample_bytes` each object is cut into records of that
    size, else an object is a sample. A `recorder` gets the listing as one op.

    Raises UsageError for an unknown scheme or option, BackendError if nothing is there or
    it cannot be read in this way (a file system without O_DIRECT, say).
    """
    chosen = LoaderOptions.of(options, **given)
    if not uri:
        raise UsageError("an empty URI names no dataset", "give a path, or . for the current directory")
    uri = with_scheme(uri)
    backend = backend_for(uri, **applicable(uri, chosen.backend_options()))
    try:
        found = _listed(uri, backend, recorder)
        if recorder is not None and scheme_of(uri) in FILE_SCHEMES:
            _check_apart(uri, [name for name, _ in found], recorder)
        _check_direct(backend, found[0][0], chosen.page_cache_mode)
    except BaseException:
        backend.close()
        raise
    return Dataset(clean(uri), found, backend, chosen.bytes_of("sample_bytes"))


def _listed(uri: str, backend: Backend, recorder: Recorder | None) -> list[tuple[str, int]]:
    """Names and sizes below `uri`, in order; at least one. Records the listing."""
    base, pattern = _split_glob(uri)
    began = time.monotonic_ns()
    error_class = None
    try:
        if pattern is None and scheme_of(uri) in FILE_SCHEMES:
            backend.preflight(uri)
        found = [(info.uri, info.size) for info in backend.list(base)]
    except BackendError as error:
        error_class = error.error_class
        raise
    finally:
        if recorder is not None:
            latency = time.monotonic_ns() - began
            recorder.record(base, None, None, began, latency, op="list", bytes=0, error=error_class)
    if pattern is not None:
        found = [(name, size) for name, size in found if pattern.fullmatch(name)]
    if not found:
        raise BackendError(
            f"{clean(uri)}: no samples there",
            "name a directory, prefix or glob with files",
            ErrorClass.NOT_FOUND,
        )
    return found


def _check_apart(uri: str, names: list[str], recorder: Recorder) -> None:
    """Raise if the run would read the trace that it writes."""
    within = from_path(recorder.path, scheme_of(uri)) + "/"
    if any(name.startswith(within) for name in names):
        raise UsageError(
            f"{recorder.path}: the trace would be among the samples of {uri}", "record it somewhere else"
        )


def _check_direct(backend: Backend, uri: str, page_cache_mode: str) -> None:
    """Raise before any run begins if the file system of the samples has no O_DIRECT."""
    if scheme_of(uri) == "direct" or (scheme_of(uri) == "file" and page_cache_mode == "direct_io"):
        backend.open(uri, page_cache_mode="direct_io").close()


def _split_glob(uri: str) -> tuple[str, re.Pattern[str] | None]:
    """The folder to list and the pattern to keep by; None as pattern if `uri` is no glob."""
    local = scheme_of(uri) in FILE_SCHEMES
    magic = re.search(r"[*?\[]" if local else r"[*\[]", uri)
    if magic is None or (local and to_path(uri).exists()):
        return uri, None
    base = uri[: magic.start()].rpartition("/")[0]
    if base.endswith(":/"):  # file:///*.bin
        base += "/"
    return base, re.compile(_regex(uri))


def _regex(glob: str) -> str:
    """The regular expression of a glob in which only `**` crosses a slash."""
    parts = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    out = []
    for token in re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]/]+\])", glob):
        if token.startswith("[") and token.endswith("]") and len(token) > 2:
            inner = token[1:-1]
            negated = inner.startswith("!")
            out.append(f"[{'^/' if negated else ''}{inner[negated:].replace(chr(92), chr(92) * 2)}]")
        else:
            out.append(parts.get(token) or re.escape(token))
    return "(?s:" + "".join(out) + ")"
