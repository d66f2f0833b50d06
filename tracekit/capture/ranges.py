"""Parses HTTP byte ranges into an op's offset and length."""

from __future__ import annotations

import re

__all__ = ["asked_range", "granted_range", "is_whole"]

_ASKED = re.compile(r"\s*bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*")
_GRANTED = re.compile(r"\s*bytes\s+(\d+)\s*-\s*(\d+)\s*/")


def asked_range(header: str) -> tuple[int | None, int | None]:
    """The (offset, length) of a `Range` header; None for a value that the server decides.

    `bytes=-500` (the last 500 bytes) has a length but no offset. Several ranges give (None, None).
    """
    unit, _, asked = header.partition("=")
    start, _, end = asked.partition("-")
    if unit == "bytes" and start.isdecimal() and end.isdecimal():  # the common case, without a regex
        return int(start), int(end) - int(start) + 1
    match = _ASKED.fullmatch(header)
    if match is None:
        return None, None
    first, last = match[1], match[2]
    if not first:
        return None, int(last) if last else None
    return int(first), int(last) - int(first) + 1 if last else None


def is_whole(offset: int | None, content_range: str | None, content_length: int | None) -> bool:
    """Whether a range covered the whole object: Azure's SDK always requests the first 32 MiB as a range."""
    if offset != 0 or not content_range:
        return False
    return content_range.rpartition("/")[2].strip() == str(content_length)


def granted_range(
    kind: str, offset: int | None, length: int | None, content_range: str | None, content_length: int | None
) -> tuple[int | None, int | None]:
    """The (offset, length) of an op: the response fills in what the request left open."""
    if kind == "get":
        return None, content_length if length is None else length
    if offset is not None and length is not None:
        return offset, length
    match = _GRANTED.match(content_range or "")
    if match is not None:
        offset = int(match[1]) if offset is None else offset
        length = int(match[2]) - int(match[1]) + 1 if length is None else length
    return offset, content_length if length is None else length
