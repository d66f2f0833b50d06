"""Reads traces of Linux' block layer: the binary per-CPU files of blktrace, and the text of blkparse.

An op is a request from its issue to the device (D) to its completion (C); a log without issues has those from queueing
(Q) instead. Requests are known by device and sector. All files are read together, because a request may end on another
CPU than it began on.
"""

from __future__ import annotations

import re
import struct
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from tracekit.errors import ErrorClass
from tracekit.formats.base import Carries, ImportOptions, Tally
from tracekit.formats.packed import UpToTheBreak, opened
from tracekit.formats.sound import Streams, batch_of
from tracekit.formats.text.lines import ahead, blocks, decoded_lines
from tracekit.uri import from_name

__all__ = ["Blktrace"]

_SECTOR_BYTES = 512
_MAGIC = 0x65617400
_VERSION = 7
_HEADER = "IIQQIIIIIHH"
_HEADER_BYTES = 48
_READ_BYTES = 1 << 20
_BATCH_ROWS = 65_536
_ACTIONS = {1: "Q", 7: "D", 8: "C", 6: "R"}
_READ, _WRITE, _FLUSH, _NOTIFY, _DISCARD = 1 << 0, 1 << 1, 1 << 2, 1 << 10, 1 << 13
_TIMESTAMP = 1
_LINE = re.compile(
    r"\s*(\d+),(\d+)\s+\d+\s+\d+\s+(\d{1,9})\.(\d{9})\s+(\d+)\s+(\S{1,2})\s+([A-Z]{1,8})(?:\s+(\d+)(?: \+ (\d+))?)?.*",
    re.ASCII,
)
_MESSAGE = re.compile(
    r"\s*\d+,\d+\s+\d+\s+\d+\s+\d{1,9}\.\d{9}\s+\d+\s+(m|UT?|P|I|G|M|F|S|A|X|B|U)\s.*", re.ASCII
)
_COMPLETED = re.compile(r"(?:Reads|Writes) Completed:\s+([\d,]+)")
_SKIPS = re.compile(r"Skips: [\d,]+ forward \(([\d,]+)")
_SUMMARY = (
    "CPU",
    "Total",
    "Throughput",
    "Events",
    "Skips",
    "Reads",
    "Writes",
    "Read",
    "Write",
    "Discard",
    "IO",
    "PC",
    "Dispatches",
)


class _Event(NamedTuple):
    at_ns: int
    action: str
    device: str
    kind: str | None
    sector: int
    size: int
    pid: int
    error: bool
    number: int


@dataclass(slots=True)
class _Request:
    """A request under way: how it began, and how many of its bytes are not completed yet."""

    begun: _Event
    left: int
    failed: bool = False


class Blktrace:
    """Reads `DEVICE.blktrace.CPU` files and the default output of blkparse."""

    name = "blktrace"
    about = "blktrace binary files, or the text of blkparse: requests of block devices"
    carries = Carries(
        "ns, absolute if binary",
        streams="process",
        errors="yes or no",
        completeness="requests not completed, discards, sequence numbers, totals",
        ends="yes",
    )

    def read(self, source: Path, tally: Tally, options: ImportOptions) -> Iterator[pa.RecordBatch]:
        """As the protocol says, for one file."""
        yield from self.read_together([source], tally, options)

    def read_together(
        self, sources: Sequence[Path], tally: Tally, options: ImportOptions
    ) -> Iterator[pa.RecordBatch]:
        """As the protocol says, for all files of a trace. Worker is the order of the process."""
        events: list[_Event] = []
        for source in sources:
            tally.source = source
            events += _binary(source, tally) if _is_binary(source) else _text(source, tally)
        if not events:
            raise tally.nothing("give blktrace's files, or the text of blkparse")
        events.sort(key=lambda event: event.at_ns)
        start = "D" if any(event.action == "D" for event in events) else "Q"
        yield from _ops(events, start, tally, options.base or "block://")
        what = "its issue to the device" if start == "D" else "queueing, because the log has no issues"
        tally.note(f"an op is a request from {what} to its completion")


def _ops(events: list[_Event], start: str, tally: Tally, base: str) -> Iterator[pa.RecordBatch]:
    open_now: dict[tuple[str, int], deque[_Request]] = defaultdict(deque)
    streams = Streams()
    rows: list[tuple[_Event, int | None, bool]] = []
    unmatched = 0
    for event in events:
        waiting = open_now[event.device, event.sector]
        if event.kind is None:
            if event.action == start:
                tally.left_out["discard or other request"] += 1
        elif event.action == start:
            waiting.append(_Request(event, event.size))
        elif event.action == "R" and waiting:  # requeued: it is issued again
            waiting.pop()
        elif event.action == "C":
            if not waiting:
                unmatched += 1
                continue
            request = waiting.popleft()
            request.left -= event.size
            request.failed = request.failed or event.error
            if (
                request.left > 0 and event.size
            ):  # a part of it: the rest is completed later, under its own sector
                open_now[event.device, event.sector + event.size // _SECTOR_BYTES].appendleft(request)
                continue
            rows.append((request.begun, event.at_ns - request.begun.at_ns, request.failed))
        if len(rows) >= _BATCH_ROWS:
            yield _batch(rows, streams, base, tally)
            rows = []
    never = [request.begun for waiting in open_now.values() for request in waiting]
    yield _batch([*rows, *((event, None, False) for event in never)], streams, base, tally)
    if never:
        tally.note(f"{len(never)} requests were not completed when the trace ended")
    if unmatched:
        tally.note(f"{unmatched} completions have no beginning in the log and are left out")


def _batch(
    rows: list[tuple[_Event, int | None, bool]], streams: Streams, base: str, tally: Tally
) -> pa.RecordBatch:
    names = {device: from_name(device, base) for device in {event.device for event, _, _ in rows}}
    synced = [event.kind == "sync" for event, _, _ in rows]
    return batch_of(
        {
            "t_submit": [event.at_ns for event, _, _ in rows],
            "uri": [names[event.device] for event, _, _ in rows],
            "op": [event.kind for event, _, _ in rows],
            "offset": [
                None if sync else e.sector * _SECTOR_BYTES
                for (e, _, _), sync in zip(rows, synced, strict=True)
            ],
            "len": [None if sync else e.size for (e, _, _), sync in zip(rows, synced, strict=True)],
            "bytes": [
                None if sync or took is None else 0 if failed else e.size
                for (e, took, failed), sync in zip(rows, synced, strict=True)
            ],
            "latency": [took for _, took, _ in rows],
            "worker": [streams.number(event.pid) for event, _, _ in rows],
            "error": [ErrorClass.IO_ERROR if failed else None for _, _, failed in rows],
        },
        [event.number for event, _, _ in rows],
        tally,
    )


def _is_binary(source: Path) -> bool:
    with opened(source) as stream:
        head = UpToTheBreak(source, stream).exactly(4)
    return len(head) == 4 and any(
        struct.unpack(order + "I", head)[0] & 0xFFFFFF00 == _MAGIC for order in "<>"
    )


def _binary(source: Path, tally: Tally) -> Iterator[_Event]:
    """Yield the events of one binary file; times count from the Unix epoch if it says when it began."""
    with opened(source) as stream:
        log = UpToTheBreak(source, stream)
        data, at, number = bytearray(), 0, 0
        missing = 0
        before: dict[tuple[int, int], int] = {}
        order = ""
        shift_ns = 0

        def more(size: int) -> bool:
            nonlocal at
            if len(data) - at >= size:
                return True
            del data[:at]
            at = 0
            while len(data) < size:
                part = log.read(_READ_BYTES)
                if not part:
                    return False
                data.extend(part)
            return True

        while more(_HEADER_BYTES):
            number += 1
            order = order or ("<" if struct.unpack_from("<I", data, at)[0] & 0xFFFFFF00 == _MAGIC else ">")
            magic, sequence, when, sector, size, action, pid, device, cpu, error, extra = struct.unpack_from(
                order + _HEADER, data, at
            )
            if magic != _MAGIC | _VERSION:
                tally.bad(
                    number, f"not an event of blktrace's version {_VERSION}: the rest of the file is left out"
                )
                return
            missing += max(sequence - before.get((device, cpu), sequence) - 1, 0)
            before[device, cpu] = sequence
            if not more(_HEADER_BYTES + extra):
                at = len(data) - 1
                break
            if action >> 16 & _NOTIFY:
                if action & 0xFFFF == _TIMESTAMP and extra >= 8:
                    seconds, nanoseconds = struct.unpack_from(order + "II", data, at + _HEADER_BYTES)
                    shift_ns = seconds * 10**9 + nanoseconds - when
            elif action & 0xFFFF in _ACTIONS:
                name = f"{device >> 20},{device & 0xFFFFF}"
                yield _Event(
                    when + shift_ns,
                    _ACTIONS[action & 0xFFFF],
                    name,
                    _kind_of_bits(action >> 16, size),
                    sector,
                    size,
                    pid,
                    error != 0,
                    number,
                )
            at += _HEADER_BYTES + extra
        if missing:
            tally.ends_unknown = True
            tally.lost(
                f"{source}: by its sequence numbers, {missing} events were lost before they were written"
            )
        if log.broken:
            tally.bad(number + 1, f"the compressed stream breaks off here ({log.broken})")
        elif len(data) - at:
            tally.bad(number + 1, f"the file ends inside an event, after {number} of them")


def _kind_of_bits(bits: int, size: int) -> str | None:
    if bits & _DISCARD:
        return None
    if bits & _FLUSH and not size:
        return "sync"
    return "write" if bits & _WRITE and size else "read" if bits & _READ and size else None


@dataclass(slots=True)
class _Totals:
    """What the totals of blkparse count: those of all CPUs add up, those of the whole say the same again."""

    of_cpu: bool = False
    completed: int = 0
    skipped: int = 0

    def add(self, line: str) -> None:
        """Read a line of the totals."""
        text = line.strip()
        self.of_cpu = text.startswith("CPU") or (self.of_cpu and not text.startswith("Total"))
        if self.of_cpu:
            self.completed += sum(int(n.replace(",", "")) for n in _COMPLETED.findall(text))
        skips = _SKIPS.match(text)
        self.skipped += 0 if skips is None else int(skips[1].replace(",", ""))

    def notes(self, completed: int) -> Iterator[str]:
        """Return notes on what is missing of a log that shows this many completions."""
        if completed < self.completed:
            yield f"the log has {completed} of the {self.completed} completions that its own totals count"
        if self.skipped:
            yield f"blkparse has skipped {self.skipped} events, which were lost before they were written"


def _text(source: Path, tally: Tally) -> Iterator[_Event]:
    """Yield the events of blkparse's text; its times count from the start of the trace."""
    seen = completed = 0
    totals = _Totals()
    for block in ahead(blocks(source, tally)):
        for number, line in decoded_lines(block, tally):
            found = _LINE.fullmatch(line)
            if found is None:
                if seen and line.strip().startswith(_SUMMARY):  # the totals below the events
                    totals.add(line)
                elif not (_MESSAGE.fullmatch(line) or line.startswith("Input file ")):
                    tally.bad(number, "not a line of blkparse")
                continue
            seen += 1
            major, minor, seconds, fraction, pid, action, bits, sector, sectors = found.groups()
            if action not in ("Q", "D", "C", "R"):
                continue
            completed += action == "C"
            size = int(sectors or 0) * _SECTOR_BYTES
            kind = (
                None
                if "D" in bits
                else "sync"
                if "F" in bits and not size
                else "write"
                if "W" in bits
                else "read"
                if "R" in bits
                else None
            )
            yield _Event(
                int(seconds) * 10**9 + int(fraction),
                action,
                f"{major},{minor}",
                kind if size or kind == "sync" else None,
                int(sector or 0),
                size,
                int(pid),
                _failed(line),
                number,
            )
    tally.ends_unknown |= totals.skipped > 0 or completed < totals.completed
    for text in totals.notes(completed):
        tally.lost(text)


def _failed(line: str) -> bool:
    """Return whether a completion has an error number: `[-5]` at its end; others have the name of the program or 0."""
    found = re.search(r"\[(-\d+)\]\s*$", line)
    return found is not None
