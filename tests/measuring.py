"""Measurements that a busy machine may spoil: taken again, a few times, before they are believed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

__all__ = ["until"]

T = TypeVar("T")


def until(measure: Callable[[], T], holds: Callable[[T], bool], *, times: int = 6) -> T:
    """The first of at most `times` measurements that `holds`, or the last: the caller asserts on what it gets."""
    for _ in range(times - 1):
        found = measure()
        if holds(found):
            return found
    return measure()
