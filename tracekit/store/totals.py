"""Bytes moved and streams of a trace, from the metadata of its segments.

Segments that tracekit wrote have both in their metadata. If one does not (a journal, a file of another tool),
a query over the ops computes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tracekit.schema import DATA_KINDS, META_PREFIX
from tracekit.sql import load_sql
from tracekit.store.reader import TraceReader
from tracekit.store.statements import value_errors

__all__ = ["Totals", "describe_segment", "totals"]

_MOST_STREAMS = 4096
"""A segment with more streams does not list them in its footer; a query counts them."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Bytes moved, as the column `bytes` of the view `ops` adds up, and the number of streams (rank, worker)."""

    bytes: int
    streams: int


def describe_segment(table: pa.Table) -> dict[bytes, bytes]:
    """Return the metadata with the totals of the (conforming) ops of a segment."""
    moved = table.column("bytes")
    if moved.null_count:
        ended = pc.and_(pc.is_valid(table.column("latency")), pc.is_null(table.column("error")))
        moving = pc.is_in(table.column("op").cast(pa.string()), pa.array(DATA_KINDS))
        moved = pc.coalesce(moved, pc.if_else(pc.and_(ended, moving), table.column("len"), None))
    rank, worker = (pc.fill_null(table.column(name), 0).to_numpy() for name in ("rank", "worker"))
    pairs = rank.astype(np.int64) << 32 | worker.view(np.uint32)
    streams = pc.unique(pa.array(pairs)).to_numpy()
    described = {"bytes": str(pc.sum(moved).as_py() or 0)}
    if len(streams) <= _MOST_STREAMS:
        known = zip((streams >> 32).tolist(), streams.astype(np.int32).tolist(), strict=True)
        described["streams"] = json.dumps(sorted(known))
    return {f"{META_PREFIX}{key}".encode(): value.encode() for key, value in described.items()}


def totals(reader: TraceReader) -> Totals:
    """Return the totals of a trace. Raises TraceFormatError for values that no op can have."""
    described = [_described(segment.metadata) for segment in reader.segments if segment.rows]
    known = [each for each in described if each is not None]
    if len(known) == len(described):
        return Totals(sum(moved for moved, _ in known), len(set().union(*(streams for _, streams in known))))
    sql = load_sql("tracekit.store", "totals")
    with closing(reader.connect()) as connection, value_errors(reader.path):
        moved, streams = connection.execute(sql).fetchone() or (0, 0)
    return Totals(int(moved), int(streams))


def _described(metadata: Mapping[str, str]) -> tuple[int, set[tuple[int, int]]] | None:
    try:
        return int(metadata["bytes"]), {(rank, worker) for rank, worker in json.loads(metadata["streams"])}
    except (KeyError, ValueError, TypeError):  # absent, or written by another tool
        return None
