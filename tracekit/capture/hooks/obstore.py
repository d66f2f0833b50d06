"""Records obstore's functions, and with them the methods of its stores, which call them.

A row is one call: the object, its range and the bytes moved. Retries and the merging of
adjacent ranges happen in obstore's Rust code and are not visible here. A function imported
with `from obstore import get` before the capture is not recorded. Of a store's settings only
bucket and prefix are read.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys
from collections.abc import Callable, Sequence
from time import monotonic_ns
from types import ModuleType
from typing import Any

from tracekit.backends.objects.uri import join
from tracekit.capture import session as sessions
from tracekit.capture.context import where
from tracekit.capture.hooks.obstore_reader import AsyncReader, Reader
from tracekit.capture.outcome import error_class
from tracekit.capture.replacing import replace
from tracekit.capture.session import hook_failed, record
from tracekit.errors import ErrorClass

__all__ = ["install", "wrap"]

_CALLS = {
    "get_range": "read",
    "get_ranges": "read",
    "get": "get",
    "put": "put",
    "head": "stat",
    "delete": "delete",
    "copy": "copy",
    "rename": "rename",
    "open_reader": "open",
    "open_writer": "open",
}
_USERS = ("obstore", "obstore.fsspec")
_BUFFER_BYTES = 1024 * 1024
"""The default `buffer_size` of `obstore.open_reader`."""


def install(library: ModuleType) -> Callable[[], None]:
    """Record every call on every store."""
    replacements: list[tuple[ModuleType, str, Any]] = []
    for module in (sys.modules[name] for name in _USERS if name in sys.modules):
        for name, kind in _CALLS.items():
            for whole, make in ((name, _call), (f"{name}_async", _acall)):
                original = vars(module).get(whole)
                if original is not None and getattr(library, "_obstore", None) is not None:
                    replacements.append((module, whole, make(original, name, kind)))
    return replace(replacements)


def wrap(store: Any) -> Any:
    """Wrap `store` to record its methods while a capture is active, even if the hook is not installed."""
    return _Store(store)


class _Store:
    """A store whose methods record their calls. Other attributes are the store's."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        bare = name.removesuffix("_async")
        if bare not in _CALLS:
            return getattr(self._store, name)
        import obstore

        function = getattr(obstore, name)
        function = getattr(function, "_tracekit_original", function)
        made = (_acall if name.endswith("_async") else _call)(function, bare, _CALLS[bare])
        method = functools.partial(made, self._store)
        vars(self)[name] = method  # the next access finds it there
        return method


def _call(original: Any, name: str, kind: str) -> Any:
    @functools.wraps(original)
    def call(store: Any, *args: Any, **kwargs: Any) -> Any:
        if sessions.active() is None:
            return original(store, *args, **kwargs)
        submit = monotonic_ns()
        try:
            result = original(store, *args, **kwargs)
        except BaseException as error:
            _record_call(store, args, kwargs, name, kind, submit, None, error)
            raise
        return _record_call(store, args, kwargs, name, kind, submit, result, None)

    call._tracekit_original = original  # type: ignore[attr-defined]
    return call


def _acall(original: Any, name: str, kind: str) -> Any:
    async def run(store: Any, *args: Any, **kwargs: Any) -> Any:
        submit = monotonic_ns()
        try:
            result = await original(store, *args, **kwargs)
        except BaseException as error:
            _record_call(store, args, kwargs, name, kind, submit, None, error)
            raise
        return _record_call(store, args, kwargs, name, kind, submit, result, None, reader=AsyncReader)

    @functools.wraps(original)
    def call(store: Any, *args: Any, **kwargs: Any) -> Any:
        if sessions.active() is None:
            return original(store, *args, **kwargs)
        return asyncio.ensure_future(run(store, *args, **kwargs))  # starts at once, as the original does

    call._tracekit_original = original  # type: ignore[attr-defined]
    return call


def _record_call(
    store: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    name: str,
    kind: str,
    submit: int,
    result: Any,
    failure: BaseException | None,
    reader: type[Reader] | None = None,
) -> Any:
    """Record a completed call; return its result, wrapped if its bytes have still to be read."""
    took = monotonic_ns() - submit
    error = None if failure is None else error_class(failure)
    try:
        path: Any = args[0] if args else kwargs.get("path", kwargs.get("paths"))
        if kind in ("copy", "rename"):
            source, target = args if len(args) > 1 else (kwargs.get("from_"), kwargs.get("to"))
            record(
                _uri(store, source),
                None,
                None,
                submit,
                took,
                kind,
                None,
                None,
                error,
                to_uri=_uri(store, target),
            )
            return result
        if name == "open_writer" and result is not None:
            return _Writer(result, _uri(store, path), submit)
        if name == "get_range" and error is None:  # the common case of data loaders
            start, length = kwargs.get("start"), kwargs.get("length")
            if start is not None and length is not None:
                record(_uri(store, path), start, length, submit, took, "read", len(result))
                return result
        uris = [_uri(store, one) for one in ([path] if isinstance(path, str) else path)]
        if name == "get" and result is not None:
            return _Result(result, uris[0], submit, took)
        if name == "open_reader" and result is not None:
            return (reader or Reader)(result, uris[0], kwargs.get("buffer_size", _BUFFER_BYTES))
        for uri in uris:
            for offset, length in _ranges(name, args, kwargs, result):
                moved = None if kind not in ("read", "put", "get") else (0 if error else length)
                record(
                    uri, offset, length, submit, took, "stat" if kind == "open" else kind, moved, None, error
                )
    except Exception as ours:  # noqa: BLE001 - the host's call has completed
        hook_failed("obstore", ours)
    return result


def _ranges(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
) -> Sequence[tuple[int | None, int | None]]:
    """The (offset, length) of each part that the call requested."""
    if name == "get_range":
        start, end, length = kwargs.get("start"), kwargs.get("end"), kwargs.get("length")
        return [(start, length if length is not None else end - start if end is not None else None)]
    if name == "get_ranges":
        starts, ends, lengths = kwargs.get("starts", ()), kwargs.get("ends"), kwargs.get("lengths")
        sizes = (
            lengths
            if lengths is not None
            else [end - start for start, end in zip(starts, ends or (), strict=False)]
        )
        return list(zip(starts, sizes, strict=False))
    if name == "put":
        data = args[1] if len(args) > 1 else kwargs.get("file")
        return [(None, memoryview(data).nbytes if isinstance(data, (bytes, bytearray, memoryview)) else None)]
    return [(None, None)]


class _Result:
    """A `GetResult` that records its op when its bytes have been read. Other attributes are the result's."""

    def __init__(self, result: Any, uri: str, submit: int, ttfb: int) -> None:
        self._result = result
        self._at = where()
        self._op = (uri, submit, ttfb)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self._result)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._result, name)

    def bytes(self) -> Any:
        return self._read_whole(self._result.bytes)

    def buffer(self) -> Any:
        return self._read_whole(self._result.buffer)

    async def bytes_async(self) -> Any:
        return self._complete(await self._result.bytes_async())

    async def buffer_async(self) -> Any:
        return self._complete(await self._result.buffer_async())

    def stream(self, *args: Any, **kwargs: Any) -> Any:
        return _Stream(self._result.stream(*args, **kwargs), self)

    def __iter__(self) -> Any:
        return _Stream(iter(self._result), self)

    def __aiter__(self) -> Any:
        return _Stream(aiter(self._result), self)

    def _read_whole(self, read: Callable[[], Any]) -> Any:
        try:
            return self._complete(read())
        except BaseException as error:
            self._ended(0, error_class(error))
            raise

    def _complete(self, data: Any) -> Any:
        self._ended(len(data))
        return data

    def _ended(self, moved: int, error: ErrorClass | None = None) -> None:
        uri, submit, ttfb = self._op
        took = monotonic_ns() - submit
        try:
            start, end = self._result.range
            whole = (start, end) == (0, self._result.meta["size"])
        except Exception:  # noqa: BLE001 - a consumed result has no metadata
            start, end, whole = 0, moved, True
        offset, kind = (None, "get") if whole else (start, "read")
        record(uri, offset, end - start, submit, took, kind, moved, ttfb, error, self._at)


class _Writer:
    """A writer that records its object, as one put, when it is closed. Other attributes are the writer's."""

    def __init__(self, writer: Any, uri: str, submit: int) -> None:
        self._writer, self._uri, self._submit = writer, uri, submit
        self._at = where()
        self._moved = 0

    def write(self, data: Any) -> Any:
        self._moved += memoryview(data).nbytes
        return self._writer.write(data)

    def close(self) -> Any:
        closed = self._writer.close()
        if hasattr(closed, "__await__"):
            return self._closed_later(closed)
        self._ended(None)
        return closed

    async def _closed_later(self, closing: Any) -> None:
        await closing
        self._ended(None)

    def __enter__(self) -> _Writer:
        self._writer.__enter__()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> Any:
        result = self._writer.__exit__(kind, error, trace)
        self._ended(error)
        return result

    async def __aenter__(self) -> _Writer:
        await self._writer.__aenter__()
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> Any:
        result = await self._writer.__aexit__(kind, error, trace)
        self._ended(error)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def _ended(self, error: BaseException | None) -> None:
        if self._submit:
            took = monotonic_ns() - self._submit
            failure = None if error is None else error_class(error)
            moved = self._moved if error is None else 0
            record(self._uri, None, self._moved, self._submit, took, "put", moved, None, failure, self._at)
            self._submit = 0


class _Stream:
    """A result's stream that records the op at its end."""

    def __init__(self, stream: Any, result: _Result) -> None:
        self._stream, self._result, self._moved = stream, result, 0

    def __iter__(self) -> _Stream:
        return self

    def __aiter__(self) -> _Stream:
        return self

    def __next__(self) -> Any:
        try:
            chunk = next(self._stream)
        except BaseException as error:
            self._result._ended(self._moved, None if isinstance(error, StopIteration) else error_class(error))
            raise
        self._moved += len(chunk)
        return chunk

    async def __anext__(self) -> Any:
        try:
            chunk = await self._stream.__anext__()
        except BaseException as error:
            ended = isinstance(error, StopAsyncIteration)
            self._result._ended(self._moved, None if ended else error_class(error))
            raise
        self._moved += len(chunk)
        return chunk


def _uri(store: Any, path: str) -> str:
    scheme, container, prefix = _place(store)
    key = f"{prefix}/{path}" if prefix else path
    if scheme == "file":
        return f"file:///{key}"
    return f"{container}/{key}" if not scheme else join(scheme, container, key)


def _place(store: Any) -> tuple[str, str, str]:
    """The (scheme, container, prefix) of a store, cached on it because its settings are slow to read."""
    known: tuple[str, str, str] | None = getattr(store, "_tracekit_place", None)
    if known is not None:
        return known
    kind = type(store).__name__
    prefix = str(getattr(store, "prefix", None) or "").strip("/")
    if kind == "LocalStore":
        place = ("file", "", prefix)
    elif kind in ("S3Store", "GCSStore"):
        place = ("s3" if kind == "S3Store" else "gs", str(store.config.get("bucket", "")), prefix)
    elif kind == "AzureStore":
        place = ("az", str(store.config.get("container_name", "")), prefix)
    elif kind == "HTTPStore":
        place = ("", str(store.url).partition("?")[0].rstrip("/"), prefix)
    else:
        place = ("memory", "", prefix)
    with contextlib.suppress(AttributeError, TypeError):
        store._tracekit_place = place
    return place
