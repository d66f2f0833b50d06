"""The system calls that an strace log can hold, and what they do to files and descriptors."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from tracekit.errors import ErrorClass
from tracekit.formats.sound import MAX_INT, Streams
from tracekit.formats.syscalls.arguments import (
    both_ends,
    both_paths,
    descriptor,
    iocbs,
    opened_path,
    path_argument,
    result_of,
    scalar,
    vector_length,
    working_directory,
)
from tracekit.formats.syscalls.files import (
    HERE,
    File,
    Table,
    change_directory,
    close_range,
    file_of,
    handed_down,
    here,
)

__all__ = ["TRACED", "VECTORED", "Processes", "Row"]

Row = tuple[int, str, str, int | None, int | None, int | None, int | None, int, str | None, str | None]
"""t_submit, name of the file, op, offset, len, bytes, latency, worker, error, name that a rename gives."""


class _Part(NamedTuple):
    """What a call does to one file."""

    op: str
    path: str | None
    offset: int | None = None
    length: int | None = None
    moved: int | None = None
    to_path: str | None = None


_READS = {
    "read": None,
    "readv": None,
    "pread64": -1,
    "pread": -1,
    "preadv": -1,
    "preadv2": -2,
}
_WRITES = {
    "write": None,
    "writev": None,
    "pwrite64": -1,
    "pwrite": -1,
    "pwritev": -1,
    "pwritev2": -2,
}
"""Calls, and which argument (from the end) is the offset."""
_DATA = _READS | _WRITES
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
_SEEKS = ("lseek", "_llseek", "llseek")
_DUPS = ("dup", "dup2", "dup3")
_FORKS = ("clone", "clone3", "fork", "vfork")
_HINTS = ("fadvise64", "fadvise64_64", "readahead")
_MAPS = ("mmap", "mmap2")
_COPIES = {"sendfile": (1, 0), "sendfile64": (1, 0), "copy_file_range": (0, 1), "splice": (0, 1)}
"""Calls that move bytes between descriptors in the kernel: which of the two is read, which written."""
_SYNCS = ("fsync", "fdatasync", "sync_file_range")
_FD_TRUNCATES = ("ftruncate", "ftruncate64")
_TRUNCATES = ("truncate", "truncate64")
_MOVES = ("chdir", "fchdir")
"""Calls that change the working directory."""
_RENAMES = ("rename", "renameat", "renameat2")
_ASYNC = {
    "PREAD": "read",
    "PREADV": "read",
    "PWRITE": "write",
    "PWRITEV": "write",
    "FSYNC": "sync",
    "FDSYNC": "sync",
}
_LEFT_OUT = (
    "io_uring_enter",
    "sync",
    "syncfs",
    "msync",
    "fallocate",
    "link",
    "linkat",
    "symlink",
    "symlinkat",
    "vmsplice",
    "tee",
)
"""Calls on storage that are not ops of the schema, or whose requests strace does not show."""
VECTORED = ("readv", "writev", "preadv", "preadv2", "pwritev", "pwritev2", "io_submit")
TRACED = (
    *(name for name in _DATA if name not in ("pread", "pwrite")),
    *_OPENS,
    *_STATS,
    *_LISTS,
    *_DELETES,
    *_SEEKS,
    *_DUPS,
    "fcntl",
    "fcntl64",
    "close",
    "close_range",
    *_FORKS,
    *_HINTS,
    *_MAPS,
    *_COPIES,
    "io_submit",
    *_SYNCS,
    *_FD_TRUNCATES,
    *_TRUNCATES,
    *_RENAMES,
    *_MOVES,
    *_LEFT_OUT,
)
"""What to trace: every call that the reader understands or counts, but for `fstat`, which moves nothing."""


class Processes:
    """The descriptors of all processes of a log, and what was left out.

    An open with `O_TRUNC` is a `truncate`, a failed one a `stat`; with `every_open`, any other one is a `stat`, too.
    `inherited_streams`: whether standard streams that the log does not show being opened count.
    """

    def __init__(self, *, every_open: bool = True, inherited_streams: bool = True) -> None:
        self.unnamed = 0
        self.cut_vectors = 0
        self.asynchronous = 0
        self.left_out: Counter[str] = Counter()
        self.mapped: set[str] = set()
        self.moved: Counter[str] = Counter()
        """Bytes that calls read and wrote, of files or not; a splice is not counted, as in the kernel."""
        self.threads: list[int] = []
        """The threads, in the order of their workers."""
        self._every_open = every_open
        self._inherited_streams = inherited_streams
        self._tables: dict[int, Table] = {}
        self._streams = Streams()
        self._ended: Counter[int] = Counter()
        self._forking: dict[int, str] = {}
        self._early: dict[int, int | None] = {}
        self._first: int | None = None
        """The process that strace names only once there are others (on a terminal): thread 0 until then."""

    def begun(self, thread: int, text: str) -> None:
        """Note a call that ends in a later line: the child of a fork may appear before that."""
        name, _, args = text.partition("(")
        if name in _FORKS:
            self._forking[thread] = args

    def ended(self, thread: int) -> None:
        """Note the end of a thread: its number may be used again by another."""
        self._tables.pop(thread, None)
        self._early.pop(thread, None)
        self._ended[thread] += 1

    def lost(self, thread: int) -> None:
        """Forget the positions of a thread's files, because one of its calls could not be read."""
        for file in self._table(thread).values():
            file.position = None

    def call(
        self, thread: int, at_ns: int, name: str, args: str, result: str, took_ns: int | None
    ) -> list[Row]:
        """Return the ops of one call, and keep its effect on descriptors."""
        table = self._table(thread)
        thread = 0 if thread == self._first else thread
        value, error = result_of(result)
        if "AT_FDCWD<" in args:
            table[HERE] = File(working_directory(args), None)
        if name in _FORKS:
            self._forked(thread, table, value, args)
            return []
        if value is not None and value > 0:
            self._count_moved(name, value)
        rows: list[Row] = []
        latency = None if (value is None and error is None) or name == "io_submit" else took_ns
        for kind, path, offset, length, moved, to_path in self._parts(
            table, name, args, result, value, error
        ):
            if path is None or not path.startswith("/"):
                self.unnamed += kind in ("read", "write") and path is None
                continue
            worker = self._streams.number((thread, self._ended[thread]))
            if worker == len(self.threads):
                self.threads.append(thread)
            rows.append((at_ns, path, kind, offset, length, moved, latency, worker, error, to_path))
        return rows

    def _count_moved(self, name: str, value: int) -> None:
        copied = name in _COPIES and name != "splice"
        if copied or name in _READS:
            self.moved["read"] += value
        if copied or name in _WRITES:
            self.moved["write"] += value

    def _parts(
        self, table: Table, name: str, args: str, result: str, value: int | None, error: ErrorClass | None
    ) -> Iterator[_Part]:
        moved = None if value is None and error is None else max(value or 0, 0)
        if name in _DATA:
            yield from self._data(table, name, args, moved)
        elif name in _OPENS:
            path = opened_path(args, result, here(table))
            opened = value is not None and value >= 0
            if value is not None and opened:
                table[value] = File(path, None if "O_APPEND" in args else 0, opened=True)
            emptied = opened and (name == "creat" or "O_TRUNC" in args)
            if not opened or emptied or self._every_open:
                yield _Part("truncate", path, length=0) if emptied else _Part("stat", path)
        elif name in _STATS:
            yield _Part("stat", path_argument(args, here(table)))
        elif name in _DELETES:
            yield _Part("delete", path_argument(args, here(table)))
        elif name in _TRUNCATES:
            yield _Part("truncate", path_argument(args, here(table)), length=scalar(args, -1))
        elif name in _RENAMES:
            yield from self._renamed(table, name, args, done=value == 0)
        elif name in _MOVES:
            change_directory(table, args, failed=error is not None)
        elif name in _COPIES:
            yield from _copied(table, name, args, moved)
        elif name == "io_submit":
            yield from self._submitted(table, args, value)
        elif name in _LEFT_OUT:
            self.left_out[name] += 1
        elif name in _MAPS:
            file = file_of(table, args.split(", ", 4)[-1]) if args.count(", ") >= 4 else None
            if file is not None and file.path is not None and error is None:
                self.mapped.add(file.path)
        elif name == "close_range":
            close_range(table, args, value)
        else:
            yield from _on_descriptor(table, name, args, value)

    def _data(self, table: Table, name: str, args: str, moved: int | None) -> Iterator[_Part]:
        """A read or write: at its offset argument, or at the position if there is none or it is -1."""
        file = file_of(table, args)
        if file is None:
            return
        if not (self._inherited_streams or file.opened) and (descriptor(args) or (0, None))[0] <= 2:
            return
        place = _DATA[name]
        length = vector_length(args) if name in VECTORED else scalar(args, -1 if place is None else place - 1)
        if place is None or ((given := scalar(args, place)) == -1 and name in ("preadv2", "pwritev2")):
            offset = file.move(None if _beyond(moved, length) else moved)
        else:
            offset = given if given is None or given >= 0 else None
        yield _Part("read" if name in _READS else "write", file.path, offset, length, moved)

    def _submitted(self, table: Table, args: str, value: int | None) -> Iterator[_Part]:
        """The requests of io_submit that the kernel took; how they ended is not in the call."""
        found = list(iocbs(args))[: max(value or 0, 0)]
        self.cut_vectors += max(value or 0, 0) - len(found)
        for word, where, length, offset in found:
            kind = _ASYNC.get(word)
            file = file_of(table, where)
            if kind is None or file is None:
                self.left_out[f"io_submit {word}"] += 1
                continue
            self.asynchronous += 1
            yield _Part(kind, file.path, *((None, None) if kind == "sync" else (offset, length)))

    def _renamed(self, table: Table, name: str, args: str, *, done: bool) -> Iterator[_Part]:
        """A rename; one of names whose directories are unknown, or one that exchanges two files, is counted.

        What is open keeps its descriptor and its position under the new name.
        """
        paths = both_paths(args, here(table))
        if paths is None or "RENAME_EXCHANGE" in args:
            self.left_out[name] += 1
            return
        yield _Part("rename", paths[0], to_path=paths[1])
        if done and paths[0] != paths[1]:
            opened = {id(file): file for known in self._tables.values() for file in known.values()}
            for file in opened.values():
                file.renamed(*paths)

    def _table(self, thread: int) -> Table:
        """The descriptors of a thread; a new one has those of the fork under way, if there is one."""
        table = self._tables.get(thread)
        if table is not None:
            return table
        taken = set(self._early.values())
        parents = [parent for parent in self._forking if parent not in taken]
        if len(parents) == 1:
            self._early[thread] = parents[0]
            table = handed_down(self._tables.setdefault(parents[0], {}), self._forking[parents[0]])
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

    def _forked(self, thread: int, table: Table, child: int | None, args: str) -> None:
        """A fork has returned to the parent: keep what the child has done before that."""
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
            self._tables[child] = {**handed_down(table, args), **known}
            return
        self._tables[child] = handed_down(table, args)


def _copied(table: Table, name: str, args: str, moved: int | None) -> Iterator[_Part]:
    """The read and the write of a copy inside the kernel."""
    ends = both_ends(args)
    length = re.search(r", (\d{1,19})(?:, [\w|]+)?$", args)
    if len(ends) != 2 or length is None:
        return
    for place, kind in zip(_COPIES[name], ("read", "write"), strict=True):
        where, given = ends[place]
        file = file_of(table, where)
        if name.startswith("sendfile") and kind == "write":
            given = None  # its one offset is that of the read
        if file is not None:
            asked = min(int(length[1]), MAX_INT)
            begin = given if given is not None else file.move(None if _beyond(moved, asked) else moved)
            yield _Part(kind, file.path, begin, asked, moved)


def _beyond(moved: int | None, asked: int | None) -> bool:
    """Whether a call says that it moved more than it was asked for: its line is damaged."""
    return moved is not None and asked is not None and moved > asked


def _on_descriptor(table: Table, name: str, args: str, value: int | None) -> Iterator[_Part]:
    """Calls that name nothing but a descriptor."""
    file = file_of(table, args)
    if file is None:
        return
    ok = value is not None and value >= 0
    if name in _FD_STATS:
        yield _Part("stat", file.path)
    elif name in _LISTS:
        yield _Part("list", file.path)
    elif name in _SYNCS:
        ranged = name == "sync_file_range"
        yield _Part(
            "sync", file.path, scalar(args, 1) if ranged else None, scalar(args, 2) if ranged else None
        )
    elif name in _FD_TRUNCATES:
        yield _Part("truncate", file.path, length=scalar(args, -1))
    elif name in _HINTS:
        numbers = [int(n) for n in re.findall(r", (-?\d{1,18})(?=, |$)", args)]
        offset, length = numbers[:2] if len(numbers) >= 2 else (None, None)
        yield _Part("hint", file.path, offset, length)
    elif name in _SEEKS and ok:
        inner = re.search(r"\[(\d{1,18})\]", args)
        file.position = int(inner[1]) if inner else value
    elif (name in _DUPS or (name.startswith("fcntl") and "F_DUPFD" in args)) and ok and value is not None:
        table[value] = file
    elif name == "close":
        found = descriptor(args)
        if found is not None:
            table.pop(found[0], None)
