"""Keeps the ops of a part of a log's time: from `since` to before `until`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc

from tracekit.errors import UsageError
from tracekit.units import parse_duration

__all__ = ["Window", "parse_window"]

_UNIX = re.compile(r"\d{9,10}(\.\d{1,9})?")
_MORE = (
    "give a time such as 2026-01-31T12:00:00Z, seconds since 1970, or a time since the first op such as 90s"
)


@dataclass(frozen=True, slots=True)
class Bound:
    """A time in ns: since the Unix epoch, or since the log's first op."""

    ns: int
    relative: bool


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a log's time that is kept."""

    since: Bound | None
    until: Bound | None

    @property
    def relative(self) -> bool:
        """Whether the log's first op has to be known."""
        return any(bound is not None and bound.relative for bound in (self.since, self.until))

    def kept(
        self, batches: Callable[[], Iterator[pa.RecordBatch]], left: Callable[[int], None]
    ) -> Iterator[pa.RecordBatch]:
        """Yield what is kept of the log that `batches` reads; `left` is told how many ops are not.

        A log is read twice if a bound is relative, because its first op may stand anywhere.
        """
        first = 0
        if self.relative:
            firsts = (pc.min(batch.column("t_submit")).as_py() for batch in batches())
            first = min((at for at in firsts if at is not None), default=0)
        for batch in batches():
            at = batch.column("t_submit")
            keep = pc.is_valid(at)
            for bound, compare in ((self.since, pc.greater_equal), (self.until, pc.less)):
                if bound is not None:
                    keep = pc.and_(keep, compare(at, bound.ns + (first if bound.relative else 0)))
            part = batch.filter(keep)
            left(batch.num_rows - part.num_rows)
            yield part


def parse_window(since: str | int | None, until: str | int | None) -> Window | None:
    """Return the window, or None if all is kept. Raises UsageError for a bound that is no time."""
    if since is None and until is None:
        return None
    window = Window(_bound("since", since), _bound("until", until))
    if (
        window.since
        and window.until
        and window.since.relative == window.until.relative
        and window.since.ns >= window.until.ns
    ):
        raise UsageError(f"until={until} is not after since={since}", "give a later until=")
    return window


def _bound(name: str, value: str | int | None) -> Bound | None:
    if value is None:
        return None
    text = str(value).strip()
    if _UNIX.fullmatch(text):
        return Bound(int(Decimal(text) * 10**9), relative=False)
    if "T" in text or re.match(r"\d{4}-", text):
        try:
            return Bound(pa.scalar(text).cast(pa.timestamp("ns", "UTC")).value, relative=False)
        except pa.ArrowException:
            raise UsageError(f"{name}={text!r} is not a time with a zone", _MORE) from None
    try:
        return Bound(parse_duration(text, name=name), relative=True)
    except UsageError:
        raise UsageError(f"{name}={text!r} is not a time", _MORE) from None
