"""Response times of two runs: rows that stand beside the latencies where an op was sent more than once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import closing
from typing import Any

import duckdb

from tracekit.comparison.table import ParityRow, shown
from tracekit.metrics.measuring import measuring
from tracekit.sql import load_sql
from tracekit.store.reader import TraceReader
from tracekit.store.statements import value_errors

__all__ = ["define_percentile", "replay_responses", "response_rows"]

_EXACT_UP_TO = 20_000_000


def define_percentile(connection: duckdb.DuckDBPyConnection, rows: int) -> None:
    """Define the macro `percentile`: exact up to 20 million rows, approximate above."""
    how = "approx_quantile" if rows > _EXACT_UP_TO else "quantile_disc"
    connection.execute(f"CREATE OR REPLACE TEMP MACRO percentile(data, share) AS {how}(data, share)")


def response_rows(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterable[ParityRow]:
    """Return the rows on retries, from the totals of two runs; none if no op was retried."""
    if a["retried_ops"] or b["retried_ops"]:  # else response times are latencies
        yield shown("retried_ops", "ops", a["retried_ops"], b["retried_ops"])
        for name in ("wait_sum_ns", "response_p50_ns", "response_p99_ns"):
            yield shown(name, "ns", a[name], b[name])


def replay_responses(a: TraceReader, b: TraceReader) -> tuple[ParityRow, ...]:
    """Return the rows on retries of a recording and its replay; none, and nothing is measured, if no op was retried."""
    if not (_was_retried(a) or _was_retried(b)):
        return ()
    return tuple(response_rows(_measured(a), _measured(b)))


def _was_retried(reader: TraceReader) -> bool:
    """Whether an op of the trace was sent more than once; reads one column."""
    sql = "SELECT count(*) FILTER (tries > 1) > 0 FROM ops WHERE op <> 'hint'"
    with closing(reader.connect()) as connection, value_errors(reader.path):
        return bool((connection.execute(sql).fetchone() or (False,))[0])


def _measured(reader: TraceReader) -> Mapping[str, Any]:
    """Measure the retries of one run."""
    sql = load_sql("tracekit.comparison", "responses")
    with measuring(reader, sql) as connection:
        define_percentile(connection, reader.rows)
        found = connection.execute(sql)
        return dict(zip([name for name, *_ in found.description or ()], found.fetchone() or (), strict=True))
