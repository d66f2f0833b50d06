"""What a system call does to one file: calls that need nothing but the descriptors of their process."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from tracekit.copies import asked_of_copy
from tracekit.formats.sound import MAX_INT
from tracekit.formats.syscalls.arguments import both_ends, descriptor, needs_descriptor, scalar
from tracekit.formats.syscalls.files import Table
from tracekit.formats.syscalls.names import (
    COPIES,
    DUPS,
    FD_STATS,
    FD_TRUNCATES,
    HINTS,
    LISTS,
    SEEKS,
    SYNCS,
)

__all__ = ["Part", "beyond", "copied", "on_descriptor"]

_NAMED = frozenset((*FD_STATS, *LISTS, *SYNCS, *FD_TRUNCATES, *HINTS, *SEEKS, *DUPS, "close"))
"""Calls of which each names a descriptor; those that are not known here may have any arguments."""


class Part(NamedTuple):
    """What a call does to one file."""

    op: str
    path: str | None
    offset: int | None = None
    length: int | None = None
    moved: int | None = None
    to_path: str | None = None


def copied(table: Table, name: str, args: str, moved: int | None) -> Iterator[Part]:
    """The read and the write of a copy inside the kernel."""
    ends = both_ends(args)
    length = re.search(r", (\d{1,19})(?:, [\w|]+)?$", args)
    if len(ends) != 2 or length is None:
        return
    for place, kind in zip(COPIES[name], ("read", "write"), strict=True):
        where, given = ends[place]
        file = table.file_of(where)
        if name.startswith("sendfile") and kind == "write":
            given = None  # its one offset is that of the read
        if file is not None:
            asked = min(int(length[1]), MAX_INT)
            begin = given if given is not None else file.move(None if beyond(moved, asked) else moved)
            known = asked if beyond(moved, asked) else asked_of_copy(asked, moved)
            yield Part(kind, file.path, begin, known, moved)


def beyond(moved: int | None, asked: int | None) -> bool:
    """Whether a call says that it moved more than it was asked for: its line is damaged."""
    return moved is not None and asked is not None and moved > asked


def on_descriptor(table: Table, name: str, args: str, value: int | None) -> Iterator[Part]:
    """Calls that name nothing but a descriptor."""
    file = table.file_of(args)
    if file is None:
        if name in _NAMED:
            needs_descriptor(args)
        return
    ok = value is not None and value >= 0
    if name in FD_STATS:
        yield Part("stat", file.path)
    elif name in LISTS:
        yield Part("list", file.path)
    elif name in SYNCS:
        ranged = name == "sync_file_range"
        yield Part(
            "sync", file.path, scalar(args, 1) if ranged else None, scalar(args, 2) if ranged else None
        )
    elif name in FD_TRUNCATES:
        yield Part("truncate", file.path, length=scalar(args, -1))
    elif name in HINTS:
        numbers = [int(n) for n in re.findall(r", (-?\d{1,18})(?=, |$)", args)]
        offset, length = numbers[:2] if len(numbers) >= 2 else (None, None)
        yield Part("hint", file.path, offset, length)
    elif name in SEEKS and ok:
        inner = re.search(r"\[(\d{1,18})\]", args)
        file.sought(int(inner[1]) if inner else value, args)
    elif name.startswith("fcntl") and "F_SETFL" in args and ok:
        file.appends = "O_APPEND" in args
    elif name.startswith("fcntl") and "F_SETFD" in args and ok:
        table.mark((descriptor(args) or (0, None))[0], args)
    elif (name in DUPS or (name.startswith("fcntl") and "F_DUPFD" in args)) and ok and value is not None:
        table.opened(value, file, args)
    elif name == "close":
        found = descriptor(args)
        if found is not None:
            table.close(found[0])
