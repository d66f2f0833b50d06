"""Reads fio iologs of versions 2 and 3, and writes version 3.

An iolog is one sequence of requests on local files, without latencies, streams or outcomes.
An import leaves these null, and an export notes that they are lost. `fio_lines.sql` makes the lines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from tracekit.errors import TraceFormatError
from tracekit.formats.base import Carries, ExportOptions, ImportOptions, Tally
from tracekit.formats.sound import MAX_INT, batch_of
from tracekit.formats.text.lines import ahead, blocks, decoded_lines
from tracekit.sql import load_sql
from tracekit.store.reader import TraceReader
from tracekit.store.statements import select, streamed, value_errors
from tracekit.uri import from_name

__all__ = ["Fio"]

_OPS = {"read": "read", "write": "write", "sync": "sync", "datasync": "sync", "sync_file_range": "sync"}
_FILE_ACTIONS = ("add", "open", "close")
_NO_COUNTERPART = ("trim", "syncfs")
_NAME_MAX_BYTES = 255
_LENGTH_MAX_BYTES = 2**32 - 1
_PIECE_BYTES = 1 << 30
_BATCH_ROWS = 65_536
_LEFT_OUT = {
    "unfit": "failed ops, ops without an offset or length, and kinds that an iolog has no word for",
    "unnamed": "ops on names that fio cannot read (spaces, or longer than 255 bytes)",
}


class Fio:
    """Reads iologs of version 2 and 3; writes version 3, which fio replays with `--read_iolog`."""

    name = "fio"
    about = "fio iolog (reads v2 and v3, writes v3): offsets and times, no latencies"
    carries = Carries(
        "us, from the start",
        latency="no",
        streams="no",
        errors="no",
        completeness="files not closed",
        reads="v2 and v3",
        writes="v3",
    )

    def read(self, source: Path, tally: Tally, options: ImportOptions) -> Iterator[pa.RecordBatch]:
        """As the protocol says; times count from the start of the run."""
        state: _Reading | None = None
        rows = 0
        for block in ahead(blocks(source, tally)):
            lines = decoded_lines(block, tally)
            if state is None:
                state = _Reading(_version(source, lines), options, tally)
            batch = state.ops(lines)
            rows += batch.num_rows
            yield batch
        if state is None or not rows:
            raise TraceFormatError(f"{source} contains no read or write", "give an iolog of version 2 or 3")
        if state.open_now:
            tally.lost(
                f"the log ends while {len(state.open_now)} of its files are open: fio closes them, so it may be cut short"
            )
        if state.waits and options.wait_unit == "ms":
            tally.note(
                "waits are ms since the job's start, as fio replays them; wait_unit=us reads them as relative us"
            )
        elif state.waits:
            tally.note(
                "waits are us since the line before, as fio's manual says; fio itself replays them otherwise"
            )

    def write(self, trace: TraceReader, sink: BinaryIO, tally: Tally, options: ExportOptions) -> int:
        """As the protocol says. Times start at 1 us; a request of 4 GiB or more is split."""
        sink.write(b"fio version 3 iolog\n")
        sql = load_sql("tracekit.formats", "fio_lines")
        given = {"name_max": _NAME_MAX_BYTES, "length_max": _LENGTH_MAX_BYTES, "piece_bytes": _PIECE_BYTES}
        done = split = 0
        remote = False
        left: Counter[str] = Counter()
        with closing(trace.connect()) as connection, value_errors(trace.path):
            for batch in streamed(select(connection, sql, given), _BATCH_ROWS):
                lines, why, pieces, objects = batch.columns
                sink.write("".join(pc.drop_null(lines).to_pylist()).encode())
                left.update(pc.drop_null(why).to_pylist())
                done += pc.sum(pc.greater(pieces, 0)).as_py() or 0
                split += pc.sum(pc.greater(pieces, 1)).as_py() or 0
                remote = remote or bool(pc.any(objects).as_py())
        for word, reason in _LEFT_OUT.items():
            if left[word]:
                tally.note(f"{left[word]} ops left out: {reason}")
        if split:
            tally.note(f"{split} requests of 4 GiB or more are split into pieces of 1 GiB")
        if remote:
            tally.note("objects become relative paths SCHEME/BUCKET/KEY: give fio its option directory")
        tally.note("an iolog is one sequence: streams, latencies, samples and steps are not in it")
        return done


class _Reading:
    """State kept from block to block: the clock of version 2, and the files that are open."""

    def __init__(self, version: int, options: ImportOptions, tally: Tally) -> None:
        self.version = version
        self._base = options.base
        self._relative = options.wait_unit == "us"
        self.waits = 0
        self.open_now: set[str] = set()
        self._tally = tally
        self._waited_us = 0

    def ops(self, lines: Iterator[tuple[int, str]]) -> pa.RecordBatch:
        """Return the data ops of `lines`."""
        numbers: list[int] = []
        submit: list[int] = []
        uris: list[str] = []
        kinds: list[str] = []
        offsets: list[int | None] = []
        lengths: list[int | None] = []
        for number, text in lines:
            fields = text.split()
            at_us: int | None = self._waited_us
            if self.version == 3:
                at_us = _integer(fields[0])
                fields = fields[1:]
            if at_us is None or len(fields) not in (2, 4):
                self._tally.bad(number, f"not an action of iolog version {self.version}")
                continue
            action = fields[1]
            if len(fields) == 2:
                if action == "open":
                    self.open_now.add(fields[0])
                elif action == "close":
                    self.open_now.discard(fields[0])
                elif action not in _FILE_ACTIONS:
                    self._tally.bad(number, f"unknown action {action[:40]!r}")
                continue
            offset, length = _integer(fields[2]), _integer(fields[3])
            if offset is None or length is None:
                self._tally.bad(number, "its offset or length is not a number in range")
            elif action == "wait" and self.version == 2:
                self.waits += 1
                at_ms = min(offset, MAX_INT) * 1000
                self._waited_us = self._waited_us + offset if self._relative else max(self._waited_us, at_ms)
            elif action in _NO_COUNTERPART:
                self._tally.left_out[action] += 1
            elif action in _OPS:
                ranged = _OPS[action] != "sync" or action == "sync_file_range"
                numbers.append(number)
                submit.append(min(at_us * 1000, MAX_INT + 1))
                uris.append(from_name(fields[0], self._base))
                kinds.append(_OPS[action])
                offsets.append(offset if ranged else None)
                lengths.append(length if ranged else None)
            else:
                self._tally.bad(number, f"unknown action {action[:40]!r}")
        columns: dict[str, Sequence[object]] = {
            "t_submit": submit,
            "uri": uris,
            "op": kinds,
            "offset": offsets,
            "len": lengths,
        }
        return batch_of(columns, numbers, self._tally)


def _version(source: Path, lines: Iterator[tuple[int, str]]) -> int:
    for _, text in lines:
        words = text.split()
        if (
            len(words) == 4
            and words[:2] == ["fio", "version"]
            and words[3] == "iolog"
            and words[2] in ("2", "3")
        ):
            return int(words[2])
        break
    raise TraceFormatError(
        f"{source} is not a fio iolog", "its first line must be `fio version 2 iolog` or 3"
    )


def _integer(text: str) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        return None
    value = int(text)
    return value if value <= MAX_INT else None
