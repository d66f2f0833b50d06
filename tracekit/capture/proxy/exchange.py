"""One request that passes the proxy, from its first byte sent to the last byte of the answer: its row of the trace."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from time import monotonic_ns
from typing import Protocol

from tracekit.backends.objects.uri import join
from tracekit.capture.outcome import status_class
from tracekit.capture.proxy.requests import (
    OTHER_REQUESTS,
    Asked,
    deleted_keys,
    failed_keys,
    is_error,
    store_code,
)
from tracekit.capture.ranges import granted_range, is_whole
from tracekit.capture.writes import WRITE_KINDS, Uploads
from tracekit.errors import ErrorClass, TracekitError

__all__ = ["Exchange", "Exchanges", "Sink"]

_KEPT_BYTES = 4 << 20
"""How much of a body is kept that names objects or reports an error."""
_AGAIN = frozenset(
    (
        ErrorClass.TIMEOUT,
        ErrorClass.THROTTLED,
        ErrorClass.UNREACHABLE,
        ErrorClass.SERVER_ERROR,
        ErrorClass.SHORT_READ,
        ErrorClass.CANCELLED,
    )
)
"""Errors after which clients send a request again."""
_REMEMBERED = 10_000
_NOT_MODIFIED = 304


class Sink(Protocol):
    """What takes rows: a recorder, or an op log."""

    def record(
        self,
        uri: str,
        offset: int | None,
        len: int | None,
        t_submit: int,
        latency: int | None,
        *,
        op: str,
        bytes: int | None,
        ttfb: int | None,
        worker: int | None,
        part: int | None,
        to_uri: str | None,
        error: ErrorClass | None,
    ) -> None: ...

    def count(self, name: str, n: int = 1) -> None: ...


class Exchanges:
    """Makes the exchanges of one proxy, and knows what they have in common: uploads, streams, failed requests.

    `worker` of a row is the lowest number that was free when its request came, so that the requests of one worker
    never overlap.
    """

    def __init__(self, sink: Sink, admits: Callable[[str], bool]) -> None:
        self._sink, self._admits = sink, admits
        self.uploads = Uploads()
        self.requests = self.rows = self.lost = 0
        self.failure = ""
        """Why rows were lost."""
        self._failed: OrderedDict[Asked, None] = OrderedDict()
        self._free: list[int] = []
        self._streams = 0

    def begin(self, asked: Asked, headers: Mapping[str, str]) -> Exchange:
        """Begin the exchange of one request."""
        self.requests += 1
        if self._free:
            worker = heapq.heappop(self._free)
        else:
            worker, self._streams = self._streams, self._streams + 1
        if asked.upload is not None and asked.block is not None:
            asked = replace(asked, part=self.uploads.number(asked.upload, asked.block))
        exchange = Exchange(self, asked, worker)
        if asked.upload is not None and asked.part is not None:
            offset = self.uploads.offset(asked.upload, asked.part, asked.length)
            if asked.kind == "part":  # the range of a copy is that of its source
                exchange.offset = offset
        if _attempt(headers) > 1 or asked in self._failed:
            self.count("retries")
        self._failed.pop(asked, None)
        return exchange

    def count(self, name: str) -> None:
        """Add 1 to a counter of the trace."""
        self._guarded(lambda: self._sink.count(name))

    def record(self, exchange: Exchange, uri: str, latency: int, error: ErrorClass | None) -> None:
        """Record a row, unless the filters leave its object out."""
        asked = exchange.asked
        if asked.kind is None or not self._admits(uri):
            return
        kind = asked.kind
        recorded = self._guarded(
            lambda: self._sink.record(
                uri,
                exchange.offset,
                exchange.length,
                exchange.submit,
                latency,
                op=kind,
                bytes=exchange.bytes_moved(error),
                ttfb=exchange.ttfb,
                worker=exchange.worker,
                part=asked.part,
                to_uri=asked.to_uri,
                error=error,
            )
        )
        self.rows += recorded
        self.lost += not recorded

    def _guarded(self, write: Callable[[], None]) -> bool:
        """Write to the sink; a full disk must not fail the client's request."""
        try:
            write()
        except (OSError, TracekitError) as error:
            self.failure = str(error)
            return False
        return True

    def end(self, exchange: Exchange, error: ErrorClass | None) -> None:
        """Give the worker of an exchange back, and remember its request if a client will send it again."""
        heapq.heappush(self._free, exchange.worker)
        asked = exchange.asked
        if error == ErrorClass.THROTTLED:
            self.count("throttles")
        if error in _AGAIN:
            self._failed[asked] = None
            if len(self._failed) > _REMEMBERED:
                self._failed.popitem(last=False)
        elif asked.upload is not None and asked.part is None and error is None:
            self.uploads.ended(asked.upload)


class Exchange:
    """A request under way. Times are ns, sizes bytes."""

    __slots__ = (
        "_all",
        "answer",
        "asked",
        "body",
        "length",
        "moved",
        "offset",
        "size",
        "status",
        "submit",
        "ttfb",
        "worker",
    )

    def __init__(self, every: Exchanges, asked: Asked, worker: int) -> None:
        self._all, self.asked, self.worker = every, asked, worker
        self.offset, self.length = asked.offset, asked.length
        self.body = bytearray()
        """The body of the request, if it names objects."""
        self.answer = bytearray()
        """The body of the answer, if it may report an error."""
        self.status, self.moved = 0, 0
        self.size: int | None = None
        self.ttfb: int | None = None
        self.submit = monotonic_ns()

    def sent(self, data: bytes) -> None:
        """Note a piece of the request's body."""
        if self.asked.many and len(self.body) < _KEPT_BYTES:
            self.body += data

    def answered(self, status: int, headers: Mapping[str, str]) -> None:
        """Note the head of the answer."""
        self.ttfb = monotonic_ns() - self.submit
        self.status = status
        size = headers.get("Content-Length", "")
        self.size = int(size) if size.isdecimal() else None
        if self.asked.kind == "write" and self.offset is None:
            at = headers.get("x-ms-blob-append-offset", "")
            self.offset = int(at) if at.isdecimal() else None
        whole = self.asked.uri.startswith("az://") and self.asked.kind == "read"
        if whole and status < 300 and is_whole(self.offset, headers.get("Content-Range"), self.size):
            self.asked = replace(self.asked, kind="get")
            self.offset, self.length = None, self.size
        if status < 300 and self.asked.kind in ("get", "read"):
            self.offset, self.length = granted_range(
                self.asked.kind, self.offset, self.length, headers.get("Content-Range"), self.size
            )

    def received(self, data: bytes) -> None:
        """Note a piece of the answer's body."""
        self.moved += len(data)
        if (self.status >= 300 or self.asked.kind not in ("get", "read")) and len(self.answer) < _KEPT_BYTES:
            self.answer += data

    def ended(self, error: ErrorClass | None = None) -> None:
        """Record the request. `error` is what broke it off; what the store answered is known already."""
        latency = monotonic_ns() - self.submit
        error = error or self._refusal()
        if self.asked.kind is None:
            self._all.count(OTHER_REQUESTS)
        for uri, failure in self._objects(error):
            self._all.record(self, uri, latency, failure)
        self._all.end(self, error)

    def _refusal(self) -> ErrorClass | None:
        """The class of an error that the store answered."""
        if self.status >= 300 and self.status != _NOT_MODIFIED:
            return status_class(self.status, store_code(bytes(self.answer)))
        if self.asked.kind in ("complete", "copy", "part") and is_error(bytes(self.answer)):
            return status_class(500, store_code(bytes(self.answer)))
        return None

    def bytes_moved(self, error: ErrorClass | None) -> int | None:
        """How much of the object the request moved; None for a kind that moves nothing."""
        kind = self.asked.kind
        if kind in ("get", "read"):
            return self.moved if self.status < 300 else 0
        if kind in WRITE_KINDS:
            return self.length if error is None else 0
        return None

    def _objects(self, error: ErrorClass | None) -> list[tuple[str, ErrorClass | None]]:
        """The objects of the request, each with its error: each object that DeleteObjects names is a row."""
        if not self.asked.many:
            return [(self.asked.uri, error)]
        bucket = self.asked.uri.partition("://")[2].partition("/")[0]
        failed = failed_keys(bytes(self.answer)) if error is None else {}
        return [
            (join("s3", bucket, key), status_class(500, failed[key]) if key in failed else error)
            for key in deleted_keys(bytes(self.body))
        ] or [(self.asked.uri, error)]


def _attempt(headers: Mapping[str, str]) -> int:
    """How often the AWS SDKs say that they have sent the request."""
    _, _, number = headers.get("amz-sdk-request", "").partition("attempt=")
    number = number.partition(";")[0].strip()
    return int(number) if number.isdecimal() else 1
