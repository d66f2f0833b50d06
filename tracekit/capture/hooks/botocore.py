"""Records the requests of boto3 and aiobotocore S3 clients, by botocore's events.

Each attempt is one row: a failed attempt has an error class, and its retry is another row. A
streamed body ends when its last byte has been read, or when it is closed or discarded. Only
bucket and key names, ranges, sizes and times are recorded, never headers or signatures.
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
from urllib.parse import unquote

from tracekit.backends.objects.uri import join
from tracekit.capture import session as sessions
from tracekit.capture.attempt import Attempt
from tracekit.capture.outcome import error_class, status_class
from tracekit.capture.ranges import asked_range, granted_range
from tracekit.capture.replacing import replace
from tracekit.capture.session import hook_failed
from tracekit.capture.writes import WRITE_KINDS, Uploads
from tracekit.errors import ErrorClass

__all__ = ["install", "install_async", "wrap"]

_KINDS = {
    "GetObject": "get",
    "HeadObject": "stat",
    "HeadBucket": "stat",
    "PutObject": "put",
    "UploadPart": "part",
    "UploadPartCopy": "copy",
    "CompleteMultipartUpload": "complete",
    "AbortMultipartUpload": "abort",
    "CopyObject": "copy",
    "ListObjects": "list",
    "ListObjectsV2": "list",
    "DeleteObject": "delete",
    "DeleteObjects": "delete",
}
_uploads = Uploads()
_KEY = "tracekit"
_ATTEMPT = "tracekit-attempt"


_sending: contextvars.ContextVar[Attempt | None] = contextvars.ContextVar("tracekit_s3", default=None)


def install(client: ModuleType) -> Callable[[], None]:
    """Record every S3 client, existing or created from now on."""
    for instance in _existing(client.BaseClient):
        wrap(instance)
    return _patch(client.ClientCreator)


def install_async(client: ModuleType) -> Callable[[], None]:
    """Record every aiobotocore S3 client created from now on."""
    return _patch(client.AioClientCreator)


def wrap(client: Any) -> Any:
    """Record the requests of `client`, if it is an S3 client, while a capture is active. Returns `client`."""
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

    return replace([(creator, "create_client", create_client)])


async def _wrap_later(making: Any) -> Any:
    return _wrap_quietly(await making)


def _wrap_quietly(client: Any) -> Any:
    try:
        return wrap(client)
    except Exception as error:  # noqa: BLE001 - the client works without recording
        hook_failed("botocore", error)
        return client


def _existing(base: type) -> list[Any]:
    # isinstance() would call into proxies.
    return [thing for thing in gc.get_objects() if issubclass(type(thing), base)]


def _named(params: dict[str, Any], model: Any, context: dict[str, Any] | None = None, **_: Any) -> None:
    """Read the operation and its parameters before the request is built."""
    kind = _KINDS.get(model.name)
    if sessions.active() is None or kind is None or context is None:
        return
    try:
        context[_KEY] = [_planned(kind, params), 0]
    except Exception as error:  # noqa: BLE001 - the request goes out all the same
        hook_failed("botocore", error)


def _planned(kind: str, params: dict[str, Any]) -> dict[str, Any]:
    """What the parameters of a request say of its op, as attributes of its attempts."""
    bucket, key = str(params.get("Bucket", "")), str(params.get("Key") or params.get("Prefix") or "")
    body = params.get("Body")
    length = len(body) if kind in WRITE_KINDS and isinstance(body, (bytes, bytearray, memoryview)) else None
    found: dict[str, Any] = {"uri": join("s3", bucket, key), "kind": kind, "offset": None, "length": length}
    if kind == "get" and (asked := params.get("Range")):
        found["kind"] = "read"
        found["offset"], found["length"] = asked_range(asked)
    elif kind == "copy":
        found["uri"], found["to_uri"] = _copy_source(params["CopySource"]), found["uri"]
        found["offset"], found["length"] = asked_range(params.get("CopySourceRange") or "")
    elif "Delete" in params:
        keys = [join("s3", bucket, str(one["Key"])) for one in params["Delete"]["Objects"]]
        found["uri"], found["more"] = keys[0], tuple(keys[1:])
    if "UploadId" in params:
        found["upload"] = str(params["UploadId"])
        found["part"] = int(params["PartNumber"]) if "PartNumber" in params else None
    return found


def _copy_source(source: Any) -> str:
    """The URI of what a CopyObject copies: a mapping, or `bucket/key` in URL quoting."""
    if isinstance(source, dict):
        return join("s3", str(source["Bucket"]), str(source["Key"]))
    bucket, _, key = unquote(str(source).partition("?versionId=")[0]).lstrip("/").partition("/")
    return join("s3", bucket, key)


def _created(request: Any, **_: Any) -> None:
    """Begin an attempt: the request is signed and about to be sent."""
    try:
        known = request.context.get(_KEY)
        if known is None or sessions.active() is None:
            _sending.set(None)
            return
        plan, tries = known
        known[1] = tries + 1
        attempt = Attempt(plan["uri"], plan["kind"], plan["offset"], plan["length"])
        attempt.part, attempt.to_uri, attempt.more = (
            plan.get("part"),
            plan.get("to_uri"),
            plan.get("more", ()),
        )
        attempt.upload = plan.get("upload")
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
        if attempt.kind in ("put", "part") and attempt.length is None:
            headers = request.headers
            size = headers.get("X-Amz-Decoded-Content-Length") or headers.get("Content-Length")
            attempt.length = int(size) if size is not None else None
        _place_part(attempt)
        attempt.submit = monotonic_ns()
    except Exception as error:  # noqa: BLE001 - the request goes out all the same
        hook_failed("botocore", error)


def _place_part(attempt: Attempt) -> None:
    """Find out where a part lies in its object, and forget uploads that end."""
    if attempt.upload is not None and attempt.part is not None:
        offset = _uploads.offset(attempt.upload, attempt.part, attempt.length)
        if attempt.kind == "part":  # the range of a copy is that of its source
            attempt.offset = offset
    elif attempt.upload is not None:
        _uploads.ended(attempt.upload)


def _received(parsed_response: Any, context: Any, exception: Any, **_: Any) -> None:
    """Handle a response, whose body may still have to be read, or an exception."""
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
            if failure == ErrorClass.THROTTLED and session is not None:
                session.count("throttles")
            attempt.ended(0, failure)
            return
        body = parsed_response.get("Body")
        if body is None or attempt.kind not in ("get", "read"):
            attempt.succeeded()
            return
        attempt.offset, attempt.length = granted_range(
            attempt.kind,
            attempt.offset,
            attempt.length,
            parsed_response.get("ContentRange"),
            parsed_response.get("ContentLength"),
        )
        _follow(body, attempt, parsed_response.get("ContentLength"))
    except Exception as error:  # noqa: BLE001 - the answer reaches the host all the same
        hook_failed("botocore", error)


def _follow(body: Any, attempt: Attempt, size: int | None) -> None:
    """Change the class of `body` to a subclass that reports its reads, so that object identity is kept."""
    body._tracekit = _BodyProgress(attempt, size)
    plain: Any = type(body)
    body.__class__ = _reporting(plain)


class _BodyProgress:
    """How much of a body has been read."""

    __slots__ = ("attempt", "open", "size")

    def __init__(self, attempt: Attempt, size: int | None) -> None:
        self.attempt, self.size, self.open = attempt, size, True

    def moved(self, count: int, *, last: bool) -> None:
        attempt = self.attempt
        attempt.moved += count
        if last or (self.size is not None and attempt.moved >= self.size):
            short = self.size is not None and attempt.moved < self.size
            self.ended(ErrorClass.SHORT_READ if short else None)

    def closed(self) -> None:
        self.ended(
            None if self.size is not None and self.attempt.moved >= self.size else ErrorClass.CANCELLED
        )

    def ended(self, error: ErrorClass | None) -> None:
        if self.open:
            self.open = False
            self.attempt.ended(self.attempt.moved, error)

    def discarded(self, raw: Any) -> None:
        """The body was discarded unread, or read through its raw stream, so its end time is unknown."""
        if not self.open:
            return
        self.open = False
        try:
            moved = self.attempt.moved or int(raw.tell())
        except Exception:  # noqa: BLE001 - not every stream has a position
            moved = 0
        self.attempt.ended(moved or None, known_end=False)


@functools.lru_cache(maxsize=64)
def _reporting(cls: Any) -> Any:
    """A subclass of the body class `cls` that reports what it reads."""

    def close(self: Any) -> Any:
        self._tracekit.closed()
        return cls.close(self)

    def discard(self: Any) -> None:
        self._tracekit.discarded(getattr(self, "_raw_stream", None))

    methods: dict[str, Any] = {"close": close, "__del__": discard, "__module__": cls.__module__}
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
