"""The open files of a process, by descriptor, as a log of system calls shows them."""

from __future__ import annotations

from dataclasses import dataclass

from tracekit.formats.syscalls.arguments import descriptor, path_argument, scalar
from tracekit.uri import renamed

__all__ = ["HERE", "File", "Table", "change_directory", "close_range", "file_of", "handed_down", "here"]

HERE = -100
"""The descriptor of the working directory, as the kernel numbers it (AT_FDCWD)."""


@dataclass(slots=True)
class File:
    """An open file; shared by every descriptor that is a dup of another, across forks too.

    `appends`: whether writes go to its end (`O_APPEND`), wherever its position is; `at_end`: whether that is the end.
    """

    path: str | None
    position: int | None
    opened: bool = False
    appends: bool = False
    at_end: bool = False

    def move(self, moved: int | None) -> int | None:
        """Return the position, and move it by `moved` bytes; an unknown move makes it unknown."""
        begin = self.position
        self.at_end = False
        if begin is not None:
            self.position = None if moved is None else begin + moved
        return begin

    def append(self, moved: int | None) -> int | None:
        """Return the end of the file, if it is known, and move the position to the end after `moved` more bytes."""
        end = self.position if self.at_end else None
        self.position = None if end is None or moved is None else end + moved
        self.at_end = True
        return end

    def sought(self, position: int | None, args: str) -> None:
        """Note a seek to `position` by a call with `args`."""
        self.position = position
        if "SEEK_CUR" not in args or scalar(args, 1) != 0:
            self.at_end = "SEEK_END" in args and scalar(args, 1) == 0

    def renamed(self, old: str, new: str) -> None:
        """Take the new name, if the file, or a directory that it is in, was renamed."""
        if self.path is not None:
            self.path = renamed(self.path, old, new)


Table = dict[int, File]


def close_range(table: Table, args: str, value: int | None) -> None:
    if value != 0 or "CLOSE_RANGE_CLOEXEC" in args:
        return
    first, last = descriptor(args), scalar(args, -2)
    if first is None:
        return
    end = 2**32 if last is None or last < 0 else last
    for number in [number for number in table if first[0] <= number <= end]:
        del table[number]


def here(table: Table) -> str | None:
    """Return the working directory, where the log has shown it."""
    known = table.get(HERE)
    return None if known is None else known.path


def change_directory(table: Table, args: str, *, failed: bool) -> None:
    """Note a new working directory. It is unknown after a call whose directory is."""
    if failed:
        return
    file = file_of(table, args)
    path = path_argument(args, here(table)) if file is None else file.path
    table[HERE] = File(path, None)


def handed_down(table: Table, args: str) -> Table:
    """The descriptors of a fork's child: the parent's own table for a thread, a copy for a process."""
    return table if "CLONE_FILES" in args else dict(table)


def file_of(table: Table, args: str) -> File | None:
    """The file of the descriptor that `args` begins with; `-y` names it even if it was opened before the log."""
    found = descriptor(args)
    if found is None or found[0] < 0:
        return None
    number, path = found
    file = table.get(number)
    if file is None or (path is not None and file.path is not None and path != file.path):
        file = table[number] = File(path, None)
    if file.path is None:
        file.path = path
    return file
