"""Sends a request again where that may help, and says in one line why it failed where it does not.

Every client goes through here, so that retries, waits and messages are the same for all of them.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, NoReturn, TypeVar

from tracekit.backends.base import NOTHING_MOVED, Moved
from tracekit.backends.objects.changing import ObjectChanges
from tracekit.backends.objects.client import ObjectClient
from tracekit.backends.objects.failures import Failure
from tracekit.backends.objects.uri import split
from tracekit.backends.tally import note_tries
from tracekit.errors import BackendError, ErrorClass
from tracekit.uri import clean

__all__ = ["Dialect", "Done", "Retrier", "Tries"]

_BACKOFF_BASE_S = 0.1
_BACKOFF_CAP_S = 5.0
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Dialect:
    """The words of a scheme's messages: its container, its endpoint, its hints."""

    scheme: str
    container: str
    endpoint: str
    credentials_hint: str
    region_hint: str
    bad_key_hint: str
    trusted: bool = True
    """Whether the store is known to obey create-only puts; others are probed."""
    facts: Callable[[], dict[str, str]] = dict
    """Who asks, and where, without secrets: for people."""


class Tries:
    """How often one request was sent, and when: waiting between tries is not the store's latency."""

    __slots__ = ("began", "first", "number", "relocated")

    def __init__(self) -> None:
        self.number = 1
        self.relocated = False
        self.first = self.began = time.monotonic_ns()

    @property
    def wait_ns(self) -> int:
        """From the first submit to the last."""
        return self.began - self.first

    def again(self) -> None:
        """Note that the request is sent once more."""
        self.number += 1
        self.began = time.monotonic_ns()

    def done(self, answer: _T) -> Done[_T]:
        """Return the answer to the last try."""
        note_tries(self.number, self.wait_ns)
        return Done(answer, self)


@dataclass(slots=True)
class Done(Generic[_T]):
    """The answer to a request, and the tries that it took."""

    answer: _T
    tries: Tries

    def moved(self, count: int, first: int | None, further: Moved = NOTHING_MOVED) -> Moved:
        """What the read did; `further` is that of a second request that it took."""
        tries = self.tries
        ttfb = None if first is None else first - tries.began
        number, wait_ns = tries.number, tries.wait_ns
        return Moved(count, ttfb, None, number + (further.tries or 1) - 1, wait_ns + further.wait_ns)


class Retrier:
    """Sends requests at most `retries` times again. `count` adds one to a counter of the backend."""

    def __init__(self, dialect: Dialect, retries: int, count: Callable[[str], None]) -> None:
        self._dialect = dialect
        self._retries = retries
        self._count = count
        self.region = ""
        """The region that the store named, if it is another than the given one."""

    def send(
        self,
        client: ObjectClient | ObjectChanges,
        uri: str,
        request: Callable[[], _T],
        at_end: _T | None = None,
        patient: bool = True,
    ) -> Done[_T]:
        """Return the answer to `request`, with retries; `at_end` if the range is past the object's end."""
        tries = Tries()
        while True:
            try:
                return tries.done(request())
            except client.errors as error:
                failure = client.failure(error)
                if at_end is not None and failure.error_class == ErrorClass.OUT_OF_RANGE:
                    return tries.done(at_end)
                pause_s = self.pause_or_give_up(client, failure, uri, tries, patient)
            time.sleep(pause_s)
            tries.again()

    async def asend(
        self,
        client: ObjectClient,
        uri: str,
        request: Callable[[], Awaitable[_T]],
        at_end: _T | None = None,
    ) -> Done[_T]:
        """`send` on the running event loop."""
        tries = Tries()
        while True:
            try:
                return tries.done(await request())
            except client.errors as error:
                failure = client.failure(error)
                if at_end is not None and failure.error_class == ErrorClass.OUT_OF_RANGE:
                    return tries.done(at_end)
                pause_s = self.pause_or_give_up(client, failure, uri, tries)
            await asyncio.sleep(pause_s)
            tries.again()

    def pause_or_give_up(
        self,
        client: ObjectClient | ObjectChanges,
        failure: Failure,
        uri: str,
        tries: Tries,
        patient: bool = True,
    ) -> float:
        """Count the next try and return the seconds to wait before it; raise if there is none.

        Without `patient`, a store that does not answer at all is not asked again. A store that names
        the right region is asked again there; the client keeps to it.
        """
        if failure.error_class == ErrorClass.THROTTLED:
            self._count("throttles")
        if failure.region and not tries.relocated and client.relocate(failure.region):
            tries.relocated = True
            self.region = failure.region
            self._count("retries")
            return 0.0
        retries = (
            self._retries
            if patient or failure.error_class in (ErrorClass.THROTTLED, ErrorClass.SERVER_ERROR)
            else 0
        )
        if not failure.retryable or tries.number > retries:
            self.give_up(failure, uri, tries)
        self._count("retries")
        jitter_s = random.uniform(0, min(_BACKOFF_CAP_S, _BACKOFF_BASE_S * 2 ** (tries.number - 1)))
        return max(jitter_s, failure.retry_after_s)

    def give_up(self, failure: Failure, uri: str, tries: Tries) -> NoReturn:
        """Raise `failure` as a BackendError of one line."""
        what, hint = self._wording(failure, again=tries.number > 1)
        again = f" (sent {tries.number} times)" if tries.number > 1 else ""
        where = clean(uri)
        if failure.container_missing:
            where = f"{self._dialect.scheme}://{split(uri).container}"
        raise BackendError(
            f"{where}: {what}{again}", hint, failure.error_class, tries.number, tries.wait_ns
        ) from None

    def _wording(self, failure: Failure, again: bool) -> tuple[str, str]:
        dialect = self._dialect
        if failure.container_missing:
            return f"no such {dialect.container} at {dialect.endpoint}", "check the name and the endpoint"
        detail = failure.detail
        wordings: dict[str, tuple[str, str]] = {
            ErrorClass.NOT_FOUND: ("no such object", "list the prefix to see what is there"),
            ErrorClass.PERMISSION: (f"access denied: {detail}", dialect.credentials_hint),
            ErrorClass.EXISTS: (
                "already exists" + ("; an earlier try of this request may have made it" if again else ""),
                "give overwrite=True, or choose another target",
            ),
            ErrorClass.UNREACHABLE: (
                f"the connection to {dialect.endpoint} failed: {detail}",
                "check the endpoint and the network",
            ),
            ErrorClass.TIMEOUT: (
                f"no answer from {dialect.endpoint} in time: {detail}",
                "raise timeout_s=, or read less at once",
            ),
            ErrorClass.THROTTLED: (
                f"the store throttles requests: {detail}",
                "lower the rate or max_bytes_in_flight=",
            ),
            ErrorClass.WRONG_REGION: (
                f"the {dialect.container} is in another region or at another host: {detail}",
                dialect.region_hint,
            ),
            ErrorClass.BAD_KEY: (detail, dialect.bad_key_hint),
        }
        what, hint = wordings.get(failure.error_class, (detail or "the request failed", ""))
        return what, failure.hint or hint
