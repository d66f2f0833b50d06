"""Whether an answer has the bytes that were asked for, by its Content-Range and the length of its body.

Every client asks here. An answer with other bytes is a failed request of class `io_error`: the store or
a gateway is at fault, not the object.
"""

from __future__ import annotations

import re

__all__ = ["OtherBytes", "check_body", "range_bytes", "whole_bytes"]

_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)", re.IGNORECASE)


class OtherBytes(Exception):
    """The store sent other bytes than were asked for."""


def range_bytes(content_range: str | None, offset: int, wanted: int) -> int:
    """Return how many bytes an answer to a GET of `wanted` bytes from `offset` on must have.

    There may be fewer than wanted only if the object ends there. Raises OtherBytes for another range.
    """
    if not content_range:
        raise OtherBytes("the answer has no Content-Range: the store ignores ranges")
    found = _RANGE.fullmatch(content_range.strip())
    if found is None:
        raise OtherBytes(f"the answer has an invalid Content-Range {content_range[:60]!r}")
    first, last = int(found[1]), int(found[2])
    total = None if found[3] == "*" else int(found[3])
    if first == offset == total and last == first - 1:
        return 0  # how Azurite answers a range that starts at the end
    if first != offset or last < first or last >= offset + wanted:
        raise OtherBytes(
            f"the answer has bytes {first}-{last} of the object, not {offset}-{offset + wanted - 1}"
        )
    if total is not None and last != min(offset + wanted, total) - 1:
        raise OtherBytes(f"the answer ends at byte {last} of an object of {total} bytes")
    return last - first + 1


def whole_bytes(content_range: str | None, length: int | None) -> int:
    """Return the bytes of an answer with a Content-Range to a GET of the whole object.

    Raises OtherBytes if it is a part of the object.
    """
    found = _RANGE.fullmatch((content_range or "").strip())
    if found is None or found[3] == "*":
        raise OtherBytes("the answer is a part of the object that was asked for as a whole")
    first, last, total = int(found[1]), int(found[2]), int(found[3])
    if first or last + 1 != total or length not in (None, total):
        raise OtherBytes(f"the answer has bytes {first}-{last} of an object of {total} bytes")
    return total


def check_body(count: int, expected: int) -> None:
    """Raise OtherBytes unless a body has the announced length."""
    if count != expected:
        raise OtherBytes(f"the body has {count} bytes where {expected} were announced")
