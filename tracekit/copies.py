"""What a copy inside the kernel was asked for. Imports nothing of tracekit: a captured program imports it."""

from __future__ import annotations

__all__ = ["asked_of_copy"]

_MOST_AT_ONCE = 0x7FFFF000
"""Bytes that Linux moves in one call at most."""


def asked_of_copy(count: int, moved: int | None) -> int | None:
    """The length of a copy of `count` bytes that moved `moved`.

    A count that no call can move, such as that of `cp`, stands for what there is: the length is then what was moved.
    """
    return count if count <= _MOST_AT_ONCE else moved
