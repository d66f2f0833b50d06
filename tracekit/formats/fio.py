"""Reads fio iologs of versions 2 and 3, and writes version 3.

An iolog is one sequence of requests on local files, without latencies, streams or outcomes.
An import leaves these null, and an export notes that they are lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import polars as pl
import pyarrow as pa

from tracekit.errors import TraceFormatError
from tracekit.formats.base import Carries, ExportOptions, ImportOptions, Tally
from tracekit.formats.sound import MAX_INT, sound_batch
from tracekit.formats.text.lines import ahead, blocks, decoded_lines
from tracekit.store.reader import TraceReader
from tracekit.uri import from_name

__all__ = ["Fio"]

_DATA = {"read": "read", "write": "put"}
_FILE_ACTIONS = ("add", "open", "close")
_NO_COUNTERPART = ("sync", "datasync", "trim", "syncfs", "sync_file_range")
_NAME_MAX_BYTES = 255
_LENGTH_MAX_BYTES = 2**32 - 1
_CHUNK_BYTES = 1 << 30
_NEEDED = ["t_submit", "uri", "op", "offset", "len", "bytes", "error"]


class Fio:
    """Reads iologs of version 2 and 3; writes version 3, which fio replays with `--read_iolog`."""

    name = "fio"
    about = "fio iolog (reads v2 and v3, writes v3): offsets and times, no latencies"
    carries = Carries("us, from the start", latency="no", streams="no", errors="no")

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
        if state.other:
            tally.note(
                "left out, which are not ops of the schema: "
                + ", ".join(f"{action} {count}" for action, count in state.other.items())
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
        last = _last_use(trace)
        sink.write(b"fio version 3 iolog\n")
        state = _Writing(last)
        for frame in _fit(trace, state):
            sink.write(state.lines(frame))
        for count, why in ((state.unfit, "lists, stats, deletes and hints, failed ops, and ops without an offset or length"),
                           (state.unnamed, "ops on names that fio cannot read (spaces, or longer than 255 bytes)")):  # fmt: skip
            if count:
                tally.note(f"{count} ops left out: {why}")
        if state.split:
            tally.note(f"{state.split} requests of 4 GiB or more are split into pieces of 1 GiB")
        if state.remote:
            tally.note("objects become relative paths SCHEME/BUCKET/KEY: give fio its option directory")
        tally.note("an iolog is one sequence: streams, latencies, samples and steps are not in it")
        return state.done


class _Reading:
    """State kept from block to block: the clock of version 2, and what was left out."""

    def __init__(self, version: int, options: ImportOptions, tally: Tally) -> None:
        self.version = version
        self.other: Counter[str] = Counter()
        self._base = options.base
        self._relative = options.wait_unit == "us"
        self.waits = 0
        self._tally = tally
        self._waited_us = 0

    def ops(self, lines: Iterator[tuple[int, str]]) -> pa.RecordBatch:
        """Return the data ops of `lines`."""
        numbers: list[int] = []
        submit: list[int] = []
        uris: list[str] = []
        kinds: list[str] = []
        offsets: list[int] = []
        lengths: list[int] = []
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
                if action not in _FILE_ACTIONS:
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
                self.other[action] += 1
            elif action in _DATA:
                numbers.append(number)
                submit.append(min(at_us * 1000, MAX_INT + 1))
                uris.append(from_name(fields[0], self._base))
                kinds.append(_DATA[action])
                offsets.append(offset)
                lengths.append(length)
            else:
                self._tally.bad(number, f"unknown action {action[:40]!r}")
        columns = {
            "t_submit": pa.array(submit, pa.int64()),
            "uri": pa.array(uris, pa.string()).dictionary_encode(),
            "op": pa.array(kinds, pa.string()).dictionary_encode(),
            "offset": pa.array(offsets, pa.int64()),
            "len": pa.array(lengths, pa.int64()),
        }
        return sound_batch(columns, np.array(numbers, np.int64), self._tally)


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


class _Writing:
    """State kept from batch to batch: open files, the first time, and what was left out."""

    def __init__(self, last: dict[str, int]) -> None:
        self.done = self.unfit = self.unnamed = self.split = 0
        self.remote = False
        self.seen = 0
        self._last = last
        self._open: set[str] = set()
        self._start_ns: int | None = None

    def lines(self, frame: pl.DataFrame) -> bytes:
        """Return the iolog lines of `frame`: each file is added and opened before its first op, and closed after its last."""
        if not frame.height:
            return b""
        if self._start_ns is None:
            self._start_ns = int(frame["t_submit"][0])
        self.done += frame.height
        frame = frame.with_columns(at=(pl.col("t_submit") - self._start_ns) // 1000 + 1)
        huge = frame["size"].max()
        if isinstance(huge, int) and huge > _LENGTH_MAX_BYTES:
            frame = self._in_pieces(frame)
        frame = frame.with_columns(
            line=pl.format("{} {} {} {} {}\n", "at", "name", pl.col("op").replace({"put": "write", "get": "read"}),
                           "from", "size")
        )  # fmt: skip
        fresh = frame.unique("name", keep="first", maintain_order=True).filter(
            ~pl.col("name").is_in(list(self._open))
        )
        self._open.update(fresh["name"])
        opened = fresh.select(
            "row",
            "piece",
            line=pl.format("{} {} add\n{} {} open\n", "at", "name", "at", "name"),
            turn=pl.lit(0),
        )
        ends = pl.DataFrame(
            {"name": list(self._last), "row": list(self._last.values())},
            schema={"name": pl.String, "row": pl.Int64},
        )
        closed = (
            frame.join(ends, on=["name", "row"], how="semi").unique("row", keep="last")
            .select("row", "piece", line=pl.format("{} {} close\n", "at", "name"), turn=pl.lit(2))
        )  # fmt: skip
        every = pl.concat([opened, frame.select("row", "piece", "line", turn=pl.lit(1)), closed])
        return "".join(every.sort("row", "piece", "turn")["line"].to_list()).encode()

    def _in_pieces(self, frame: pl.DataFrame) -> pl.DataFrame:
        pieces = (
            pl.when(pl.col("size") > _LENGTH_MAX_BYTES)
            .then((pl.col("size") - 1) // _CHUNK_BYTES + 1)
            .otherwise(1)
        )
        self.split += frame.filter(pl.col("size") > _LENGTH_MAX_BYTES).height
        spread = frame.with_columns(whole=pl.col("size"), piece=pl.int_ranges(0, pieces)).explode("piece")
        past = pl.col("piece") * _CHUNK_BYTES
        many = pl.col("whole") > _LENGTH_MAX_BYTES
        return spread.with_columns(
            size=pl.when(many)
            .then(pl.min_horizontal(pl.lit(_CHUNK_BYTES), pl.col("whole") - past))
            .otherwise("whole"),
            **{"from": pl.col("from") + past},
        )


def _fit(trace: TraceReader, state: _Writing) -> Iterator[pl.DataFrame]:
    """Yield the ops that an iolog can hold, numbered by `row`, with `name`, `from` and `size`."""
    local = pl.col("uri").str.contains(r"^(?:file|direct)://")
    whole = pl.col("op").eq("get") | (pl.col("op").eq("put") & ~local)
    name = pl.when(local).then(pl.col("uri").str.replace(r"^[a-z]+://", "")).otherwise(
        pl.col("uri").str.replace("://", "/", literal=True)
    )  # fmt: skip
    for batch in trace.batches(_NEEDED):
        frame = pl.DataFrame(batch).with_columns(
            pl.int_range(pl.len()).add(state.seen).alias("row"),
            pl.lit(0, pl.Int64).alias("piece"),
            pl.when(whole).then(pl.col("offset").fill_null(0)).otherwise("offset").alias("from"),
            pl.coalesce("len", "bytes").alias("size"),
            name.alias("name"),
        )
        state.seen += frame.height
        can = (
            pl.col("op").is_in(["read", "get", "put"]) & pl.col("from").is_not_null() & pl.col("size").gt(0)
            & pl.col("error").is_null()
        ).fill_null(value=False)  # fmt: skip
        sayable = frame.filter(can)
        state.unfit += frame.height - sayable.height
        named = sayable.filter(
            ~pl.col("name").str.contains(r"[\s\x00-\x1f]")
            & pl.col("name").str.len_bytes().is_between(1, _NAME_MAX_BYTES)
        )
        state.unnamed += sayable.height - named.height
        state.remote = state.remote or not named.select(local.all()).item()
        yield named


def _last_use(trace: TraceReader) -> dict[str, int]:
    """Return the `row` of the last op on each name that will be written."""
    last: dict[str, int] = {}
    for frame in _fit(trace, _Writing({})):
        ends = frame.group_by("name").agg(pl.col("row").max())
        last.update(zip(ends["name"], ends["row"], strict=True))
    return last
