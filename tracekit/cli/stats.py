"""`tracekit stats` and `tracekit query`: the metrics snapshot, and SQL over the ops."""

from __future__ import annotations

from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import duckdb
import pyarrow as pa
import typer

from tracekit.cli import screen
from tracekit.cli.options import JsonOption, TraceArgument, examples
from tracekit.errors import UsageError
from tracekit.formats.rows import as_csv, as_rows, as_values, storable
from tracekit.metrics.library import install
from tracekit.metrics.snapshot import snapshot
from tracekit.reporting.table import snapshot_tables
from tracekit.store.reader import open_reader
from tracekit.store.statements import query_errors, select
from tracekit.units import parse_size
from tracekit.whole import whole_file

__all__ = ["register"]

_SHOWN_ROWS = 200


class _Format(StrEnum):
    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"


def register(app: typer.Typer) -> None:
    """Add the verbs to `app`."""
    app.command(
        "stats",
        epilog=examples("tracekit stats run.trace", "tracekit stats run.trace --json -o stats.json"),
    )(_stats)
    app.command(
        "query",
        epilog=examples(
            'tracekit query run.trace "SELECT op, count(*) FROM ops GROUP BY op"',
            'tracekit query run.trace "FROM ops LIMIT 10" --csv',
            "tracekit query run.trace \"FROM tail_by(0.001, 'uri') LIMIT 10\"  # docs/metrics.md has all macros",
        ),
    )(_query)


def _stats(
    trace: TraceArgument,
    json: JsonOption = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV: metric, value, unit.")] = False,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="Write here instead of printing.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads for the queries.")] = None,
    memory: Annotated[str | None, typer.Option(metavar="SIZE", help="Memory limit, such as 4GiB.")] = None,
) -> None:
    """Print the metrics of a trace (docs/metrics.md defines each)."""
    if json and csv:
        raise UsageError("--json and --csv exclude each other", "give one")
    found = snapshot(open_reader(trace), threads=threads, memory_limit=memory)
    if csv:
        screen.emit_text(found.to_csv(), out)
    elif json or out is not None:
        screen.emit_text(found.to_json(), out)
    else:
        for table in snapshot_tables(found):
            screen.console.print(table)


def _query(
    trace: TraceArgument,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="DuckDB SQL over the view ops.")],
    format_: Annotated[_Format, typer.Option("--format", help="How to print.")] = _Format.table,
    csv: Annotated[bool, typer.Option("--csv", help="Short for --format csv.")] = False,
    json: JsonOption = False,
    parquet: Annotated[
        bool, typer.Option("--parquet", help="Short for --format parquet (needs -o).")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="Write here instead of printing.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads for the query.")] = None,
    memory: Annotated[str | None, typer.Option(metavar="SIZE", help="Memory limit, such as 4GiB.")] = None,
) -> None:
    """Run SQL over the ops of a trace. Read-only: no other files, no writes, no extensions."""
    chosen = [_Format.csv] * csv + [_Format.json] * json + [_Format.parquet] * parquet
    if len(chosen) > 1:
        raise UsageError("--csv, --json and --parquet exclude each other", "give one")
    how = chosen[0] if chosen else format_
    if how is _Format.parquet and out is None:
        raise UsageError("--parquet needs a file", "give -o FILE.parquet")
    if how is _Format.table and out is not None:
        raise UsageError("a table is for a terminal, not for -o", "give --csv, --json or --parquet too")
    reader = open_reader(trace)
    limit = None if memory is None else f"{parse_size(memory, name='--memory')}B"
    with (
        query_errors(),
        closing(reader.connect(ordered=True, threads=threads, memory_limit=limit)) as connection,
    ):
        install(connection)
        relation = select(connection, sql)
        if how is _Format.table:
            _show(relation)
        else:
            _emit(relation.to_arrow_table(), how, out)


def _show(relation: duckdb.DuckDBPyRelation) -> None:
    table = relation.limit(_SHOWN_ROWS + 1).to_arrow_table()
    rows = as_values(table.slice(0, _SHOWN_ROWS))
    screen.show_rows(table.column_names, rows)
    if len(table) > _SHOWN_ROWS:
        screen.errors.print(f"the first {_SHOWN_ROWS} rows; --csv, --json or --parquet give all")


def _emit(table: pa.Table, how: _Format, out: Path | None) -> None:
    if how is _Format.json:
        screen.emit_json(as_rows(table), out)
    elif how is _Format.csv:
        screen.emit_text(as_csv(table), out)
    elif out is not None:
        import pyarrow.parquet as pq

        with whole_file(out) as aside:
            pq.write_table(storable(table), aside, compression="zstd")
        screen.errors.print(f"wrote {out}", soft_wrap=True)
