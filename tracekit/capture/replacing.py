"""Puts the functions of a hook in the place of those of a library, and takes them out again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["replace"]

_ABSENT = object()


def replace(replacements: Iterable[tuple[Any, str, Any]]) -> Callable[[], None]:
    """Set attributes, given as (module or class, name, value); return a function that undoes it."""
    before = []
    for owner, name, value in replacements:
        before.append((owner, name, vars(owner).get(name, _ABSENT)))
        setattr(owner, name, value)

    def undo() -> None:
        for owner, name, value in reversed(before):
            if value is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, value)

    return undo
