"""Chrome trace JSON, for Perfetto and chrome://tracing: streams as tracks, ops as slices.

Ops of one stream that overlap get lanes of their own, because slices of one track must
nest. Queue depth and bytes in flight are counters, exact for small traces and the maximum
of each window for large ones.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator
from contextlib import closing
from typing import BinaryIO

import polars as pl
import pyarrow as pa

from tracekit.formats.base import Carries, ExportOptions, Tally
from tracekit.metrics.library import install
from tracekit.sql import load_sql
from tracekit.store.reader import TraceReader
from tracekit.store.statements import select

__all__ = ["Chrome"]

_COUNTER_POINTS = 20_000
_COUNTERS_PID = 1_000_000


class Chrome:
    """Writes one JSON object with `traceEvents`; times in us."""

    name = "chrome"
    about = "Chrome trace JSON for Perfetto: streams as tracks, ops as slices, queue depth as counter"
    carries = Carries(
        "ns, from the start",
        offset="as argument",
        length="as argument",
        samples="as argument",
        errors="as argument",
    )

    def write(self, trace: TraceReader, sink: BinaryIO, tally: Tally, options: ExportOptions) -> int:
        """As the protocol says."""
        lanes = _Lanes()
        done = unfinished = 0
        about = {"trace_id": trace.trace_id, "source": trace.source, "epoch_unix_ns": trace.epoch_unix_ns}
        sink.write(
            b'{"displayTimeUnit":"ms","otherData":' + json.dumps(about).encode() + b',"traceEvents":[\n'
        )
        sink.write(_event("process_name", _COUNTERS_PID, 0, {"name": "storage"}).encode())
        for batch in trace.batches():
            frame = pl.DataFrame(batch)
            ended = frame.filter(pl.col("latency").is_not_null())
            unfinished += frame.height - ended.height
            for text in _slices(ended, lanes):
                sink.write(text.encode())
            done += ended.height
        for text in (*lanes.names(), *_counters(trace)):
            sink.write(text.encode())
        sink.write(b"\n]}\n")
        if unfinished:
            tally.note(f"{unfinished} ops left out: they never ended, so they have no length in time")
        return done


class _Lanes:
    """Which lane of its stream an op goes to: the first that is free when it starts."""

    def __init__(self) -> None:
        self._busy: dict[tuple[int, int], list[tuple[int, int]]] = {}
        self._free: dict[tuple[int, int], list[int]] = {}
        self._tracks: dict[tuple[int, int, int], int] = {}

    def tids(self, frame: pl.DataFrame) -> list[int]:
        """The track id of each op of `frame`, which is in order of `t_submit`."""
        found = []
        for rank, worker, start, latency in frame.select("rank", "worker", "t_submit", "latency").iter_rows():
            stream = (rank, worker)
            busy = self._busy.setdefault(stream, [])
            free = self._free.setdefault(stream, [])
            while busy and busy[0][0] <= start:
                heapq.heappush(free, heapq.heappop(busy)[1])
            lane = heapq.heappop(free) if free else len(busy)
            heapq.heappush(busy, (start + latency, lane))
            found.append(self._tid(stream, lane))
        return found

    def names(self) -> Iterator[str]:
        """Metadata events that name every process and track."""
        for rank in sorted({rank for rank, _, _ in self._named}):
            yield _event("process_name", rank, 0, {"name": f"rank {rank}"})
        for order, (rank, worker, lane) in enumerate(self._named):
            label = f"worker {worker}" + (f", lane {lane}" if lane else "")
            tid = self._tid((rank, worker), lane)
            yield _event("thread_name", rank, tid, {"name": label})
            yield _event("thread_sort_index", rank, tid, {"sort_index": order})

    @property
    def _named(self) -> list[tuple[int, int, int]]:
        lanes = {stream: len(self._busy[stream]) + len(self._free[stream]) for stream in self._busy}
        return [
            (rank, worker, lane) for (rank, worker), many in sorted(lanes.items()) for lane in range(many)
        ]

    def _tid(self, stream: tuple[int, int], lane: int) -> int:
        return self._tracks.setdefault((*stream, lane), len(self._tracks) + 1)


def _slices(frame: pl.DataFrame, lanes: _Lanes) -> Iterator[str]:
    if not frame.height:
        return
    names = frame.select(pl.col("uri").unique())
    quoted = names.with_columns(
        uri_json=pl.Series([json.dumps(uri) for uri in names["uri"]], dtype=pl.String),
        leaf=pl.Series(
            [json.dumps(uri.rstrip("/").rsplit("/", 1)[-1][:80])[1:] for uri in names["uri"]], dtype=pl.String
        ),
    )
    shown = [
        pl.when(pl.col(name).is_not_null()).then(pl.concat_str(pl.lit(f',"{label}":'), name)).otherwise(pl.lit(""))
        for name, label in (
            ("offset", "offset_bytes"), ("len", "len_bytes"), ("bytes", "bytes"), ("ttfb", "ttfb_ns"),
            ("sample_id", "sample_id"), ("step", "step"),
        )
    ]  # fmt: skip
    error = pl.when(pl.col("error").is_not_null()).then(pl.format(',"error":"{}"', _word("error")))
    lines = (
        frame.with_columns(_word("op"), tid=pl.Series(lanes.tids(frame), dtype=pl.Int64))
        .join(quoted, on="uri", how="left", maintain_order="left")
        .select(
            pl.concat_str(
                *_between(
                    (',\n{"ph":"X","cat":"', "op"), ('","name":"', "op"), (" ", "leaf"), (',"pid":', "rank"),
                    (',"tid":', "tid"), (',"ts":', _us("t_submit")), (',"dur":', _us("latency")),
                    (',"args":{"uri":', "uri_json"),
                ),
                *shown, error.otherwise(pl.lit("")), pl.lit("}}"),
            )
        )
    )  # fmt: skip
    yield "".join(lines.to_series().to_list())


def _between(*pairs: tuple[str, str | pl.Expr]) -> list[pl.Expr]:
    """Each text, then its column."""
    return [
        part
        for text, value in pairs
        for part in (pl.lit(text), pl.col(value) if isinstance(value, str) else value)
    ]


def _word(column: str) -> pl.Expr:
    """A class as JSON can hold it unquoted: foreign logs may say anything."""
    return pl.col(column).str.replace_all(r"[^\w .-]", "_")


def _us(column: str) -> pl.Expr:
    ns = pl.col(column)
    sign = pl.when(ns < 0).then(pl.lit("-")).otherwise(pl.lit(""))
    return pl.format("{}{}.{}", sign, ns.abs() // 1000, (ns.abs() % 1000).cast(pl.String).str.zfill(3))


def _counters(trace: TraceReader) -> Iterator[str]:
    sql = load_sql("tracekit.formats", "in_flight")
    with closing(trace.connect()) as connection:
        install(connection)
        for batch in select(connection, sql, {"points": _COUNTER_POINTS}).to_arrow_reader(65_536):
            yield from _counter_events(batch)


def _counter_events(batch: pa.RecordBatch) -> Iterator[str]:
    for at, ops, size in zip(*(batch.column(i).to_pylist() for i in range(3)), strict=True):
        sign = "-" if at < 0 else ""
        head = (
            f',\n{{"ph":"C","pid":{_COUNTERS_PID},"tid":0,"ts":{sign}{abs(at) // 1000}.{abs(at) % 1000:03d}'
        )
        yield f'{head},"name":"queue depth","args":{{"ops":{ops}}}}}'
        yield f'{head},"name":"bytes in flight","args":{{"bytes":{size}}}}}'


def _event(name: str, pid: int, tid: int, args: dict[str, object]) -> str:
    comma = "" if pid == _COUNTERS_PID else ",\n"
    return comma + json.dumps(
        {"ph": "M", "name": name, "pid": pid, "tid": tid, "args": args}, separators=(",", ":")
    )
