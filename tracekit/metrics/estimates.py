"""What a whole run did, estimated from the sample of its files that was recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping

import duckdb

from tracekit.metrics.measuring import rows
from tracekit.sql import load_sql
from tracekit.store.reader import TraceReader

__all__ = ["ESTIMATED", "estimates", "sample_rate"]

ESTIMATED = ("ops", "bytes", "read_ops", "write_ops", "read_bytes", "write_bytes", "files")


def sample_rate(reader: TraceReader) -> float | None:
    """The share of the files that was recorded: 1 for a whole trace, None if parts of it differ."""
    rates = {_rate(json.loads(segment.metadata.get("options") or "{}")) for segment in reader.segments}
    return rates.pop() if len(rates) == 1 else 1.0 if not rates else None


def estimates(connection: duckdb.DuckDBPyConnection, rate: float) -> dict[str, float | None]:
    """Sums over the whole run, each with its standard error, on a connection with the macros installed.

    None means that no op of the sample says.
    """
    found = {
        row["name"]: row
        for row in rows(connection, f"({load_sql(__package__, 'estimates')})", {"rate": rate})
    }
    told: dict[str, float | None] = {"sample_rate": rate}
    for name in ESTIMATED:
        told[name] = found[name]["value"] if name in found else None
        told[f"{name}_standard_error"] = found[name]["standard_error"] if name in found else None
    return told


def _rate(options: object) -> float:
    value = options.get("sample_rate") if isinstance(options, Mapping) else None
    return float(value) if isinstance(value, int | float) and 0 < value < 1 else 1.0
