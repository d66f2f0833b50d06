"""Cuts a sample into requests of `target_request_bytes`, in order, the last one shorter."""

from __future__ import annotations

__all__ = ["request", "requests_in"]


def requests_in(length: int, target_bytes: int | None) -> int:
    """Return the number of requests for a sample of `length` bytes; a target of None means one."""
    if length == 0:
        return 0
    return 1 if target_bytes is None else -(-length // target_bytes)


def request(length: int, target_bytes: int | None, index: int) -> tuple[int, int]:
    """Return (offset in the sample, length) of request `index` of a sample of `length` bytes."""
    if target_bytes is None:
        return 0, length
    offset = index * target_bytes
    return offset, min(target_bytes, length - offset)
