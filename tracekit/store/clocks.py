"""How far the clock of the host that wrote a segment is known to agree with that of the trace.

A segment states it in its metadata. Segments without it were written by one host, or their error is unknown.
"""

from __future__ import annotations

import ctypes
import json
import math
import struct
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from tracekit.store.opening import SegmentInfo

__all__ = ["CLOCK", "Clock", "clock_of", "clocks", "largest_error", "wall_clock_error_ns"]

CLOCK = "clock"
"""The key in the metadata of a segment."""
_UNSYNCHRONIZED = 5  # TIME_ERROR
_TIMEX = struct.Struct("=I4xqqq")  # modes, offset, freq, maxerror in us
_TIMEX_BYTES = 512


@dataclass(frozen=True, slots=True)
class Clock:
    """`offset_ns` was added to the times of a segment; they are wrong by at most `error_ns` (None: unknown).

    `how` says what the offset is: `wall` (0: the host's wall clock as it is), `given`, `measured`, or `boot` (by the monotonic clock,
    from another trace of the same boot).
    """

    offset_ns: int = 0
    error_ns: int | None = None
    how: str = "wall"

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def clock_of(segment: SegmentInfo) -> Clock:
    """Return what `segment` states of its clock; a wall clock of unknown error if it states nothing."""
    try:
        stated = json.loads(segment.metadata.get(CLOCK) or "{}")
        error = stated.get("error_ns")
        return Clock(
            int(stated.get("offset_ns", 0)),
            None if error is None else int(error),
            str(stated.get("how", "wall")),
        )
    except (ValueError, TypeError, AttributeError):
        return Clock()


def clocks(segments: Iterable[SegmentInfo]) -> dict[str, Any]:
    """Describe the clocks of a trace by host: the offset added, and the error; empty for a trace of one host.

    `error_ns` of the whole is the largest; null if that of one host is unknown. The order of two ops of different
    hosts is certain if they are further apart than the errors of both.
    """
    hosts: dict[str, Clock] = {}
    for segment in segments:
        found, host = clock_of(segment), segment.metadata.get("host", "")
        known = hosts.get(host)
        if known is None or _error(found) > _error(known):
            hosts[host] = found
    if len(hosts) < 2 and all(clock.how == "wall" for clock in hosts.values()):
        return {}
    return {
        "error_ns": largest_error(clock.error_ns for clock in hosts.values()),
        "hosts": {host: asdict(clock) for host, clock in sorted(hosts.items())},
    }


def largest_error(errors: Iterable[int | None]) -> int | None:
    """Return the largest of some errors in ns; None if one of them is unknown, or there is none."""
    stated = list(errors)
    known = [error for error in stated if error is not None]
    return max(known, default=None) if len(known) == len(stated) else None


def _error(clock: Clock) -> float:
    return math.inf if clock.error_ns is None else clock.error_ns


def wall_clock_error_ns() -> int | None:
    """Return the kernel's bound on the error of the wall clock; None while nothing synchronizes it."""
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)
    adjtimex = getattr(ctypes.CDLL(None), "adjtimex", None)
    if adjtimex is None or adjtimex(buffer) in (-1, _UNSYNCHRONIZED):
        return None
    return int(_TIMEX.unpack_from(buffer.raw)[3]) * 1000
