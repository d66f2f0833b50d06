"""Reads elbencho's op logs (`--opslog`): JSON lines, one before and one after each operation, times in ms.

A data operation on a file names its descriptor only. Its path is that of the file that the worker opened before; a
descriptor that elbencho opened for all workers has no path in the log.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from tracekit.errors import ErrorClass
from tracekit.formats.base import Carries, ImportOptions, Tally
from tracekit.formats.sound import LEFT_OUT, OP_WORDS
from tracekit.formats.store_requests import API_KINDS, whole_number
from tracekit.formats.text.records import Record, read_records
from tracekit.formats.times import iso_ns
from tracekit.uri import from_name

__all__ = ["Elbencho"]

_COLUMNS = ("offset", "len", "bytes", "latency", "worker", "error")
_RANGES = ("read", "write", "part")
_KINDS = {
    "openat": "stat",
    "fstat": "stat",
    "unlinkat": "delete",
    "aioread": "read",
    "aiowrite": "write",
    "cufileread": "read",
    "cufilewrite": "write",
    "hdfspread": "read",
    "hdfswrite": "write",
    "getobject": "read",
}
"""elbencho's words, where those of other tools differ or are unknown: it gets objects by range."""
_FILES = ("open", "openat", "fstat", "unlinkat", "mkdirat", "read", "write")
_ASYNC = ("aioread", "aiowrite")
"""Operations of which the log has the begin only."""
_BY_DESCRIPTOR = ("pread", "pwrite", "close", *_ASYNC)
_BY_PLACE = ("cufileread", "cufilewrite", "hdfspread", "hdfswrite")
"""Operations that name the place of their file among those of the run."""
_DESCRIPTOR = "elbencho://descriptor"
_PLACE = "elbencho://file"


class _Key(NamedTuple):
    """What the two lines of an operation share. Its length is not: a list has the keys asked for, and those found."""

    rank: int | None
    name: str
    entry: str
    offset: int | None


class _Begun(NamedTuple):
    line: int
    at_ns: int
    uri: str | None
    length: int | None


class Elbencho:
    """Reads the log of any of elbencho's modes. An operation that has no second line never ended, unless it never has one."""

    name = "elbencho"
    about = "elbencho op log (--opslog): offsets, times in ms"
    carries = Carries(
        "1 ms, absolute",
        latency="1 ms; not of libaio",
        streams="worker",
        errors="yes or no",
        completeness="ops left out, by name; ops without an end",
        ends="yes",
    )

    def read(self, source: Path, tally: Tally, options: ImportOptions) -> Iterator[pa.RecordBatch]:
        """As the protocol says. Worker is elbencho's rank of the worker."""
        log = _Log(options, tally)
        yield from read_records(source, tally, log.records, columns=_COLUMNS, rest=log.unended)
        if not log.lines:
            raise tally.nothing("write the log with elbencho --opslog")
        for text in log.notes():
            tally.note(text)


@dataclass(slots=True)
class _Log:
    """What carries over from line to line: operations under way, and the files that each worker has open."""

    options: ImportOptions
    tally: Tally
    lines: int = 0
    unbegun: int = 0
    left: int = 0
    asynchronous: int = 0
    nameless: Counter[str] = field(default_factory=Counter)
    begun: dict[_Key, list[_Begun]] = field(default_factory=lambda: defaultdict(list))
    opened: dict[int | None, list[str]] = field(default_factory=lambda: defaultdict(list))
    files: dict[int | None, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))

    def records(self, number: int, text: str) -> Iterator[Record]:
        """Return the op that ends, or has its only line, in this line."""
        row = _row(text)
        key = _Key(
            whole_number(row, "worker_rank"),
            str(row["op_name"]),
            str(row["entry_name"]),
            whole_number(row, "offset"),
        )
        length, at = whole_number(row, "length"), iso_ns(row["date"])
        self.lines += 1
        if not row["is_finished"]:
            one = _Begun(number, at, self._uri(key), length)
            if key.name.lower() in _ASYNC:
                self.asynchronous += 1
                yield from self._op(key, one, None, None)
            else:
                self.begun[key].append(one)
            return
        waiting = self.begun[key]
        self.unbegun += not waiting
        one = waiting.pop(0) if waiting else _Begun(number, at, self._uri(key), length)
        failed = bool(row["is_error"])
        if not failed:
            self._ended(key)
        yield from self._op(key, one, None if one.line == number else at - one.at_ns, failed)

    def unended(self) -> Iterator[tuple[int, Record]]:
        """Return the operations that have no second line."""
        for key, waiting in self.begun.items():
            for one in waiting:
                for op in self._op(key, one, None, None):
                    self.left += 1
                    yield one.line, op
        self.tally.ends_unknown |= bool(self.asynchronous or self.unbegun)

    def notes(self) -> Iterator[str]:
        """Return what the user of the trace should know."""
        yield "times are whole ms"
        if self.left:
            yield f"{self.left} operations do not end in the log"
        if self.unbegun:
            yield f"{self.unbegun} operations do not begin in the log: their time is that of their end"
        if self.asynchronous:
            yield (
                f"{self.asynchronous} operations of libaio have no latency and no bytes moved: elbencho logs only their begin"
            )
        if self.nameless:
            yield (
                f"{self.nameless.total()} operations on {len(self.nameless)} files that the log does not name, only their"
                " descriptor or place: run elbencho with --nofdsharing and one file, or on a directory"
            )

    def _uri(self, key: _Key) -> str | None:
        """Return the URI of what the operation is on; None if the log does not say."""
        word, base = key.name.lower(), self.options.base
        if not key.entry:
            return None
        if word in _BY_DESCRIPTOR or word in _BY_PLACE:
            return self._of_descriptor(key)
        return from_name(key.entry, base or (None if word in _FILES else "s3://"))

    def _of_descriptor(self, key: _Key) -> str:
        """Return the URI of an open file: the one that the worker has opened and not used yet, if there is just one."""
        files, opened = self.files[key.rank], self.opened[key.rank]
        place = key.name.lower() in _BY_PLACE
        known_by = f"#{key.entry}" if place else key.entry
        if known_by not in files and len(opened) == 1:
            files[known_by] = opened.pop()
        if known_by in files:
            return files[known_by]
        uri = from_name(key.entry, _PLACE if place else _DESCRIPTOR)
        self.nameless[uri] += key.name.lower() != "close"
        return uri

    def _ended(self, key: _Key) -> None:
        """Note what a successful open or close has done to the files of its worker."""
        word = key.name.lower()
        if word in ("open", "openat"):
            self.opened[key.rank].append(from_name(key.entry, self.options.base))
        elif word == "close":
            files = self.files[key.rank]
            for known_by in [name for name in files if name == key.entry or name.startswith("#")]:
                del files[known_by]

    def _op(self, key: _Key, one: _Begun, took: int | None, failed: bool | None) -> Iterator[Record]:
        """Return the op; `failed` is None if its end is not in the log."""
        word = key.name.lower().removeprefix("s3").removesuffix("async")
        kind = (
            self.options.map_ops.get(key.name.lower())
            or _KINDS.get(word)
            or API_KINDS.get(word)
            or OP_WORDS.get(word)
            or LEFT_OUT
        )
        if kind == LEFT_OUT or one.uri is None:
            self.tally.left_out[key.name[:60]] += 1
            return
        ranged, sized = kind in _RANGES, kind in (*_RANGES, "get", "put")
        moved = one.length if sized else 0
        yield {
            "t_submit": one.at_ns,
            "uri": one.uri,
            "op": kind,
            "offset": key.offset if ranged else None,
            "len": one.length if sized else None,
            "bytes": None if failed is None else 0 if failed else moved,
            "latency": took,
            "worker": key.rank if key.rank is not None and key.rank >= 0 else None,
            "error": ErrorClass.IO_ERROR if failed else None,
        }


def _row(text: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    wanted = ("date", "op_name", "entry_name", "is_finished", "is_error")
    if not isinstance(row, dict) or any(name not in row for name in wanted):
        raise ValueError("not an operation of an elbencho op log")
    return row
