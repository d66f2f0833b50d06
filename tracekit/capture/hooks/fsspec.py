"""Records the requests of fsspec filesystems, below their caches.

A row is one fetch of a file object, or one call of `cat_file`, `get_file` and similar methods,
whichever cache caused it. `fsspec:both` also records what the program read from its files, as
URIs of the scheme `app+...`; `fsspec:above` records only that. Where another hook records the
requests themselves (botocore below s3fs, for example), this one does not.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
import itertools
import os
from collections.abc import Callable, Iterator
from time import monotonic_ns
from types import ModuleType
from typing import Any

from tracekit.backends.objects.uri import join
from tracekit.capture import session as sessions
from tracekit.capture.context import where
from tracekit.capture.hooks.files import open as recorded_open
from tracekit.capture.outcome import error_class
from tracekit.capture.session import hook_failed, record
from tracekit.errors import ErrorClass

__all__ = ["install", "uri_of", "wrap"]

_BELOW = {"s3": "botocore", "az": "azure", "file": "files"}
"""Scheme -> the hook that records the requests of its filesystems."""
_SCHEMES = {"s3a": "s3", "abfs": "az", "abfss": "az", "adl": "az", "gcs": "gs", "local": "file"}
_OBJECT_STORES = ("s3", "az", "gs")
_METHODS = {
    "cat_file": "read",
    "get_file": "get",
    "pipe_file": "put",
    "put_file": "put",
    "rm_file": "delete",
    "cp_file": "copy",
}
_KINDS = {prefix + name: kind for name, kind in _METHODS.items() for prefix in ("_", "")}
_inside: contextvars.ContextVar[bool] = contextvars.ContextVar("tracekit_fsspec", default=False)
_MARK = "_tracekit_original"
_BYTES = (bytes, bytearray, memoryview)


def install(library: ModuleType) -> Callable[[], None]:
    """Record every filesystem of this process, existing or created from now on."""
    spec = library.spec
    cached = spec._Cached
    make = cached.__call__

    def make_recorded(cls: Any, *args: Any, **kwargs: Any) -> Any:
        _watch_class(cls)
        return make(cls, *args, **kwargs)

    cached.__call__ = make_recorded
    for cls in _subclasses(spec.AbstractFileSystem):
        _watch_class(cls)
    local = _watch_local()

    def undo() -> None:
        cached.__call__ = make
        if local is not None:
            del local.open
        for cls in _subclasses(spec.AbstractFileSystem):
            for name in [name for name, method in vars(cls).items() if hasattr(method, _MARK)]:
                setattr(cls, name, getattr(vars(cls)[name], _MARK))
            _mirror_again(cls)

    return undo


def wrap(filesystem: Any) -> Any:
    """Record `filesystem` while a capture is active, even if the hook is not installed. Returns `filesystem`."""
    _watch_class(type(filesystem))
    if uri_of(filesystem, "/x").startswith("file://"):
        _watch_local()
    return filesystem


def uri_of(filesystem: Any, path: str) -> str:
    """The URI of `path` on `filesystem`, as ops carry it."""
    protocol = getattr(filesystem, "protocol", "file")
    first = protocol if isinstance(protocol, str) else protocol[0]
    scheme = _SCHEMES.get(first, first)
    bare = type(filesystem)._strip_protocol(path)
    if scheme in _OBJECT_STORES:
        container, _, key = str(bare).partition("/")
        return join(scheme, container, key)
    if scheme == "file":
        return f"file://{os.path.abspath(bare)}"
    return str(filesystem.unstrip_protocol(path))


def _watch_class(cls: type) -> None:
    """Patch the methods that the class and its bases define themselves.

    The methods of AbstractFileSystem call these, so they are not patched.
    """
    for owner in cls.__mro__[:-1]:
        if owner.__module__ in ("fsspec.spec", "fsspec.asyn"):
            continue
        for name, kind in _KINDS.items():
            method = vars(owner).get(name)
            if inspect.isfunction(method) and not hasattr(method, _MARK):
                made = _acall if inspect.iscoroutinefunction(method) else _call
                setattr(owner, name, made(method, kind))
        opener = vars(owner).get("_open")
        if inspect.isfunction(opener) and not hasattr(opener, _MARK):
            owner._open = _opener(opener)  # type: ignore[attr-defined]
    _mirror_again(cls)


def _watch_local() -> ModuleType | None:
    """Record local files by defining `open` in fsspec's module, unless another hook records files."""
    session = sessions.active()
    if session is not None and session.sees("files"):
        return None
    from fsspec.implementations import local

    if "open" in vars(local):
        return None
    local.open = recorded_open
    return local  # type: ignore[no-any-return]


def _call(method: Any, kind: str) -> Any:
    names = _names(method)

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not _watched(self):
            return method(self, *args, **kwargs)
        with _recorded(self, kind, {**dict(zip(names, args, strict=False)), **kwargs}, names[0]) as returned:
            returned.append(method(self, *args, **kwargs))
        return returned[0]

    setattr(call, _MARK, method)
    return call


def _acall(method: Any, kind: str) -> Any:
    names = _names(method)

    @functools.wraps(method)
    async def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not _watched(self):
            return await method(self, *args, **kwargs)
        with _recorded(self, kind, {**dict(zip(names, args, strict=False)), **kwargs}, names[0]) as returned:
            returned.append(await method(self, *args, **kwargs))
        return returned[0]

    setattr(call, _MARK, method)
    return call


@contextlib.contextmanager
def _recorded(filesystem: Any, kind: str, given: dict[str, Any], path: str) -> Iterator[list[Any]]:
    """Record the call in the block as one op. The block appends the call's result to the list.

    `given` has the arguments by name, and `path` is the name of the path.
    """
    returned: list[Any] = []
    token = _inside.set(True)
    submit = monotonic_ns()
    failure = None
    try:
        yield returned
    except BaseException as error:
        failure = error
        raise
    finally:
        _inside.reset(token)
        result = returned[0] if returned else None
        _moved(filesystem, kind, given.pop(path, ""), given, result, submit, failure)


def _names(method: Any) -> tuple[str, ...]:
    """The parameter names after `self`, path first. Filesystems differ in names and order."""
    return tuple(inspect.signature(method).parameters)[1:] or ("path",)


def _moved(
    filesystem: Any,
    kind: str,
    path: str,
    given: dict[str, Any],
    result: Any,
    submit: int,
    failure: BaseException | None,
) -> None:
    """Record the op of one whole-path call, as far as its arguments and result determine it."""
    took = monotonic_ns() - submit
    try:
        offset, length, moved, to_uri = None, None, None, None
        if kind == "copy":
            to_uri = uri_of(filesystem, str(next(iter(given.values()))))
        elif kind == "delete":
            pass
        elif kind == "read":
            start, end = given.get("start"), given.get("end")
            moved = len(result) if result is not None else 0
            if start is None and end is None:
                kind, length = "get", moved if failure is None else None
            else:
                offset = start if start is None or start >= 0 else None
                length = moved
                if end is not None and end >= 0 and (start or 0) >= 0:
                    length = end - (start or 0)
                offset = 0 if offset is None and start is None else offset
        elif kind == "get":
            length = moved = _size(given.get("lpath")) if failure is None else None
        else:
            if "rpath" in given:  # put_file(local, remote)
                length, path = _size(path), str(given["rpath"])
            else:
                data = next((value for value in given.values() if isinstance(value, _BYTES)), None)
                length = None if data is None else len(data)
            moved = length if failure is None else 0
        error = None if failure is None else error_class(failure)
        record(
            uri_of(filesystem, path), offset, length, submit, took, kind, moved, None, error, to_uri=to_uri
        )
    except Exception as error_of_ours:  # noqa: BLE001 - the host's call has completed
        hook_failed("fsspec", error_of_ours)


def _opener(method: Any) -> Any:
    @functools.wraps(method)
    def _open(self: Any, path: str, *args: Any, **kwargs: Any) -> Any:
        opened = method(self, path, *args, **kwargs)
        if sessions.active() is not None and not inspect.iscoroutine(opened):
            try:
                _watch_file(self, path, opened)
            except Exception as error:  # noqa: BLE001 - the file is open
                hook_failed("fsspec", error)
        return opened

    setattr(_open, _MARK, method)
    return _open


def _watch_file(filesystem: Any, path: str, file: Any) -> None:
    below, above = _layers()
    known = getattr(file, "__dict__", None)
    if known is None:
        return
    uri = uri_of(_storage(filesystem), path)
    if below and _watched(filesystem) and hasattr(file, "_fetch_range") and "_fetch_range" not in known:
        fetch = _fetcher(file._fetch_range, uri)
        cache = known.get("cache")
        if cache is not None and getattr(cache, "fetcher", None) is not None:
            cache.fetcher = fetch
        known["_fetch_range"] = fetch
        if hasattr(file, "_upload_chunk"):
            known["_upload_chunk"] = _uploader(file, file._upload_chunk, uri)
    elif below and _watched(filesystem) and "read" not in known and not hasattr(file, "_fetch_range"):
        # A file without an fsspec cache: its reads are the requests.
        known["read"] = _reader(file, file.read, uri)
    if above and ("read" not in known or _is_layer(filesystem)):
        known.pop("read", None)
        known["read"] = _reader(file, file.read, f"app+{uri}")


def _fetcher(fetch: Any, uri: str) -> Any:
    at_open = where()

    def fetch_range(start: int, end: int | None = None, *args: Any, **kwargs: Any) -> Any:
        token = _inside.set(True)
        submit = monotonic_ns()
        try:
            data = fetch(start, end, *args, **kwargs)
        except BaseException as error:
            took = monotonic_ns() - submit
            length = None if end is None else end - start
            record(uri, start, length, submit, took, "read", 0, None, error_class(error), _place(at_open))
            raise
        finally:
            _inside.reset(token)
        took = monotonic_ns() - submit
        moved = len(data)
        asked = moved if end is None else end - start
        record(uri, start, asked, submit, took, "read", moved, at=_place(at_open))
        return data

    return fetch_range


def _place(at_open: tuple[int | None, int | None]) -> tuple[int | None, int | None]:
    """The current scope, or that of the open if a read-ahead thread has none."""
    here = where()
    return at_open if here == (None, None) else here


def _uploader(file: Any, upload: Any, uri: str) -> Any:
    """Record the chunks of an upload: parts, and its completion; or one whole object, if there is one chunk."""
    parts = itertools.count(1)

    def upload_chunk(final: bool = False, *args: Any, **kwargs: Any) -> Any:
        length = file.buffer.seek(0, os.SEEK_END)
        file.buffer.seek(0)
        offset, number = file.offset or 0, next(parts)
        token = _inside.set(True)
        submit = monotonic_ns()
        failure: ErrorClass | None = None
        try:
            return upload(final, *args, **kwargs)
        except BaseException as error:
            failure = error_class(error)
            raise
        finally:
            _inside.reset(token)
            took = monotonic_ns() - submit
            moved = 0 if failure else length
            if final and number == 1:
                record(uri, None, length, submit, took, "put", moved, None, failure)
            elif length:
                record(uri, offset, length, submit, took, "part", moved, None, failure, part=number)
            if final and number > 1 and failure is None:  # the same call completed the upload
                record(uri, None, None, submit, took, "complete")

    return upload_chunk


def _reader(file: Any, read: Any, uri: str) -> Any:
    def read_above(*args: Any, **kwargs: Any) -> Any:
        begin = file.tell()
        submit = monotonic_ns()
        data = read(*args, **kwargs)
        took = monotonic_ns() - submit
        size = next(iter((*args, *kwargs.values())), None)
        asked = size if isinstance(size, int) and size >= 0 else len(data)
        record(uri, begin, asked, submit, took, "read", len(data))
        return data

    return read_above


def _watched(filesystem: Any) -> bool:
    """Whether this hook records the requests of `filesystem`: it makes them itself, and no lower hook records."""
    session = sessions.active()
    if session is None or _inside.get() or _is_layer(filesystem) or not _layers()[0]:
        return False
    protocol = getattr(filesystem, "protocol", "file")
    first = protocol if isinstance(protocol, str) else protocol[0]
    scheme = _SCHEMES.get(first, first)
    below = "obstore" if type(filesystem).__module__.startswith("obstore") else _BELOW.get(scheme)
    return scheme != "file" and not (below is not None and session.sees(below))


def _layers() -> tuple[bool, bool]:
    """Whether to record (below the caches, above the caches)."""
    session = sessions.active()
    spelling = session.name_of("fsspec") if session is not None else None
    which = (spelling or "").partition(":")[2]
    return which != "above", which in ("above", "both")


def _is_layer(filesystem: Any) -> bool:
    """Whether `filesystem` wraps another one (a cache, a directory view, references)."""
    known = object.__getattribute__(filesystem, "__dict__")
    return any(name in known for name in ("fs", "fss", "sync_fs"))


def _storage(filesystem: Any) -> Any:
    """The filesystem at the bottom of a stack of layers."""
    known = object.__getattribute__(filesystem, "__dict__")
    return _storage(known["fs"]) if known.get("fs") is not None else filesystem


def _size(path: Any) -> int | None:
    try:
        return os.stat(path).st_size  # noqa: PTH116 - any type that the host passed
    except (OSError, TypeError, ValueError):
        return None


def _mirror_again(cls: Any) -> None:
    """Renew the synchronous copies of asynchronous methods that instances keep."""
    for instance in list(getattr(cls, "_cache", {}).values()):
        known = object.__getattribute__(instance, "__dict__")
        for name in _KINDS:
            if name[1:] in known and name.startswith("_"):
                from fsspec.asyn import sync_wrapper

                known[name[1:]] = sync_wrapper(getattr(instance, name), obj=instance)


def _subclasses(cls: type[Any]) -> Iterator[type[Any]]:
    sub: type[Any]
    for sub in cls.__subclasses__():
        yield sub
        yield from _subclasses(sub)
