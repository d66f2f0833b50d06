"""Bytes moved, streams and names of a trace, from the metadata of its segments.

Segments that tracekit wrote have them in their metadata, and a seal. If one does not (a journal, a file of
another tool, which may have copied the metadata of a segment), a query over the ops computes them.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tracekit.schema import DATA_KINDS, META_PREFIX
from tracekit.sql import load_sql
from tracekit.store.fingerprint import FINGERPRINT, fingerprint_of
from tracekit.store.locate import literal
from tracekit.store.memory import bounded, memory_bytes
from tracekit.store.opening import SegmentInfo
from tracekit.store.reader import TraceReader
from tracekit.store.statements import value_errors

__all__ = ["DESCRIBED", "Totals", "describe_segment", "distinct_uris", "moved_bytes", "stream_keys", "totals"]

_MOST_STREAMS = 4096
"""A segment with more streams does not list them in its footer; a query counts them."""
_LEAST_OPS = 100_000
_MOST_TEXT = 8 << 10
"""A segment of fewer ops, or whose names have more bytes as JSON, does not list them; a query finds them."""
DESCRIBED = frozenset(
    f"{META_PREFIX}{key}".encode() for key in ("bytes", "streams", "kinds", "uris", FINGERPRINT)
)
"""The metadata of a segment that says what its ops are, and is of these ops alone."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Bytes moved, as the column `bytes` of the view `ops` adds up, and the number of streams (rank, worker)."""

    bytes: int
    streams: int


def describe_segment(table: pa.Table) -> dict[bytes, bytes]:
    """Return the metadata with the totals and the fingerprint of the (conforming) ops of a segment, whose dictionaries are unified."""
    rank, worker = (pc.fill_null(table.column(name), 0).to_numpy() for name in ("rank", "worker"))
    streams = pc.unique(pa.array(stream_keys(rank, worker))).to_numpy()
    table = table.set_column(table.column_names.index("bytes"), "bytes", moved_bytes(table))
    moved = pc.sum(table.column("bytes")).as_py() or 0
    described = {"bytes": str(moved), FINGERPRINT: fingerprint_of(table)}
    if len(streams) <= _MOST_STREAMS:
        known = zip((streams >> 32).tolist(), streams.astype(np.int32).tolist(), strict=True)
        described["streams"] = json.dumps(sorted(known))
    described["kinds"] = json.dumps(sorted(pc.unique(table.column("op").cast(pa.string())).to_pylist()))
    if len(table) >= _LEAST_OPS:
        names = pc.unique(table.column("uri"))
        text = json.dumps(names.to_pylist()) if len(names) < _MOST_TEXT else ""
        if 0 < len(text) <= _MOST_TEXT:
            described["uris"] = text
    return {f"{META_PREFIX}{key}".encode(): value.encode() for key, value in described.items()}


def stream_keys(rank: np.ndarray, worker: np.ndarray) -> np.ndarray:
    """Return one number for each stream: the rank in the upper 32 bits, the worker in the lower ones."""
    found: np.ndarray = rank.astype(np.int64) << 32 | (worker.astype(np.int64) & 0xFFFFFFFF)
    return found


def moved_bytes(ops: pa.Table) -> pa.ChunkedArray:
    """Return the bytes that each op moved, as the view `ops` has them: `len` where a whole op does not say."""
    moved = ops.column("bytes")
    if not moved.null_count:
        return moved
    ended = pc.and_(pc.is_valid(ops.column("latency")), pc.is_null(ops.column("error")))
    moving = pc.is_in(ops.column("op").cast(pa.string()), pa.array(DATA_KINDS))
    return pc.coalesce(moved, pc.if_else(pc.and_(ended, moving), ops.column("len"), None))


def totals(reader: TraceReader) -> Totals:
    """Return the totals of a trace. Raises TraceFormatError for values that no op can have."""
    described = [_described(segment) for segment in reader.segments if segment.rows]
    known = [each for each in described if each is not None]
    if len(known) == len(described):
        return Totals(sum(moved for moved, _ in known), len(set().union(*(streams for _, streams in known))))
    sql = load_sql("tracekit.store", "totals")
    with closing(reader.connect()) as connection, value_errors(reader.path):
        moved, streams = connection.execute(sql).fetchone() or (0, 0)
    return Totals(int(moved), int(streams))


def distinct_uris(reader: TraceReader, kinds: Collection[str]) -> tuple[str, ...]:
    """Return the URIs of the ops of these kinds, each once, in order."""
    full = [segment for segment in reader.segments if segment.rows]
    if full and all(segment.by_name and _kinds(segment) <= set(kinds) for segment in full):
        lists = {segment.path: segment.metadata.get("uris") if segment.sealed else None for segment in full}
        found = _read_uris([literal(path) for path, listed in lists.items() if listed is None], reader)
        return tuple(sorted(found.union(*(json.loads(listed) for listed in lists.values() if listed))))
    with closing(reader.connect()) as connection, value_errors(reader.path):
        rows = connection.execute(load_sql("tracekit.store", "uris"), {"kinds": list(kinds)}).fetchall()
    return tuple(uri for (uri,) in rows)


def _read_uris(files: list[str], reader: TraceReader) -> set[str]:
    """Return the URIs in Parquet files: one column as it is, a fourth of the time that the view takes."""
    if not files:
        return set()
    with closing(bounded(memory_bytes())) as connection, value_errors(reader.path):
        rows = connection.read_parquet(files, union_by_name=True).project("uri").distinct().fetchall()
    return {uri for (uri,) in rows}


def _kinds(segment: SegmentInfo) -> set[str]:
    """Return the op kinds in a segment; one that is no kind if that is not known."""
    known = segment.metadata.get("kinds") if segment.sealed else None
    return {""} if known is None else set(json.loads(known))


def _described(segment: SegmentInfo) -> tuple[int, set[tuple[int, int]]] | None:
    bytes_, streams = (segment.metadata.get(key) if segment.sealed else None for key in ("bytes", "streams"))
    if bytes_ is None or streams is None:
        return None
    return int(bytes_), {(rank, worker) for rank, worker in json.loads(streams)}
