"""Create-only puts on stores that may not obey them: which do is found out at the first such put of a container.

The first put looks for the object (HEAD), writes it, and writes the same bytes again, up to 1 MiB: a store
that accepts them again ignores the condition. A store that refuses the condition is written without it. In
both cases each later put is preceded by a HEAD, which another writer can overtake; a warning says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import Enum

from tracekit.backends.objects.client import ObjectClient
from tracekit.backends.objects.failures import Failure
from tracekit.backends.objects.retrying import Retrier, Tries
from tracekit.backends.objects.uri import split
from tracekit.errors import BackendError, ErrorClass

__all__ = ["CreateOnly"]

_PROBE_BYTES = 1 << 20
_log = logging.getLogger("tracekit")


class _Condition(Enum):
    """What a store does with the condition of a create-only put."""

    OBEYED = "obeys"
    IGNORED = "ignores"
    REFUSED = "refuses"


class CreateOnly:
    """The create-only puts of one backend. `count` adds to its counters."""

    def __init__(self, scheme: str, retrier: Retrier, count: Callable[[str], None]) -> None:
        self._scheme = scheme
        self._retrier = retrier
        self._count = count
        self._known: dict[str, _Condition] = {}

    def put(self, client: ObjectClient, uri: str, key: str, data: bytes | memoryview) -> None:
        """Write an object that is not there. Raises BackendError of class `exists` if it is."""
        container = split(uri).container
        known = self._known.get(container)
        if known is not _Condition.OBEYED:
            self._refuse_existing(client, uri, key)
        try:
            self._put(client, uri, key, data, overwrite=known is _Condition.REFUSED)
        except BackendError as error:
            if known is not None or error.error_class != ErrorClass.UNSUPPORTED:
                raise
            self._learn(container, _Condition.REFUSED)
            self._put(client, uri, key, data, overwrite=True)
            return
        if known is None and memoryview(data).nbytes <= _PROBE_BYTES:
            self._probe(client, container, key, data)

    def asks_first(self, uri: str) -> bool:
        """Return whether the store was found not to obey the condition."""
        return self._known.get(split(uri).container, _Condition.OBEYED) is not _Condition.OBEYED

    def _refuse_existing(self, client: ObjectClient, uri: str, key: str) -> None:
        self._count("heads")
        try:
            self._retrier.send(client, uri, lambda: client.size(key))
        except BackendError as error:
            if error.error_class != ErrorClass.NOT_FOUND:
                raise
            return
        self._retrier.give_up(Failure(ErrorClass.EXISTS, "already exists"), uri, Tries())

    def _put(
        self, client: ObjectClient, uri: str, key: str, data: bytes | memoryview, *, overwrite: bool
    ) -> None:
        self._count("puts")
        self._retrier.send(client, uri, lambda: client.put(key, data, overwrite))

    def _probe(self, client: ObjectClient, container: str, key: str, data: bytes | memoryview) -> None:
        self._count("puts")
        try:
            client.put(key, data, overwrite=False)
        except client.errors as error:
            if client.failure(error).error_class == ErrorClass.EXISTS:
                self._learn(container, _Condition.OBEYED)
            return  # after any other failure the next put finds out
        self._learn(container, _Condition.IGNORED)

    def _learn(self, container: str, condition: _Condition) -> None:
        self._known[container] = condition
        if condition is not _Condition.OBEYED:
            _log.warning(
                "%s://%s %s create-only puts: each is preceded by a HEAD, which another writer can overtake",
                self._scheme,
                container,
                condition.value,
            )
