"""What system calls do to files and descriptors: the state that an strace log is read with."""

from __future__ import annotations

import os.path
import re
from dataclasses import dataclass

from tracekit.formats.sound import Streams

__all__ = ["Processes", "Row"]

Row = tuple[int, str, str, int | None, int | None, int | None, int | None, int, str | None]
"""t_submit, uri, op, offset, len, bytes, latency, worker, error."""

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
_ERRORS = {
    "ENOENT": "not_found", "ENOTDIR": "not_found", "EACCES": "permission", "EPERM": "permission", "EIO": "io_error",
    "ETIMEDOUT": "timeout", "EINTR": "cancelled", "ECANCELED": "cancelled", "EOPNOTSUPP": "unsupported",
    "EINVAL": "unsupported",
}  # fmt: skip
_FD = re.compile(r"(-?\d{1,9})(?:<((?:[^<>]|\\[0-7]{2,3})*)>)?(?:\(deleted\))?")
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

    def call(
        self, thread: int, at_ns: int, name: str, args: str, result: str, took_ns: int | None
    ) -> Row | None:
        """The op of one call, if it is one; descriptors are kept whatever it is."""
        table = self._tables.setdefault(thread, {})
        value, error = _result(result)
        if name in _FORKS:
            if value is not None and value > 0:
                self._tables[value] = table if "CLONE_FILES" in args else dict(table)
            return None
        row = self._op(table, name, args, result, value, error)
        if row is None:
            return None
        kind, path, offset, length, moved = row
        if path is None or not path.startswith("/"):
            self.unnamed += kind in ("read", "put") and path is None
            return None
        latency = None if value is None and error is None else took_ns
        return (
            at_ns,
            f"file://{path}",
            kind,
            offset,
            length,
            moved,
            latency,
            self._workers.number(thread),
            error,
        )

    def _op(
        self, table: dict[int, _File], name: str, args: str, result: str, value: int | None, error: str | None
    ) -> tuple[str, str | None, int | None, int | None, int | None] | None:
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


def _result(text: str) -> tuple[int | None, str | None]:
    """A call's value, and the class of its error; no value and no error: it never returned."""
    found = re.match(r"(-?\d{1,19})(?:<[^>]*>)?(?:\(deleted\))?(?:\s+(E[A-Z0-9]+))?", text)
    if found is None:
        return None, None
    value = int(found[1])
    return value, _ERRORS.get(found[2], "unknown") if value < 0 and found[2] else None


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
