"""Chrome trace JSON, for Perfetto and chrome://tracing: streams as tracks, ops as slices.

Ops of one stream that overlap get lanes of their own, because slices of one track must
nest. Queue depth and bytes in flight are counters, exact for small traces and the maximum
of each window for large ones.
"""

from __future__ import annotations

import heapq
import json
import re
from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from tracekit.formats.base import Carries, ExportOptions, Tally
from tracekit.metrics.measuring import measuring
from tracekit.sql import load_sql
from tracekit.store.reader import TraceReader
from tracekit.store.statements import select, streamed

__all__ = ["Chrome"]

_COUNTER_POINTS = 20_000
_COUNTERS_PID = 1_000_000
_NO_WORD = re.compile(r"[^\w .-]")
_SHOWN = (
    ("offset", "offset_bytes"),
    ("len", "len_bytes"),
    ("bytes", "bytes"),
    ("ttfb", "ttfb_ns"),
    ("tries", "tries"),
    ("wait_ns", "wait_ns"),
    ("part", "part"),
    ("sample_id", "sample_id"),
    ("step", "step"),
)


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
            ended = batch.filter(pc.is_valid(batch.column("latency")))
            unfinished += batch.num_rows - ended.num_rows
            sink.write(_slices(ended, lanes).encode())
            done += ended.num_rows
        for text in (*lanes.names(), *_counters(trace)):
            sink.write(text.encode())
        sink.write(b"\n]}\n")
        if unfinished:
            tally.note(f"{unfinished} ops left out: they have no latency, and so no length in time")
        return done


class _Lanes:
    """Which lane of its stream an op goes to: the first that is free when it starts."""

    def __init__(self) -> None:
        self._busy: dict[tuple[int, int], list[tuple[int, int]]] = {}
        self._free: dict[tuple[int, int], list[int]] = {}
        self._tracks: dict[tuple[int, int, int], int] = {}

    def tid(self, stream: tuple[int, int], start: int, latency: int) -> int:
        """Return the track id of an op; ops come in order of `t_submit`."""
        busy = self._busy.setdefault(stream, [])
        free = self._free.setdefault(stream, [])
        while busy and busy[0][0] <= start:
            heapq.heappush(free, heapq.heappop(busy)[1])
        lane = heapq.heappop(free) if free else len(busy)
        heapq.heappush(busy, (start + latency, lane))
        return self._tid(stream, lane)

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


def _slices(batch: pa.RecordBatch, lanes: _Lanes) -> str:
    """Return the events of the ops of `batch`, each behind a comma."""
    uris = batch.column("uri").cast(pa.string()).dictionary_encode()
    names = [
        (json.dumps(uri), json.dumps(uri.rstrip("/").rsplit("/", 1)[-1][:80])[1:])
        for uri in uris.dictionary.to_pylist()
    ]
    shown = [(label, batch.column(name).to_pylist()) for name, label in _SHOWN]
    columns = ("op", "rank", "worker", "t_submit", "latency", "error", "to_uri")
    values = (batch.column(name).to_pylist() for name in columns)
    lines = []
    for row, (place, op, rank, worker, start, latency, error, to_uri) in enumerate(
        zip(uris.indices.to_pylist(), *values, strict=True)
    ):
        uri, leaf = names[place]
        tid = lanes.tid((rank, worker), start, latency)
        args = "".join(f',"{label}":{given[row]}' for label, given in shown if given[row] is not None)
        args += "" if to_uri is None else f',"to_uri":{json.dumps(to_uri)}'
        args += "" if error is None else f',"error":"{_word(error)}"'
        lines.append(
            f',\n{{"ph":"X","cat":"{_word(op)}","name":"{_word(op)} {leaf},"pid":{rank},"tid":{tid}'
            f',"ts":{_us(start)},"dur":{_us(latency)},"args":{{"uri":{uri}{args}}}}}'
        )
    return "".join(lines)


def _word(text: str) -> str:
    """Return a class as JSON can hold it unquoted: foreign logs may say anything."""
    return _NO_WORD.sub("_", text)


def _us(ns: int) -> str:
    return f"{'-' if ns < 0 else ''}{abs(ns) // 1000}.{abs(ns) % 1000:03d}"


def _counters(trace: TraceReader) -> Iterator[str]:
    sql = load_sql("tracekit.formats", "in_flight")
    with measuring(trace, sql) as connection:
        for batch in streamed(select(connection, sql, {"points": _COUNTER_POINTS}), 65_536):
            yield from _counter_events(batch)


def _counter_events(batch: pa.RecordBatch) -> Iterator[str]:
    for at, ops, size in zip(*(batch.column(i).to_pylist() for i in range(3)), strict=True):
        head = f',\n{{"ph":"C","pid":{_COUNTERS_PID},"tid":0,"ts":{_us(at)}'
        yield f'{head},"name":"queue depth","args":{{"ops":{ops}}}}}'
        yield f'{head},"name":"bytes in flight","args":{{"bytes":{size}}}}}'


def _event(name: str, pid: int, tid: int, args: dict[str, object]) -> str:
    comma = "" if pid == _COUNTERS_PID else ",\n"
    return comma + json.dumps(
        {"ph": "M", "name": name, "pid": pid, "tid": tid, "args": args}, separators=(",", ":")
    )
