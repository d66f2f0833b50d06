"""What system calls do to files and descriptors, one call after the other."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from tracekit.errors import ErrorClass
from tracekit.formats.syscalls.arguments import (
    HERE,
    both_paths,
    descriptor,
    iocbs,
    needs_descriptor,
    opened_path,
    path_argument,
    result_of,
    scalar,
    vector_length,
    without_details,
    working_directory,
)
from tracekit.formats.syscalls.files import File, Table
from tracekit.formats.syscalls.names import (
    ASYNC,
    CONNECTS,
    COPIES,
    DATA,
    DELETES,
    EXECS,
    FORKS,
    LEFT_OUT,
    MAPS,
    MOVES,
    OPENS,
    READS,
    REAPS,
    RENAMES,
    STATS,
    TRUNCATES,
    VECTORED,
    WRITES,
)
from tracekit.formats.syscalls.parts import Part, beyond, copied, on_descriptor
from tracekit.formats.syscalls.requests import Requests, Row

__all__ = ["Processes", "Row"]


_PORT = re.compile(r"\bsin6?_port=htons\((\d+)\)")
_PLAIN = {
    "read": ("read", True),
    "write": ("write", True),
    "pread64": ("read", False),
    "pwrite64": ("write", False),
}
"""Calls with one buffer: the op, and whether it is at the position."""
_STREAMS = 2
"""The last descriptor of the standard streams."""


class Processes:
    """The descriptors of all processes of a log, and what was left out.

    An open with `O_TRUNC` is a `truncate`, a failed one a `stat`; with `every_open`, any other one is a `stat`, too.
    `inherited_streams`: whether standard streams that the log does not show being opened count.
    """

    def __init__(self, *, every_open: bool = True, inherited_streams: bool = True) -> None:
        self.unnamed: Counter[str] = Counter()
        """Ops on files that the log does not name, by kind."""
        self.cut_vectors = 0
        self.requests = Requests()
        self.left_out: Counter[str] = Counter()
        self.mapped: set[str] = set()
        self.gpu_direct = False
        """Whether the driver of GPUDirect Storage was opened."""
        self.ports: set[int] = set()
        """The ports that connections were made to."""
        self.moved: Counter[str] = Counter()
        """Bytes that calls read and wrote, of files or not; a splice is not counted, as in the kernel."""
        self.threads: list[int] = []
        """The threads, in the order of their workers."""
        self._every_open = every_open
        self._inherited_streams = inherited_streams
        self._tables: dict[int, Table] = {}
        self._workers: dict[int, int] = {}
        self._forking: dict[int, str] = {}
        self._early: dict[int, int | None] = {}
        self._children: set[int] = set()
        self._gone: set[int] = set()
        self._first: int | None = None
        """The process that strace names only once there are others (on a terminal): thread 0 until then."""

    @property
    def absent(self) -> int:
        """How many threads and processes began of which the log has neither an op nor the end."""
        return len(self._children - self._gone - set(self.threads))

    def begun(self, thread: int, text: str) -> None:
        """Note a call that ends in a later line: the child of a fork may appear before that."""
        name, _, args = text.partition("(")
        if name in FORKS:
            self._forking[thread] = args

    def ended(self, thread: int) -> None:
        """Note the end of a thread: its number may be used again by another."""
        self._tables.pop(thread, None)
        self._early.pop(thread, None)
        self._gone.add(thread)
        self._workers.pop(0 if thread == self._first else thread, None)

    def superseded(self, thread: int, by: int) -> None:
        """Note that the thread `by` executes a program: it is the only one of its process from now on, as `thread`."""
        self._tables[thread] = self._tables.get(by, Table())
        self.ended(by)

    def lost(self, thread: int) -> None:
        """Forget the positions of a thread's files, because one of its calls could not be read."""
        for file in self._table(thread).files.values():
            file.position = None

    def call(
        self, thread: int, at_ns: int, name: str, args: str, result: str, took_ns: int | None
    ) -> list[Row]:
        """Return the ops of one call, and keep its effect on descriptors. Raises ValueError if it cannot be read."""
        table = self._table(thread)
        args, result = without_details(args), without_details(result)
        value, error = result_of(result)
        if "CLOSE_RANGE_UNSHARE" in args:
            table = self._own(thread, table.copy())
        elif name in EXECS and value == 0:
            table = self._own(thread, table.after_exec())
        thread = 0 if thread == self._first else thread
        if "AT_FDCWD<" in args:
            table.files[HERE] = File(working_directory(args), None)
        if name in FORKS:
            self._forked(thread, table, value, args)
            return []
        if value is not None and value > 0:
            self._count_moved(name, value)
        rows: list[Row] = []
        if name == "io_submit":
            return self._submitted(thread, table, at_ns, args, value)
        if name in REAPS:
            ended_ns = None if took_ns is None else at_ns + took_ns
            return self.requests.reaped(id(table), args, ended_ns)
        latency = None if value is None and error is None else took_ns
        for kind, path, offset, length, moved, to_path in self._parts(
            table, name, args, result, value, error
        ):
            if path is None:
                self.unnamed[kind] += 1
                continue
            if not path.startswith("/"):  # a pipe or a socket
                continue
            worker = self._worker(thread)
            rows.append((at_ns, path, kind, offset, length, moved, latency, worker, error, to_path))
        return rows

    def plain(
        self,
        thread: int,
        at_ns: int,
        name: str,
        number: int,
        path: str,
        length: int,
        offset: int | None,
        moved: int,
        took_ns: int,
    ) -> Row | None:
        """Return the op of a successful read or write by itself, as `call` would; None if only that can."""
        table = self._tables.get(thread)
        file = None if table is None else table.files.get(number)
        if file is None or file.path != path or number <= _STREAMS or moved > length or file.appends:
            return None
        kind, at_position = _PLAIN[name]
        if at_position != (offset is None):
            return None
        if at_position:
            offset = file.position
            file.at_end = False
            if offset is not None:
                file.position = offset + moved
        self.moved[kind] += moved
        thread = 0 if thread == self._first else thread
        worker = self._workers.get(thread)
        if worker is None:
            worker = self._worker(thread)
        return at_ns, path, kind, offset, length, moved, took_ns, worker, None, None

    def _worker(self, thread: int) -> int:
        """Return the number of a thread, in order of appearance; one that has ended keeps it for itself."""
        if thread not in self._workers:
            self._workers[thread] = len(self.threads)
            self.threads.append(thread)
        return self._workers[thread]

    def _count_moved(self, name: str, value: int) -> None:
        copied = name in COPIES and name != "splice"
        if copied or name in READS:
            self.moved["read"] += value
        if copied or name in WRITES:
            self.moved["write"] += value

    def _parts(
        self, table: Table, name: str, args: str, result: str, value: int | None, error: ErrorClass | None
    ) -> Iterator[Part]:
        moved = None if value is None and error is None else max(value or 0, 0)
        if name in DATA:
            yield from self._data(table, name, args, moved)
        elif name in OPENS:
            path = opened_path(args, result, table.path_of)
            opened = value is not None and value >= 0
            if value is not None and opened:
                appends = "O_APPEND" in args.rpartition('"')[2]
                table.opened(value, File(path, None if appends else 0, opened=True, appends=appends), args)
            self.gpu_direct |= path is not None and path.startswith("/dev/nvidia-fs")
            emptied = opened and (name == "creat" or "O_TRUNC" in args)
            if not opened or emptied or self._every_open:
                yield Part("truncate", path, length=0) if emptied else Part("stat", path)
        elif name in STATS:
            yield Part("stat", path_argument(args, table.path_of))
        elif name in DELETES:
            if "AT_REMOVEDIR" not in args.rpartition('"')[2]:  # rmdir is no op either
                yield Part("delete", path_argument(args, table.path_of))
        elif name in TRUNCATES:
            yield Part("truncate", path_argument(args, table.path_of), length=scalar(args, -1))
        elif name in RENAMES:
            yield from self._renamed(table, name, args, done=value == 0)
        elif name in MOVES:
            table.change_directory(args, failed=error is not None)
        elif name in COPIES:
            yield from copied(table, name, args, moved)
        elif name in LEFT_OUT:
            self.left_out[name] += 1
        elif name in MAPS:
            file = table.file_of(args.split(", ", 4)[-1]) if args.count(", ") >= 4 else None
            if file is not None and file.path is not None and error is None:
                self.mapped.add(file.path)
        elif name in CONNECTS:
            self.ports.update(map(int, _PORT.findall(args)))
        elif name == "close_range":
            table.close_range(args, value)
        else:
            yield from on_descriptor(table, name, args, value)

    def _data(self, table: Table, name: str, args: str, moved: int | None) -> Iterator[Part]:
        """A read or write: at its offset argument, or at the position if there is none or it is -1."""
        file = table.file_of(args)
        if file is None:
            needs_descriptor(args)
            return
        if not (self._inherited_streams or file.opened) and (descriptor(args) or (0, None))[0] <= _STREAMS:
            return
        place = DATA[name]
        length = vector_length(args) if name in VECTORED else scalar(args, -1 if place is None else place - 1)
        appends = name in WRITES and (file.appends or "RWF_APPEND" in args)
        if appends and place is not None and scalar(args, place) != -1:
            offset = None  # Linux appends whatever the offset, and leaves the position
            file.at_end = False
        elif place is None or ((given := scalar(args, place)) == -1 and name in ("preadv2", "pwritev2")):
            known = None if beyond(moved, length) else moved
            offset = file.append(known) if appends else file.move(known)
        else:
            offset = given if given is None or given >= 0 else None
        yield Part("read" if name in READS else "write", file.path, offset, length, moved)

    def _submitted(self, thread: int, table: Table, at_ns: int, args: str, value: int | None) -> list[Row]:
        """Keep the requests of io_submit that the kernel took until they are reaped; return those of unknown end."""
        rows: list[Row] = []
        found = list(iocbs(args))[: max(value or 0, 0)]
        self.cut_vectors += max(value or 0, 0) - len(found)
        context = args.partition(",")[0]
        for word, where, length, offset, data in found:
            kind = ASYNC.get(word)
            file = table.file_of(where)
            if kind is None or file is None:
                self.left_out[f"io_submit {word}"] += 1
            elif file.path is None:
                self.unnamed[kind] += 1
            elif file.path.startswith("/"):
                place = (None, None) if kind == "sync" else (offset, length)
                row = (at_ns, file.path, kind, *place, None, None, self._worker(thread), None, None)
                rows += self.requests.begun((id(table), context, data), row)
        return rows

    def _renamed(self, table: Table, name: str, args: str, *, done: bool) -> Iterator[Part]:
        """A rename; one of names whose directories are unknown, or one that exchanges two files, is counted.

        What is open keeps its descriptor and its position under the new name.
        """
        paths = both_paths(args, table.path_of)
        if paths is None or "RENAME_EXCHANGE" in args:
            self.left_out[name] += 1
            return
        yield Part("rename", paths[0], to_path=paths[1])
        if done and paths[0] != paths[1]:
            opened = {id(file): file for known in self._tables.values() for file in known.files.values()}
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
            table = self._tables.setdefault(parents[0], Table()).handed_down(self._forking[parents[0]])
        elif parents:
            self._early[thread] = None
            table = Table()
        elif self._first is None and 0 in self._tables:
            self._first = thread
            table = self._tables[0]
        else:
            table = Table()
        self._tables[thread] = table
        return table

    def _own(self, thread: int, table: Table) -> Table:
        """Give a thread `table`, which no other process shares."""
        same = (0, self._first) if thread in (0, self._first) else (thread,)
        self._tables.update({number: table for number in same if number is not None})
        return table

    def _forked(self, thread: int, table: Table, child: int | None, args: str) -> None:
        """A fork has returned to the parent: keep what the child has done before that."""
        args = self._forking.pop(thread, "") + args
        if child is None or child <= 0:
            return
        self._children.add(child)
        if child in self._early:
            parent = self._early.pop(child)
            if parent == thread:
                return
            known = self._tables[child]
            for number in known.files.keys() & table.files.keys():
                table.files[number].position = None  # shared, and the child has moved it
            given = table.handed_down(args)
            self._tables[child] = Table(given.files | known.files, given.closing | known.closing)
            return
        self._tables[child] = table.handed_down(args)
