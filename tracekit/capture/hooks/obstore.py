"""obstore: its functions, and so the methods of its stores, which call them.

A row is one call: the object, its range, what it moved. Retries and the joining of near
ranges happen in its Rust below us and are not seen. `from obstore import get` done before
the capture keeps the unrecorded function. Of a store only bucket and prefix are taken.
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
from tracekit.capture.outcome import error_class
from tracekit.capture.session import hook_failed, record

__all__ = ["install", "wrap"]

_CALLS = {"get_range": "read", "get_ranges": "read", "get": "get", "put": "put", "head": "stat", "delete": "delete",
          "open_reader": "open"}  # fmt: skip
_USERS = ("obstore", "obstore.fsspec")


def install(library: ModuleType) -> Callable[[], None]:
    """Record every call of every store."""
    before: list[tuple[ModuleType, str, Any]] = []
    for module in (sys.modules[name] for name in _USERS if name in sys.modules):
        for name, kind in _CALLS.items():
            for whole, make in ((name, _call), (f"{name}_async", _acall)):
                original = vars(module).get(whole)
                if original is not None and getattr(library, "_obstore", None) is not None:
                    before.append((module, whole, original))
                    setattr(module, whole, make(original, name, kind))

    def undo() -> None:
        for module, name, original in before:
            setattr(module, name, original)

    return undo


def wrap(store: Any) -> Any:
    """`store`, recorded while a capture is under way, whatever its hooks; for obstore's own methods only."""
    return _Store(store)


class _Store:
    """A store whose methods record, and whose everything else is the store's."""

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
        vars(self)[name] = method  # found there the next time
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
            _tell(store, args, kwargs, name, kind, submit, None, error)
            raise
        return _tell(store, args, kwargs, name, kind, submit, result, None)

    call._tracekit_original = original  # type: ignore[attr-defined]
    return call


def _acall(original: Any, name: str, kind: str) -> Any:
    async def run(store: Any, *args: Any, **kwargs: Any) -> Any:
        submit = monotonic_ns()
        try:
            result = await original(store, *args, **kwargs)
        except BaseException as error:
            _tell(store, args, kwargs, name, kind, submit, None, error)
            raise
        return _tell(store, args, kwargs, name, kind, submit, result, None, reader=_AsyncReader)

    @functools.wraps(original)
    def call(store: Any, *args: Any, **kwargs: Any) -> Any:
        if sessions.active() is None:
            return original(store, *args, **kwargs)
        return asyncio.ensure_future(run(store, *args, **kwargs))  # as the original: under way already

    call._tracekit_original = original  # type: ignore[attr-defined]
    return call


def _tell(
    store: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    name: str,
    kind: str,
    submit: int,
    result: Any,
    failure: BaseException | None,
    reader: Callable[[Any, str], Any] | None = None,
) -> Any:
    """Record a call that has ended; its result, or one that knows when its bytes have come."""
    took = monotonic_ns() - submit
    error = None if failure is None else error_class(failure)
    try:
        path: Any = args[0] if args else kwargs.get("path", kwargs.get("paths"))
        if name == "get_range" and error is None:  # what data loaders do: nothing is to be worked out
            start, length = kwargs.get("start"), kwargs.get("length")
            if start is not None and length is not None:
                record(_uri(store, path), start, length, submit, took, "read", len(result))
                return result
        uris = [_uri(store, one) for one in ([path] if isinstance(path, str) else path)]
        if name == "get" and result is not None:
            return _Result(result, uris[0], submit, took)
        if name == "open_reader" and result is not None:
            return (reader or _Reader)(result, uris[0])
        for uri in uris:
            for offset, length in _ranges(name, args, kwargs, result):
                moved = None if kind not in ("read", "put", "get") else (0 if error else length)
                record(
                    uri, offset, length, submit, took, "stat" if kind == "open" else kind, moved, None, error
                )
    except Exception as ours:  # noqa: BLE001 - the host's call has its result already
        hook_failed("obstore", ours)
    return result


def _ranges(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
) -> Sequence[tuple[int | None, int | None]]:
    """(offset, length) of each part that the call asked for."""
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
    """A `GetResult` that records its op once its bytes have come; all else is the result's."""

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
        return self._whole(self._result.bytes)

    def buffer(self) -> Any:
        return self._whole(self._result.buffer)

    async def bytes_async(self) -> Any:
        return self._came(await self._result.bytes_async())

    async def buffer_async(self) -> Any:
        return self._came(await self._result.buffer_async())

    def stream(self, *args: Any, **kwargs: Any) -> Any:
        return _Stream(self._result.stream(*args, **kwargs), self)

    def __iter__(self) -> Any:
        return _Stream(iter(self._result), self)

    def __aiter__(self) -> Any:
        return _Stream(aiter(self._result), self)

    def _whole(self, read: Callable[[], Any]) -> Any:
        try:
            return self._came(read())
        except BaseException as error:
            self._ended(0, error_class(error))
            raise

    def _came(self, data: Any) -> Any:
        self._ended(len(data))
        return data

    def _ended(self, moved: int, error: str | None = None) -> None:
        uri, submit, ttfb = self._op
        took = monotonic_ns() - submit
        try:
            start, end = self._result.range
            whole = (start, end) == (0, self._result.meta["size"])
        except Exception:  # noqa: BLE001 - a result that is spent tells no more
            start, end, whole = 0, moved, True
        offset, kind = (None, "get") if whole else (start, "read")
        record(uri, offset, end - start, submit, took, kind, moved, ttfb, error, self._at)


class _Stream:
    """A result's stream that knows its end."""

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


class _Reader:
    """A `ReadableFile` whose reads are ops, as the program asked them of obstore's buffer."""

    def __init__(self, reader: Any, uri: str) -> None:
        self._reader, self._uri = reader, uri

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self._reader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def read(self, size: int | None = None, /) -> Any:
        begin = self._reader.tell()
        submit = monotonic_ns()
        try:
            data = self._reader.read(size)
        except BaseException as error:
            record(
                self._uri, begin, size, submit, monotonic_ns() - submit, "read", 0, None, error_class(error)
            )
            raise
        asked = len(data) if size is None or size < 0 else size
        record(self._uri, begin, asked, submit, monotonic_ns() - submit, "read", len(data))
        return data

    def readall(self) -> Any:
        return self.read(None)


class _AsyncReader(_Reader):
    """The same for an `AsyncReadableFile`."""

    async def read(self, size: int | None = None, /) -> Any:
        begin = await self._reader.tell()
        submit = monotonic_ns()
        try:
            data = await self._reader.read(size)
        except BaseException as error:
            record(
                self._uri, begin, size, submit, monotonic_ns() - submit, "read", 0, None, error_class(error)
            )
            raise
        asked = len(data) if size is None or size < 0 else size
        record(self._uri, begin, asked, submit, monotonic_ns() - submit, "read", len(data))
        return data

    async def readall(self) -> Any:
        return await self.read(None)


def _uri(store: Any, path: str) -> str:
    scheme, container, prefix = _place(store)
    key = f"{prefix}/{path}" if prefix else path
    if scheme == "file":
        return f"file:///{key}"
    return f"{container}/{key}" if not scheme else join(scheme, container, key)


def _place(store: Any) -> tuple[str, str, str]:
    """(scheme, container, prefix) of a store; kept on it, since its settings are slow to read."""
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
