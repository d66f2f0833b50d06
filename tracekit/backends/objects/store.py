"""The object-store backend: any client library behind the one protocol, every try counted.

It owns what must be the same for every library: URIs, retries with jitter (each one
counted), counters, handles, and the one clear line that a failure becomes. It must not
know HTTP, XML or any SDK: that is `ObjectClient`'s side.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NoReturn, TypeVar, get_args

from tracekit.backends.base import CACHE_POLICIES, ObjectInfo
from tracekit.backends.objects.client import ObjectClient
from tracekit.backends.objects.failures import Failure
from tracekit.backends.objects.uri import join, split
from tracekit.errors import BackendError, ErrorClass, UsageError
from tracekit.uri import clean

__all__ = ["Dialect", "ObjectHandle", "ObjectStoreBackend"]

_BACKOFF_BASE_S = 0.1
_BACKOFF_CAP_S = 5.0
_T = TypeVar("_T")
_AT_END: tuple[int, int | None] = (0, None)
_LISTING_TELLS_MORE = (ErrorClass.NOT_FOUND, ErrorClass.PERMISSION, ErrorClass.IO_ERROR)
"""What a HEAD, which has no body, cannot say whole."""
_Page = list[tuple[str, int]]
_Counter = Literal["range_gets", "whole_gets", "retries", "throttles", "puts", "lists", "heads"]


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a scheme's failures are worded: what a container is called, where, and what to do."""

    scheme: str
    container: str
    endpoint: str
    credentials_hint: str
    region_hint: str
    bad_key_hint: str


class ObjectStoreBackend:
    """Objects of one scheme. Thread-safe; also an `AsyncBackend` for event loops.

    `connect` makes the client of one container (called once for each). `retries` is how
    often a throttled, timed-out or broken request is sent again, after a random wait of
    at most 0.1 s, doubled each time up to 5 s. `counters` holds `range_gets`,
    `whole_gets`, `retries`, `throttles`, `puts`, `lists` (pages) and `heads`, each
    counting what was asked for; a request sent again counts as a retry.
    """

    scheme: str
    counters: dict[str, int]

    def __init__(self, dialect: Dialect, connect: Callable[[str], ObjectClient], retries: int) -> None:
        self.scheme = dialect.scheme
        self.counters = dict.fromkeys(get_args(_Counter), 0)
        self._dialect = dialect
        self._connect = connect
        self._retries = retries
        self._clients: dict[str, ObjectClient] = {}
        self._answered: set[str] = set()
        """Containers that are known to be there."""
        self._lock = threading.Lock()
        self._count_lock = threading.Lock()

    def preflight(self, uri: str) -> None:
        """Raise BackendError in one line if there is no object, and nothing below, at `uri`."""
        container, key = split(uri)
        client = self._client(container)
        if key:
            try:
                self._count("heads")
                self._persist(client, uri, lambda: client.size(key.rstrip("/")), patient=False)
                return
            except BackendError as error:
                if error.error_class not in _LISTING_TELLS_MORE:
                    raise
        if next(self._pages(uri, client, key, patient=False), None) is None:
            raise BackendError(
                f"{clean(uri)}: nothing is there",
                "check the prefix; a prefix is a whole folder name",
                ErrorClass.NOT_FOUND,
            )

    def list(self, uri: str) -> Iterator[ObjectInfo]:
        """Every object below the folder `uri`, or the one object that it names, in key order."""
        container, key = split(uri)
        client = self._client(container)
        found = False
        for page in self._pages(uri, client, key):
            found = True
            for name, size in page:
                yield ObjectInfo(join(self.scheme, container, name), size)
        if not found and key and not key.endswith("/"):
            try:
                yield self.stat(uri)
            except BackendError as error:
                if error.error_class != ErrorClass.NOT_FOUND:
                    raise

    def stat(self, uri: str) -> ObjectInfo:
        container, key = split(uri)
        client = self._client(container)
        self._count("heads")
        try:
            size = self._persist(client, uri, lambda: client.size(self._object_key(uri, key)))
        except BackendError as error:
            if error.error_class == ErrorClass.NOT_FOUND:
                self._blame_container(client, uri, container)
            raise
        return ObjectInfo(join(self.scheme, container, key), size)

    def open(self, uri: str, *, cache_policy: str = "default") -> ObjectHandle:
        """A handle; no request is made until it is read. Cache policies do not apply to stores."""
        if cache_policy not in CACHE_POLICIES:
            raise UsageError(
                f"cache policy {cache_policy!r} is unknown", f"one of {', '.join(CACHE_POLICIES)}"
            )
        container, key = split(uri)
        return ObjectHandle(self, self._client(container), uri, self._object_key(uri, key))

    def get(self, uri: str) -> tuple[memoryview, int | None]:
        """The whole object in one GET, and ns to its first byte or None."""
        client, key = self._locate(uri)
        self._count("whole_gets")
        start = time.monotonic_ns()
        data, first = self._persist(client, uri, lambda: client.get(key))
        return data, None if first is None else first - start

    async def aget(self, uri: str) -> tuple[memoryview, int | None]:
        """The whole object in one GET on the running loop, and ns to its first byte or None."""
        client, key = self._locate(uri)
        self._count("whole_gets")
        start = time.monotonic_ns()
        data, first = await self._apersist(client, uri, lambda: client.aget(key))
        return data, None if first is None else first - start

    async def aread_into(self, uri: str, offset: int, buffer: memoryview) -> tuple[int, int | None]:
        """Range GET on the running loop: (bytes read, ns to the first byte or None)."""
        client, key = self._locate(uri)
        if not len(buffer):
            return 0, None
        self._count("range_gets")
        start = time.monotonic_ns()
        count, first = await self._apersist(
            client, uri, lambda: client.aread(key, offset, buffer), at_end=_AT_END
        )
        return count, None if first is None else first - start

    def put(self, uri: str, data: bytes | memoryview, *, overwrite: bool = False) -> int:
        """Write a whole object; without `overwrite` the store itself refuses an existing one."""
        client, key = self._locate(uri)
        self._count("puts")
        self._persist(client, uri, lambda: client.put(key, data, overwrite))
        return memoryview(data).nbytes

    def allocate(self, nbytes: int) -> memoryview:
        return memoryview(bytearray(nbytes))

    def close(self) -> None:
        with self._lock:
            clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            client.close()

    async def aclose(self) -> None:
        """Let go of what belongs to the running event loop; the backend stays usable."""
        for client in list(self._clients.values()):
            await client.aclose()

    def _read_into(
        self, client: ObjectClient, uri: str, key: str, offset: int, buffer: memoryview
    ) -> tuple[int, int | None]:
        if not len(buffer):
            return 0, None
        self._count("range_gets")
        start = time.monotonic_ns()
        count, first = self._persist(client, uri, lambda: client.read(key, offset, buffer), at_end=_AT_END)
        return count, None if first is None else first - start

    def _locate(self, uri: str) -> tuple[ObjectClient, str]:
        container, key = split(uri)
        return self._client(container), self._object_key(uri, key)

    def _object_key(self, uri: str, key: str) -> str:
        if not key:
            raise UsageError(f"{clean(uri)} names a {self._dialect.container}, not an object")
        return key

    def _client(self, container: str) -> ObjectClient:
        client = self._clients.get(container)
        if client is None:
            with self._lock:
                client = self._clients.get(container)
                if client is None:
                    client = self._clients[container] = self._connect(container)
        return client

    def _blame_container(self, client: ObjectClient, uri: str, container: str) -> None:
        """Raise if it is the container that is missing; asked once of each, as a HEAD's 404 does not tell."""
        if container in self._answered:
            return
        self._count("lists")
        try:
            next(client.pages("", ""), None)
        except client.errors as error:
            failure = client.failure(error)
            if failure.container_missing:
                self._give_up(failure, uri)
        self._answered.add(container)

    def _pages(self, uri: str, client: ObjectClient, key: str, patient: bool = True) -> Iterator[_Page]:
        """Non-empty listing pages below `key`; a page that fails is asked for again from where it was."""
        after = ""
        failed = seen = 0
        pages = client.pages(key.rstrip("/"), after)
        while True:
            try:
                page = next(pages, None)
            except client.errors as error:
                time.sleep(self._pause_or_give_up(client.failure(error), uri, failed, patient))
                failed += 1
                pages = client.pages(key.rstrip("/"), after)
                continue
            if page is not None or not seen:
                self._count("lists")
            if page is None:
                self._answered.add(split(uri).container)
                return
            seen += 1
            if page:  # an empty one is no progress: what was seen before, asked for again
                failed = 0
                after = page[-1][0]
                yield page

    def _persist(
        self,
        client: ObjectClient,
        uri: str,
        request: Callable[[], _T],
        at_end: _T | None = None,
        patient: bool = True,
    ) -> _T:
        """The answer to `request`, sent again while that is allowed; `at_end` if past the object's end."""
        failed = 0
        while True:
            try:
                return request()
            except client.errors as error:
                failure = client.failure(error)
                if at_end is not None and failure.error_class == ErrorClass.OUT_OF_RANGE:
                    return at_end
                pause_s = self._pause_or_give_up(failure, uri, failed, patient)
            failed += 1
            time.sleep(pause_s)

    async def _apersist(
        self,
        client: ObjectClient,
        uri: str,
        request: Callable[[], Awaitable[_T]],
        at_end: _T | None = None,
    ) -> _T:
        failed = 0
        while True:
            try:
                return await request()
            except client.errors as error:
                failure = client.failure(error)
                if at_end is not None and failure.error_class == ErrorClass.OUT_OF_RANGE:
                    return at_end
                pause_s = self._pause_or_give_up(failure, uri, failed)
            failed += 1
            await asyncio.sleep(pause_s)

    def _pause_or_give_up(self, failure: Failure, uri: str, failed: int, patient: bool = True) -> float:
        """Seconds to wait before the next try, which is counted; raises when there is none.

        Who is not `patient` waits for a store that answers, but not for one that does not.
        """
        if failure.error_class == ErrorClass.THROTTLED:
            self._count("throttles")
        retries = (
            self._retries
            if patient or failure.error_class in (ErrorClass.THROTTLED, ErrorClass.SERVER_ERROR)
            else 0
        )
        if not failure.retryable or failed >= retries:
            self._give_up(failure, uri, failed)
        self._count("retries")
        return random.uniform(0, min(_BACKOFF_CAP_S, _BACKOFF_BASE_S * 2**failed))

    def _give_up(self, failure: Failure, uri: str, retried: int = 0) -> NoReturn:
        """Raise the one clear line that `failure` becomes."""
        what, hint = self._wording(failure)
        again = f" (sent {retried + 1} times)" if retried else ""
        where = clean(uri)
        if failure.container_missing:
            where = f"{self.scheme}://{split(uri).container}"
        raise BackendError(f"{where}: {what}{again}", hint, failure.error_class) from None

    def _wording(self, failure: Failure) -> tuple[str, str]:
        dialect = self._dialect
        if failure.container_missing:
            return f"no such {dialect.container} at {dialect.endpoint}", "check the name and the endpoint"
        detail = failure.detail
        wordings: dict[str, tuple[str, str]] = {
            ErrorClass.NOT_FOUND: ("no such object", "list the prefix to see what is there"),
            ErrorClass.PERMISSION: (f"access denied: {detail}", dialect.credentials_hint),
            ErrorClass.EXISTS: ("already exists", "overwrite it on purpose, or choose another target"),
            ErrorClass.UNREACHABLE: (
                f"{dialect.endpoint} cannot be reached: {detail}",
                "check the endpoint and the network",
            ),
            ErrorClass.TIMEOUT: (
                f"no answer from {dialect.endpoint} in time: {detail}",
                "raise timeout_s, or ask for less",
            ),
            ErrorClass.THROTTLED: (
                f"the store asks to slow down: {detail}",
                "lower the rate or the bytes in flight",
            ),
            ErrorClass.WRONG_REGION: (
                f"the {dialect.container} is in another region or place: {detail}",
                dialect.region_hint,
            ),
            ErrorClass.BAD_KEY: (detail, dialect.bad_key_hint),
        }
        return wordings.get(failure.error_class, (detail or "the request failed", ""))

    def _count(self, name: _Counter) -> None:
        with self._count_lock:
            self.counters[name] += 1


class ObjectHandle:
    """An object open for reading. `size` costs one HEAD the first time that it is asked for."""

    uri: str
    size: int

    def __init__(self, backend: ObjectStoreBackend, client: ObjectClient, uri: str, key: str) -> None:
        self.uri = uri
        self._backend = backend
        self._client = client
        self._key = key

    def __getattr__(self, name: str) -> int:
        if name != "size":
            raise AttributeError(name)
        self.size = self._backend.stat(self.uri).size
        return self.size

    def read_into(self, offset: int, buffer: memoryview) -> tuple[int, int | None]:
        """Range GET into `buffer`: (bytes read, fewer if the object ends; ns to the first byte or None)."""
        return self._backend._read_into(self._client, self.uri, self._key, offset, buffer)

    def close(self) -> None:
        """Nothing is held open: connections belong to the backend."""
