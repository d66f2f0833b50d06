"""Changes of objects: uploads in parts, copies, deletions; the same for every store.

Requests go through the retries, counters and messages of `store`. HTTP and SDKs belong to `ObjectChanges`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import NoReturn, Protocol, TypeAlias, TypeVar

from tracekit.backends.objects.failures import Failure
from tracekit.backends.objects.uri import split
from tracekit.errors import BackendError, ErrorClass

__all__ = ["CHANGE_COUNTERS", "ConnectChanges", "ObjectChanger", "ObjectChanges"]

_T = TypeVar("_T")
CHANGE_COUNTERS = ("parts", "completes", "aborts", "copies", "deletes")
"""What a backend counts besides reads and puts."""


class Requests(Protocol):
    """What this module needs of a backend."""

    scheme: str

    def count(self, name: str) -> None:
        """Count a request."""
        ...

    def persist(self, client: ObjectChanges, uri: str, request: Callable[[], _T]) -> _T:
        """Send a request, again if need be; return the answer."""
        ...


class ObjectChanges(Protocol):
    """Changes of one bucket or container through one library. Sends each request once. Thread-safe."""

    errors: tuple[type[Exception], ...]
    """The exceptions of this library: those that `failure` classifies."""

    def failure(self, error: Exception) -> Failure: ...

    def relocate(self, region: str) -> bool:
        """Use this region, which the store names, from now on; return whether the client can."""
        ...

    def begin(self, key: str) -> str:
        """Begin an upload in parts; return its identifier."""
        ...

    def part(self, key: str, upload: str, number: int, data: memoryview) -> str:
        """Send a part; return what names it when the upload is completed."""
        ...

    def complete(self, key: str, upload: str, parts: Sequence[tuple[int, str]]) -> None:
        """Make one object of the parts, which are in order."""
        ...

    def abort(self, key: str, upload: str) -> None: ...

    def copy(self, container: str, key: str, to_key: str) -> None:
        """Copy the object `key` of `container` into this container."""
        ...

    def delete(self, key: str) -> None: ...

    def close(self) -> None: ...


ConnectChanges: TypeAlias = Callable[[str, Callable[[str], None]], ObjectChanges]
"""Makes the changes of a container; they add to the backend's counters with the function."""


class ObjectChanger:
    """Changes objects of the scheme of `backend`; `connect` makes the changes of a container (None: it has none)."""

    def __init__(self, backend: Requests, connect: ConnectChanges | None) -> None:
        self._backend = backend
        self._connect = connect
        self._made: dict[str, ObjectChanges] = {}
        self._lock = threading.Lock()

    def prepare(self, uri: str) -> None:
        """Make the client. Raises UsageError or BackendError for settings that are not valid."""
        self._of(uri)

    def open_for_writing(self, uri: str) -> NoReturn:
        """Raise BackendError: objects have no writes of ranges."""
        raise BackendError(f"{uri}: ranges of objects cannot be written", "", ErrorClass.UNSUPPORTED)

    def upload(self, uri: str) -> StoreUpload:
        """Begin an upload in parts."""
        changes, key = self._of(uri)
        token = self._backend.persist(changes, uri, lambda: changes.begin(key))
        return StoreUpload(self._backend, changes, uri, key, token)

    def copy(self, uri: str, to_uri: str) -> None:
        """Have the store copy an object, without its bytes going through this client."""
        source = split(uri)
        changes, to_key = self._of(to_uri)
        self._backend.count("copies")
        self._backend.persist(changes, uri, lambda: changes.copy(source.container, source.key, to_key))

    def rename(self, uri: str, to_uri: str) -> None:
        """Copy an object, then delete it: stores have no renames. Nothing is done to keep a name."""
        if split(uri) == split(to_uri):
            return
        self.copy(uri, to_uri)
        self.delete(uri)

    def sync(self, uri: str) -> NoReturn:
        """Raise BackendError: what a store answered is durable."""
        raise BackendError(f"{uri}: objects are not synced", "", ErrorClass.UNSUPPORTED)

    def delete(self, uri: str) -> None:
        """Delete an object. One that is missing at a further try was deleted by one whose answer was lost."""
        changes, key = self._of(uri)
        self._backend.count("deletes")
        try:
            self._backend.persist(changes, uri, lambda: changes.delete(key))
        except BackendError as error:
            if error.error_class != ErrorClass.NOT_FOUND or (error.tries or 1) == 1:
                raise

    def close(self) -> None:
        with self._lock:
            made, self._made = list(self._made.values()), {}
        for changes in made:
            changes.close()

    def _of(self, uri: str) -> tuple[ObjectChanges, str]:
        container, key = split(uri)
        if self._connect is None:
            raise BackendError(
                f"{uri}: this kind of change is not supported here",
                "map to another target",
                ErrorClass.UNSUPPORTED,
            )
        with self._lock:
            changes = self._made.get(container)
            if changes is None:
                changes = self._made[container] = self._connect(container, self._backend.count)
        return changes, key


class StoreUpload:
    """An upload in parts to an object store."""

    def __init__(self, backend: Requests, changes: ObjectChanges, uri: str, key: str, token: str) -> None:
        self._backend = backend
        self._changes = changes
        self._uri = uri
        self._key = key
        self._token = token
        self._parts: dict[int, str] = {}

    def part(self, number: int, offset: int, data: memoryview) -> int:
        """Send the part; one with the same number is replaced."""
        self._backend.count("parts")
        self._parts[number] = self._backend.persist(
            self._changes, self._uri, lambda: self._changes.part(self._key, self._token, number, data)
        )
        return len(data)

    def complete(self) -> None:
        """Make one object of the parts, in the order of their numbers."""
        self._backend.count("completes")
        parts = sorted(self._parts.items())
        self._backend.persist(
            self._changes, self._uri, lambda: self._changes.complete(self._key, self._token, parts)
        )

    def abort(self) -> None:
        """Have the store delete the parts."""
        self._backend.count("aborts")
        self._backend.persist(self._changes, self._uri, lambda: self._changes.abort(self._key, self._token))
