"""Writes op logs in the columns that warp and s3dlio share; `oplog` reads them.

Neither format has offsets, samples or steps, and an op without a latency has no row in them.
Notes say what is lost. `oplog_rows.sql` makes the rows.
"""

from __future__ import annotations

from contextlib import closing
from typing import BinaryIO

import pyarrow.csv as pacsv

from tracekit.formats.base import Tally
from tracekit.formats.text.delimited import LINE_ENDS
from tracekit.sql import load_sql
from tracekit.store.reader import TraceReader
from tracekit.store.statements import select, streamed, value_errors

__all__ = ["WARP_COLUMNS", "write_oplog"]

WARP_COLUMNS = (
    "idx",
    "thread",
    "op",
    "client_id",
    "n_objects",
    "bytes",
    "endpoint",
    "file",
    "error",
    "start",
    "first_byte",
    "last_byte",
    "end",
    "duration_ns",
    "cat",
)
_WORDS = {
    "read": "GET_RANGE",
    "get": "GET",
    "put": "PUT",
    "write": "PUT",
    "part": "PUTPART",
    "list": "LIST",
    "stat": "STAT",
    "delete": "DELETE",
}
_COUNTS = r"""
    SELECT count(*) FILTER (regexp_matches(uri, '[\n\r\x00]')) AS torn, count(*) FILTER (op = 'write') AS ranges,
        count(*) FILTER (bytes IS NULL AND latency IS NOT NULL AND op IN ('read', 'get', 'write', 'put', 'part')) AS silent
    FROM ops
"""
_BATCH_ROWS = 65_536


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
    done = 0
    words = {**_WORDS, "read": range_word}
    given = {"epoch_unix_ns": trace.epoch_unix_ns or 0, "kinds": list(words), "words": list(words.values())}
    form = pacsv.WriteOptions(include_header=False, delimiter="\t", quoting_style="needed")
    with closing(trace.connect()) as connection, value_errors(trace.path):
        rows = select(connection, load_sql("tracekit.formats", "oplog_rows"), given)
        for batch in streamed(rows, _BATCH_ROWS):
            pacsv.write_csv(batch.select(list(columns)), sink, form)
            done += batch.num_rows
    torn, ranges, silent = trace.query(_COUNTS).to_pylist()[0].values()
    if trace.rows > done + torn:
        tally.note(
            f"{trace.rows - done - torn} ops left out: ops without a latency, and kinds that the format has no word for"
        )
    if torn:
        tally.note(LINE_ENDS.format(torn))
    if silent:
        tally.note(
            f"{silent} ops do not say what they moved: the log has 0 for it, since it has no word for unknown"
        )
    if ranges:
        tally.note(f"{ranges} writes of a range become {_WORDS['write']}, which stands for a whole object")
    tally.note("offsets, lengths asked for, sample_id and step have no column in this format")
    return done
