"""`tracekit stats` and `tracekit query`: the metrics of a trace, and SQL over its ops."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import tracekit
from tracekit.cli import screen
from tracekit.cli.arguments import (
    JsonOption,
    OutOption,
    TraceArgument,
    check_choice,
    choices,
    examples,
    output,
)
from tracekit.errors import UsageError
from tracekit.formats.rows import as_csv, as_rows, as_values, storable
from tracekit.reporting.table import snapshot_tables
from tracekit.whole import whole_file

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

__all__ = ["register"]

_SHOWN_ROWS = 200


_FORMATS = ("table", "csv", "json", "parquet")

ThreadsOption = Annotated[int | None, typer.Option(metavar="N", min=1, help="Threads for the queries.")]
MemoryOption = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Memory for the queries, such as 4GiB.")
]


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
            "tracekit query run.trace \"FROM tail_by(0.001, 'uri') LIMIT 10\"  # docs/metrics.md lists the macros",
        ),
    )(_query)


def _stats(
    trace: TraceArgument,
    json: JsonOption = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV: metric, value, unit.")] = False,
    out: OutOption = None,
    threads: ThreadsOption = None,
    memory: MemoryOption = None,
) -> None:
    """Print the metrics of a trace; docs/metrics.md defines each."""
    if json and csv:
        raise UsageError("--json and --csv exclude each other", "give one of them")
    found = tracekit.open_trace(trace).snapshot(threads=threads, memory=memory)
    if csv:
        screen.emit_text(found.to_csv(), out)
    elif json or out is not None:
        screen.emit_text(found.to_json(), out)
    else:
        for table in snapshot_tables(found, width=screen.console.width):
            screen.console.print(table)


def _query(
    trace: TraceArgument,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="DuckDB SQL over the view ops.")],
    format: Annotated[
        str, typer.Option(metavar="FORMAT", help=f"How to print: {', '.join(_FORMATS)}.", **choices(_FORMATS))
    ] = "table",
    csv: Annotated[bool, typer.Option("--csv", help="Short for --format csv.")] = False,
    json: JsonOption = False,
    parquet: Annotated[
        bool, typer.Option("--parquet", help="Short for --format parquet (needs -o).")
    ] = False,
    out: OutOption = None,
    threads: ThreadsOption = None,
    memory: MemoryOption = None,
) -> None:
    """Run SQL over the ops of a trace. It can only read the trace: no other files, no writes, no extensions."""
    how = _how(format, csv=csv, json=json, parquet=parquet, out=out)
    opened = tracekit.open_trace(trace)
    with opened.relation(sql, threads=threads, memory=memory) as relation:
        if how == "table":
            _show(relation)
        else:
            _emit(relation.to_arrow_table(), how, out)


def _how(format: str, *, csv: bool, json: bool, parquet: bool, out: Path | None) -> str:
    check_choice("--format", format, _FORMATS)
    chosen = ["csv"] * csv + ["json"] * json + ["parquet"] * parquet
    if len(chosen) > 1:
        raise UsageError("--csv, --json and --parquet exclude each other", "give one of them")
    how = chosen[0] if chosen else format
    if how == "parquet" and out is None:
        raise UsageError("--parquet needs a file", "give -o FILE.parquet")
    if how == "table" and out is not None:
        raise UsageError("a table cannot be written to a file", "give --csv, --json or --parquet too")
    return how


def _show(relation: duckdb.DuckDBPyRelation) -> None:
    table = relation.limit(_SHOWN_ROWS + 1).to_arrow_table()
    rows = as_values(table.slice(0, _SHOWN_ROWS))
    screen.show_rows(table.column_names, rows)
    if len(table) > _SHOWN_ROWS:
        screen.note(f"the first {_SHOWN_ROWS} rows; --csv, --json or --parquet give all")


def _emit(table: pa.Table, how: str, out: Path | None) -> None:
    if how == "json":
        screen.emit_json(as_rows(table), out)
    elif how == "csv":
        screen.emit_text(as_csv(table), out)
    elif out is not None:
        import pyarrow.parquet as pq

        with whole_file(output(out)) as aside:
            pq.write_table(storable(table), aside, compression="zstd")
        screen.note(f"wrote {out}")
