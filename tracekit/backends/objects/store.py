"""The object-store backend: any client library behind one protocol, every request counted.

It does what must be the same for every library: URIs, counters and handles; `retrying` has retries and
messages. HTTP, XML and SDKs belong to the `ObjectClient`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeAlias, TypeVar

from tracekit.backends.base import NOTHING_MOVED, Hint, Moved, ObjectInfo
from tracekit.backends.objects.changing import CHANGE_COUNTERS, ConnectChanges, ObjectChanger, ObjectChanges
from tracekit.backends.objects.client import ObjectClient
from tracekit.backends.objects.create_only import CreateOnly
from tracekit.backends.objects.failures import Failure
from tracekit.backends.objects.listing import Endless, Listed
from tracekit.backends.objects.retrying import Dialect, Retrier, Tries
from tracekit.backends.objects.uri import join, split
from tracekit.errors import BackendError, ErrorClass, UsageError
from tracekit.options import PAGE_CACHE_MODES
from tracekit.uri import clean
from tracekit.validation import choosing

__all__ = ["Connect", "ObjectHandle", "ObjectStoreBackend"]

_T = TypeVar("_T")
_AT_END: tuple[int, int | None] = (0, None)
_LISTING_TELLS_MORE = (ErrorClass.NOT_FOUND, ErrorClass.PERMISSION, ErrorClass.IO_ERROR)
"""A HEAD has no body: for these errors a listing gives the reason."""
_Page = list[tuple[str, int]]
_COUNTERS = ("range_gets", "whole_gets", "retries", "throttles", "puts", "lists", "heads", *CHANGE_COUNTERS)


Connect: TypeAlias = Callable[[str, Callable[[str], None]], ObjectClient]
"""Makes the client of a container; the client adds to the backend's counters with the function."""


class ObjectStoreBackend:
    """Objects of one scheme. Thread-safe.

    `connect` makes the client of a container; it is called once for each. A request that was
    throttled, timed out or broke off is sent again at most `retries` times, each after a random
    wait of at most 0.1 s, doubled each time up to 5 s. `counters` holds `range_gets`,
    `whole_gets`, `puts`, `lists` (pages), `heads`, `throttles` and `retries`, and `parts`, `completes`, `aborts`,
    `copies` and `deletes`; a request that is sent again counts as a retry only.
    """

    scheme: str
    remote = True
    counters: dict[str, int]

    def __init__(
        self,
        dialect: Dialect,
        connect: Connect,
        retries: int,
        changes: ConnectChanges | None = None,
    ) -> None:
        self.scheme = dialect.scheme
        self.counters = dict.fromkeys(_COUNTERS, 0)
        self._dialect = dialect
        self._connect = connect
        self.changer = ObjectChanger(self, changes)
        self.retrier = Retrier(dialect, retries, self.count)
        self._clients: dict[str, ObjectClient] = {}
        self._create_only = CreateOnly(self.scheme, self.retrier, self.count)
        self._answered: set[str] = set()
        """Containers that are known to exist."""
        self._lock = threading.Lock()
        self._count_lock = threading.Lock()

    def preflight(self, uri: str) -> None:
        """Raise BackendError in one line if there is neither an object at `uri` nor one below it."""
        container, key = split(uri)
        client = self._client(container)
        if key:
            try:
                self.count("heads")
                self.retrier.send(client, uri, lambda: client.size(key.rstrip("/")), patient=False)
                return
            except BackendError as error:
                if error.error_class not in _LISTING_TELLS_MORE:
                    raise
        if next(self._pages(uri, client, key, patient=False), None) is None:
            raise BackendError(
                f"{clean(uri)}: nothing found",
                "check the prefix; a prefix is a whole folder name",
                ErrorClass.NOT_FOUND,
            )

    def list(self, uri: str) -> Iterator[ObjectInfo]:
        """Yield every object below the folder `uri`, or the object that it names, in key order."""
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
        self.count("heads")
        try:
            size = self.retrier.send(client, uri, lambda: client.size(self._object_key(uri, key))).answer
        except BackendError as error:
            if error.error_class == ErrorClass.NOT_FOUND:
                self._blame_container(client, uri, container)
            raise
        return ObjectInfo(join(self.scheme, container, key), size)

    def open(self, uri: str, *, page_cache_mode: str = "default") -> ObjectHandle:
        """Return a handle without a request. Page cache modes do not apply to object stores."""
        if page_cache_mode not in PAGE_CACHE_MODES:
            raise UsageError(
                f"unknown page_cache_mode={page_cache_mode!r}", choosing(page_cache_mode, PAGE_CACHE_MODES)
            )
        return ObjectHandle(self, *self._locate(uri), uri)

    def put(self, uri: str, data: bytes | memoryview, *, overwrite: bool = False) -> int:
        """Write a whole object; without `overwrite` the store itself refuses to replace one."""
        client, key = self._locate(uri)
        if overwrite or self._dialect.trusted:
            self.count("puts")
            self.retrier.send(client, uri, lambda: client.put(key, data, overwrite))
        else:
            self._create_only.put(client, uri, key, data)
        return memoryview(data).nbytes

    @property
    def endpoint(self) -> str:
        """The endpoint as messages show it."""
        return self._dialect.endpoint

    def facts(self) -> dict[str, str]:
        """Return who asks, and where, without secrets."""
        facts = {"endpoint": self.endpoint, **self._dialect.facts()}
        if self.retrier.region:
            facts["region"] = f"{self.retrier.region} (the store names it; {facts['region']} was configured)"
        return facts

    def date(self, uri: str) -> str:
        """Return the store's clock as its Date header has it; "" if the client does not show it."""
        container, key = split(uri)
        client = self._client(container)
        self.count("range_gets" if self.scheme in ("http", "https") else "lists")
        return self.retrier.send(client, uri, lambda: client.date(key)).answer

    def remove(self, uri: str) -> bool:
        """Delete an object that this program has made; return False if the client cannot."""
        client, key = self._locate(uri)
        self.count("deletes")
        return self.retrier.send(client, uri, lambda: client.remove(key)).answer

    def ignores_create_only(self, uri: str) -> bool:
        """Return whether the store was found not to obey the condition of a create-only put."""
        return self._create_only.asks_first(uri)

    def allocate(self, nbytes: int) -> memoryview:
        try:
            return memoryview(bytearray(nbytes))
        except (MemoryError, OverflowError):
            raise BackendError(
                f"cannot allocate a buffer of {nbytes} bytes", "read less at once", ErrorClass.OUT_OF_MEMORY
            ) from None

    def close(self) -> None:
        with self._lock:
            clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            client.close()
        self.changer.close()

    async def aclose(self) -> None:
        """Release what belongs to the running event loop; the backend stays usable."""
        for client in list(self._clients.values()):
            await client.aclose()

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
                    client = self._clients[container] = self._connect(container, self.count)
        return client

    def _blame_container(self, client: ObjectClient, uri: str, container: str) -> None:
        """Raise if the container is missing, which the 404 of a HEAD does not say; asked once for each."""
        if container in self._answered:
            return
        self.count("lists")
        try:
            next(client.pages("", ""), None)
        except client.errors as error:
            failure = client.failure(error)
            if failure.container_missing:
                self.retrier.give_up(failure, uri, Tries())
        self._answered.add(container)

    def _pages(self, uri: str, client: ObjectClient, key: str, patient: bool = True) -> Iterator[_Page]:
        """Yield non-empty listing pages below `key`; a page that fails is requested again from its start.

        No key comes twice, whatever the store repeats.
        """
        after = ""
        listed = Listed()
        tries = Tries()
        counted = False
        pages = client.pages(key.rstrip("/"), after)
        while True:
            try:
                page = next(pages, None)
                if not counted and (page is not None or not listed.pages):
                    self.count("lists")
                    counted = True
                fresh = None if page is None else listed.fresh(page)
            except client.errors as error:
                if not counted:
                    self.count("lists")
                counted = True
                time.sleep(self.retrier.pause_or_give_up(client, client.failure(error), uri, tries, patient))
                tries.again()
                listed.again()
                pages = client.pages(key.rstrip("/"), after)
                continue
            except Endless as error:
                self.retrier.give_up(Failure(ErrorClass.IO_ERROR, str(error)), uri, tries)
            counted = False
            if fresh is None:
                self._answered.add(split(uri).container)
                return
            if fresh:  # an empty page is no progress
                tries = Tries()
                after = fresh[-1][0]
                yield fresh

    def persist(self, client: ObjectChanges, uri: str, request: Callable[[], _T]) -> _T:
        """Return the answer to a request that changes an object, with retries."""
        return self.retrier.send(client, uri, request).answer

    def count(self, name: str, number: int = 1) -> None:
        with self._count_lock:
            self.counters[name] = self.counters.get(name, 0) + number


class ObjectHandle:
    """An object open for reading. `size` costs a HEAD the first time."""

    fd = -1
    open_hint: Hint | None = None

    def __init__(self, backend: ObjectStoreBackend, client: ObjectClient, key: str, uri: str) -> None:
        self.uri = uri
        self._backend = backend
        self._client = client
        self._key = key
        self._size: int | None = None

    @property
    def size(self) -> int:
        """Bytes of the object. Raises BackendError if it is not there."""
        if self._size is None:
            self._size = self._backend.stat(self.uri).size
        return self._size

    def read_into(self, offset: int, buffer: memoryview) -> Moved:
        """Fill `buffer` with one range GET."""
        if not len(buffer):
            return NOTHING_MOVED
        backend, client = self._backend, self._client
        backend.count("range_gets")
        done = backend.retrier.send(
            client, self.uri, lambda: client.read(self._key, offset, buffer), at_end=_AT_END
        )
        return done.moved(*done.answer)

    def get(self, most: int | None = None) -> tuple[memoryview, Moved]:
        """Read the whole object with one GET; if it is larger than `most` bytes, that many with another."""
        backend, client = self._backend, self._client
        backend.count("whole_gets")
        done = backend.retrier.send(client, self.uri, lambda: client.get(self._key, most))
        data, first = done.answer
        if data is not None:
            return data, done.moved(len(data), first)
        buffer = backend.allocate(most or 0)
        part = self.read_into(0, buffer)
        return buffer[: part.nbytes], done.moved(part.nbytes, first, part)

    async def aread_into(self, offset: int, buffer: memoryview) -> Moved:
        """`read_into` on the running event loop."""
        if not len(buffer):
            return NOTHING_MOVED
        backend, client = self._backend, self._client
        backend.count("range_gets")
        done = await backend.retrier.asend(
            client, self.uri, lambda: client.aread(self._key, offset, buffer), at_end=_AT_END
        )
        return done.moved(*done.answer)

    async def aget(self, most: int | None = None) -> tuple[memoryview, Moved]:
        """`get` on the running event loop."""
        backend, client = self._backend, self._client
        backend.count("whole_gets")
        done = await backend.retrier.asend(client, self.uri, lambda: client.aget(self._key, most))
        data, first = done.answer
        if data is not None:
            return data, done.moved(len(data), first)
        buffer = backend.allocate(most or 0)
        part = await self.aread_into(0, buffer)
        return buffer[: part.nbytes], done.moved(part.nbytes, first, part)

    def close(self) -> None:
        """Do nothing: connections belong to the backend."""
