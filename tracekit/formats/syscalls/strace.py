"""strace's own output as ops: `strace -f -ttt -T -y -s 0 -e trace=… -o LOG CMD`.

Offsets are kept by descriptor: opens, seeks, reads, writes and dups move them, forks share
them. Needs times (`-ttt`, or `-tt` and `-r` without a date); `-T` gives latencies, `-y` names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from tracekit.errors import TraceFormatError
from tracekit.formats.base import ImportOptions, Tally
from tracekit.formats.sound import sound_batch, uris
from tracekit.formats.syscalls.calls import Processes, Row
from tracekit.formats.text.lines import ahead, blocks, decoded_lines

__all__ = ["Strace"]

_LINE = re.compile(
    r"\s*(?:\[pid\s+(?P<bpid>\d{1,10})\]\s+|(?P<pid>\d{1,10})\s+)?"
    r"(?:(?P<unix>\d{1,10}\.\d{1,9})|(?P<clock>\d\d:\d\d:\d\d(?:\.\d{1,9})?))"
    r"(?:\s+\(\+\s*\d+\.\d{1,9}\))?\s+(?P<rest>.*)"
)
_RESUMED = re.compile(r"<\.\.\. (\w+) resumed>\s?(.*)")
_UNFINISHED = "<unfinished ...>"
_CALL = re.compile(r"(\w+)\((.*)")
_ENDED = re.compile(r"(.*)\)\s+= (.*?)(?:\s+<(\d{1,9}\.\d{1,9})>)?$")
_SKIPPED = ("+++ ", "--- ", "strace: ")
_RELATIVE_BELOW_NS = 10**17
"""Times of `-r` are waits since the line before: less than three years, which no Unix time of a trace is."""
_HALF_DAY_NS = 12 * 3600 * 10**9
_COLUMNS = ("t_submit", "uri", "op", "offset", "len", "bytes", "latency", "worker", "error")


class Strace:
    """Reads what strace wrote."""

    name = "strace"
    about = "strace -f -ttt -T -y output: file calls of a program, offsets rebuilt"

    def read(self, source: Path, tally: Tally, options: ImportOptions) -> Iterator[pa.RecordBatch]:
        """As the protocol says. Worker is the order of the thread."""
        log = _Log(tally, options.base)
        calls = 0
        for block in ahead(blocks(source, tally, block_bytes=4 << 20)):
            batch = log.ops(decoded_lines(block, tally))
            calls = log.calls
            yield batch
        for batch in log.unended():
            yield batch
        if not calls:
            raise TraceFormatError(
                f"{source} holds no strace call with a time", "trace with strace -f -ttt -T -y"
            )
        log.tell()


class _Log:
    """What outlives a block: processes, calls that are not finished, what was seen."""

    def __init__(self, tally: Tally, base: str | None) -> None:
        self.calls = 0
        self._base = base
        self._tally = tally
        self._processes = Processes()
        self._unfinished: dict[int, tuple[int, int, str]] = {}
        self._untimed = self._clocked = self._waited = False
        self._last_ns = self._day_ns = 0

    def ops(self, lines: Iterator[tuple[int, str]]) -> pa.RecordBatch:
        """The ops that end in `lines`."""
        rows: list[Row] = []
        numbers: list[int] = []
        for number, text in lines:
            found = self._line(number, text)
            rows += found
            numbers += [number] * len(found)
        return self._batch(rows, numbers)

    def unended(self) -> Iterator[pa.RecordBatch]:
        """Ops whose calls the log never saw return."""
        rows: list[Row] = []
        numbers: list[int] = []
        for thread, (number, at_ns, text) in self._unfinished.items():
            call = _CALL.match(text)
            if call is None:
                continue
            found = self._processes.call(thread, at_ns, call[1], call[2].rstrip(", "), "?", None)
            rows += found
            numbers += [number] * len(found)
        if rows:
            yield self._batch(rows, numbers)

    def tell(self) -> None:
        """Notes on what the log did not say."""
        if self._untimed:
            self._tally.note("calls without a duration have no latency: trace with strace -T")
        if self._clocked:
            self._tally.note("the log has times of day without a date: the epoch is that day's midnight")
        if self._waited:
            self._tally.note(
                "the log has relative times (-r): they are added up, and the epoch is its first call"
            )
        unnamed = self._processes.unnamed
        if unnamed:
            self._tally.note(
                f"{unnamed} calls left out on descriptors whose file is not known: trace with strace -y"
            )

    def _line(self, number: int, text: str) -> list[Row]:
        if text.startswith(_SKIPPED):
            return []
        found = _LINE.match(text)
        if found is None:
            self._tally.bad(number, "no strace line with a time")
            return []
        thread = int(found["pid"] or found["bpid"] or 0)
        at_ns = self._time(found)
        rest = found["rest"].rstrip()
        if rest.startswith(_SKIPPED):
            return []
        if rest.endswith(_UNFINISHED):
            begun_call = rest.removesuffix(_UNFINISHED).rstrip()
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
            self._tally.bad(number, "no call that strace writes")
            self._processes.lost(thread)
            return []
        self.calls += 1
        took_ns = None if ended[3] is None else _ns(ended[3])
        self._untimed = self._untimed or took_ns is None
        return self._processes.call(thread, at_ns, call[1], ended[1].rstrip(), ended[2], took_ns)

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

    def _batch(self, rows: list[Row], numbers: list[int]) -> pa.RecordBatch:
        values = list(zip(*rows, strict=True)) if rows else [()] * len(_COLUMNS)
        columns: dict[str, pa.Array] = {}
        for name, column in zip(_COLUMNS, values, strict=True):
            if name in ("uri", "op", "error"):
                columns[name] = pa.array(column, pa.string()).dictionary_encode()
                if name == "uri":
                    names = columns[name]
                    full = uris(names.dictionary, self._base)
                    columns[name] = pa.DictionaryArray.from_arrays(names.indices, full)
            else:
                columns[name] = pa.array(
                    [v if v is None or abs(v) < 2**63 else -1 for v in column], pa.int64()
                )
        return sound_batch(columns, np.array(numbers, np.int64), self._tally)


def _ns(seconds: str) -> int:
    whole, _, fraction = seconds.partition(".")
    return int(whole) * 10**9 + int(fraction.ljust(9, "0"))
