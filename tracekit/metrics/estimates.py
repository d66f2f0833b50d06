"""What a whole run did, estimated from the sample of its files that was recorded.

Each file (or stream) is in the sample with a known probability, independently, with all its ops. The sum over the sample divided by
that is an unbiased estimate of the sum over all files (Horvitz-Thompson), and so is the variance used here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from math import sqrt

import duckdb
import pyarrow as pa

from tracekit.metrics.library import install
from tracekit.sql import load_sql
from tracekit.store.reader import TraceReader

__all__ = ["ESTIMATED", "Sampled", "sampled"]

ESTIMATED = ("ops", "bytes", "read_ops", "write_ops", "read_bytes", "write_bytes", "files")
_KEYS = ["uri", "rank", "worker"]


@dataclass(frozen=True, slots=True, eq=False)
class Sampled:
    """The sums of each file or stream of a sample: `rate` is the share that was chosen, `by` file or stream.

    `rate` is 1 for a whole trace and None if parts of it differ; there are no sums then.
    """

    rate: float | None
    by: str
    sums: pa.Table | None = None

    def merge(self, other: Sampled) -> Sampled:
        """Add the sums of another part of the same trace."""
        if (self.rate, self.by) != (other.rate, other.by):
            return Sampled(None, self.by)
        if self.sums is None or other.sums is None:
            return self
        how = [(name, "max" if name == "files" else "sum") for name in ESTIMATED]
        found = pa.concat_tables([self.sums, other.sums]).group_by(_KEYS).aggregate(how)
        return Sampled(
            self.rate,
            self.by,
            found.select([*_KEYS, *map("_".join, how)]).rename_columns(self.sums.column_names),
        )

    def estimates(self) -> dict[str, float | str | None] | None:
        """Return sums over the whole run, each with its standard error; None of a trace that is no sample.

        A sum is None if no op of the sample says. How many files a whole run used is not known from a sample of its streams.
        """
        if self.rate is None or self.sums is None:
            return None
        told: dict[str, float | str | None] = {"sample_rate": self.rate, "sample_by": self.by}
        with closing(duckdb.connect()) as connection:
            connection.register("sums", self.sums)
            for name in ESTIMATED:
                # Whole numbers: the figures do not depend on the order of the files.
                sql = f"SELECT sum({name}::HUGEINT)::DOUBLE, sum({name}::HUGEINT * {name}::HUGEINT)::DOUBLE FROM sums"
                total, squares = connection.execute(sql).fetchone() or (None, None)
                told[name] = None if total is None else total / self.rate
                error = None if squares is None else sqrt((1 - self.rate) * squares) / self.rate
                told[f"{name}_standard_error"] = error
        return told


def sampled(reader: TraceReader, connection: duckdb.DuckDBPyConnection) -> Sampled:
    """Measure what `estimates` needs, on a connection to the trace."""
    rate, by = _rate(reader)
    if rate is None or rate >= 1:
        return Sampled(rate, by)
    sql = load_sql(__package__, "estimates")
    install(connection, sql)
    return Sampled(rate, by, connection.sql(sql, params={"by_stream": by == "stream"}).to_arrow_table())


def _rate(reader: TraceReader) -> tuple[float | None, str]:
    """The share that was recorded, and of what: 1 for a whole trace, None if parts of it differ."""
    found = {_sampling(json.loads(segment.metadata.get("options") or "{}")) for segment in reader.segments}
    return found.pop() if len(found) == 1 else (None if found else 1.0, "file")


def _sampling(options: object) -> tuple[float, str]:
    rate = options.get("sample_rate") if isinstance(options, Mapping) else None
    if not (isinstance(options, Mapping) and isinstance(rate, int | float) and 0 < rate < 1):
        return 1.0, "file"
    return float(rate), "stream" if options.get("sample_by") == "stream" else "file"
