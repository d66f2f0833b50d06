"""boto3 and aiobotocore: every S3 client, by the events that botocore emits for each request.

One row an attempt: a retry is a row of its own, with the class of what went wrong before it.
A body that streams ends when its last byte has been read, or when it is closed or forgotten.
Only names of buckets and keys, ranges, sizes and times are taken: no header, no signature.
"""

from __future__ import annotations

import contextvars
import gc
import inspect
import weakref
from collections.abc import Callable
from time import monotonic_ns
from types import ModuleType
from typing import Any

from tracekit.backends.object_uri import join
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
    return [thing for thing in gc.get_objects() if isinstance(thing, base)]


def _named(params: dict[str, Any], model: Any, context: dict[str, Any] | None = None, **_: Any) -> None:
    """Before the request is built: what is asked for, in the caller's own words."""
    kind = _KINDS.get(model.name)
    if sessions.active() is None or kind is None or context is None:
        return
    try:
        key = params.get("Key") or params.get("Prefix") or ""
        body = params.get("Body")
        length = len(body) if kind == "put" and isinstance(body, (bytes, bytearray, memoryview)) else None
        context[_KEY] = [join("s3", str(params.get("Bucket", "")), str(key)), kind, length, 0]
    except Exception as error:  # noqa: BLE001 - the request goes out all the same
        hook_failed("botocore", error)


def _created(request: Any, **_: Any) -> None:
    """Each attempt, signed and about to be sent."""
    try:
        known = request.context.get(_KEY)
        if known is None or sessions.active() is None:
            _sending.set(None)
            return
        uri, kind, length, tries = known
        known[3] = tries + 1
        offset = None
        header = request.headers.get("Range")
        if kind == "get" and header is not None:
            kind, (offset, length) = "read", asked_range(header)
        attempt = _Attempt(uri, kind, offset, length)
        request.context[f"{_KEY}-attempt"] = attempt
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
        attempt = context.pop(f"{_KEY}-attempt", None) if context else None
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
    """Know when the body has been read, without a wrapper that the host could trip over."""
    done = weakref.finalize(body, _forgotten, attempt, getattr(body, "_raw_stream", None))
    done.atexit = False

    def moved(count: int, *, last: bool) -> None:
        attempt.moved += count
        if (last or (size is not None and attempt.moved >= size)) and done.detach():
            short = size is not None and attempt.moved < size
            attempt.ended(attempt.moved, "short_read" if short else None)

    def failed(error: BaseException) -> None:
        if done.detach():
            attempt.ended(attempt.moved, error_class(error))

    read, close = body.read, body.close
    is_async = inspect.iscoroutinefunction(getattr(type(body), "read", None))
    known = body.__dict__
    known["read"] = (_aread if is_async else _read)(read, moved, failed)
    if not is_async and hasattr(body, "readinto"):
        known["readinto"] = _readinto(body.readinto, moved, failed)

    def closed() -> Any:
        if done.detach():
            complete = size is not None and attempt.moved >= size
            attempt.ended(attempt.moved, None if complete else "cancelled")
        return close()

    known["close"] = closed


def _forgotten(attempt: _Attempt, raw: Any) -> None:
    """The body was dropped unread, or read by way of its raw stream: when it ended nobody knows."""
    try:
        moved = attempt.moved or int(raw.tell())
    except Exception:  # noqa: BLE001 - not every stream counts
        moved = 0
    attempt.ended(moved or None, at_all=False)


def _read(read: Any, moved: Any, failed: Any) -> Any:
    def read_and_tell(amt: int | None = None, *more: Any) -> Any:
        try:
            chunk = read(amt, *more)
        except BaseException as error:
            failed(error)
            raise
        moved(len(chunk), last=amt is None or amt < 0 or (not chunk and amt > 0))
        return chunk

    return read_and_tell


def _aread(read: Any, moved: Any, failed: Any) -> Any:
    async def read_and_tell(amt: int | None = None, *more: Any) -> Any:
        try:
            chunk = await read(amt, *more)
        except BaseException as error:
            failed(error)
            raise
        moved(len(chunk), last=amt is None or amt < 0 or (not chunk and amt > 0))
        return chunk

    return read_and_tell


def _readinto(readinto: Any, moved: Any, failed: Any) -> Any:
    def readinto_and_tell(buffer: Any) -> Any:
        try:
            count = readinto(buffer)
        except BaseException as error:
            failed(error)
            raise
        moved(count, last=count == 0 and len(buffer) > 0)
        return count

    return readinto_and_tell


_HANDLERS: dict[str, Any] = {
    "before-parameter-build": _named,
    "request-created": _created,
    "before-send": _sent,
    "response-received": _received,
}
