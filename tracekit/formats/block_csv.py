"""Writes reads and writes as a CSV file of block requests, for simulators of devices and caches. See `block_csv.sql`."""

from __future__ import annotations

from contextlib import closing
from typing import BinaryIO

import pyarrow.csv as pacsv

from tracekit.formats.base import Carries, ExportOptions, Tally
from tracekit.sql import load_sql
from tracekit.store.reader import TraceReader
from tracekit.store.statements import select, streamed, value_errors

__all__ = ["BlockCsv"]

_BATCH_ROWS = 65_536
_COLUMNS = ("timestamp_us", "device", "op", "offset", "length", "latency_us")


class BlockCsv:
    """Writes `timestamp_us,device,op,offset,length,latency_us` with a header; a device is a file of the trace."""

    name = "block-csv"
    about = "CSV of block requests: timestamp_us,device,op,offset,length,latency_us"
    carries = Carries("ns, from the start", streams="no", errors="no")

    def write(self, trace: TraceReader, sink: BinaryIO, tally: Tally, options: ExportOptions) -> int:
        """As the protocol says."""
        done = 0
        sink.write((",".join(_COLUMNS) + "\n").encode())
        form = pacsv.WriteOptions(include_header=False, quoting_style="none")
        with closing(trace.connect()) as connection, value_errors(trace.path):
            rows = streamed(select(connection, load_sql("tracekit.formats", "block_csv")), _BATCH_ROWS)
            for batch in rows:
                pacsv.write_csv(batch, sink, form)
                done += batch.num_rows
        if trace.rows > done:
            tally.note(
                f"{trace.rows - done} ops left out: not reads or writes of data, failed, or without an offset or length"
            )
        tally.note("names become numbers; streams, samples and steps are not in it")
        return done
