"""The fingerprint of a recording: which ops a replay was made from."""

from __future__ import annotations

from contextlib import closing

from tracekit.sql import load_sql
from tracekit.store.reader import TraceReader
from tracekit.store.statements import value_errors

__all__ = ["fingerprint"]


def fingerprint(reader: TraceReader) -> str:
    """A digest of the ops of a trace, such as `1000-00f3…`: the number of ops and 128 bits.

    It does not depend on the order of the rows, on the files that hold them, or on metadata;
    times count from the first submit. It takes one query over the trace.
    """
    first, _ = reader.extent()
    with closing(reader.connect()) as connection, value_errors(reader.path):
        sql = load_sql("tracekit.comparison", "fingerprint")
        row = connection.execute(sql, {"first_ns": first or 0}).fetchone() or (0, 0)
    return f"{row[0]}-{row[1] % (1 << 128):032x}"
