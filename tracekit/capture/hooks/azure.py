"""azure-storage-blob: every client, by a policy at the end of its pipeline, where each attempt passes.

One row an attempt: a retry is a row of its own. A download ends when its stream has been
read. Only container, blob, range, sizes and times are taken: no header, no query, no SAS.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable
from time import monotonic_ns
from types import ModuleType
from typing import Any
from urllib.parse import parse_qs, unquote

from tracekit.backends.objects.uri import join
from tracekit.capture import session as sessions
from tracekit.capture.context import where
from tracekit.capture.outcome import error_class, status_class
from tracekit.capture.ranges import asked_range, granted_range
from tracekit.capture.session import hook_failed, record

__all__ = ["install", "policy"]

_KEY = "tracekit"
_TRIES = "tracekit-tries"
_COMP = re.compile(r"(?:^|&)comp=([a-z]*)")


def install(base_client: ModuleType) -> Callable[[], None]:
    """Record every blob client that is made from now on."""
    owners = [
        owner
        for name in ("StorageAccountHostsMixin", "AsyncStorageAccountHostsMixin")
        if (owner := getattr(base_client, name, None)) is not None and "_create_pipeline" in vars(owner)
    ]
    before = [(owner, owner._create_pipeline) for owner in owners]
    for owner, original in before:
        owner._create_pipeline = _with_policy(original)

    def undo() -> None:
        for owner, original in before:
            owner._create_pipeline = original

    return undo


def policy(*accounts: str) -> Any:
    """A pipeline policy that records each attempt while a capture is under way.

    For clients that are made before, or without, the hook: give it as
    `_additional_pipeline_policies=[policy("host/account")]`. `accounts` are what stands
    before the container in URLs; by default the host.
    """
    from azure.core.pipeline.policies import SansIOHTTPPolicy

    class RecordingPolicy(SansIOHTTPPolicy):  # type: ignore[type-arg, misc, unused-ignore]
        def on_request(self, request: Any) -> None:
            try:
                _asked(request, accounts)
            except Exception as error:  # noqa: BLE001 - the request goes out all the same
                hook_failed("azure", error)

        def on_response(self, request: Any, response: Any) -> None:
            try:
                _answered(request, response)
            except Exception as error:  # noqa: BLE001 - the answer reaches the host all the same
                hook_failed("azure", error)

        def on_exception(self, request: Any) -> None:
            attempt, failure = request.context.pop(_KEY, None), sys.exc_info()[1]
            if attempt is not None and failure is not None:
                attempt.ended(0, error_class(failure))

    return RecordingPolicy()


class _Attempt:
    """One request on its way."""

    __slots__ = ("kind", "length", "moved", "offset", "submit", "ttfb", "uri", "where")

    def __init__(self, uri: str, kind: str, offset: int | None, length: int | None) -> None:
        self.uri, self.kind, self.offset, self.length = uri, kind, offset, length
        self.where = where()
        self.moved = 0
        self.ttfb: int | None = None
        self.submit = monotonic_ns()

    def ended(self, moved: int | None, error: str | None = None) -> None:
        record(
            self.uri, self.offset, self.length, self.submit, monotonic_ns() - self.submit, self.kind, moved,
            self.ttfb, error, self.where,
        )  # fmt: skip


class _Followed:
    """A download's stream that knows when it has been read; else the stream itself."""

    def __init__(self, stream: Any, attempt: _Attempt, size: int | None) -> None:
        self._stream, self._attempt, self._size = stream, attempt, size
        self._open = True

    def __iter__(self) -> _Followed:
        return self

    def __aiter__(self) -> _Followed:
        return self

    def __len__(self) -> int:
        return len(self._stream)

    def __next__(self) -> Any:
        try:
            chunk = next(self._stream)
        except BaseException as error:
            self._end(error)
            raise
        self._attempt.moved += len(chunk)
        return chunk

    async def __anext__(self) -> Any:
        try:
            chunk = await self._stream.__anext__()
        except BaseException as error:
            self._end(error)
            raise
        self._attempt.moved += len(chunk)
        return chunk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __del__(self) -> None:
        if self._open:
            complete = self._size is not None and self._attempt.moved >= self._size
            self._end(None if complete else GeneratorExit())

    def _end(self, error: BaseException | None) -> None:
        if not self._open:
            return
        self._open = False
        attempt = self._attempt
        if error is None or isinstance(error, (StopIteration, StopAsyncIteration)):
            short = self._size is not None and attempt.moved < self._size
            attempt.ended(attempt.moved, "short_read" if short else None)
        else:
            attempt.ended(attempt.moved, error_class(error))


def _with_policy(original: Any) -> Any:
    def _create_pipeline(self: Any, credential: Any = None, **kwargs: Any) -> Any:
        try:
            hosts = sorted(filter(None, getattr(self, "_hosts", {}).values()), key=len, reverse=True)
            more = list(kwargs.get("_additional_pipeline_policies") or ())
            kwargs["_additional_pipeline_policies"] = [*more, policy(*hosts)]
        except Exception as error:  # noqa: BLE001 - the client works, unrecorded
            hook_failed("azure", error)
        return original(self, credential, **kwargs)

    return _create_pipeline


def _asked(request: Any, accounts: tuple[str, ...]) -> None:
    context = request.context
    context.pop(_KEY, None)
    session = sessions.active()
    if session is None:
        return
    http = request.http_request
    url, _, query = http.url.partition("?")
    kind = _kind(http.method, query)
    if kind is None:
        return
    offset, length = None, None
    if kind == "get":
        header = http.headers.get("x-ms-range") or http.headers.get("Range")
        if header:
            kind, (offset, length) = "read", asked_range(header)
    elif kind == "put":
        size = http.headers.get("Content-Length")
        length = int(size) if size is not None else None
    tries = context.get(_TRIES, 0)
    context[_TRIES] = tries + 1
    if tries:
        session.count("retries")
    context[_KEY] = _Attempt(_uri(url, query, accounts), kind, offset, length)


def _answered(request: Any, response: Any) -> None:
    attempt = request.context.pop(_KEY, None)
    if attempt is None:
        return
    attempt.ttfb = monotonic_ns() - attempt.submit
    answer = response.http_response
    if answer.status_code >= 300:
        code = str(answer.headers.get("x-ms-error-code") or "")
        failure = status_class(answer.status_code, code)
        session = sessions.active()
        if failure == "throttled" and session is not None:
            session.count("throttles")
        attempt.ended(0, failure)
        return
    if attempt.kind not in ("read", "get"):
        attempt.ended(attempt.length if attempt.kind == "put" else None)
        return
    size = answer.headers.get("Content-Length")
    granted = answer.headers.get("Content-Range")
    length = int(size) if size is not None else None
    if _is_whole(attempt, granted, length):
        attempt.kind, attempt.offset, attempt.length = "get", None, length
    attempt.offset, attempt.length = granted_range(
        attempt.kind, attempt.offset, attempt.length, granted, length
    )
    stream = answer.stream_download

    def stream_download(*args: Any, **kwargs: Any) -> Any:
        return _Followed(stream(*args, **kwargs), attempt, length)

    answer.stream_download = stream_download


def _is_whole(attempt: _Attempt, granted: str | None, length: int | None) -> bool:
    """Whether the range took in all there is: the SDK asks for the first 32 MiB of whatever it downloads."""
    if attempt.offset != 0 or not granted:
        return False
    return granted.rpartition("/")[2].strip() == str(length)


def _kind(method: str, query: str) -> str | None:
    """What an op the request is; None for what moves or lists nothing."""
    comp = _COMP.search(query) if query else None
    if method == "GET" and comp is not None and comp[1] == "list":
        return "list"
    if comp is not None and comp[1] not in ("block", "page", "appendblock"):
        return None
    of_container = "restype=" in query
    if method == "PUT":
        return None if of_container else "put"
    return {"GET": None if of_container else "get", "HEAD": "stat", "DELETE": "delete"}.get(method)


def _uri(url: str, query: str, accounts: tuple[str, ...]) -> str:
    prefix = parse_qs(query).get("prefix") if "prefix=" in query else None
    return _placed(url, prefix[0] if prefix else "", accounts)


@functools.lru_cache(maxsize=4096)
def _placed(url: str, prefix: str, accounts: tuple[str, ...]) -> str:
    """The URI of a URL without its query, of a container's root with the prefix that is listed."""
    whole = url.partition("://")[2]
    for account in accounts:
        if whole.startswith(account) and whole[len(account) : len(account) + 1] in ("", "/"):
            path = whole[len(account) :]
            break
    else:
        path = whole.partition("/")[2]
    container, _, blob = path.strip("/").partition("/")
    if not blob:
        return join("az", unquote(container), prefix)
    return join("az", unquote(container), unquote(blob))
