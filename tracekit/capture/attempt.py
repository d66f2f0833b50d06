"""One request of an object client, from its submission to the last byte of its body."""

from __future__ import annotations

from time import monotonic_ns

from tracekit.capture.context import where
from tracekit.capture.session import record
from tracekit.capture.writes import WRITE_KINDS
from tracekit.errors import ErrorClass

__all__ = ["Attempt"]


class Attempt:
    """A request that has been sent. Times are ns, sizes bytes; `ended` records its row."""

    __slots__ = (
        "kind",
        "length",
        "more",
        "moved",
        "offset",
        "part",
        "submit",
        "to_uri",
        "ttfb",
        "upload",
        "uri",
        "where",
    )

    def __init__(self, uri: str, kind: str, offset: int | None, length: int | None) -> None:
        self.uri, self.kind, self.offset, self.length = uri, kind, offset, length
        self.part: int | None = None
        self.to_uri: str | None = None
        self.upload: str | None = None
        """A name of the multipart upload that the request belongs to."""
        self.more: tuple[str, ...] = ()
        """Further objects that the same request names: each becomes a row of its own."""
        self.where = where()
        self.moved = 0
        self.ttfb: int | None = None
        self.submit = monotonic_ns()

    def ended(self, moved: int | None, error: ErrorClass | None = None, *, known_end: bool = True) -> None:
        """Record the request. Without `known_end` its latency is unknown."""
        latency = monotonic_ns() - self.submit if known_end else None
        for uri in (self.uri, *self.more):
            record(
                uri,
                self.offset,
                self.length,
                self.submit,
                latency,
                self.kind,
                moved,
                self.ttfb,
                error,
                self.where,
                self.part,
                self.to_uri,
            )

    def succeeded(self) -> None:
        """Record a request without a body to read: one that wrote has moved all its bytes."""
        self.ended(self.length if self.kind in WRITE_KINDS else None)
