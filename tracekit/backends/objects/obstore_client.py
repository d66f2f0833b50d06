"""Reads of one container through obstore (Rust object_store), for comparison; the native client does the rest.

Its own retries are off: they would be part of the latency and could not be counted. Bytes
are copied once, from its buffer to the caller's. The HTTP status of an error is in its text
only, which is parsed here. obstore must not be used on both sides of a fork: the threads
of its runtime do not survive one, and a request would wait forever.
"""

from __future__ import annotations

import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, TypeVar, cast

import obstore
from obstore.exceptions import (
    BaseError,
    InvalidPathError,
    PermissionDeniedError,
    UnauthenticatedError,
)

from tracekit.backends.objects import failures
from tracekit.backends.objects.client import ObjectClient
from tracekit.backends.objects.failures import CREDENTIALS_MARK, Failure, ForeignAnswer
from tracekit.backends.objects.limits import TooLong, timed
from tracekit.backends.objects.obstore_config import check_version, documented_variables_only, without_mark
from tracekit.backends.objects.options import Transport
from tracekit.backends.objects.ranges import OtherBytes, check_body
from tracekit.backends.objects.reader_pool import ReaderPool
from tracekit.errors import ErrorClass, UsageError
from tracekit.redaction import redact

if TYPE_CHECKING:
    from obstore import Bytes, GetOptions
    from obstore.store import AzureStore, S3Store

__all__ = ["ObstoreClient"]

_STATUS = re.compile(r"status code: (\d{3})")
_CAUSE = re.compile(r'message: "([^"]{1,120})"|error: "([^"]{1,120})"')
_OTHER_RANGE = re.compile(
    r"Requested \d+\.\.\d+, got \d+\.\.\d+|Received non-partial response|Content-Range header not present|"
    r"(?:ETag|Last-Modified|Content-Length) Header missing|(?:etag|last.modified|content.length) header missing|"
    r"Failed to parse value for CONTENT_RANGE header",
    re.IGNORECASE,
)
_CONNECT = re.compile(r"kind: Connect\b|^\s*Connect,$", re.MULTILINE)
_CERTIFICATE = re.compile(r"InvalidCertificate\(\s*(?:Other\(\s*OtherError\(\s*)?(\w+)")
_HOST = re.compile(r"https?://([^/:\s]{1,255})")
_POOL_THREADS = 64
"""Further reads of event loops use obstore's own asyncio bridge."""

_FROM_START: GetOptions = {"range": {"offset": 0}}
"""A whole object is asked for as a range: obstore holds the Content-Range of ranges alone against the request."""
_NO_RANGE = ("Received non-partial response", "Failed to parse value for CONTENT_RANGE header")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_T = TypeVar("_T")


class _Process:
    """Whether obstore's runtime was started in this process, or in a parent before a fork."""

    begun = False
    lost = False

    @classmethod
    def forked(cls) -> None:
        cls.lost = cls.begun


os.register_at_fork(after_in_child=_Process.forked)


class ObstoreClient:
    """One container; `make_store(timeout_s, region)` makes obstore's store of it.

    `helper` is the native client: it lists, tells sizes, writes, and reads the keys that obstore cannot name.
    """

    obstore_errors: tuple[type[Exception], ...] = (
        BaseError,
        FileNotFoundError,
        ValueError,
        OSError,
        OtherBytes,
        TooLong,
        MemoryError,
    )
    errors = obstore_errors

    def __init__(
        self,
        make_store: Callable[[float, str | None], S3Store | AzureStore],
        options: Transport,
        helper: ObjectClient,
        count: Callable[[str], None],
    ) -> None:
        check_version()
        self._make_store = make_store
        self._count = count
        self._no_range = False
        self._timeout_s = options.timeout_s
        self._total_s = options.total_timeout_s
        self._region: str | None = None
        self._store = self._made(options.timeout_s)
        self._helper = helper
        self.errors = (*self.errors, *helper.errors)
        self._pool = ReaderPool(_POOL_THREADS)

    def read(self, key: str, offset: int, buffer: memoryview) -> tuple[int, int | None]:
        if not _namable(key):
            return self._helper.read(key, offset, buffer)
        self._enter()
        asked: GetOptions = {"range": (offset, offset + len(buffer))}
        data, first = self._ended(partial(_get, self._store, key, asked))
        return _fill(buffer, data), first

    def get(self, key: str, most: int | None) -> tuple[memoryview | None, int | None]:
        if self._no_range or not _namable(key):
            return self._helper.get(key, most)
        self._enter()
        try:
            data, first = self._ended(partial(_get, self._store, key, _FROM_START, most))
        except self.obstore_errors as error:
            if not self._wants_no_range(error):
                return self._empty(error)
            return self._helper.get(key, most)
        return None if data is None else memoryview(data), first

    async def aread(self, key: str, offset: int, buffer: memoryview) -> tuple[int, int | None]:
        if not _namable(key):
            return await self._helper.aread(key, offset, buffer)
        self._enter()
        asked: GetOptions = {"range": (offset, offset + len(buffer))}
        with timed(self._total_s, self.obstore_errors):
            ended = self._pool.submit(partial(_get, self._store, key, asked))
            data, first = await (ended or _aget(self._store, key, asked))
        return _fill(buffer, data), first  # here, so that a cancelled read writes nothing

    async def aget(self, key: str, most: int | None) -> tuple[memoryview | None, int | None]:
        if self._no_range or not _namable(key):
            return await self._helper.aget(key, most)
        self._enter()
        try:
            with timed(self._total_s, self.obstore_errors):
                data, first = await _aget(self._store, key, _FROM_START, most)
        except self.obstore_errors as error:
            if not self._wants_no_range(error):
                return self._empty(error)
            return await self._helper.aget(key, most)
        return None if data is None else memoryview(data), first

    def size(self, key: str) -> int:
        """Ask with the native client: obstore takes an answer without a length for an error."""
        return self._helper.size(key)

    def pages(self, prefix: str, after: str) -> Iterator[list[tuple[str, int]]]:
        """List with the native client: obstore lists `a/` as `a`, and fails at keys that it cannot name."""
        return self._helper.pages(prefix, after)

    def put(self, key: str, data: bytes | memoryview, overwrite: bool) -> None:
        """Write with the native client: obstore shows no answer to a put, and sends parts that nobody counts."""
        self._helper.put(key, data, overwrite)

    def failure(self, error: Exception) -> Failure:
        if isinstance(error, self._helper.errors) and not isinstance(error, self.obstore_errors):
            return self._helper.failure(error)
        if isinstance(error, TooLong):
            return failures.too_long()
        if isinstance(error, ForeignAnswer):
            return failures.foreign(error)
        text = without_mark(str(error))
        if isinstance(error, MemoryError):
            return Failure(ErrorClass.OUT_OF_MEMORY, text)
        status = _STATUS.search(text)
        if status:
            return failures.from_status(int(status[1]), text)
        if CREDENTIALS_MARK in text:
            return failures.credentials_failure(text.partition(CREDENTIALS_MARK)[2])
        if isinstance(error, PermissionDeniedError | UnauthenticatedError):
            return failures.credentials_failure("no valid credentials")
        if isinstance(error, FileNotFoundError):
            return failures.from_status(404)
        if "Wanted range starting at" in text:
            return failures.from_status(416)
        other = _OTHER_RANGE.search(text)
        if isinstance(error, OtherBytes) or other:
            return failures.other_bytes(other[0] if other else text)
        if isinstance(error, InvalidPathError) or "Could not parse path" in text or "invalid path" in text:
            return Failure(ErrorClass.BAD_KEY, f"obstore cannot access this key: {_headline(text)}")
        return _of_transport(text)

    def date(self, key: str) -> str:
        return self._helper.date(key)

    def remove(self, key: str) -> bool:
        return self._helper.remove(key)

    def relocate(self, region: str) -> bool:
        if not self._helper.relocate(region):
            return False
        self._region = region
        self._store = self._made(self._timeout_s)
        return True

    def close(self) -> None:
        """Connections end with the store."""
        self._pool.close()
        self._helper.close()

    async def aclose(self) -> None:
        await self._helper.aclose()

    def _made(self, timeout_s: float) -> S3Store | AzureStore:
        """Make a store. Raises UsageError for a setting in the environment that obstore does not take."""
        try:
            with documented_variables_only():
                return self._make_store(timeout_s, self._region)
        except (BaseError, ValueError) as error:
            cause = re.search(r'source: "((?:[^"\\]|\\.)*)"', str(error))
            why = cause[1].replace('\\"', "'") if cause else _headline(str(error))
            raise UsageError(
                f"obstore cannot be configured: {redact(why)}", "check the AWS_* or AZURE_* variables"
            ) from None

    def _ended(self, call: Callable[[], _T]) -> _T:
        with timed(self._total_s, self.obstore_errors):
            return _interruptible(call)

    def _wants_no_range(self, error: Exception) -> bool:
        """Whether to ask for the whole object without a range, by the native client, and count that.

        A store may answer the range from byte 0 with status 200, and Azurite names no range of an empty object.
        obstore does not tell whether the answer to a GET without a range is all of the object.
        """
        if not any(words in str(error) for words in _NO_RANGE):
            return False
        self._no_range = self._no_range or _NO_RANGE[0] in str(error)
        self._count("whole_gets")
        return True

    def _empty(self, error: Exception) -> tuple[memoryview, None]:
        """Return an empty object, which has no first byte to ask for; raise any other error."""
        if self.failure(error).error_class != ErrorClass.OUT_OF_RANGE:
            raise error
        return memoryview(b""), None

    def _enter(self) -> None:
        if _Process.lost:
            raise UsageError(
                "obstore was used before this process was forked and cannot be used after the fork",
                'start workers with "spawn" or "forkserver", or leave out client=',
            )
        _Process.begun = True


def _namable(key: str) -> bool:
    """Return whether obstore can name the key: no empty, `.` or `..` segment, no control character."""
    return _CONTROL.search(key) is None and {"", ".", ".."}.isdisjoint(key.split("/"))


def _interruptible(call: Callable[[], _T]) -> _T:
    """Return what `call` returns. obstore keeps Ctrl-C from the main thread, so another one makes the call."""
    if threading.current_thread() is not threading.main_thread():
        return call()
    ended: queue.SimpleQueue[tuple[_T | None, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            ended.put((call(), None))
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread
            ended.put((None, error))

    threading.Thread(target=work, name="tracekit-reader", daemon=True).start()
    result, error = ended.get()
    if error is not None:
        raise error
    return cast(_T, result)


def _get(
    store: S3Store | AzureStore, key: str, options: GetOptions, most: int | None = None
) -> tuple[Bytes | None, int]:
    """Send one GET; return its bytes (None, and unread, if more than `most`) and when its headers arrived."""
    result = obstore.get(store, key, options=options)
    first = time.monotonic_ns()
    size = result.meta["size"]
    return None if _overlong(size, most) else _checked(result.bytes(), options, size), first


async def _aget(
    store: S3Store | AzureStore, key: str, options: GetOptions, most: int | None = None
) -> tuple[Bytes | None, int]:
    result = await obstore.get_async(store, key, options=options)
    first = time.monotonic_ns()
    size = result.meta["size"]
    return None if _overlong(size, most) else _checked(await result.bytes_async(), options, size), first


def _checked(data: Bytes, options: GetOptions, size: int) -> Bytes:
    """Return the body, if it is as long as the range of an object of `size` bytes: obstore does not compare them."""
    asked = options["range"]
    first, end = asked if isinstance(asked, tuple) else (0, size)
    check_body(len(data), min(end, size) - first)
    return data


def _overlong(size: int, most: int | None) -> bool:
    return most is not None and size > most


def _fill(buffer: memoryview, data: Bytes | None) -> int:
    if data is None:
        return 0
    count = len(data)
    if count > len(buffer):
        raise OtherBytes(f"{count} bytes for a range of {len(buffer)}")
    buffer[:count] = memoryview(data)
    return count


def _of_transport(text: str) -> Failure:
    """Classify a failure without an HTTP status by the kind in the error's debug text."""
    refused = _CERTIFICATE.search(text)
    if refused:
        return failures.bad_certificate(refused[1], refused[1])
    if "InvalidMessage(" in text:
        return failures.without_tls()
    if "dns error" in text:
        host = _HOST.search(text)
        return failures.unreachable(f"the host name {host[1] if host else ''} cannot be resolved")
    if "kind: ConnectionRefused" in text:
        return failures.unreachable("connection refused")
    if _CONNECT.search(text):
        cause = _CAUSE.search(text)
        waited = "no connection in time" if "TimedOut" in text else "no connection"
        return failures.unreachable((cause[1] or cause[2]) if cause else waited)
    if "kind: Timeout" in text or "TimedOut" in text:
        return failures.timeout("timed out")
    if "Parse(" in text:
        return Failure(ErrorClass.IO_ERROR, "the answer is not HTTP/1.1", retryable=True)
    if "BareRedirect" in text or "TooManyRedirects" in text or "kind: Redirect" in text:
        return Failure(ErrorClass.WRONG_REGION, "the store redirects")
    if "kind: Interrupted" in text or "IncompleteMessage" in text or "HTTP error" in text:
        return failures.unreachable("the connection broke off")
    return Failure(ErrorClass.IO_ERROR, _headline(text))


def _headline(text: str) -> str:
    line = text.strip().splitlines()[0] if text.strip() else "unknown error"
    return redact(line)[:200]
