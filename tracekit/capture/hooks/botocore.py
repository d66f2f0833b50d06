"""boto3 and aiobotocore: every S3 client, by the events that botocore emits for each request.

One row an attempt: a retry is a row of its own, with the class of what went wrong before it.
A body that streams ends when its last byte has been read, or when it is closed or forgotten.
Only names of buckets and keys, ranges, sizes and times are taken: no header, no signature.
"""

from __future__ import annotations

import contextvars
import functools
import gc
import inspect
from collections.abc import Callable
from time import monotonic_ns
from types import ModuleType
from typing import Any

from tracekit.backends.objects.uri import join
from tracekit.capture import session as sessions
from tracekit.capture.context import where
from tracekit.capture.outcome import error_class, status_class
from tracekit.capture.ranges import asked_range, granted_range
from tracekit.capture.session import hook_failed, record

__all__ = ["install", "install_async", "wrap"]

_KINDS = {
    "GetObject": "get", "HeadObject": "stat", "HeadBucket": "stat", "PutObject": "put", "UploadPart": "put",
    "ListObjects": "list", "ListObjectsV2": "list", "DeleteObject": "delete",
}  # fmt: skip
_KEY = "tracekit"
_ATTEMPT = "tracekit-attempt"


class _Attempt:
    """One request on its way."""

    __slots__ = ("kind", "length", "moved", "offset", "submit", "ttfb", "uri", "where")

    def __init__(self, uri: str, kind: str, offset: int | None, length: int | None) -> None:
        self.uri, self.kind, self.offset, self.length = uri, kind, offset, length
        self.where = where()
        self.moved = 0
        self.ttfb: int | None = None
        self.submit = monotonic_ns()

    def ended(self, moved: int | None, error: str | None = None, *, at_all: bool = True) -> None:
        latency = monotonic_ns() - self.submit if at_all else None
        record(
            self.uri, self.offset, self.length, self.submit, latency, self.kind, moved, self.ttfb, error,
            self.where,
        )  # fmt: skip


_sending: contextvars.ContextVar[_Attempt | None] = contextvars.ContextVar("tracekit_s3", default=None)


def install(client: ModuleType) -> Callable[[], None]:
    """Record every S3 client that is made from now on, and those that exist."""
    for instance in _existing(client.BaseClient):
        wrap(instance)
    return _patch(client.ClientCreator)


def install_async(client: ModuleType) -> Callable[[], None]:
    """The same for aiobotocore, whose clients are made by a coroutine."""
    return _patch(client.AioClientCreator)


def wrap(client: Any) -> Any:
    """`client` itself; if it is one for S3 it is recorded from now on while a capture is under way."""
    meta = getattr(client, "meta", None)
    if meta is not None and meta.service_model.service_name == "s3":
        for event, handler in _HANDLERS.items():
            meta.events.register_last(f"{event}.s3", handler, unique_id=f"tracekit-{event}")
    return client


def _patch(creator: Any) -> Callable[[], None]:
    original = creator.create_client

    def create_client(self: Any, *args: Any, **kwargs: Any) -> Any:
        made = original(self, *args, **kwargs)
        return _wrap_later(made) if inspect.isawaitable(made) else _wrap_quietly(made)

    creator.create_client = create_client

    def undo() -> None:
        creator.create_client = original

    return undo


async def _wrap_later(making: Any) -> Any:
    return _wrap_quietly(await making)


def _wrap_quietly(client: Any) -> Any:
    try:
        return wrap(client)
    except Exception as error:  # noqa: BLE001 - the client works, unrecorded
        hook_failed("botocore", error)
        return client


def _existing(base: type) -> list[Any]:
    return [thing for thing in gc.get_objects() if issubclass(type(thing), base)]  # a proxy is not asked


def _named(params: dict[str, Any], model: Any, context: dict[str, Any] | None = None, **_: Any) -> None:
    """Before the request is built: what is asked for, in the caller's own words."""
    kind = _KINDS.get(model.name)
    if sessions.active() is None or kind is None or context is None:
        return
    try:
        key = params.get("Key") or params.get("Prefix") or ""
        body = params.get("Body")
        length = len(body) if kind == "put" and isinstance(body, (bytes, bytearray, memoryview)) else None
        offset = None
        if kind == "get" and (asked := params.get("Range")):
            kind, (offset, length) = "read", asked_range(asked)
        context[_KEY] = [join("s3", str(params.get("Bucket", "")), str(key)), kind, offset, length, 0]
    except Exception as error:  # noqa: BLE001 - the request goes out all the same
        hook_failed("botocore", error)


def _created(request: Any, **_: Any) -> None:
    """Each attempt, signed and about to be sent."""
    try:
        known = request.context.get(_KEY)
        if known is None or sessions.active() is None:
            _sending.set(None)
            return
        uri, kind, offset, length, tries = known
        known[4] = tries + 1
        attempt = _Attempt(uri, kind, offset, length)
        request.context[_ATTEMPT] = attempt
        _sending.set(attempt)
        session = sessions.active()
        if tries and session is not None:
            session.count("retries")
    except Exception as error:  # noqa: BLE001 - the request goes out all the same
        hook_failed("botocore", error)


def _sent(request: Any, **_: Any) -> None:
    try:
        attempt = _sending.get()
        if attempt is None:
            return
        if attempt.kind == "put" and attempt.length is None:
            headers = request.headers
            size = headers.get("X-Amz-Decoded-Content-Length") or headers.get("Content-Length")
            attempt.length = int(size) if size is not None else None
        attempt.submit = monotonic_ns()
    except Exception as error:  # noqa: BLE001 - the request goes out all the same
        hook_failed("botocore", error)


def _received(parsed_response: Any, context: Any, exception: Any, **_: Any) -> None:
    """An answer, its body perhaps still to come, or the exception in its place."""
    try:
        attempt = context.pop(_ATTEMPT, None) if context else None
        if attempt is None:
            return
        attempt.ttfb = monotonic_ns() - attempt.submit if exception is None else None
        if exception is not None:
            attempt.ended(0, error_class(exception))
            return
        status = parsed_response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if status >= 300:
            failure = status_class(status, str(parsed_response.get("Error", {}).get("Code", "")))
            session = sessions.active()
            if failure == "throttled" and session is not None:
                session.count("throttles")
            attempt.ended(0, failure)
            return
        body = parsed_response.get("Body")
        if body is None or attempt.kind not in ("get", "read"):
            attempt.ended(attempt.length if attempt.kind == "put" else None)
            return
        attempt.offset, attempt.length = granted_range(
            attempt.kind, attempt.offset, attempt.length, parsed_response.get("ContentRange"),
            parsed_response.get("ContentLength"),
        )  # fmt: skip
        _follow(body, attempt, parsed_response.get("ContentLength"))
    except Exception as error:  # noqa: BLE001 - the answer reaches the host all the same
        hook_failed("botocore", error)


def _follow(body: Any, attempt: _Attempt, size: int | None) -> None:
    """Know when the body has been read: it stays the object that it is, of a class that tells."""
    body._tracekit = _Followed(attempt, size)
    plain: Any = type(body)
    body.__class__ = _telling(plain)


class _Followed:
    """How far a body has been read."""

    __slots__ = ("attempt", "open", "size")

    def __init__(self, attempt: _Attempt, size: int | None) -> None:
        self.attempt, self.size, self.open = attempt, size, True

    def moved(self, count: int, *, last: bool) -> None:
        attempt = self.attempt
        attempt.moved += count
        if last or (self.size is not None and attempt.moved >= self.size):
            short = self.size is not None and attempt.moved < self.size
            self.ended("short_read" if short else None)

    def closed(self) -> None:
        self.ended(None if self.size is not None and self.attempt.moved >= self.size else "cancelled")

    def ended(self, error: str | None) -> None:
        if self.open:
            self.open = False
            self.attempt.ended(self.attempt.moved, error)

    def forgotten(self, raw: Any) -> None:
        """The body was dropped unread, or read by way of its raw stream: when it ended nobody knows."""
        if not self.open:
            return
        self.open = False
        try:
            moved = self.attempt.moved or int(raw.tell())
        except Exception:  # noqa: BLE001 - not every stream counts
            moved = 0
        self.attempt.ended(moved or None, at_all=False)


@functools.lru_cache(maxsize=64)
def _telling(cls: Any) -> Any:
    """A class of bodies like `cls` that tell of what they move."""

    def close(self: Any) -> Any:
        self._tracekit.closed()
        return cls.close(self)

    def forget(self: Any) -> None:
        self._tracekit.forgotten(getattr(self, "_raw_stream", None))

    methods: dict[str, Any] = {"close": close, "__del__": forget, "__module__": cls.__module__}
    if inspect.iscoroutinefunction(cls.read):
        methods["read"] = _aread(cls)
    else:
        methods["read"] = _read(cls)
        if hasattr(cls, "readinto"):
            methods["readinto"] = _readinto(cls)
    return type(cls.__name__, (cls,), methods)


def _read(cls: Any) -> Any:
    def read(self: Any, amt: int | None = None, *more: Any) -> Any:
        try:
            chunk = cls.read(self, amt, *more)
        except BaseException as error:
            self._tracekit.ended(error_class(error))
            raise
        self._tracekit.moved(len(chunk), last=amt is None or amt < 0 or (not chunk and amt > 0))
        return chunk

    return read


def _aread(cls: Any) -> Any:
    async def read(self: Any, amt: int | None = None, *more: Any) -> Any:
        try:
            chunk = await cls.read(self, amt, *more)
        except BaseException as error:
            self._tracekit.ended(error_class(error))
            raise
        self._tracekit.moved(len(chunk), last=amt is None or amt < 0 or (not chunk and amt > 0))
        return chunk

    return read


def _readinto(cls: Any) -> Any:
    def readinto(self: Any, buffer: Any) -> Any:
        try:
            count = cls.readinto(self, buffer)
        except BaseException as error:
            self._tracekit.ended(error_class(error))
            raise
        self._tracekit.moved(count, last=count == 0 and len(buffer) > 0)
        return count

    return readinto


_HANDLERS: dict[str, Any] = {
    "before-parameter-build": _named,
    "request-created": _created,
    "before-send": _sent,
    "response-received": _received,
}
