"""Writes op logs in the columns that warp and s3dlio share; `oplog` reads them.

Neither format has offsets, samples or steps, and an op that never ended has no row in them.
Notes say what is lost.
"""

from __future__ import annotations

from typing import BinaryIO

import polars as pl
import pyarrow as pa

from tracekit.formats.base import Tally
from tracekit.formats.text.delimited import LINE_ENDS, one_line
from tracekit.store.reader import TraceReader

__all__ = ["WARP_COLUMNS", "write_oplog"]

WARP_COLUMNS = (
    "idx", "thread", "op", "client_id", "n_objects", "bytes", "endpoint", "file", "error", "start", "first_byte",
    "last_byte", "end", "duration_ns", "cat",
)  # fmt: skip
_WORDS = {"read": "GET_RANGE", "get": "GET", "put": "PUT", "list": "LIST", "stat": "STAT", "delete": "DELETE"}
_NEEDED = ["t_submit", "uri", "op", "bytes", "latency", "ttfb", "rank", "worker", "error"]
_RFC3339 = "%Y-%m-%dT%H:%M:%S%.9fZ"


def write_oplog(
    trace: TraceReader,
    sink: BinaryIO,
    tally: Tally,
    columns: tuple[str, ...],
    *,
    range_word: str = "GET_RANGE",
) -> int:
    """Write the ops of `trace` in order of submission as `columns`; how many were written."""
    sink.write(("\t".join(columns) + "\n").encode())
    done = left_out = torn = 0
    words = {**_WORDS, "read": range_word}
    for batch in trace.batches(_NEEDED):
        named = one_line(batch)
        torn += batch.num_rows - named.num_rows
        rows = _rows(named, trace.epoch_unix_ns or 0, words, done)
        sink.write(rows.select(columns).write_csv(None, include_header=False, separator="\t").encode())
        done += rows.height
        left_out += named.num_rows - rows.height
    if left_out:
        tally.note(f"{left_out} ops left out: hints, and ops that never ended, have no row in this format")
    if torn:
        tally.note(LINE_ENDS.format(torn))
    tally.note("offsets, lengths asked for, sample_id and step have no column in this format")
    return done


def _rows(batch: pa.RecordBatch, epoch_unix_ns: int, words: dict[str, str], first: int) -> pl.DataFrame:
    frame = pl.DataFrame(batch).filter(pl.col("op").is_in(list(words)) & pl.col("latency").is_not_null())
    start = pl.col("t_submit") + epoch_unix_ns
    end = start + pl.col("latency")
    # The endpoint is the scheme, and for an object store the bucket: what parts a key from a URI.
    local = pl.col("uri").str.contains(r"^(?:file|direct)://")
    endpoint = pl.when(local).then(pl.col("uri").str.extract(r"^([a-z]+://)")).otherwise(
        pl.col("uri").str.extract(r"^([A-Za-z][A-Za-z0-9+.-]*://[^/]*/?)")
    )  # fmt: skip
    return frame.with_row_index("idx", offset=first).select(
        idx="idx",
        thread="worker",
        op=pl.col("op").replace(words),
        client_id=pl.format("rank{}", "rank"),
        n_objects=pl.lit(1),
        bytes=pl.col("bytes").fill_null(0),
        endpoint=endpoint.fill_null(""),
        file=pl.col("uri").str.slice(endpoint.fill_null("").str.len_chars()),
        error="error",
        start=_time(start),
        first_byte=_time(start + pl.col("ttfb")),
        last_byte=pl.when(pl.col("error").is_null()).then(_time(end)),
        end=_time(end),
        duration_ns="latency",
        cat=pl.lit(0),
    )


def _time(ns: pl.Expr) -> pl.Expr:
    return pl.from_epoch(ns, time_unit="ns").dt.strftime(_RFC3339)
