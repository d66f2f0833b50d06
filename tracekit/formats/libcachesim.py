"""Writes libCacheSim's oracleGeneral: requests with the time of the next request for the same object.

Packed little-endian records of 24 bytes: time (s), object id, object size, and the index of
the object's next request (-1: none). Only reads; names, streams and latencies are not in it.
"""

from __future__ import annotations

from contextlib import closing
from typing import BinaryIO

import numpy as np

from tracekit.errors import UsageError
from tracekit.formats.base import Carries, ExportOptions, Tally
from tracekit.sql import load_sql
from tracekit.store.reader import TraceReader
from tracekit.store.statements import select, streamed, value_errors
from tracekit.validation import choosing

__all__ = ["RECORD", "LibCacheSim"]

RECORD = np.dtype(
    [("time_s", "<u4"), ("object_id", "<u8"), ("size_bytes", "<u4"), ("next_request", "<i8")], align=False
)
"""One request."""

_OBJECTS = ("range", "uri")
_SIZE_MAX = 2**32 - 1


class LibCacheSim:
    """Writes oracleGeneral, which libCacheSim reads with its type `oracleGeneral`."""

    name = "libcachesim"
    about = "libCacheSim oracleGeneral (binary): reads with the time of each object's next one"
    carries = Carries(
        "1 s",
        latency="no",
        offset="in the object's id",
        length="largest of an object",
        streams="no",
        errors="no",
    )

    def write(self, trace: TraceReader, sink: BinaryIO, tally: Tally, options: ExportOptions) -> int:
        """As the protocol says. An object is a byte range of a file, or (`object_by="uri"`) the file."""
        if options.object_by not in _OBJECTS:
            raise UsageError(
                f"object_by={options.object_by!r} is unknown", choosing(options.object_by, _OBJECTS)
            )
        sql = load_sql("tracekit.formats", "next_use")
        done = 0
        with closing(trace.connect()) as connection, value_errors(trace.path):
            result = select(connection, sql, {"by_uri": options.object_by == "uri"})
            for batch in streamed(result, 262_144):
                records = np.empty(batch.num_rows, RECORD)
                for name in RECORD.names or ():
                    values = batch.column(name).to_numpy(zero_copy_only=False)
                    records[name] = np.minimum(values, _SIZE_MAX) if name == "size_bytes" else values
                sink.write(records.tobytes())
                done += len(records)
        if trace.rows > done:
            tally.note(f"{trace.rows - done} ops left out: not reads, failed, or without a size")
        tally.note("times are whole seconds; names, offsets, streams and latencies are not in it")
        return done
