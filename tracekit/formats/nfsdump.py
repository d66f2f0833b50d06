"""Reads the text of nfsdump, which shows the NFS calls and replies that passed a network (SNIA has several years of it).

A call and its reply are known by client and transaction, a number that each client counts on its own. Files are known by
their handles, so that a rename does not change a file's name here; all numbers but times are hexadecimal.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from tracekit.formats.base import Carries, ImportOptions, Tally
from tracekit.formats.sound import Streams, error_class
from tracekit.formats.text.records import Record, read_records
from tracekit.uri import from_name

__all__ = ["Nfsdump"]

_KINDS = {
    "read": "read",
    "write": "write",
    "commit": "sync",
    "getattr": "stat",
    "access": "stat",
    "lookup": "stat",
    "readdir": "list",
    "readdirp": "list",
    "remove": "delete",
    "setattr": "truncate",
}
"""Procedures that are ops of the schema; a `setattr` is one only if it sets the size."""
_IN_DIRECTORY = ("lookup", "remove")
_DATA = ("read", "write")
_LINE = re.compile(
    r"(?P<seconds>\d{1,10})\.(?P<micros>\d{1,6}) (?P<source>\S+) (?P<target>\S+) [TU] (?P<kind>[CR])[234] "
    r"(?P<xid>[0-9a-f]{1,8}) [0-9a-f]{1,2} (?P<name>\w+) ?(?P<rest>.*)",
    re.ASCII,
)
_FIELD = r"(?:^| )(?:{}) ([0-9a-f]{{1,16}})(?= |$)"
_OFFSET, _COUNT, _SIZE = (
    re.compile(_FIELD.format(words)) for words in ("off|offset", "count|tcount", "size")
)
"""The words of version 3, and those of version 2."""
_NAME = re.compile(r' (?:name|fn) "((?:[^"\\]|\\.)*)"')
_HANDLE = re.compile(r"(?:^| )(?:fh|file) ([0-9a-f]{2,128})(?= |$)")
_ERRORS = {63: "ENAMETOOLONG", 66: "ENOTEMPTY", 69: "EDQUOT", 70: "ESTALE"}
"""Errors of NFS that have another number on Linux."""
_COLUMNS = ("offset", "len", "bytes", "latency", "tries", "rank", "error")


class _Call(NamedTuple):
    number: int
    at_ns: int
    name: str
    server: str
    rank: int
    arguments: str
    tries: int


@dataclass(slots=True)
class _Reading:
    """What carries over from line to line: calls without a reply, handles of names, clients."""

    tally: Tally
    base: str | None
    clients: Streams
    lines: int = 0
    unasked: int = 0
    calls: dict[tuple[str, str], _Call] = field(default_factory=dict)
    handles: dict[tuple[str, str], str] = field(default_factory=dict)

    def records(self, number: int, text: str) -> Iterator[Record]:
        """Return the op that a line completes. Raises ValueError for a line that is not nfsdump's."""
        found = _LINE.fullmatch(text.rstrip())
        if found is None:
            raise ValueError("not a line of nfsdump")
        self.lines += 1
        if "SHORT PACKET" in found["rest"]:
            raise ValueError("the packet was cut short")
        at_ns = int(found["seconds"]) * 10**9 + int(found["micros"].ljust(9, "0"))
        if found["kind"] == "C":
            self._called(number, at_ns, found)
        else:
            call = self.calls.pop((found["target"], found["xid"]), None)
            if call is None:
                self.unasked += 1
            else:
                yield from self._op(call, at_ns, found["rest"])

    def unended(self) -> Iterator[tuple[int, Record]]:
        """Return the ops of calls whose reply is not in the log."""
        for call in self.calls.values():
            for op in self._op(call, None, ""):
                yield call.number, op

    def _called(self, number: int, at_ns: int, found: re.Match[str]) -> None:
        key = (found["source"], found["xid"])
        again = self.calls.get(key)
        if again is not None and again.name == found["name"]:  # the client has sent it again
            self.calls[key] = again._replace(tries=again.tries + 1)
            return
        server, client = (address.rpartition(".")[0] or address for address in (found["target"], key[0]))
        rank = self.clients.number(client)
        self.calls[key] = _Call(number, at_ns, found["name"], server, rank, found["rest"], 1)

    def _op(self, call: _Call, ended_ns: int | None, reply: str) -> Iterator[Record]:
        arguments, name = call.arguments, call.name
        size = _number(_SIZE, arguments)
        kind = _KINDS.get(name)
        failed = _failure(reply)
        if ended_ns is not None and failed is None:
            self._learn(call, reply)
        handle = _HANDLE.search(arguments)
        if kind is None or handle is None or (kind == "truncate" and size is None):
            self.tally.left_out[name[:60]] += 1
            return
        asked = _number(_COUNT, arguments) if name in _DATA else size
        counted = _number(_COUNT, reply)
        yield {
            "t_submit": call.at_ns,
            "uri": self._uri(call.server, handle[1], arguments if name in _IN_DIRECTORY else ""),
            "op": kind,
            "offset": _number(_OFFSET, arguments) if name in _DATA else None,
            "len": asked,
            "bytes": _moved(
                name, asked if name == "write" and counted is None else counted, ended_ns, failed
            ),
            "latency": None if ended_ns is None else ended_ns - call.at_ns,
            "tries": call.tries,
            "rank": call.rank,
            "error": None if failed is None else error_class(failed),
        }
        if kind == "delete" and failed is None and ended_ns is not None:
            self.handles.pop((handle[1], _named(arguments)), None)

    def _learn(self, call: _Call, reply: str) -> None:
        """Note which handle the name in a directory has, from the reply that says so."""
        directory, handle = _HANDLE.search(call.arguments), _HANDLE.search(reply)
        name = _named(call.arguments)
        if call.name in ("lookup", "create") and directory and handle and name:
            self.handles[directory[1], name] = handle[1]

    def _uri(self, server: str, handle: str, arguments: str) -> str:
        """Return the URI of a handle, or of the name in that directory: the handle that it has, if the log says it."""
        name = _named(arguments)
        path = self.handles.get((handle, name), f"{handle}/{name}") if name else handle
        return from_name(path, self.base or f"nfs://{server}/")


class Nfsdump:
    """Reads nfsdump's text of NFS versions 2 and 3."""

    name = "nfsdump"
    about = "nfsdump text (NFS calls and replies on a network), as in the SNIA traces"
    carries = Carries(
        "us, absolute", streams="client address", completeness="calls without a reply, calls left out"
    )

    def read(self, source: Path, tally: Tally, options: ImportOptions) -> Iterator[pa.RecordBatch]:
        """As the protocol says. Rank is the order of the client's address."""
        tally.shares_ranks = True
        state = _Reading(tally, options.base, Streams(tally.clients))
        yield from read_records(source, tally, state.records, columns=_COLUMNS, rest=state.unended)
        if not state.lines:
            raise tally.nothing("give the text of nfsdump")
        if state.calls:
            tally.note(f"{len(state.calls)} calls have no reply in the log")
        if state.unasked:
            tally.note(f"{state.unasked} replies have no call in the log and are left out")


def _number(field: re.Pattern[str], text: str) -> int | None:
    found = field.search(text)
    return None if found is None else int(found[1], 16)


def _named(arguments: str) -> str:
    found = _NAME.search(arguments)
    return "" if found is None else found[1]


def _failure(reply: str) -> str | None:
    """Return the name of a reply's error; None if it says OK, or if there is no reply."""
    status = reply.partition(" ")[0]
    if status in ("OK", "") or not re.fullmatch(r"[0-9a-f]{1,5}", status):
        return None
    code = int(status, 16)
    return _ERRORS.get(code) or errno.errorcode.get(code) or f"NFS error {code}"


def _moved(name: str, size: int | None, ended_ns: int | None, failed: str | None) -> int | None:
    if ended_ns is None:
        return None
    return size if name in _DATA and failed is None else 0
