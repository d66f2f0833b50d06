"""A dataset: the samples below directories, prefixes or globs, each a byte range of an object.

Objects are listed once, in URI order; the id of a sample is its place in that order. A
dataset holds a name and a size for each object, not an entry for each sample. The loader
reads the samples.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Unpack

import numpy as np

from tracekit.backends.base import Backend
from tracekit.backends.registry import applicable, backend_for
from tracekit.errors import BackendError, ErrorClass, UsageError
from tracekit.keywords import LoaderKeywords
from tracekit.loader.options import LoaderOptions
from tracekit.recorder import Recorder
from tracekit.units import format_size
from tracekit.uri import FILE_SCHEMES, clean, from_path, scheme_of, to_path, with_scheme

__all__ = ["Dataset", "SampleRange", "Source", "create_dataset", "named", "source_uris"]


Source = str | os.PathLike[str]
"""A URI, a path, or a glob of either."""


class SampleRange(NamedTuple):
    """The bytes of a sample; `whole` if they are the whole object."""

    sample_id: int
    uri: str
    offset: int
    length: int
    whole: bool


class Dataset:
    """Samples and the backend that reads them. A context manager; `close` closes the backend.

    `uri` names what was listed (a list is joined by commas), `uris` and `sizes` the objects.
    """

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
        """For each object, the id after its last sample."""

    def __repr__(self) -> str:
        return f"<Dataset {self.uri}: {len(self)} samples, {format_size(self.total_bytes)}>"

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
    uri: Source | Iterable[Source],
    options: LoaderOptions | Mapping[str, Any] | None = None,
    *,
    recorder: Recorder | None = None,
    **given: Unpack[LoaderKeywords],
) -> Dataset:
    """List the samples below a directory, prefix or glob, or those of one object; or of several of these.

    Several sources are read in the order given; they have one scheme, and an object that is
    listed twice counts once. In a glob, `*` and `?` stay within a folder and `**` crosses
    folders; object stores know `*` and `[...]` only. With `sample_bytes` each object is cut
    into records of that size, else each object is a sample. A `recorder` gets each listing as an op.

    Raises UsageError for an unknown scheme or option, BackendError if nothing is there or
    it cannot be read (a file system without O_DIRECT, for example).
    """
    chosen = LoaderOptions.of(options, **given)
    uris = source_uris(uri)
    backend = backend_for(uris[0], **applicable(uris[0], chosen.backend_options()))
    try:
        found: dict[str, int] = {}
        for source in uris:
            listed = _listed(source, backend, recorder)
            if recorder is not None and scheme_of(source) in FILE_SCHEMES:
                _check_apart(source, listed, recorder)
            for name, size in listed:
                found.setdefault(name, size)
        _check_direct(backend, next(iter(found)), chosen.page_cache_mode)
    except BaseException:
        backend.close()
        raise
    return Dataset(named(uris), list(found.items()), backend, chosen.sample_bytes)


def source_uris(uri: Source | Iterable[Source]) -> list[str]:
    """Return the URIs of one or several sources. Raises UsageError for what is none, or of several schemes."""
    given = [uri] if isinstance(uri, str | bytes | os.PathLike) or not isinstance(uri, Iterable) else [*uri]
    uris = []
    for source in given:
        text = os.fspath(source) if isinstance(source, os.PathLike) else source
        if not isinstance(text, str):
            raise UsageError(
                f"uri={source!r} is not a URI or a path", "give a str, a Path, or a list of them"
            )
        if not text:
            raise UsageError("uri: an empty URI", "give a path, or . for the current directory")
        uris.append(with_scheme(text))
    schemes = sorted({scheme_of(source) for source in uris})
    if len(schemes) != 1:
        found = f"the schemes {', '.join(schemes)}" if uris else "an empty list"
        raise UsageError(f"uri: {found}", "give URIs of one scheme" if uris else "give at least one URI")
    return uris


def named(uris: Iterable[str]) -> str:
    """Return the name of a dataset of `uris`: without credentials and queries."""
    return ", ".join(clean(uri) for uri in uris)


def _listed(uri: str, backend: Backend, recorder: Recorder | None) -> list[tuple[str, int]]:
    """List names and sizes below `uri`, in order; at least one. Records the listing."""
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
            f"{clean(uri)}: no samples found",
            "name a directory, prefix or glob with files",
            ErrorClass.NOT_FOUND,
        )
    return found


def _check_apart(uri: str, found: list[tuple[str, int]], recorder: Recorder) -> None:
    """Raise if the run would read the trace that it writes."""
    within = from_path(recorder.path, scheme_of(uri)) + "/"
    if any(name.startswith(within) for name, _ in found):
        raise UsageError(
            f"{recorder.path}: the trace would be among the samples of {uri}", "record it somewhere else"
        )


def _check_direct(backend: Backend, uri: str, page_cache_mode: str) -> None:
    """Raise before the run begins if the file system of the samples has no O_DIRECT."""
    if scheme_of(uri) == "direct" or (scheme_of(uri) == "file" and page_cache_mode == "direct_io"):
        backend.open(uri, page_cache_mode="direct_io").close()


def _split_glob(uri: str) -> tuple[str, re.Pattern[str] | None]:
    """Return the folder to list and the pattern of names to keep; no pattern if `uri` is not a glob."""
    local = scheme_of(uri) in FILE_SCHEMES
    magic = re.search(r"[*?\[]" if local else r"[*\[]", uri)
    if magic is None or (local and to_path(uri).exists()):
        return uri, None
    base = uri[: magic.start()].rpartition("/")[0]
    if base.endswith(":/"):  # file:///*.bin
        base += "/"
    return base, re.compile(_regex(uri))


def _regex(glob: str) -> str:
    """Return the regular expression of a glob in which only `**` crosses a slash."""
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
