"""Reads the directory that Recorder (the tracing library of UIUC) writes, in the binary form of its version 2.5.

A rank has a table of call signatures, a grammar whose expansion is the order of its calls, and a file of times.
The log has neither results of calls nor descriptors.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tracekit.errors import TraceFormatError
from tracekit.formats.base import Carries, ImportOptions, Tally
from tracekit.formats.recorder_calls import Call, Facts, Files
from tracekit.formats.sound import Streams, batch_of
from tracekit.uri import from_name

__all__ = ["RecorderLog"]

_VERSION = "2.5"
_METADATA = struct.Struct("<i4xddiii4x")
_ENTRY = struct.Struct("<iiiI")
"""Of a call signature: its number, a rank, the length of the key, and how often it was called."""
_KEY = struct.Struct("<QBBBi")
"""The begin of a key: thread, function, level, number of arguments, length of the arguments."""
_RULE = struct.Struct("<ii")
_TIMES = np.dtype([("start", "<u4"), ("end", "<u4")])
_START_RULE = -1
_BATCH_ROWS = 65_536
_RANKS_MAX = 1 << 20
_DAMAGED = "copy the log again"
_COLUMNS = ("t_submit", "uri", "op", "offset", "len", "latency", "rank", "worker", "to_uri")


class RecorderLog:
    """Reads Recorder's own directory, of all ranks."""

    name = "recorder"
    about = "Recorder 2.5 directory (VERSION, recorder.mt, 0.cst, ...); POSIX calls, offsets rebuilt"
    carries = Carries(
        "100 ns, absolute",
        offset="rebuilt",
        streams="rank; thread, if stored",
        errors="no",
        completeness="calls counted by signature",
    )

    def read(self, source: Path, tally: Tally, options: ImportOptions) -> Iterator[pa.RecordBatch]:
        """As the protocol says. Worker is the order of the thread in its rank."""
        if not source.is_dir():
            raise TraceFormatError(f"{source} is no directory", "give the directory that Recorder wrote")
        log = _opened(source)
        facts = Facts(tally)
        for rank in range(log.ranks):
            yield from _ops(log, rank, Files(facts), options.base, tally)
        log.check_counts()
        for text in facts.notes():
            tally.note(text)
        tally.note_mapped(len(facts.mapped))


@dataclass(slots=True)
class _Log:
    """A log's files, and how often each signature has been met so far, which must be what the log says."""

    folder: Path
    ranks: int
    start_ns: int
    resolution_ns: float
    functions: list[str]
    shared: bool
    """Whether all ranks share a table of signatures, and those with the same calls a grammar."""
    grammars: list[int]
    counted: dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]

    def order(self, rank: int) -> tuple[list[Call], npt.NDArray[np.int64], npt.NDArray[np.void]]:
        """Return the signatures, the calls of a rank in their order, as places in these, and their times."""
        table = "0" if self.shared else str(rank)
        signatures, counts = _signatures(self.folder / f"{table}.cst", self.functions)
        data = _bytes(self.folder / f"{rank}.ts")
        grammar = self.folder / f"{self.grammars[rank]}.cfg"
        calls = _expanded(grammar, len(signatures), len(data) // _TIMES.itemsize)
        if len(data) != len(calls) * _TIMES.itemsize:
            raise TraceFormatError(
                f"{self.folder / f'{rank}.ts'} is cut short or damaged: it has {len(data) // _TIMES.itemsize}"
                f" times for {len(calls)} calls",
                _DAMAGED,
            )
        _, met = self.counted.setdefault(table, (counts, np.zeros(len(counts), np.int64)))
        met += np.bincount(calls, minlength=len(counts))
        return signatures, calls, np.frombuffer(data, _TIMES)

    def check_counts(self) -> None:
        """Raise TraceFormatError if the grammars do not expand to the counts of the signatures."""
        for table, (said, met) in self.counted.items():
            if (said != met).any():
                raise TraceFormatError(
                    f"{self.folder / f'{table}.cst'} counts {int(said.sum())} calls, the grammar has {int(met.sum())}",
                    _DAMAGED,
                )


def _opened(folder: Path) -> _Log:
    version = _bytes(folder / "VERSION").decode("ascii", "replace").strip()
    if version != _VERSION and not version.startswith(f"{_VERSION}."):
        raise TraceFormatError(
            f"{folder} was written by Recorder {version[:20]!r}, not by {_VERSION}",
            f"record with Recorder {_VERSION}",
        )
    path = folder / "recorder.mt"
    data = _bytes(path)
    if len(data) < _METADATA.size:
        raise TraceFormatError(f"{path} is cut short", _DAMAGED)
    ranks, start_s, resolution_s, _, packed, shared = _METADATA.unpack_from(data)
    functions = data[_METADATA.size :].decode("ascii", "replace").split("\n")
    if not (0 < ranks <= _RANKS_MAX and 0 <= start_s < 2**32 and 1e-9 <= resolution_s <= 1 and functions):
        raise TraceFormatError(f"{path} is damaged", _DAMAGED)
    if packed:
        raise TraceFormatError(f"{path}: its times are compressed", "record without compression of times")
    grammars = list(range(ranks))
    if shared:
        numbers = _bytes(folder / "ug.mt")
        if len(numbers) < 4 * ranks:
            raise TraceFormatError(f"{folder / 'ug.mt'} is cut short", _DAMAGED)
        grammars = np.frombuffer(numbers[: 4 * ranks], "<i4").tolist()
    return _Log(
        folder, ranks, round(start_s * 1e9), resolution_s * 1e9, functions, bool(shared), grammars, {}
    )


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TraceFormatError(
            f"{path}: {error.strerror}", "give the directory that Recorder wrote"
        ) from error


def _signatures(path: Path, functions: Sequence[str]) -> tuple[list[Call], npt.NDArray[np.int64]]:
    """Return the call signatures of a table by their numbers, and how often each was called."""
    data = _bytes(path)
    try:
        (entries,) = struct.unpack_from("<i", data)
        if not 0 <= entries <= len(data) // _ENTRY.size:
            raise ValueError
        found: dict[int, Call] = {}
        counts = np.zeros(entries, np.int64)
        at = 4
        for _ in range(entries):
            number, _, length, count = _ENTRY.unpack_from(data, at)
            at += _ENTRY.size
            thread, function, _, given, size = _KEY.unpack_from(data, at)
            text = data[at + _KEY.size : at + length]
            args = text.decode("utf-8", "surrogateescape").split(" ")[:-1]
            if not 0 <= number < entries or len(text) != size or len(args) != given or number in found:
                raise ValueError
            name = functions[function] if function < len(functions) else ""
            found[number] = Call(thread, name, tuple(args))
            counts[number] = count
            at += length
    except (struct.error, ValueError) as error:
        raise TraceFormatError(f"{path} is cut short or damaged", _DAMAGED) from error
    return [found[number] for number in range(len(found))], counts


def _expanded(path: Path, terminals: int, most: int) -> npt.NDArray[np.int64]:
    """Return the calls that the grammar of `path` expands to, which may be no more than `most`."""
    rules = _rules(path, terminals)

    @cache
    def expansion(rule: int) -> npt.NDArray[np.int64]:
        body = rules[rule]
        parts = [
            np.tile(np.array([symbol], np.int64) if symbol >= 0 else expansion(symbol), times)
            for symbol, times in body
        ]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    if (calls := _length(path, rules)) > most:
        raise TraceFormatError(
            f"{path} expands to {calls} calls, and there are times of {most}: the log is cut short or damaged",
            _DAMAGED,
        )
    return expansion(_START_RULE)


def _rules(path: Path, terminals: int) -> dict[int, list[tuple[int, int]]]:
    data = _bytes(path)
    rules: dict[int, list[tuple[int, int]]] = {}
    try:
        (count,) = struct.unpack_from("<i", data)
        at = 4
        for _ in range(count):
            rule, symbols = _RULE.unpack_from(data, at)
            at += _RULE.size
            body = np.frombuffer(data, "<i4", max(symbols, 0) * 2, at).reshape(-1, 2)
            at += body.nbytes
            if (body[:, 0] >= terminals).any() or (body[:, 1] < 0).any() or rule in rules:
                raise ValueError
            rules[rule] = [(int(symbol), int(times)) for symbol, times in body]
    except (struct.error, ValueError) as error:
        raise TraceFormatError(f"{path} is cut short or damaged", _DAMAGED) from error
    return rules


def _length(path: Path, rules: dict[int, list[tuple[int, int]]]) -> int:
    """Return how many calls a grammar expands to. Raises TraceFormatError if it has no begin or no end."""
    under_way: set[int] = set()
    known: dict[int, int] = {}

    def length(rule: int) -> int:
        if rule not in known:
            if rule in under_way or rule not in rules:
                raise TraceFormatError(f"{path} is damaged: its grammar does not end", _DAMAGED)
            under_way.add(rule)
            known[rule] = sum(times * (1 if symbol >= 0 else length(symbol)) for symbol, times in rules[rule])
        return known[rule]

    try:
        return length(_START_RULE)
    except RecursionError:
        raise TraceFormatError(f"{path} is damaged: its grammar is too deep", _DAMAGED) from None


def _ops(log: _Log, rank: int, files: Files, base: str | None, tally: Tally) -> Iterator[pa.RecordBatch]:
    """Yield the ops of one rank."""
    signatures, calls, times = log.order(rank)
    starts = np.cumsum(times["start"], dtype=np.uint64)
    took = times["end"].astype(np.int64) - times["start"].astype(np.int64)
    begin = log.start_ns + np.rint(starts * log.resolution_ns).astype(np.int64)
    latency = np.rint(took * log.resolution_ns).astype(np.int64)
    threads = Streams()
    named = cache(lambda path: from_name(path, base))
    for first in range(0, max(len(calls), 1), _BATCH_ROWS):
        rows = []
        lines = []
        chosen = slice(first, first + _BATCH_ROWS)
        each = zip(calls[chosen].tolist(), begin[chosen].tolist(), latency[chosen].tolist(), strict=True)
        for line, (number, at_ns, took_ns) in enumerate(each, first + 1):
            called = signatures[number]
            worker = threads.number(called.thread)
            try:
                found = files.ops(called)
            except ValueError as error:
                tally.bad(line, f"{called.name} of rank {rank}: {error}")
                continue
            for op, path, offset, length, to_path in found:
                to_uri = None if to_path is None else named(to_path)
                rows.append((at_ns, named(path), op, offset, length, took_ns, rank, worker, to_uri))
                lines.append(line)
        values = list(zip(*rows, strict=True)) if rows else [()] * len(_COLUMNS)
        yield batch_of(dict(zip(_COLUMNS, values, strict=True)), lines, tally)
