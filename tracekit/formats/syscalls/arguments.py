"""The arguments and results of system calls as strace writes them."""

from __future__ import annotations

import os.path
import re
from collections.abc import Callable, Iterator

from tracekit.errors import ErrorClass
from tracekit.formats.sound import MAX_INT
from tracekit.uri import as_text

__all__ = [
    "DELETED",
    "HERE",
    "both_ends",
    "both_paths",
    "descriptor",
    "iocbs",
    "needs_descriptor",
    "opened_path",
    "path_argument",
    "result_of",
    "scalar",
    "vector_length",
    "without_details",
    "working_directory",
]

HERE = -100
"""The descriptor of the working directory, as the kernel numbers it (AT_FDCWD)."""
DELETED = " (deleted)"
"""What old versions of strace put after the name of a file that was deleted, as the kernel does. It may end a real name; new
versions put the mark behind the brackets."""
Directories = Callable[[int], str | None]
"""Gives the path of a directory's descriptor, or of `HERE`, where the log has shown it."""

_FD = re.compile(r"(-?\d{1,9})(?:<((?:[^<>]|\\[0-7]{2,3})*)>)?(?:\(deleted\))?")
_BOTH_FDS = re.compile(
    r"(-?\d{1,9}(?:<(?:[^<>]|\\[0-7]{2,3})*>)?(?:\(deleted\))?), (?:(NULL|\[\d{1,18}\])[^,]*, )?"
)
_WORKING = re.compile(r"AT_FDCWD<([^<>]*)>")
_PATH = re.compile(r'(?:(AT_FDCWD|\d{1,9})(?:<([^<>]*)>)?(?:\(deleted\))?, )?"((?:[^"\\]|\\.)*)"(\.\.\.)?')
_SOCKET = re.compile(r"<[A-Za-z][\w-]*:\[[^<>]*->[^<>]*\]>")
_DEVICE = re.compile(r"<(/[^<>]*)<(?:block|char) \d+:\d+>>")
_IOVEC = re.compile(r"iov_len=(\d{1,18})")
_IOCB = re.compile(r"\{(?:[^{}]|\{[^{}]*\})*\}")
_IOCB_WORD = re.compile(r"IOCB_CMD_(\w+)|(?<=[{ ])(p?(?:read|write)v?)(?=, fil)")
_IOCB_FD = re.compile(r"fil(?:e?des)[=:] ?(.*)")
_IOCB_DATA = re.compile(r"[{_ ]data=(0x[0-9a-f]{1,16}|\d{1,20})")
_IOCB_LENGTH = re.compile(r"nbytes[=:] ?(\d{1,18})")
_IOCB_OFFSET = re.compile(r"offset[=:] ?(\d{1,18})")
_RESULT = re.compile(r"(-?\d{1,19}|0x[0-9a-f]{1,16})(?:<[^>]*>)?(?:\(deleted\))?(?:\s+(E[A-Z0-9]+))?")
_RESTARTED = "? ERESTART"
"""The result of a call that a signal interrupted before it did anything; if it is restarted, it is in the log again."""
_INTEGER = re.compile(r"-?\d{1,19}")
_ESCAPE = re.compile(r"\\([0-7]{1,3}|x[0-9a-fA-F]{2}|.)")
_LETTERS = {"n": 10, "t": 9, "r": 13, "v": 11, "f": 12, "a": 7, "b": 8}


def result_of(text: str) -> tuple[int | None, ErrorClass | None]:
    """Return a call's value and the class of its error; neither if it never returned.

    A call that is to be restarted was cancelled.
    """
    if len(text) < 19 and text.isascii() and text.isdigit():
        return int(text), None
    found = _RESULT.match(text)
    if found is None:
        return (-1, ErrorClass.CANCELLED) if text.startswith(_RESTARTED) else (None, None)
    value = int(found[1], 16) if found[1].startswith("0x") else int(found[1])
    return value, ErrorClass.from_text(found[2]) if value < 0 and found[2] else None


def without_details(text: str) -> str:
    """Return arguments or a result without what `-yy` adds to descriptors: ends of sockets and numbers of devices."""
    if "->" in text:
        text = _SOCKET.sub("<socket:>", text)
    return _DEVICE.sub(r"<\1>", text) if "<block " in text or "<char " in text else text


def descriptor(args: str) -> tuple[int, str | None] | None:
    """Return the descriptor that `args` begins with, and the path that `-y` shows for it."""
    found = _FD.match(args)
    if found is None:
        return None
    return int(found[1]), None if found[2] is None else _unescaped(found[2])


def needs_descriptor(args: str) -> None:
    """Raise ValueError unless `args` begins with a descriptor, be it one that cannot be open."""
    if descriptor(args) is None:
        raise ValueError(f"its descriptor cannot be read: {args[:40]!r}")


def both_ends(args: str) -> list[tuple[str, int | None]]:
    """Return the two descriptors of a copy inside the kernel, each with the offset given for it."""
    return [
        (found[1], int(found[2][1:-1]) if (found[2] or "").startswith("[") else None)
        for found in list(_BOTH_FDS.finditer(args))[:2]
    ]


def iocbs(args: str) -> Iterator[tuple[str, str, int | None, int | None, str]]:
    """Return the operation (such as PREAD), descriptor, length, offset and data of each request of io_submit."""
    for found in _IOCB.finditer(args):
        word, where = _IOCB_WORD.search(found[0]), _IOCB_FD.search(found[0])
        data = _IOCB_DATA.search(found[0])
        nbytes, offset = _IOCB_LENGTH.search(found[0]), _IOCB_OFFSET.search(found[0])
        length = int(nbytes[1]) if nbytes and "iov_len" not in found[0] else vector_length(found[0])
        yield (
            (word[1] or word[2]).upper() if word else "request",
            where[1] if where else "",
            length,
            int(offset[1]) if offset else None,
            data[1] if data and data[1] != "0" else "",
        )


def scalar(args: str, place: int) -> int | None:
    """Return the number at `place` of the arguments (negative: from the end), if a number stands there.

    Counting from the end is safe: only the leading arguments hold paths and data, which may hold commas.
    """
    if place < 0:
        parts = args.rsplit(", ", -place)
        text = parts[place] if len(parts) > -place else ""
    else:
        parts = args.split(", ", place + 1)
        text = parts[place] if len(parts) > place else ""
    if len(text) < 19 and text.isascii() and text.isdigit():
        return int(text)
    if not _INTEGER.fullmatch(text):
        return None
    value = int(text)
    return value if abs(value) <= MAX_INT else None


def vector_length(args: str) -> int | None:
    """Return the length that a vector asks for; None if strace cut the vector short (`-s 0`)."""
    sizes = _IOVEC.findall(args)
    return sum(int(size) for size in sizes) if sizes and "}, ..." not in args else None


def opened_path(args: str, result: str, known: Directories) -> str | None:
    """Return the path that an open call opened; `known` is as for `path_argument`."""
    named = re.match(r"\d{1,9}<([^<>]*)>", result)
    if named is None:
        return path_argument(args, known)
    path = _unescaped(named[1])
    return path.removesuffix(DELETED) if "O_TMPFILE" in args else path


def working_directory(args: str) -> str | None:
    """Return the working directory that the call shows for `AT_FDCWD`."""
    found = _WORKING.search(args)
    return None if found is None else _unescaped(found[1])


def path_argument(args: str, known: Directories) -> str | None:
    """Return the path that a call names; a relative one only if its directory is known.

    `known` gives the directories of the process.
    """
    found = _PATH.search(args)
    return None if found is None else _whole(found, known)


def both_paths(args: str, known: Directories) -> tuple[str, str] | None:
    """Return the two paths that a call names, each as `path_argument` does; None if one cannot be made whole."""
    found = [_whole(path, known) for path in list(_PATH.finditer(args))[:2]]
    if len(found) < 2 or found[0] is None or found[1] is None:
        return None
    return found[0], found[1]


def _whole(found: re.Match[str], known: Directories) -> str | None:
    """Return the path of a match of `_PATH`, made whole with its directory; None if that is unknown or it was cut."""
    word, directory, name, cut = found.groups()
    path = _unescaped(name)
    if cut:
        return None
    if path.startswith("/"):
        return path
    if directory is not None:
        here: str | None = _unescaped(directory)
    else:
        here = known(HERE if word in (None, "AT_FDCWD") else int(word))
    return None if here is None else os.path.normpath(os.path.join(here, path))


def _unescaped(text: str) -> str:
    """Return the path that strace wrote with C escapes; bytes that are not UTF-8 become U+FFFD."""
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
    return as_text((raw + text[at:].encode()).decode("utf-8", "surrogateescape"))
