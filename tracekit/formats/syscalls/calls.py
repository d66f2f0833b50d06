"""What system calls do to files and descriptors: the state that an strace log is read with."""

from __future__ import annotations

import os.path
import re
from dataclasses import dataclass

from tracekit.errors import ErrorClass
from tracekit.formats.sound import Streams

__all__ = ["Processes", "Row"]

Row = tuple[int, str, str, int | None, int | None, int | None, int | None, int, str | None]
"""t_submit, uri, op, offset, len, bytes, latency, worker, error."""

_Part = tuple[str, str | None, int | None, int | None, int | None]
"""op, path, offset, len, bytes."""

_READS = {"read": 0, "readv": 0, "pread64": 1, "pread": 1, "preadv": 1, "preadv2": 2}
_WRITES = {"write": 0, "writev": 0, "pwrite64": 1, "pwrite": 1, "pwritev": 1, "pwritev2": 2}
_OPENS = ("open", "openat", "openat2", "creat")
_STATS = (
    "stat",
    "stat64",
    "lstat",
    "lstat64",
    "newfstatat",
    "fstatat64",
    "statx",
    "access",
    "faccessat",
    "faccessat2",
)
_FD_STATS = ("fstat", "fstat64")
_LISTS = ("getdents", "getdents64")
_DELETES = ("unlink", "unlinkat")
_DUPS = ("dup", "dup2", "dup3")
_FORKS = ("clone", "clone3", "fork", "vfork")
_COPIES = {"sendfile": (1, 0), "sendfile64": (1, 0), "copy_file_range": (0, 1), "splice": (0, 1)}
"""Calls that move bytes from a descriptor to another in the kernel: which of the two is read, which written."""
_FD = re.compile(r"(-?\d{1,9})(?:<((?:[^<>]|\\[0-7]{2,3})*)>)?(?:\(deleted\))?")
_BOTH_FDS = re.compile(
    r"(-?\d{1,9}(?:<(?:[^<>]|\\[0-7]{2,3})*>)?(?:\(deleted\))?), (?:(NULL|\[\d{1,18}\])[^,]*, )?"
)
_DIRECTORY = re.compile(r"(?:AT_FDCWD|\d{1,9})(?:<([^<>]*)>)?, ")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"(\.\.\.)?')
_IOVEC = re.compile(r"iov_len=(\d{1,18})")
_ESCAPE = re.compile(r"\\([0-7]{1,3}|x[0-9a-fA-F]{2}|.)")
_LETTERS = {"n": 10, "t": 9, "r": 13, "v": 11, "f": 12, "a": 7, "b": 8}


@dataclass(slots=True)
class _File:
    """An open file; shared by every descriptor that is a dup of another, across forks too."""

    path: str | None
    position: int | None


class Processes:
    """The descriptors of all processes of a log."""

    def __init__(self) -> None:
        self.unnamed = 0
        self._tables: dict[int, dict[int, _File]] = {}
        self._workers = Streams()
        self._forking: dict[int, str] = {}
        self._early: dict[int, int | None] = {}
        self._first: int | None = None
        """The process that strace names only once there are others (it writes to a terminal: thread 0 till then)."""

    def begun(self, thread: int, text: str) -> None:
        """A call has begun that ends in a later line; of a fork, the child may be heard of before that."""
        name, _, args = text.partition("(")
        if name in _FORKS:
            self._forking[thread] = args

    def call(
        self, thread: int, at_ns: int, name: str, args: str, result: str, took_ns: int | None
    ) -> list[Row]:
        """The ops of one call, if it is one; descriptors are kept whatever it is."""
        table = self._table(thread)
        thread = 0 if thread == self._first else thread
        value, error = _result(result)
        if name in _FORKS:
            self._forked(thread, table, value, args)
            return []
        parts = self._copied(table, name, args, value, error) if name in _COPIES else None
        if parts is None:
            part = self._op(table, name, args, result, value, error)
            parts = [] if part is None else [part]
        latency = None if value is None and error is None else took_ns
        rows: list[Row] = []
        for kind, path, offset, length, moved in parts:
            if path is None or not path.startswith("/"):
                self.unnamed += kind in ("read", "put") and path is None
                continue
            worker = self._workers.number(thread)
            rows.append((at_ns, path, kind, offset, length, moved, latency, worker, error))
        return rows

    def lost(self, thread: int) -> None:
        """A call of this thread could not be read: where its files stand is not known from here on."""
        for file in self._table(thread).values():
            file.position = None

    def _table(self, thread: int) -> dict[int, _File]:
        """The descriptors of a thread; one that is new has those of the fork that is under way, if one is."""
        table = self._tables.get(thread)
        if table is not None:
            return table
        taken = set(self._early.values())
        parents = [parent for parent in self._forking if parent not in taken]
        if len(parents) == 1:
            self._early[thread] = parents[0]
            table = _handed_down(self._tables.setdefault(parents[0], {}), self._forking[parents[0]])
        elif parents:
            self._early[thread] = None
            table = {}
        elif self._first is None and 0 in self._tables:
            self._first = thread
            table = self._tables[0]
        else:
            table = {}
        self._tables[thread] = table
        return table

    def _forked(self, thread: int, table: dict[int, _File], child: int | None, args: str) -> None:
        """A fork has returned to the parent: what the child has done by then is kept."""
        args = self._forking.pop(thread, "") + args
        if child is None or child <= 0:
            return
        if child in self._early:
            parent = self._early.pop(child)
            if parent == thread:
                return
            known = self._tables[child]
            for number in known.keys() & table.keys():
                table[number].position = None  # shared, and the child has moved it
            self._tables[child] = {**_handed_down(table, args), **known}
            return
        self._tables[child] = _handed_down(table, args)

    def _copied(
        self, table: dict[int, _File], name: str, args: str, value: int | None, error: ErrorClass | None
    ) -> list[_Part]:
        """The read and the write of a copy inside the kernel."""
        ends = list(_BOTH_FDS.finditer(args))[:2]
        length = re.search(r", (\d{1,19})(?:, [\w|]+)?$", args)
        if len(ends) != 2 or length is None:
            return []
        moved = None if value is None and error is None else max(value or 0, 0)
        parts: list[_Part] = []
        for place, kind in zip(_COPIES[name], ("read", "put"), strict=True):
            file = _file(table, ends[place][1])
            # sendfile has one offset, of what is read; what is written goes where its file stands
            given = "NULL" if name.startswith("sendfile") and kind == "put" else ends[place][2] or "NULL"
            if file is not None:
                begin = _at_and_on(file, given, moved)
                parts.append((kind, file.path, begin, min(int(length[1]), 2**62), moved))
        return parts

    def _op(
        self,
        table: dict[int, _File],
        name: str,
        args: str,
        result: str,
        value: int | None,
        error: ErrorClass | None,
    ) -> _Part | None:
        moved = None if value is None and error is None else max(value or 0, 0)
        if name in _READS or name in _WRITES:
            given = _READS.get(name, _WRITES.get(name, 0))
            file = _file(table, args)
            if file is None:
                return None
            length, offset = _length_and_offset(args, given, "v" in name)
            if not given:
                offset = file.position
                if file.position is not None:
                    file.position = None if moved is None else file.position + moved
            return ("read" if name in _READS else "put", file.path, offset, length, moved)
        if name in _OPENS:
            path = _opened(args, result)
            if value is not None and value >= 0:
                table[value] = _File(path, None if "O_APPEND" in args else 0)
            return ("stat", path, None, None, 0)
        if name in _STATS:
            return ("stat", _path(args), None, None, 0)
        if name in _DELETES:
            return ("delete", _path(args), None, None, 0)
        file = _file(table, args)
        if file is None:
            return None
        if name in _FD_STATS:
            return ("stat", file.path, None, None, 0)
        if name in _LISTS:
            return ("list", file.path, None, None, 0)
        if name in ("fadvise64", "fadvise64_64", "readahead"):
            numbers = re.findall(r", (-?\d{1,18})", args)
            known = len(numbers) >= 2
            return (
                "hint",
                file.path,
                int(numbers[0]) if known else None,
                int(numbers[1]) if known else None,
                0,
            )
        _moves(table, file, name, args, value)
        return None


def _at_and_on(file: _File, given: str, moved: int | None) -> int | None:
    """Where a copy begins in `file`: at the offset that was `given`, else at its position, which goes on."""
    if given.startswith("["):
        return int(given[1:-1])
    begin = file.position
    if begin is not None:
        file.position = None if moved is None else begin + moved
    return begin


def _handed_down(table: dict[int, _File], args: str) -> dict[int, _File]:
    """The descriptors of a fork's child: the parent's own table for a thread, a copy for a process."""
    return table if "CLONE_FILES" in args else dict(table)


def _moves(table: dict[int, _File], file: _File, name: str, args: str, value: int | None) -> None:
    """What calls that are no ops do to a descriptor."""
    if name in ("lseek", "_llseek", "llseek") and value is not None and value >= 0:
        inner = re.search(r"\[(\d{1,18})\]", args)
        file.position = int(inner[1]) if inner else value
    elif name in _DUPS or (name == "fcntl" and "F_DUPFD" in args):
        if value is not None and value >= 0:
            table[value] = file
    elif name == "close":
        found = _FD.match(args)
        if found:
            table.pop(int(found[1]), None)


def _result(text: str) -> tuple[int | None, ErrorClass | None]:
    """A call's value, and the class of its error; no value and no error: it never returned."""
    found = re.match(r"(-?\d{1,19})(?:<[^>]*>)?(?:\(deleted\))?(?:\s+(E[A-Z0-9]+))?", text)
    if found is None:
        return None, None
    value = int(found[1])
    return value, ErrorClass.from_text(found[2]) if value < 0 and found[2] else None


def _file(table: dict[int, _File], args: str) -> _File | None:
    """The file of the descriptor that `args` begin with; `-y` names it even if it was opened before the log."""
    found = _FD.match(args)
    if found is None:
        return None
    number = int(found[1])
    path = _unescaped(found[2]) if found[2] is not None else None
    file = table.get(number)
    if file is None or (path is not None and file.path is not None and path != file.path):
        file = table[number] = _File(path, None)
    if file.path is None:
        file.path = path
    return file


def _opened(args: str, result: str) -> str | None:
    named = re.match(r"\d{1,9}<([^<>]*)>", result)
    return _unescaped(named[1]) if named else _path(args)


def _path(args: str) -> str | None:
    """The path that a call names; a relative one only where the log shows its directory."""
    quoted = _QUOTED.search(args)
    if quoted is None or quoted[2]:
        return None
    path = _unescaped(quoted[1])
    if path.startswith("/"):
        return path
    directory = _DIRECTORY.match(args)
    if directory is None or directory[1] is None:
        return None
    return os.path.normpath(os.path.join(_unescaped(directory[1]), path))


def _length_and_offset(args: str, given: int, vectored: bool) -> tuple[int | None, int | None]:
    """What was asked for, and (`given` is 1, or 2 if flags follow) the offset argument."""
    tail = args.rsplit(", ", 1 + given)
    offset = tail[2] if given == 2 and len(tail) == 4 else tail[-1] if given == 1 and len(tail) == 3 else None
    length: int | None
    if vectored:  # the vector itself is cut short under `strace -s 0`: then what was asked for is unknown
        sizes = _IOVEC.findall(args)
        length = sum(int(size) for size in sizes) if sizes and "}, ..." not in args else None
    else:
        text = "" if len(tail) < 2 else tail[1] if given else tail[-1]
        length = int(text) if re.fullmatch(r"\d{1,18}", text) else None
    return length, int(offset) if offset is not None and re.fullmatch(r"\d{1,18}", offset) else None


def _unescaped(text: str) -> str:
    text = text.removesuffix(" (deleted)")
    if "\\" not in text:
        return text
    raw = bytearray()
    at = 0
    for found in _ESCAPE.finditer(text):
        raw += text[at : found.start()].encode()
        code = found[1]
        if code[0] in "01234567":
            raw.append(int(code, 8) & 255)
        elif code[0] == "x" and len(code) == 3:
            raw.append(int(code[1:], 16))
        else:
            raw += bytes([_LETTERS[code]]) if code in _LETTERS else code.encode()
        at = found.end()
    return (raw + text[at:].encode()).decode("utf-8", "replace")
