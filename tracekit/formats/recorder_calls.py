"""What the calls of a Recorder log do: ops with offsets, which the log does not have, rebuilt from opens and seeks.

Calls name files, not descriptors, and have no results. A position is known only while its rank has the file open
once, and takes a read or write to have moved what it was asked for, as Recorder's own tools do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from tracekit.formats.base import Tally
from tracekit.formats.sound import MAX_INT

__all__ = ["Call", "Facts", "Files"]

_O_TRUNC, _O_APPEND = 0o1000, 0o2000
"""As on Linux, which Recorder is for."""
_SEEK_SET, _SEEK_CUR = 0, 1
_READS_WRITES = {
    "read": ("read", 0, 2, None),
    "readv": ("read", 0, 1, None),
    "pread": ("read", 0, 2, 3),
    "pread64": ("read", 0, 2, 3),
    "fread": ("read", 3, 1, None),
    "write": ("write", 0, 2, None),
    "writev": ("write", 0, 1, None),
    "pwrite": ("write", 0, 2, 3),
    "pwrite64": ("write", 0, 2, 3),
    "fwrite": ("write", 3, 1, None),
}
"""Calls: the op, and which arguments are the file, the length and the offset."""
_OPENS = ("open", "open64", "fopen", "fopen64", "creat", "creat64")
_CLOSES = ("close", "fclose")
_SEEKS = ("lseek", "lseek64", "fseek", "fseeko")
_OTHERS = {
    "fsync": ("sync", 0),
    "fdatasync": ("sync", 0),
    "unlink": ("delete", 0),
    "remove": ("delete", 0),
    "truncate": ("truncate", 0),
    "ftruncate": ("truncate", 0),
    "rename": ("rename", 0),
    "access": ("stat", 0),
    "__xstat": ("stat", 1),
    "__xstat64": ("stat", 1),
    "__lxstat": ("stat", 1),
    "__lxstat64": ("stat", 1),
    "__fxstat": ("stat", 1),
    "__fxstat64": ("stat", 1),
    "opendir": ("list", 0),
}
"""Other calls: the op, and which argument is the file."""
_DUPS = ("dup", "dup2")
_MAPS = ("mmap", "mmap64")
_WITHOUT_EFFECT = (
    "fdopen",
    "fileno",
    "ftell",
    "ftello",
    "getcwd",
    "umask",
    "chdir",
    "fcntl",
    "readdir",
    "closedir",
)
"""Calls that move no data and are not worth a count."""


class Call(NamedTuple):
    """A function with its arguments, in which blanks have become underscores."""

    thread: int
    name: str
    args: tuple[str, ...]


class Op(NamedTuple):
    """What a call does to one file."""

    kind: str
    path: str
    offset: int | None = None
    length: int | None = None
    to_path: str | None = None


@dataclass(slots=True)
class Facts:
    """What is to be said of a log: files that were mapped, and offsets that rest on an assumption."""

    tally: Tally
    mapped: set[str] = field(default_factory=set)
    assumed: int = 0

    def notes(self) -> Iterator[str]:
        """Return notes on what the log does not say."""
        yield "the log has no results of calls: bytes moved and errors are not known"
        if self.assumed:
            yield (
                f"{self.assumed} offsets follow from reads and writes before them, which are taken to have moved what"
                " they were asked for"
            )


@dataclass(slots=True)
class _File:
    """How often a rank has a file open, and where it stands in it; `moved`: since a read or write of it."""

    opens: int = 0
    position: int | None = None
    moved: bool = False


@dataclass(slots=True)
class Files:
    """The open files of one rank, by name."""

    facts: Facts
    _files: dict[str, _File] = field(default_factory=dict)

    def ops(self, call: Call) -> list[Op]:
        """Return the ops of a call, and keep its effect on positions. Raises ValueError for one that makes no sense."""
        name, args = call.name, call.args
        if name in _READS_WRITES:
            return [self._moved(name, args)]
        if name in _OPENS:
            return [self._opened(name, args)]
        if name in _OTHERS:
            kind, place = _OTHERS[name]
            length = _number(args, 1) if kind == "truncate" else None
            return [Op(kind, _path(args, place), None, length, _path(args, 1) if kind == "rename" else None)]
        if name in _CLOSES:
            self._closed(_path(args, 0))
        elif name in _SEEKS:
            self._sought(args)
        elif name in _DUPS:  # a number, which the log does not say the file of
            for file in self._files.values():
                file.position = None
        elif name in _MAPS:
            self.facts.mapped.add(_path(args, 4))
        elif name not in _WITHOUT_EFFECT:
            layer = "MPI" if name.startswith("MPI") else "HDF5" if name.startswith("H5") else name
            self.facts.tally.left_out[layer or "unknown function"] += 1
        return []

    def _moved(self, name: str, args: tuple[str, ...]) -> Op:
        kind, where, size, at = _READS_WRITES[name]
        path, length = _path(args, where), _number(args, size)
        if name in ("fread", "fwrite"):
            length *= _number(args, 2)
        if at is not None:
            return Op(kind, path, _number(args, at), length)
        file = self._files.get(path)
        if file is None or file.position is None:
            return Op(kind, path, None, length)
        offset = file.position
        self.facts.assumed += file.moved
        file.position, file.moved = offset + length, True
        return Op(kind, path, offset, length)

    def _opened(self, name: str, args: tuple[str, ...]) -> Op:
        path = _path(args, 0)
        mode = args[1] if name.startswith("fopen") and len(args) > 1 else ""
        flags = 0 if mode or name.startswith("creat") else _number(args, 1)
        file = self._files.setdefault(path, _File())
        file.opens += 1
        alone = file.opens == 1 and not (flags & _O_APPEND or mode.startswith("a"))
        file.position, file.moved = (0 if alone else None), False
        if name.startswith("creat") or flags & _O_TRUNC or mode.startswith("w"):
            return Op("truncate", path, None, 0)
        return Op("stat", path)

    def _closed(self, path: str) -> None:
        file = self._files.get(path)
        if file is not None:
            file.opens -= 1
            file.position = None
            if file.opens <= 0:
                del self._files[path]

    def _sought(self, args: tuple[str, ...]) -> None:
        file = self._files.get(_path(args, 0))
        if file is None or file.opens != 1:
            return
        by, whence = _signed(args, 1), _number(args, 2)
        if whence == _SEEK_SET:
            file.position, file.moved = by, False
        elif whence != _SEEK_CUR or file.position is None:
            file.position = None
        else:
            file.position += by


def _path(args: tuple[str, ...], place: int) -> str:
    path = args[place] if place < len(args) else ""
    if not path or path == "???":
        raise ValueError("names no file")
    return path


def _number(args: tuple[str, ...], place: int) -> int:
    value = _signed(args, place)
    if value < 0:
        raise ValueError(f"its argument {place + 1} is negative")
    return value


def _signed(args: tuple[str, ...], place: int) -> int:
    text = args[place] if place < len(args) else ""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20 and int(digits) <= MAX_INT):
        raise ValueError(f"its argument {place + 1} is no number: {text[:40]!r}")
    return int(text)
