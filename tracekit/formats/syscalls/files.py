"""The open files of a process, by descriptor, as a log of system calls shows them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from tracekit.formats.syscalls.arguments import DELETED, HERE, descriptor, path_argument, scalar
from tracekit.uri import renamed

__all__ = ["File", "Table"]

_CLOSES_ON_EXEC = re.compile(r"O_CLOEXEC|F_DUPFD_CLOEXEC|\bFD_CLOEXEC")


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


@dataclass(slots=True)
class Table:
    """The descriptors of a process, with its working directory as `HERE`, and which of them an exec closes."""

    files: dict[int, File] = field(default_factory=dict)
    closing: set[int] = field(default_factory=set)

    def path_of(self, number: int) -> str | None:
        """Return the path of a descriptor, where the log has shown it."""
        known = self.files.get(number)
        return None if known is None else known.path

    def file_of(self, args: str) -> File | None:
        """The file of the descriptor that `args` begins with; `-y` names it even if it was opened before the log."""
        found = descriptor(args)
        if found is None or found[0] < 0:
            return None
        number, path = found
        file = self.files.get(number)
        if file is not None and file.path is not None and path == file.path + DELETED:
            return file
        if file is None or (path is not None and file.path is not None and path != file.path):
            file = self.files[number] = File(path, None)
        if file.path is None:
            file.path = path
        return file

    def opened(self, number: int, file: File, args: str) -> None:
        """Note that `number` is a descriptor of `file`, by a call with `args`."""
        self.files[number] = file
        self.mark(number, args)

    def mark(self, number: int, args: str) -> None:
        """Note whether an exec closes a descriptor, which the flags in `args` say."""
        if _CLOSES_ON_EXEC.search(args.rpartition('"')[2]):
            self.closing.add(number)
        else:
            self.closing.discard(number)

    def close(self, number: int) -> None:
        """Note that a descriptor was closed."""
        self.files.pop(number, None)
        self.closing.discard(number)

    def close_range(self, args: str, value: int | None) -> None:
        """Note what a call of close_range has closed, or will be closed by an exec."""
        first, last = descriptor(args), scalar(args, -2)
        if value != 0 or first is None:
            return
        end = 2**32 if last is None or last < 0 else last
        chosen = {number for number in self.files if first[0] <= number <= end}
        if "CLOSE_RANGE_CLOEXEC" in args:
            self.closing |= chosen
            return
        for number in chosen:
            self.close(number)

    def change_directory(self, args: str, *, failed: bool) -> None:
        """Note a new working directory. It is unknown after a call whose directory is."""
        if failed:
            return
        file = self.file_of(args)
        path = path_argument(args, self.path_of) if file is None else file.path
        self.files[HERE] = File(path, None)

    def copy(self) -> Table:
        """Return a table of its own with the same files."""
        return Table(dict(self.files), set(self.closing))

    def handed_down(self, args: str) -> Table:
        """The descriptors of a fork's child: the parent's own table for a thread, a copy for a process."""
        return self if "CLONE_FILES" in args else self.copy()

    def after_exec(self) -> Table:
        """The descriptors after an exec, which no other process shares."""
        return Table({number: file for number, file in self.files.items() if number not in self.closing})
