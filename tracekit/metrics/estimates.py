"""What a whole run did, estimated from the sample of its files that was recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping

import duckdb

from tracekit.metrics.measuring import rows
from tracekit.sql import load_sql
from tracekit.store.reader import TraceReader

__all__ = ["ESTIMATED", "estimates", "sampling"]

ESTIMATED = ("ops", "bytes", "read_ops", "write_ops", "read_bytes", "write_bytes", "files")


def sampling(reader: TraceReader) -> tuple[float, str] | None:
    """The share that was recorded, and of what (file, stream): 1 for a whole trace, None if parts of it differ."""
    found = {_sampling(json.loads(segment.metadata.get("options") or "{}")) for segment in reader.segments}
    return found.pop() if len(found) == 1 else (1.0, "file") if not found else None


def estimates(connection: duckdb.DuckDBPyConnection, rate: float, by: str) -> dict[str, float | str | None]:
    """Sums over the whole run, each with its standard error, on a connection with the macros installed.

    None means that no op of the sample says. How many files a whole run used is not known from a sample of its streams.
    """
    found = {
        row["name"]: row
        for row in rows(
            connection, f"({load_sql(__package__, 'estimates')})", {"rate": rate, "by_stream": by == "stream"}
        )
    }
    told: dict[str, float | str | None] = {"sample_rate": rate, "sample_by": by}
    for name in ESTIMATED:
        told[name] = found[name]["value"] if name in found else None
        told[f"{name}_standard_error"] = found[name]["standard_error"] if name in found else None
    return told


def _sampling(options: object) -> tuple[float, str]:
    rate = options.get("sample_rate") if isinstance(options, Mapping) else None
    if not (isinstance(options, Mapping) and isinstance(rate, int | float) and 0 < rate < 1):
        return 1.0, "file"
    return float(rate), "stream" if options.get("sample_by") == "stream" else "file"
