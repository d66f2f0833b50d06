"""`tracekit query`: SQL over the ops of a trace."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

import tracekit
from tracekit.cli import screen
from tracekit.cli.arguments import (
    JsonOption,
    MemoryOption,
    OptionalTraceArgument,
    OutOption,
    ThreadsOption,
    check_choice,
    choices,
    examples,
    output,
)
from tracekit.errors import UsageError
from tracekit.formats.rows import as_values, write_csv, write_json, write_parquet
from tracekit.formats.sources import STANDARD_INPUT
from tracekit.metrics.library import macros as list_macros
from tracekit.store.locate import local_path
from tracekit.store.statements import streamed

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

__all__ = ["register"]

_SHOWN_ROWS = 200
_BATCH_ROWS = 65_536
_FORMATS = ("table", "csv", "json", "parquet")


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command(
        "query",
        epilog=examples(
            'tracekit query run.trace "SELECT op, count(*) FROM ops GROUP BY op"',
            'tracekit query run.trace "FROM ops LIMIT 10" --csv',
            "tracekit query run.trace busiest.sql  # or - to read standard input",
            "tracekit query run.trace \"FROM tail_by(0.001, 'uri') LIMIT 10\"",
            "tracekit query --macros  # list the macros, such as tail_by",
        ),
    )(_query)


def _query(
    trace: OptionalTraceArgument = None,
    sql: Annotated[
        str | None,
        typer.Argument(
            metavar="SQL",
            help="DuckDB SQL over the view ops, a file FILE.sql that holds it, or - for standard input.",
        ),
    ] = None,
    format: Annotated[
        str, typer.Option(metavar="FORMAT", help=f"How to print: {', '.join(_FORMATS)}.", **choices(_FORMATS))
    ] = "table",
    csv: Annotated[bool, typer.Option("--csv", help="Short for --format csv.")] = False,
    safe_csv: Annotated[
        bool,
        typer.Option(
            "--safe-csv",
            help="CSV for spreadsheets: an apostrophe before text that would be a formula.",
        ),
    ] = False,
    json: JsonOption = False,
    parquet: Annotated[
        bool, typer.Option("--parquet", help="Short for --format parquet (needs -o).")
    ] = False,
    macros: Annotated[
        bool,
        typer.Option("--macros", help="List the macros, with their columns; needs neither TRACE nor SQL."),
    ] = False,
    out: OutOption = None,
    threads: ThreadsOption = None,
    memory: MemoryOption = None,
) -> None:
    """Run SQL over the ops of a trace. It can only read the trace: no other files, no writes, no extensions."""
    if macros:
        _list_macros(json=json)
        return
    if trace is None or sql is None:
        missing = "trace= is missing" if trace is None else "sql= is missing"
        raise UsageError(
            missing, "give a trace and SQL, such as tracekit query run.trace 'FROM ops LIMIT 10'"
        )
    how = _how(format, csv=csv or safe_csv, json=json, parquet=parquet, out=out)
    opened = tracekit.open_trace(trace)
    with opened.relation(_statement(sql), threads=threads, memory=memory) as relation:
        if how == "table":
            _show(relation)
        else:
            shown = out is None and screen.console.is_terminal  # the rows themselves show that work goes on
            with nullcontext() if shown else screen.working("query"):
                _emit(streamed(relation, _BATCH_ROWS), how, out, safe=safe_csv)


def _list_macros(*, json: bool) -> None:
    if json:
        screen.emit_json([asdict(macro) for macro in list_macros()])
        return
    for macro in list_macros():
        gives = f" -> {macro.returns}" if macro.returns else ""
        screen.console.print(Text.assemble((f"{macro.signature}{gives}", "bold"), f"  {macro.help}"))
        if macro.columns:
            screen.console.print(Text(f"    {macro.gives}", "dim"))


def _statement(sql: str) -> str:
    """Return the statement that `sql` is or names: a file, or standard input. Raises UsageError if it is not UTF-8."""
    if sql == STANDARD_INPUT:
        where, raw = "on standard input", sys.stdin.buffer.read()
    elif sql.endswith(".sql") and ((path := local_path(sql)).is_file() or " " not in sql):
        if not path.is_file():
            raise UsageError(f"{path}: no such file of SQL", "give SQL, a file FILE.sql, or -")
        where, raw = f"in {path}", path.read_bytes()
    else:
        return sql
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"the SQL {where} is not UTF-8 (byte {error.start})", "convert it") from None


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
    with screen.working("query"):
        table = relation.limit(_SHOWN_ROWS + 1).to_arrow_table()
    rows = as_values(table.slice(0, _SHOWN_ROWS))
    screen.show_rows(table.column_names, rows)
    if len(table) > _SHOWN_ROWS:
        screen.note(f"the first {_SHOWN_ROWS} rows; --csv, --json or --parquet give all")


def _emit(rows: pa.RecordBatchReader, how: str, out: Path | None, *, safe: bool) -> None:
    with rows, screen.emitting(output(out) if how == "parquet" and out is not None else out) as aside:
        if how == "json":
            write_json(rows, aside)
        elif how == "csv":
            write_csv(rows, aside, safe=safe)
        else:
            write_parquet(rows, aside)
