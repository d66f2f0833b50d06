"""Records the requests of azure-storage-blob clients, by a policy at the end of their pipelines.

Each attempt is one row, so a retry is another row. A download ends when its stream has been
read. Only container and blob names, ranges, sizes and times are recorded, never headers,
queries or SAS tokens.
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
from tracekit.capture.attempt import Attempt
from tracekit.capture.outcome import error_class, status_class
from tracekit.capture.ranges import asked_range, granted_range, is_whole
from tracekit.capture.replacing import replace
from tracekit.capture.session import hook_failed
from tracekit.capture.writes import WRITE_KINDS, Uploads
from tracekit.errors import ErrorClass

__all__ = ["install", "policy"]

_KEY = "tracekit"
_TRIES = "tracekit-tries"
_COMPONENTS = {"block": "part", "blocklist": "complete", "page": "write", "appendblock": "write"}
_uploads = Uploads()
_COMP = re.compile(r"(?:^|&)comp=([a-z]*)")


def install(base_client: ModuleType) -> Callable[[], None]:
    """Record every blob client created from now on."""
    owners = [
        owner
        for name in ("StorageAccountHostsMixin", "AsyncStorageAccountHostsMixin")
        if (owner := getattr(base_client, name, None)) is not None and "_create_pipeline" in vars(owner)
    ]
    return replace((owner, "_create_pipeline", _with_policy(owner._create_pipeline)) for owner in owners)


def policy(*accounts: str) -> Any:
    """Return a pipeline policy that records each attempt while a capture is active.

    For clients created before or without the hook, pass it as
    `_additional_pipeline_policies=[policy("host/account")]`. `accounts` are the URL parts that
    precede the container; by default the host.
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


class _Followed:
    """A download stream that reports when it has been read. Other attributes are the stream's."""

    def __init__(self, stream: Any, attempt: Attempt, size: int | None) -> None:
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
            attempt.ended(attempt.moved, ErrorClass.SHORT_READ if short else None)
        else:
            attempt.ended(attempt.moved, error_class(error))


def _with_policy(original: Any) -> Any:
    def _create_pipeline(self: Any, credential: Any = None, **kwargs: Any) -> Any:
        try:
            hosts = sorted(filter(None, getattr(self, "_hosts", {}).values()), key=len, reverse=True)
            more = list(kwargs.get("_additional_pipeline_policies") or ())
            kwargs["_additional_pipeline_policies"] = [*more, policy(*hosts)]
        except Exception as error:  # noqa: BLE001 - the client works without recording
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
    source = http.headers.get("x-ms-copy-source") if kind in WRITE_KINDS else None
    copied = asked_range(http.headers.get("x-ms-source-range") or "")
    if kind == "get":
        header = http.headers.get("x-ms-range") or http.headers.get("Range")
        if header:
            kind, (offset, length) = "read", asked_range(header)
    elif kind in WRITE_KINDS and source:
        length = copied[1]
    elif kind in WRITE_KINDS:
        size = http.headers.get("Content-Length")
        length = int(size) if size is not None else None
    tries = context.get(_TRIES, 0)
    context[_TRIES] = tries + 1
    if tries:
        session.count("retries")
    attempt = Attempt(_uri(url, query, accounts), kind, offset, length)
    context[_KEY] = attempt
    if kind == "part":
        _place_block(attempt, query)
    elif kind == "complete":
        _uploads.ended(attempt.uri)
    elif kind == "write" and (header := http.headers.get("x-ms-range")):
        attempt.offset = asked_range(header)[0]
    if source:  # the store reads it: the client sends nothing
        attempt.kind, attempt.offset, attempt.length = "copy", *copied
        attempt.uri, attempt.to_uri = _placed(source.partition("?")[0], "", accounts), attempt.uri


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
        if failure == ErrorClass.THROTTLED and session is not None:
            session.count("throttles")
        attempt.ended(0, failure)
        return
    if attempt.kind not in ("read", "get"):
        attempt.succeeded()
        return
    size = answer.headers.get("Content-Length")
    granted = answer.headers.get("Content-Range")
    length = int(size) if size is not None else None
    if is_whole(attempt.offset, granted, length):
        attempt.kind, attempt.offset, attempt.length = "get", None, length
    attempt.offset, attempt.length = granted_range(
        attempt.kind, attempt.offset, attempt.length, granted, length
    )
    stream = answer.stream_download

    def stream_download(*args: Any, **kwargs: Any) -> Any:
        return _Followed(stream(*args, **kwargs), attempt, length)

    answer.stream_download = stream_download


def _kind(method: str, query: str) -> str | None:
    """The op kind of a request, or None for requests that neither move bytes nor list blobs."""
    comp = _COMP.search(query) if query else None
    if method == "GET" and comp is not None and comp[1] == "list":
        return "list"
    if comp is not None:
        return _COMPONENTS.get(comp[1]) if method == "PUT" else None
    of_container = "restype=" in query
    if method == "PUT":
        return None if of_container else "put"
    return {"GET": None if of_container else "get", "HEAD": "stat", "DELETE": "delete"}.get(method)


def _place_block(attempt: Attempt, query: str) -> None:
    """Number a block by the order in which blocks are sent: their names are random."""
    name = parse_qs(query).get("blockid", [""])[0]
    attempt.part = _uploads.number(attempt.uri, name)
    attempt.offset = _uploads.offset(attempt.uri, attempt.part, attempt.length)


def _uri(url: str, query: str, accounts: tuple[str, ...]) -> str:
    prefix = parse_qs(query).get("prefix") if "prefix=" in query else None
    return _placed(url, prefix[0] if prefix else "", accounts)


@functools.lru_cache(maxsize=4096)
def _placed(url: str, prefix: str, accounts: tuple[str, ...]) -> str:
    """The URI of a URL without its query; for a container's root, with the listed prefix."""
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
