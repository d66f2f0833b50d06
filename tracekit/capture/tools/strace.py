"""strace: how a command is run under it, and its logs as ops.

Needs no library and sees every system call, of static programs too, at a price of about a
tenth of a millisecond a call. With `-ff` each thread has a log of its own, so no line is
torn in two; with `-y` each descriptor comes with its path. A file's position is kept per
descriptor, shared by the threads of a process, and unknown until a seek for descriptors that
a forked child inherits, and in its parent too once the child moves them.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from tracekit.errors import ErrorClass
from tracekit.uri import clean

__all__ = ["available", "command", "read_logs"]

_CALLS = (
    "read,write,pread64,pwrite64,readv,writev,preadv,preadv2,pwritev,pwritev2,lseek,open,openat,openat2,creat,"
    "close,dup,dup2,dup3,fcntl,sendfile,copy_file_range,splice,fadvise64,stat,lstat,newfstatat,statx,getdents64,unlink,unlinkat,"
    "clone,clone3,?fork,?vfork,mmap"
)
_LINE = re.compile(
    r"(\d+)\.(\d{6}) (\w+)\((.*)\)\s+= (-?\d+|\?|0x[0-9a-f]+)(<.*?>)?(?: (E[A-Z]+)[^<]*)?(?: <([\d.]+)>)?$"
)
_FD = re.compile(r"(\d+)<((?:[^>\\]|\\.)*)>")
_END = re.compile(_FD.pattern + r"(?:, (?:NULL|\[(\d+)\]))?")
"""One end of a copy inside the kernel: descriptor, path, and the offset that was given, if one was."""
_FORKS = ("clone", "clone3", "fork", "vfork")
_TEXT = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(rb"\\([0-7]{1,3}|[abfnrtv\"\\]|x[0-9a-f]{2})")
_NAMED_ESCAPES = {b"a": 7, b"b": 8, b"f": 12, b"n": 10, b"r": 13, b"t": 9, b"v": 11, b'"': 34, b"\\": 92}
_READS = ("read", "readv", "pread64", "preadv", "preadv2")
_WRITES = ("write", "writev", "pwrite64", "pwritev", "pwritev2")
_BATCH_ROWS = 65_536
_TYPES = {
    "t_submit": pa.int64(), "uri": pa.string(), "op": pa.string(), "offset": pa.int64(), "len": pa.int64(),
    "bytes": pa.int64(), "latency": pa.int64(), "worker": pa.int32(), "error": pa.string(),
}  # fmt: skip


def available() -> str | None:
    """Path of the strace program, or None."""
    return shutil.which("strace")


def command(program: str, logs: Path, argv: Sequence[str]) -> list[str]:
    """`argv` under strace, logging into the directory `logs`. The command stays our own child (`-D`)."""
    return [program, "-D", "-ff", "-ttt", "-T", "-y", "-s", "0", "-q", "-e", f"trace={_CALLS}", "-e", "signal=none",
            "--seccomp-bpf", "-o", str(logs / "log"), "--", *argv]  # fmt: skip


def read_logs(
    logs: Path, admits: Callable[[str], bool], *, metadata: bool = False
) -> tuple[Iterator[pa.RecordBatch], dict[str, int]]:
    """The ops of every log in `logs` on the files that `admits` keeps, and what is known not to be seen.

    `t_submit` is ns since the Unix epoch. Rows of kind `stat` and `list` only with `metadata`.
    """
    reading = _Reading(admits, metadata)
    return reading.batches(logs), reading.unseen


@dataclass(slots=True)
class _Reading:
    """The state that lines are read in: a table of descriptors a process, rows of the batch under way."""

    admits: Callable[[str], bool]
    metadata: bool
    unseen: dict[str, int] = field(default_factory=dict)
    _uris: dict[str, str | None] = field(default_factory=dict)
    _rows: dict[str, list[object]] = field(default_factory=lambda: {name: [] for name in _TYPES})
    _moved: dict[int, set[int]] = field(default_factory=dict)
    """Process -> descriptors that it had from its parent, and moved: its children are read before it."""
    _inherited: set[int] = field(default_factory=set)

    def batches(self, logs: Path) -> Iterator[pa.RecordBatch]:
        threads = {int(path.suffix[1:]): path for path in logs.glob("log.*") if path.suffix[1:].isdecimal()}
        leaders, children = _families(threads)
        stamps = {tid: number for number, tid in enumerate(sorted(threads))}
        for leader in _youngest_first(sorted(set(leaders.values())), children):
            members = [tid for tid, of in leaders.items() if of == leader]
            positions: dict[int, int | None] = {}
            self._moved[leader] = self._inherited = set()
            for tid, match in _merged({tid: threads[tid] for tid in members}):
                self._call(match, positions, stamps[tid])
                if len(self._rows["uri"]) >= _BATCH_ROWS:
                    yield self._take()
        if self._rows["uri"]:
            yield self._take()

    def _take(self) -> pa.RecordBatch:
        rows, self._rows = self._rows, {name: [] for name in _TYPES}
        return pa.record_batch({name: pa.array(rows[name], kind) for name, kind in _TYPES.items()})

    def _call(self, match: re.Match[str], positions: dict[int, int | None], worker: int) -> None:
        name, arguments, returned, errno = match[3], match[4], match[5], match[7]
        result = int(returned, 0) if returned != "?" else None
        ok = result is not None and errno is None
        first = _FD.match(arguments)
        fd = int(first[1]) if first else None
        if name in _READS or name in _WRITES:
            if first is None or fd is None or (fd <= 2 and fd not in positions):
                return  # a standard stream, whatever file it was pointed at from outside
            *_, last = arguments.rsplit(", ", 1)
            positioned = name.startswith("p")
            at = int(last) if positioned and last.isdecimal() else None
            if name in ("preadv2", "pwritev2"):
                at = _number(arguments, -2)
            offset = at if positioned else positions.get(fd)
            moved = result if ok and result is not None else 0
            asked = _number(arguments, -2 if positioned else -1) if "v" not in name else moved
            self._row(match, first[2], "read" if name in _READS else "put", offset, asked, moved, worker)
            if not positioned and ok:
                self._advance(positions, fd, moved)
        elif name in ("open", "openat", "openat2", "creat"):
            if ok and result is not None:
                positions[result] = None if "O_APPEND" in arguments else 0
            else:
                self._row(match, _path(arguments), "stat", None, None, None, worker)
        elif name == "lseek" and fd is not None and (fd > 2 or fd in positions):
            if fd not in positions:
                self._inherited.add(fd)
            positions[fd] = result if ok else positions.get(fd)
        elif name == "close" and fd is not None:
            positions.pop(fd, None)
        elif (
            (name.startswith("dup") or "F_DUPFD" in arguments)
            and ok
            and result is not None
            and fd is not None
        ):
            positions[result] = None  # two descriptors, one position: not followed
            positions[fd] = None
        elif name in ("sendfile", "copy_file_range", "splice"):
            self._copied(match, name, arguments, result if ok else 0, positions, worker)
        elif name in _FORKS and ok and result is not None and "CLONE_THREAD" not in arguments:
            for shared in self._moved.get(result, ()):
                if shared in positions:
                    positions[shared] = None
                else:
                    self._inherited.add(shared)
        elif name == "fadvise64" and first is not None:
            self._row(match, first[2], "hint", _number(arguments, -3), _number(arguments, -2), None, worker)
        elif name in ("stat", "lstat", "newfstatat", "statx"):
            if "AT_EMPTY_PATH" not in arguments:
                self._row(match, _path(arguments), "stat", None, None, None, worker)
        elif name == "getdents64" and first is not None and result:
            self._row(match, first[2], "list", None, None, None, worker)
        elif name in ("unlink", "unlinkat"):
            self._row(match, _path(arguments), "delete", None, None, None, worker)
        elif name == "mmap" and ok:
            self._mapped(arguments)

    def _copied(
        self,
        match: re.Match[str],
        name: str,
        arguments: str,
        moved: int | None,
        positions: dict[int, int | None],
        worker: int,
    ) -> None:
        """The read and the write of a copy inside the kernel; `sendfile` names where it writes first."""
        sent = name == "sendfile"
        asked = _number(arguments, -1 if sent else -2)
        for (number, path, given), kind in zip(
            _END.findall(arguments), ("put", "read") if sent else ("read", "put"), strict=False
        ):
            at = int(given) if given else positions.get(int(number))
            self._row(match, path, kind, at, asked, moved, worker)
            if not given:
                self._advance(positions, int(number), moved)

    def _advance(self, positions: dict[int, int | None], fd: int, moved: int | None) -> None:
        if fd not in positions:
            self._inherited.add(fd)
        at = positions.get(fd)
        if at is not None:
            positions[fd] = at + (moved or 0)

    def _mapped(self, arguments: str) -> None:
        found = _FD.search(arguments)
        if found is not None and self._uri(found[2]) is not None:
            self.unseen["mapped_files"] = self.unseen.get("mapped_files", 0) + 1

    def _row(
        self,
        match: re.Match[str],
        path: str | None,
        kind: str,
        offset: int | None,
        asked: int | None,
        moved: int | None,
        worker: int,
    ) -> None:
        uri = self._uri(path) if path is not None else None
        if uri is None or (kind in ("stat", "list") and not self.metadata):
            return
        seconds = match[8]
        failed = match[7]
        values = (
            int(match[1]) * 1_000_000_000 + int(match[2]) * 1000, uri, kind, offset, asked, moved,
            None if seconds is None else int(seconds.replace(".", "")) * 1000, worker,
            None if failed is None else ErrorClass.from_text(failed),
        )  # fmt: skip
        for column, value in zip(self._rows.values(), values, strict=True):
            column.append(value)

    def _uri(self, shown: str) -> str | None:
        """The URI of a path as strace shows it; None for what is no file or is not kept."""
        if shown not in self._uris:
            path = _unescaped(shown)
            uri = clean(f"file://{path}")
            kept = path.startswith("/") and not path.endswith("(deleted)") and self.admits(uri)
            self._uris[shown] = uri if kept else None
        return self._uris[shown]


def _families(threads: dict[int, Path]) -> tuple[dict[int, int], dict[int, list[int]]]:
    """Thread -> process (who made whom with CLONE_THREAD), and process -> processes that it made."""
    made_by: dict[int, int] = {}
    forked: list[tuple[int, int]] = []
    for tid, path in threads.items():
        with path.open(encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                if "clone" not in line and "fork" not in line:
                    continue
                match = _LINE.match(line.rstrip("\n"))
                if match is None or match[3] not in _FORKS or not match[5].isdecimal():
                    continue
                if "CLONE_THREAD" in match[4]:
                    made_by[int(match[5])] = tid
                else:
                    forked.append((tid, int(match[5])))
    leaders = {}
    for tid in threads:
        leader = tid
        while leader in made_by:
            leader = made_by[leader]
        leaders[tid] = leader
    children: dict[int, list[int]] = {}
    for tid, child in forked:
        children.setdefault(leaders[tid], []).append(child)
    return leaders, children


def _youngest_first(processes: list[int], children: dict[int, list[int]]) -> list[int]:
    """`processes`, each after those that it made."""
    done: dict[int, None] = {}
    for first in processes:
        waiting = [first]
        while waiting:
            before = [c for c in children.get(waiting[-1], ()) if c not in done and c not in waiting]
            if before:
                waiting += before
            else:
                done[waiting.pop()] = None
    wanted = set(processes)
    return [process for process in done if process in wanted]


def _merged(files: dict[int, Path]) -> Iterator[tuple[int, re.Match[str]]]:
    """The lines of a process's threads in order of time."""
    import heapq

    def lines(tid: int, path: Path) -> Iterator[tuple[float, int, re.Match[str]]]:
        with path.open(encoding="utf-8", errors="surrogateescape") as log:
            for line in log:
                match = _LINE.match(line.rstrip("\n"))
                if match is not None:
                    yield int(match[1]) * 1_000_000 + int(match[2]), tid, match

    streams = (lines(tid, path) for tid, path in files.items())
    for _, tid, match in heapq.merge(*streams, key=lambda entry: entry[0]):
        yield tid, match


def _number(arguments: str, at: int) -> int | None:
    """The argument at a place counted from the end, where it is a plain number."""
    parts = arguments.rsplit(", ", -at)
    text = parts[at] if len(parts) >= -at else ""
    return int(text) if text.isdecimal() else None


def _path(arguments: str) -> str | None:
    """The path argument of a call, whole: relative ones lie in the directory that `-y` shows."""
    text = _TEXT.search(arguments)
    if text is None:
        return None
    if text[1].startswith("/"):
        return text[1]
    directory = re.match(r"(?:AT_FDCWD|\d+)<((?:[^>\\]|\\.)*)>", arguments)
    return f"{directory[1]}/{text[1]}" if directory is not None else None


def _unescaped(shown: str) -> str:
    """Bytes that strace wrote as `\\303\\244`, as Python holds such a path."""
    if "\\" not in shown:
        return shown
    raw = _ESCAPE.sub(_byte, shown.encode("utf-8", "surrogateescape"))
    return raw.decode("utf-8", "surrogateescape")


def _byte(match: re.Match[bytes]) -> bytes:
    code = match[1]
    if code in _NAMED_ESCAPES:
        return bytes([_NAMED_ESCAPES[code]])
    return bytes([int(code[1:], 16) if code.startswith(b"x") else int(code, 8) & 255])
