"""The interface for changing what is stored, and which target can do which kind of change.

A changer belongs to a backend of the same scheme. Whoever uses it decides whether a target may be
changed at all: these calls replace and delete without asking.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["CAPABILITIES", "LEAST_PART", "ONE_UPLOAD_AT_A_TIME", "Changer", "FileWriter", "Upload"]

_UPLOADS = ("part", "complete", "abort")
_LOCAL = frozenset({"put", "write", *_UPLOADS, "sync", "truncate", "rename", "copy", "delete"})
_OBJECTS = frozenset({"put", "write", *_UPLOADS, "truncate", "rename", "copy", "delete"})
CAPABILITIES: dict[str, frozenset[str]] = {
    "file": _LOCAL,
    "direct": _LOCAL,
    "s3": _OBJECTS,
    "az": _OBJECTS,
    "abfs": _OBJECTS,
    "abfss": _OBJECTS,
    "gs": _OBJECTS,
    "gcs": _OBJECTS,
}
"""The kinds of change that a target of each scheme can do.

A scheme that is not named can only be read. Object stores have no `sync`: what was answered is durable. They `write` only objects that are written
from beginning to end before they are read, as an upload in parts; they `truncate` only to nothing; and
`rename` is a copy and a deletion.
"""

LEAST_PART = {"s3": 5 << 20, "gs": 5 << 20, "gcs": 5 << 20}
"""The smallest part, in bytes, that a store of a scheme takes, but for the last one of an upload."""
ONE_UPLOAD_AT_A_TIME = frozenset({"az", "abfs", "abfss"})
"""Schemes where the end of an upload drops the parts of every other upload of the same object."""


class FileWriter(Protocol):
    """A file open for writing. Any number of threads may use it at once."""

    def write(self, offset: int, data: memoryview) -> int:
        """Write `data` at byte `offset`; return its bytes."""
        ...

    def truncate(self, size: int) -> None:
        """Set the size: cut the file, or extend it by a hole."""
        ...

    def close(self) -> None: ...


class Upload(Protocol):
    """An upload in parts. Any number of threads may send parts at once."""

    def part(self, number: int, offset: int, data: memoryview) -> int:
        """Send part `number` (from 1), which begins at byte `offset` of the object; return its bytes."""
        ...

    def complete(self) -> None:
        """Make one object of the parts, in the order of their numbers."""
        ...

    def abort(self) -> None:
        """Give up the upload and what was sent."""
        ...


class Changer(Protocol):
    """Changes objects of one scheme. Thread-safe. Every call raises BackendError if it fails."""

    def prepare(self, uri: str) -> None:
        """Get ready for changes where `uri` is. Raises UsageError or BackendError for settings that are not valid."""
        ...

    def open_for_writing(self, uri: str) -> FileWriter:
        """Open a file for writes of ranges; it is created if it is absent, and never truncated."""
        ...

    def upload(self, uri: str) -> Upload:
        """Begin an upload in parts."""
        ...

    def rename(self, uri: str, to_uri: str) -> None:
        """Give an object another name; an object of that name is replaced, the object itself is left as it is."""
        ...

    def copy(self, uri: str, to_uri: str) -> None:
        """Copy a whole object; an object of the name `to_uri` is replaced."""
        ...

    def delete(self, uri: str) -> None: ...

    def sync(self, uri: str) -> None:
        """Make a file or a directory durable."""
        ...
