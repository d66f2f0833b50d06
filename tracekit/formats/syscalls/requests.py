"""Requests of io_submit and what became of them: a completion is known by the `data` that its request was given."""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass, field

from tracekit.errors import ErrorClass

__all__ = ["Requests", "Row"]

Row = tuple[int, str, str, int | None, int | None, int | None, int | None, int, str | None, str | None]
"""t_submit, name of the file, op, offset, len, bytes, latency, worker, error, name that a rename gives."""
Key = tuple[int, str, str]
"""The process, its context, and the `data` of the request."""

_EVENT = re.compile(r"\{data=(0x[0-9a-f]{1,16}|\d{1,20}), obj=\w+, res=(-?\d{1,19})")


@dataclass(slots=True)
class Requests:
    """The requests under way. Those of which the log does not show the completion, or not whose it is, are `unknown`."""

    unknown: int = 0
    _waiting: dict[Key, Row] = field(default_factory=dict)
    _shared: set[Key] = field(default_factory=set)

    def begun(self, key: Key, row: Row) -> list[Row]:
        """Keep the op of a request until it is reaped; return those whose completion cannot be known."""
        if key[2] and key not in self._waiting and key not in self._shared:
            self._waiting[key] = row
            return []
        self._shared.add(key)
        other = self._waiting.pop(key, None)
        found = [row] if other is None else [other, row]
        self.unknown += len(found)
        return found

    def reaped(self, process: int, args: str, ended_ns: int | None) -> list[Row]:
        """Return the ops that a call of io_getevents, which ended at `ended_ns`, found completed."""
        context = args.partition(",")[0]
        rows = []
        for data, result in _EVENT.findall(args):
            row = self._waiting.pop((process, context, data), None)
            if row is not None:
                rows.append(_completed(row, int(result), ended_ns))
        return rows

    def left(self) -> list[Row]:
        """Return the ops of requests that were not reaped."""
        rows = list(self._waiting.values())
        self.unknown += len(rows)
        self._waiting.clear()
        return rows


def _completed(row: Row, result: int, ended_ns: int | None) -> Row:
    at_ns, path, kind, offset, length, _, _, worker, _, to_path = row
    error = None if result >= 0 else ErrorClass.from_text(errno.errorcode.get(-result, "EIO"))
    moved = None if kind == "sync" else max(result, 0)
    took = None if ended_ns is None else max(ended_ns - at_ns, 0)
    return at_ns, path, kind, offset, length, moved, took, worker, error, to_path
