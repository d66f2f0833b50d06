"""Reads the output of strace: `strace -f -ttt -T -y -s 0 -e trace=… -o LOG CMD`.

The one reader of such logs: `tracekit import strace` and `tracekit capture` both use it.
Offsets are kept by descriptor: opens, seeks, reads, writes and dups move them, forks share
them. Needs times (`-ttt`, or `-tt` and `-r` without a date); `-T` gives latencies, `-y` names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from tracekit.errors import TraceFormatError
from tracekit.formats.base import Carries, ImportOptions, Tally
from tracekit.formats.sound import batch_of
from tracekit.formats.syscalls.calls import Processes
from tracekit.formats.syscalls.names import GPU_DIRECT, IO_SUBMIT, IO_URING
from tracekit.formats.syscalls.requests import Row
from tracekit.formats.syscalls.totals import Totals
from tracekit.formats.text.lines import ahead, blocks, decoded_lines
from tracekit.uri import from_name

__all__ = ["Strace", "StraceLog"]

_LINE = re.compile(
    r"\s*(?:\[pid\s+(?P<bpid>\d{1,10})(?:<.{0,64}?>)?\]\s+|(?P<pid>\d{1,10})(?:<.{0,64}?>)?\s+)?"
    r"(?:(?P<unix>\d{1,10}\.\d{1,9})|(?P<clock>\d\d:\d\d:\d\d(?:\.\d{1,9})?))"
    r"(?:\s+\(\+\s*\d+\.\d{1,9}\))?\s+(?:\[\s*\d+\]\s+)?(?:\[[0-9a-f?]{8,16}\]\s+)?(?P<rest>.*)"
)
"""A line of a log, with what `-Y`, `-n` and `-i` add: names of programs, numbers of calls and instruction pointers."""
_PLAIN = re.compile(
    r"(\d{1,10}) +(\d{10})\.(\d{6}) (read|write|pread64|pwrite64)\((\d{1,9})<(/[^<>\\]*)>, \"[^\"\\]*(?:\\.[^\"\\]*)*\"(?:\.\.\.)?"
    r", (\d{1,18})(?:, (\d{1,18}))?\) += (\d{1,18}) <(\d{1,9})\.(\d{6})>",
    re.ASCII,
)
"""A read or write as nearly every line of a log is one: with a thread, a time, a named file, and a duration."""
_WHOLE = re.compile(r"(\d{1,10}) +(\d{10})\.(\d{6}) (\w+)\((.*)\)\s+= (.*?)\s+<(\d{1,9})\.(\d{6})>", re.ASCII)
_RESUMED = re.compile(r"<\.\.\. (\w+) resumed>\s?(.*)")
_UNFINISHED = ("<unfinished ...>", "<detached ...>")
"""Ends a call whose end is in a later line, or that strace did not wait for."""
_CALL = re.compile(r"(\w+)\((.*)")
_ENDED = re.compile(r"(.*)\)\s+= (.*?)(?:\s+<(\d{1,9}\.\d{1,9})>)?$")
_SUPERSEDED = re.compile(r"\+\+\+ superseded by execve in pid (\d{1,10}) \+\+\+")
_STACK = " > "
_DATA = " | "
"""Begins a line of data, with the option `-e read` or `-e write`."""
_SKIPPED = ("--- ", "strace: ", "[ Process PID=")
_NOT_CALLS = (*_SKIPPED, "+++ ", _STACK, _DATA)
_ENDS = ("+++ exited", "+++ killed")
_NOT_A_CALL = "not a call as strace writes it"
_RELATIVE_BELOW_NS = 10**17
"""Times of `-r` are waits since the line before: less than three years, which no Unix time of a trace is."""
_HALF_DAY_NS = 12 * 3600 * 10**9
_COLUMNS = ("t_submit", "uri", "op", "offset", "len", "bytes", "latency", "worker", "error", "to_uri")


class Strace:
    """Reads the output of strace."""

    name = "strace"
    about = "strace -f -ttt -T -y output: file calls of a program, offsets rebuilt"
    carries = Carries(
        "us, absolute with `-ttt`",
        latency="with `-T`",
        offset="rebuilt",
        length="of vectors if written out",
        streams="thread",
        completeness="files mapped, calls left out, totals of `-C`",
        ends="with `-T`",
    )

    def read(self, source: Path, tally: Tally, options: ImportOptions) -> Iterator[pa.RecordBatch]:
        """As the protocol says. Worker is the order of the thread."""
        log = StraceLog(tally, options.base)
        yield from log.batches(source)
        if not log.calls:
            what = "only the totals of its calls (-c)" if log.totals.calls else "no strace call with a time"
            raise TraceFormatError(f"{source} contains {what}", "trace with strace -f -ttt -T -y")
        tally.ends_unknown |= log.ends_unknown
        for text in log.not_shown():
            tally.lost(text)
        for text in (*log.about_the_log(), *log.not_recorded()):
            tally.note(text)
        tally.note_mapped(len(log.mapped_files))


class StraceLog:
    """One log being read: what carries over from block to block.

    `every_open` and `inherited_streams` are those of `Processes`.
    """

    def __init__(
        self,
        tally: Tally,
        base: str | None = None,
        *,
        every_open: bool = True,
        inherited_streams: bool = True,
    ) -> None:
        self._counted: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self.totals = Totals()
        self._base = base
        self._tally = tally
        self._processes = Processes(every_open=every_open, inherited_streams=inherited_streams)
        self._unfinished: dict[int, tuple[int, int, str]] = {}
        self._untimed = self._clocked = self._waited = False
        self._last_ns = self._day_ns = 0

    @property
    def calls(self) -> int:
        """How many calls the log shows from begin to end."""
        return self._counted.total()

    @property
    def ends_unknown(self) -> bool:
        """Whether an op without a latency may have ended."""
        return self._untimed or self._processes.requests.unknown > 0

    @property
    def mapped_files(self) -> set[str]:
        """The URIs of the files that were mapped into memory: reads through a mapping are not calls."""
        return {from_name(path, self._base) for path in self._processes.mapped if path.startswith("/")}

    @property
    def ports(self) -> set[int]:
        """The ports that connections were made to: the log does not show what went through them."""
        return self._processes.ports

    @property
    def threads(self) -> list[int]:
        """The threads, in the order of their workers."""
        return self._processes.threads

    @property
    def moved(self) -> tuple[int, int]:
        """Bytes that calls read and wrote, of files or not, as the kernel counts them for a process."""
        return self._processes.moved["read"], self._processes.moved["write"]

    @property
    def unseen(self) -> tuple[str, ...]:
        """What was used whose requests the log does not show, or not what they moved."""
        rings, asked = self._processes.left_out["io_uring_enter"], self._processes.requests.unknown
        used = {IO_URING: rings, IO_SUBMIT: asked, GPU_DIRECT: self._processes.gpu_direct}
        return tuple(name for name, use in used.items() if use)

    def batches(self, source: Path) -> Iterator[pa.RecordBatch]:
        """Return the ops of the log, in the order in which the calls ended."""
        for block in ahead(blocks(source, self._tally, block_bytes=4 << 20)):
            yield self._ops(decoded_lines(block, self._tally))
        yield self._unended()

    def not_shown(self) -> Iterator[str]:
        """Return notes on the calls that the log's own totals count, and that it does not show."""
        yield from self.totals.notes(self._counted, self._failed)

    def about_the_log(self) -> Iterator[str]:
        """Return notes on what the options of strace left out of the log."""
        if self._untimed:
            yield "calls without a duration have no latency: trace with strace -T"
        if self._clocked:
            yield "the log has times of day without a date: the epoch is that day's midnight"
        if self._waited:
            yield "the log has relative times (-r): they are added up, and the epoch is its first call"
        if self._processes.absent:
            yield (
                f"{self._processes.absent} threads or processes that began are not in the log, and may have moved positions"
                " that it takes as known: trace with strace -f into one file, or put the files of -ff together with"
                " strace-log-merge"
            )
        if self._processes.unnamed:
            unnamed = self._processes.unnamed
            kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(unnamed.items()))
            yield (
                f"{unnamed.total()} ops left out ({kinds}), because the log does not name their file: trace with strace -y"
            )
        if self._processes.cut_vectors:
            yield (
                f"{self._processes.cut_vectors} requests of io_submit left out, because strace cut them short:"
                " trace with -e abbrev='!io_submit'"
            )

    def not_recorded(self) -> Iterator[str]:
        """Return notes on storage I/O that the log does not show, or that is no op of the schema."""
        left_out = dict(sorted(self._processes.left_out.items()))
        rings = left_out.pop("io_uring_enter", 0)
        if rings:
            yield f"io_uring_enter: {rings} calls left out; their requests are in memory, not in the log"
        if left_out:
            yield "calls left out, which are not ops of the schema: " + ", ".join(
                f"{name} {count}" for name, count in left_out.items()
            )
        if self._processes.requests.unknown:
            yield (
                f"{self._processes.requests.unknown} ops of io_submit have no latency and no bytes moved: the log does"
                " not say which completion is theirs"
            )

    def _ops(self, lines: Iterator[tuple[int, str]]) -> pa.RecordBatch:
        values: list[Any] = []
        numbers: list[int] = []
        for number, text in lines:
            plain = _PLAIN.fullmatch(text)
            row = None if plain is None else self._plain(plain)
            if row is not None:
                values += row
                numbers.append(number)
                continue
            for row in self._line(number, text):
                values += row
                numbers.append(number)
        return self._batch(values, numbers)

    def _plain(self, found: re.Match[str]) -> Row | None:
        """Return the op of a line that is nothing but a read or write; None if it has to be read as any other."""
        pid, s, us, name, number, path, length, offset, moved, took_s, took_us = found.groups()
        row = self._processes.plain(
            int(pid),
            int(s + us) * 1000,
            name,
            int(number),
            path,
            int(length),
            None if offset is None else int(offset),
            int(moved),
            int(took_s + took_us) * 1000,
        )
        self._counted[name] += row is not None
        return row

    def _unended(self) -> pa.RecordBatch:
        """The ops of calls that the log never saw return."""
        values: list[Any] = []
        numbers: list[int] = []
        for thread, (number, at_ns, text) in self._unfinished.items():
            for row in self._never_returned(number, thread, at_ns, text):
                values += row
                numbers.append(number)
        for row in self._processes.requests.left():
            values += row
            numbers.append(0)
        return self._batch(values, numbers)

    def _never_returned(self, number: int, thread: int, at_ns: int, text: str) -> list[Row]:
        call = _CALL.match(text)
        if call is None:
            self._tally.bad(number, _NOT_A_CALL)
            return []
        return self._called(number, thread, at_ns, call[1], call[2].rstrip(", "), "?", None)

    def _called(
        self, number: int, thread: int, at_ns: int, name: str, args: str, result: str, took_ns: int | None
    ) -> list[Row]:
        """Return the ops of a call. One that cannot be read is a bad line, and may have moved any position."""
        try:
            return self._processes.call(thread, at_ns, name, args, result, took_ns)
        except ValueError as error:
            self._tally.bad(number, str(error))
            self._processes.lost(thread)
            return []

    def _line(self, number: int, text: str) -> list[Row]:
        whole = _WHOLE.fullmatch(text)
        if whole is not None:  # nearly every line of a log with -f -ttt -T
            pid, seconds, micros, name, args, result, took_s, took_us = whole.groups()
            self._count(name, result)
            at_ns = int(seconds + micros) * 1000
            took_ns = int(took_s + took_us) * 1000
            return self._called(number, int(pid), at_ns, name, args.rstrip(), result, took_ns)
        if text.startswith(_NOT_CALLS) or self.totals.read(text):
            return []
        found = _LINE.match(text)
        if found is None:
            self._tally.bad(number, "not a strace line with a time")
            return []
        thread = int(found["pid"] or found["bpid"] or 0)
        at_ns = self._time(found)
        rest = found["rest"].rstrip()
        if rest.startswith("+++ "):
            return self._ended(thread, rest)
        if rest.startswith(_SKIPPED):
            return []
        if rest.endswith(_UNFINISHED):
            begun_call = rest.rpartition("<")[0].rstrip()
            self._unfinished[thread] = (number, at_ns, begun_call)
            self._processes.begun(thread, begun_call)
            return []
        resumed = _RESUMED.match(rest)
        if resumed is not None:
            begun = self._unfinished.pop(thread, None) or self._unfinished.pop(0, None)
            if begun is None:
                self._tally.bad(number, "resumes a call that never began")
                self._processes.lost(thread)
                return []
            at_ns, rest = begun[1], f"{begun[2]} {resumed[2]}"
        return self._call(number, thread, at_ns, rest)

    def _call(self, number: int, thread: int, at_ns: int, text: str) -> list[Row]:
        call = _CALL.match(text)
        ended = _ENDED.match(call[2]) if call else None
        if call is None or ended is None:
            self._tally.bad(number, _NOT_A_CALL)
            self._processes.lost(thread)
            return []
        self._count(call[1], ended[2])
        took_ns = None if ended[3] is None else _ns(ended[3])
        self._untimed = self._untimed or (took_ns is None and not ended[2].startswith("?"))
        return self._called(number, thread, at_ns, call[1], ended[1].rstrip(), ended[2], took_ns)

    def _count(self, name: str, result: str) -> None:
        """Count a call as the totals of strace do, which leave out calls that never return."""
        self._counted[name] += not result.startswith("?")
        self._failed[name] += result.startswith("-1 ")

    def _ended(self, thread: int, rest: str) -> list[Row]:
        """A thread has ended: its calls under way never returned, and its number may be used again."""
        superseded = _SUPERSEDED.match(rest)
        if superseded is None and not rest.startswith(_ENDS):
            return []
        begun = self._unfinished.pop(thread, None)
        rows = [] if begun is None else self._never_returned(begun[0], thread, begun[1], begun[2])
        self._processes.ended(thread)
        if superseded is not None:  # by another thread of its process, which goes on under its number
            by = int(superseded[1])
            self._processes.superseded(thread, by)
            if by in self._unfinished:
                self._unfinished[thread] = self._unfinished.pop(by)
        return rows

    def _time(self, found: re.Match[str]) -> int:
        if found["unix"] is not None:
            given = _ns(found["unix"])
            if given >= _RELATIVE_BELOW_NS:
                return given
            self._waited = True
            self._last_ns += given
            return self._last_ns
        self._clocked = True
        hours, minutes, seconds = found["clock"].split(":")
        of_day = (int(hours) * 3600 + int(minutes) * 60) * 10**9 + _ns(seconds)
        if self._day_ns + of_day < self._last_ns - _HALF_DAY_NS:  # past midnight
            self._day_ns += 2 * _HALF_DAY_NS
        self._last_ns = self._day_ns + of_day
        return self._last_ns

    def _batch(self, values: list[Any], numbers: list[int]) -> pa.RecordBatch:
        """Return rows as a batch; `values` has one after the other: a tuple each is work for the garbage collector."""
        columns = {name: values[place :: len(_COLUMNS)] for place, name in enumerate(_COLUMNS)}
        for name in ("uri", "to_uri"):
            columns[name] = self._uris(columns[name])
        return batch_of(columns, numbers, self._tally)

    def _uris(self, paths: Sequence[str | None]) -> list[str | None]:
        known: dict[str | None, str | None] = {None: None}
        for path in set(paths) - {None}:
            known[path] = from_name(path or "/", self._base)
        return [known[path] for path in paths]


def _ns(seconds: str) -> int:
    whole, _, fraction = seconds.partition(".")
    return int(whole) * 10**9 + int(fraction.ljust(9, "0"))
