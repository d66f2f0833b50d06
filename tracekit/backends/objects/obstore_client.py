"""One container through obstore (Rust object_store): the default client, and the fastest.

Its own retries are off: they would be part of the latency and could not be counted. Bytes
are copied once, from its buffer to the caller's. The HTTP status of an error is in its text
only, which is parsed here. obstore must not be used on both sides of a fork: the threads
of its runtime do not survive one, and a request would wait forever.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    InvalidPathError,
    PermissionDeniedError,
    UnauthenticatedError,
)

from tracekit.backends.objects import failures
from tracekit.backends.objects.client import PAGE_OBJECTS
from tracekit.backends.objects.failures import CREDENTIALS_MARK, Failure
from tracekit.backends.objects.reader_pool import ReaderPool
from tracekit.errors import ErrorClass, UsageError
from tracekit.redaction import redact

if TYPE_CHECKING:
    from obstore import Bytes, GetOptions
    from obstore.store import AzureStore, ClientConfig, RetryConfig, S3Store

__all__ = ["NO_RETRIES", "ObstoreClient", "client_config"]

NO_RETRIES: RetryConfig = {"max_retries": 0, "retry_timeout": timedelta(seconds=0)}

_STATUS = re.compile(r"status code: (\d{3})")
_CAUSE = re.compile(r'message: "([^"]{1,120})"|error: "([^"]{1,120})"')
_OTHER_RANGE = re.compile(r"Requested \d+\.\.\d+, got \d+\.\.\d+")
_CONNECT = re.compile(r"kind: Connect\b|^\s*Connect,$", re.MULTILINE)
_POOL_THREADS = 64
"""Further reads of event loops use obstore's own asyncio bridge."""
_BIG_PUT_BYTES = 16 << 20
_PART_BYTES = 16 << 20
_SLOWEST_PUT_BYTES_S = 1 << 20


def client_config(timeout_s: float, connect_timeout_s: float, endpoint: str | None) -> ClientConfig:
    """Return obstore's client options. `timeout_s` bounds the wait for the next byte, not the transfer."""
    config: ClientConfig = {
        "timeout": timedelta(days=1),
        "read_timeout": timedelta(seconds=timeout_s),
        "connect_timeout": timedelta(seconds=connect_timeout_s),
        "user_agent": "tracekit",
    }
    if endpoint and endpoint.startswith("http://"):
        config["allow_http"] = True
    return config


class _SlashAtEnd(ValueError):
    """obstore would drop the slash and access another object."""


class _NotTheRange(ValueError):
    """The store sent more bytes than requested."""


class _Process:
    """Whether obstore's runtime was started in this process, or in a parent before a fork."""

    begun = False
    lost = False

    @classmethod
    def forked(cls) -> None:
        cls.lost = cls.begun


os.register_at_fork(after_in_child=_Process.forked)


class ObstoreClient:
    """One container; `make_store(timeout_s)` makes obstore's store of it."""

    errors: tuple[type[Exception], ...] = (BaseError, FileNotFoundError, ValueError, OSError)

    def __init__(self, make_store: Callable[[float], S3Store | AzureStore], timeout_s: float) -> None:
        self._make_store = make_store
        self._timeout_s = timeout_s
        self._store = self._made(timeout_s)
        self._pool = ReaderPool(_POOL_THREADS)

    def read(self, key: str, offset: int, buffer: memoryview) -> tuple[int, int | None]:
        self._enter(key)
        data, first = _get(self._store, key, {"range": (offset, offset + len(buffer))})
        return _fill(buffer, data), first

    def get(self, key: str, most: int | None) -> tuple[memoryview | None, int | None]:
        self._enter(key)
        data, first = _get(self._store, key, None, most)
        return None if data is None else memoryview(data), first

    async def aread(self, key: str, offset: int, buffer: memoryview) -> tuple[int, int | None]:
        self._enter(key)
        asked: GetOptions = {"range": (offset, offset + len(buffer))}
        ended = self._pool.submit(partial(_get, self._store, key, asked))
        data, first = await (ended or _aget(self._store, key, asked))
        return _fill(buffer, data), first  # here, so that a cancelled read writes nothing

    async def aget(self, key: str, most: int | None) -> tuple[memoryview | None, int | None]:
        self._enter(key)
        data, first = await _aget(self._store, key, None, most)
        return None if data is None else memoryview(data), first

    def size(self, key: str) -> int:
        self._enter(key)
        return int(obstore.head(self._store, key)["size"])

    def pages(self, prefix: str, after: str) -> Iterator[list[tuple[str, int]]]:
        """Yield pages without empty folder markers: obstore lists `a/` as `a`, and a HEAD tells them apart."""
        self._enter(f"{prefix}x")
        held: tuple[str, int] | None = None  # until the next entry shows whether it is a marker
        last = ""
        ready: list[tuple[str, int]] | None = None
        for page in obstore.list(self._store, prefix or None, offset=after or None, chunk_size=PAGE_OBJECTS):
            if ready is not None:
                yield ready
            ready = []
            for entry in page:
                item = (entry["path"], entry["size"])
                if not item[1] and item[0] <= last:
                    continue  # out of order: its key is `a/`, and an object `a` was listed before
                if held and not self._is_marker(*held, follower=item[0]):
                    ready.append(held)
                held, last = item, item[0]
        if ready is not None:
            if held and not self._is_marker(*held, follower=""):
                ready.append(held)
            yield ready

    def put(self, key: str, data: bytes | memoryview, overwrite: bool) -> None:
        self._enter(key)
        size = memoryview(data).nbytes
        store = self._store
        if size > _BIG_PUT_BYTES:  # the timeout of the answer starts with the first byte sent
            store = self._made(self._timeout_s + size / _SLOWEST_PUT_BYTES_S)
        obstore.put(
            store,
            key,
            data,
            mode="overwrite" if overwrite else "create",
            use_multipart=overwrite and size > 4 * _PART_BYTES,  # a multipart upload cannot be create-only
            chunk_size=_PART_BYTES,
        )

    def failure(self, error: Exception) -> Failure:
        text = str(error)
        status = _STATUS.search(text)
        if isinstance(error, _SlashAtEnd):
            return Failure(ErrorClass.BAD_KEY, "obstore cannot access a key that begins or ends with a slash")
        if status:
            return failures.from_status(int(status[1]), text)
        if isinstance(error, AlreadyExistsError):
            return failures.from_status(412, text)
        if CREDENTIALS_MARK in text:
            return failures.credentials_failure(text.partition(CREDENTIALS_MARK)[2])
        if isinstance(error, PermissionDeniedError | UnauthenticatedError):
            return failures.credentials_failure("no valid credentials")
        if isinstance(error, FileNotFoundError):
            return failures.from_status(404)
        if "Wanted range starting at" in text:
            return failures.from_status(416)
        if isinstance(error, _NotTheRange) or _OTHER_RANGE.search(text):
            return Failure(ErrorClass.IO_ERROR, "the store sent other bytes than the requested range")
        if isinstance(error, InvalidPathError) or "Could not parse path" in text or "invalid path" in text:
            return Failure(ErrorClass.BAD_KEY, f"obstore cannot access this key: {_headline(text)}")
        return _of_transport(text)

    def close(self) -> None:
        """Connections end with the store."""
        self._pool.close()

    async def aclose(self) -> None:
        """Nothing belongs to an event loop."""

    def _made(self, timeout_s: float) -> S3Store | AzureStore:
        """Make a store. Raises UsageError for a setting in the environment that obstore does not take."""
        try:
            return self._make_store(timeout_s)
        except (BaseError, ValueError) as error:
            cause = re.search(r'source: "((?:[^"\\]|\\.)*)"', str(error))
            why = cause[1].replace('\\"', "'") if cause else _headline(str(error))
            raise UsageError(
                f"obstore cannot be configured: {redact(why)}", "check the AWS_* or AZURE_* variables"
            ) from None

    def _is_marker(self, key: str, size: int, follower: str) -> bool:
        """Return whether the listed `key` is the folder marker `key/`; it is if something is below it."""
        if size or follower.startswith(f"{key}/"):
            return not size
        try:
            obstore.head(self._store, key)
        except FileNotFoundError:
            return True
        return False

    def _enter(self, key: str) -> None:
        if key[:1] == "/" or key[-1:] == "/":
            raise _SlashAtEnd
        if _Process.lost:
            raise UsageError(
                "obstore was used before this process was forked and cannot be used after the fork",
                'start workers with "spawn" or "forkserver", or choose another client=',
            )
        _Process.begun = True


def _get(
    store: S3Store | AzureStore, key: str, options: GetOptions | None, most: int | None = None
) -> tuple[Bytes | None, int]:
    """Send one GET; return its bytes (None, and unread, if more than `most`) and when its headers arrived."""
    result = obstore.get(store, key, options=options)
    first = time.monotonic_ns()
    return None if most is not None and result.meta["size"] > most else result.bytes(), first


async def _aget(
    store: S3Store | AzureStore, key: str, options: GetOptions | None, most: int | None = None
) -> tuple[Bytes | None, int]:
    result = await obstore.get_async(store, key, options=options)
    first = time.monotonic_ns()
    return None if most is not None and result.meta["size"] > most else await result.bytes_async(), first


def _fill(buffer: memoryview, data: Bytes | None) -> int:
    if data is None:
        return 0
    count = len(data)
    if count > len(buffer):
        raise _NotTheRange
    buffer[:count] = memoryview(data)
    return count


def _of_transport(text: str) -> Failure:
    """Classify a failure without an HTTP status by the kind in the error's debug text."""
    if _CONNECT.search(text):
        cause = _CAUSE.search(text)
        waited = "no connection in time" if "TimedOut" in text else "no connection"
        return failures.unreachable((cause[1] or cause[2]) if cause else waited)
    if "kind: Timeout" in text or "TimedOut" in text:
        return failures.timeout("timed out")
    if "BareRedirect" in text:
        return Failure(ErrorClass.WRONG_REGION, "the store redirects")
    if "kind: Interrupted" in text or "IncompleteMessage" in text or "HTTP error" in text:
        return failures.unreachable("the connection broke off")
    return Failure(ErrorClass.IO_ERROR, _headline(text))


def _headline(text: str) -> str:
    line = text.strip().splitlines()[0] if text.strip() else "unknown error"
    return redact(line)[:200]
