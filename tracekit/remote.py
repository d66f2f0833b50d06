"""Traces on object stores: how the store reads them by the backends, and how a finished one is put there.

Joins the store, which knows no backend, and the backends, which know no trace. The environment says how a store is reached and who
asks, as for any object.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tracekit.backends.base import Backend, Handle
from tracekit.backends.changing import CAPABILITIES
from tracekit.backends.objects.uri import account_in
from tracekit.backends.registry import backend_for
from tracekit.errors import BackendError, ErrorClass, UsageError
from tracekit.store.layout import SEALED_NAME, is_trace_file, segments_of
from tracekit.store.remote import RemotePath
from tracekit.uri import scheme_of

__all__ = [
    "Stores",
    "check_remote_target",
    "publish_remote",
    "put_segments",
    "remove_segments",
    "seal_remote",
]


class Stores:
    """Reads objects for the store, with one backend for each scheme and account, and one handle for each object."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = 0
        self._forget()

    def size(self, uri: str) -> int:
        with _absent_is_no_file(uri):
            return self.backend(uri).stat(uri).size

    def below(self, folder: str) -> Iterator[tuple[str, int]]:
        prefix = f"{folder.rstrip('/')}/"
        for each in self.backend(prefix).list(prefix):
            if len(each.uri) > len(prefix):
                yield each.uri[len(prefix) :], each.size

    def read_into(self, uri: str, offset: int, buffer: memoryview) -> int:
        with _absent_is_no_file(uri):
            return self._handle(uri).read_into(offset, buffer).nbytes

    def backend(self, uri: str) -> Backend:
        """Return the backend that the environment names for `uri` now."""
        place = scheme_of(uri), account_in(uri)
        with self._lock:
            # A forked child has none of its parent's connections and threads; another environment may name another store.
            if self._pid != os.getpid() or self._environment != dict(os.environ):
                self._forget()
            if place not in self._backends:
                self._backends[place] = backend_for(uri)
            return self._backends[place]

    def _handle(self, uri: str) -> Handle:
        """Return the handle of an object. It is read where it was found: to compare the environment for each range takes too long."""
        handle = self._handles.get(uri)
        if handle is not None and self._pid == os.getpid():
            return handle
        backend = self.backend(uri)
        with self._lock:
            return self._handles.setdefault(uri, backend.open(uri))

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._environment = dict(os.environ)
        self._backends: dict[tuple[str, str | None], Backend] = {}
        self._handles: dict[str, Handle] = {}


@contextmanager
def _absent_is_no_file(uri: str) -> Iterator[None]:
    """Raise FileNotFoundError for an object that is not there, as a file system does."""
    try:
        yield
    except BackendError as error:
        if error.error_class != ErrorClass.NOT_FOUND:
            raise
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), uri) from error


def check_remote_target(path: RemotePath, *, overwrite: bool) -> None:
    """Raise UsageError if no new trace may be put at `path`: what is there is replaced only with `overwrite`, and only a trace."""
    if "put" not in CAPABILITIES.get(scheme_of(str(path)), ()):
        raise UsageError(
            f"{path}: objects of this scheme can only be read", "give a directory, or s3://, az:// or gs://"
        )
    present = [entry.name for entry in path.iterdir()]
    if present and not overwrite:
        raise UsageError(f"{path} exists", "choose another path, or give overwrite=True")
    foreign = [name for name in present if not is_trace_file(name)]
    if foreign:
        raise UsageError(f"{path} holds {foreign[0]}, which is no file of a trace", "choose another path")


def publish_remote(folder: Path, path: RemotePath) -> None:
    """Copy the complete trace `folder` to `path`. The list of its segments is written last, and makes it a trace."""
    with closing(Stores().backend(str(path))) as backend:
        if SEALED_NAME in {
            entry.name for entry in path.iterdir()
        }:  # from here on it is not the old trace, whatever happens
            backend.changer.delete(f"{path}/{SEALED_NAME}")
        files = segments_of(folder)
        for file in files:
            _put(backend, path, file)
        _seal(backend, path, folder / SEALED_NAME, [file.name for file in files])


def put_segments(files: Iterable[Path], path: RemotePath, moved: Callable[[], None]) -> None:
    """Copy segments to `path`, under names that no trace there has; `moved` is called after each. They are no trace yet."""
    with closing(Stores().backend(str(path))) as backend:
        for file in files:
            _put(backend, path, file)
            moved()


def seal_remote(path: RemotePath, sealed: Path, segments: Collection[str]) -> None:
    """Make the `segments` that are at `path` the trace there, in place of one that was, by the list `sealed`."""
    with closing(Stores().backend(str(path))) as backend:
        _seal(backend, path, sealed, segments)


def remove_segments(path: RemotePath, begin: str) -> None:
    """Remove the segments at `path` whose names begin so."""
    with closing(Stores().backend(str(path))) as backend:
        for entry in path.iterdir():
            if entry.name.startswith(begin):
                backend.changer.delete(f"{path}/{entry.name}")


def _put(backend: Backend, path: RemotePath, file: Path) -> None:
    backend.put(f"{path}/{file.name}", file.read_bytes(), overwrite=True)


def _seal(backend: Backend, path: RemotePath, sealed: Path, segments: Collection[str]) -> None:
    """Write the list of the segments, and remove what is not one of them."""
    _put(backend, path, sealed)
    for name in {entry.name for entry in path.iterdir()} - {SEALED_NAME, *segments}:
        backend.changer.delete(f"{path}/{name}")
