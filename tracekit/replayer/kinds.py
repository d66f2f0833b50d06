"""The kinds of op that a replay can issue, and what each does to an object."""

from __future__ import annotations

from tracekit.schema import READ_KINDS, WRITE_KINDS

__all__ = ["CHANGES", "DATA", "KINDS", "READS", "TWO_OBJECTS", "WHOLE_CHANGES", "code_of"]

READS = READ_KINDS
CHANGES = ("put", "write", "part", "complete", "abort", "sync", "truncate", "rename", "copy", "delete")
"""Kinds that change what is stored; a plan holds them if writes are allowed."""
KINDS = (*READS, *CHANGES)
"""All kinds, reads first; the column `kind` of a plan holds indexes into them."""
DATA = WRITE_KINDS
"""Changes that send bytes."""
WHOLE_CHANGES = ("put", "complete", "truncate", "rename", "copy", "delete")
"""Changes after which the whole object, not a range of it, is another."""
TWO_OBJECTS = ("rename", "copy")
"""Kinds with a target besides the object: the column `to_file`."""


def code_of(kind: str) -> int:
    """The code of a kind in a plan's column `kind`."""
    return KINDS.index(kind)
