"""Runs one statement over a trace: checks that it only reads, and turns its errors into ours."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from tracekit.errors import TraceFormatError, UsageError
from tracekit.store.memory import memory_bytes, memory_errors, too_large

__all__ = ["collected", "query_errors", "select", "streamed", "value_errors"]

_READING = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
_EXPLAIN = re.compile(r"\s*EXPLAIN\b\s*(?:ANALYZE\b\s*)?(?:\([^()]*\)\s*)?", re.IGNORECASE)
_CHANGING = (
    "COPY_TO",
    "EXECUTE",
    "INSERT",
    "DELETE",
    "UPDATE",
    "MERGE_INTO",
    "CREATE",
    "EXPORT",
    "ATTACH",
    "JSON_EXECUTE_SERIALIZED_SQL",
)
"""How the names of operators that may change something start, after `BATCH_` if they have that."""
_NO_TABLE = "Catalog Error: Table with name"
_SUGGESTING = ("Candidate", "Did you mean")
_SUGGESTED = 3
"""How many lines of a list of candidates to keep; there may be a dozen overloads."""
_ERRORS: dict[str, type[duckdb.Error]] = {
    "Out of Memory Error": duckdb.OutOfMemoryException,
    "IO Error": duckdb.IOException,
    "INTERRUPT Error": duckdb.InterruptException,
}
"""How messages of errors that are not about values begin."""
_TABLE_BATCH_ROWS = 262_144
_BARE_OFFSET = re.compile(r'(?<![".\w])offset(?![\w"])', re.IGNORECASE)


def select(
    connection: duckdb.DuckDBPyConnection, sql: str, params: Sequence[Any] | Mapping[str, Any] | None = None
) -> duckdb.DuckDBPyRelation:
    """Return one statement that only reads as a relation. Raises UsageError for anything else."""
    if not _reads(connection, sql, params):
        raise UsageError("query: not one statement that reads", "write one SELECT over the view ops")
    relation = connection.sql(sql, params=params)
    if relation is None:
        raise UsageError("query: the statement gives no rows", "write one SELECT over the view ops")
    return relation


def _reads(
    connection: duckdb.DuckDBPyConnection, sql: str, params: Sequence[Any] | Mapping[str, Any] | None
) -> bool:
    """Return whether `sql` is one statement that reads and its plan changes nothing.

    A connection may also write the files that it may read, and a COPY can hide in a SELECT (in a WITH, in
    text that a function runs) or behind EXPLAIN ANALYZE. Only the plan, made without running it, shows all.
    """
    statements = connection.extract_statements(sql)
    if len(statements) != 1 or statements[0].type not in _READING:
        return False
    if statements[0].type == duckdb.StatementType.EXPLAIN:
        asked = _EXPLAIN.match(sql)
        inner = sql[asked.end() :] if asked else ""
        kinds = [statement.type for statement in connection.extract_statements(inner)]
        return kinds == [duckdb.StatementType.SELECT] and _reads(connection, inner, params)
    (_, plan), *_rest = connection.execute(f"EXPLAIN (FORMAT json) {sql}", params).fetchall()
    return not any(name.removeprefix("BATCH_").startswith(_CHANGING) for name in _operators(json.loads(plan)))


def _operators(plan: list[dict[str, Any]]) -> Iterator[str]:
    for node in plan:
        yield str(node["name"]).upper()
        yield from _operators(node["children"])


def streamed(relation: duckdb.DuckDBPyRelation, batch_rows: int = 65_536) -> pa.RecordBatchReader:
    """Return a reader of the rows of `relation`, which raises DuckDB's errors also for a later row."""
    reader = relation.to_arrow_reader(batch_rows)
    return pa.RecordBatchReader.from_batches(reader.schema, _batches(reader))


def _batches(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    try:
        yield from reader
    except OSError as error:  # what Arrow makes of an error of DuckDB
        said = str(error)
        for beginning, kind in _ERRORS.items():
            if said.startswith(beginning):
                raise kind(said) from error
        raise duckdb.DataError(said) from error


def collected(relation: duckdb.DuckDBPyRelation, memory: int | str | None = None) -> pa.Table:
    """Return the rows of `relation` as a table. Raises UsageError if they need more than `memory`."""
    limit, held, batches = memory_bytes(memory), 0, []
    with streamed(relation, _TABLE_BATCH_ROWS) as reader:
        for batch in reader:
            held += batch.nbytes
            if held > limit:
                raise too_large(limit)
            batches.append(batch)
        return pa.Table.from_batches(batches, reader.schema)


@contextmanager
def query_errors() -> Iterator[None]:
    """Raise DuckDB's errors as UsageError: the first line, with the suggestions as the hint."""
    try:
        with memory_errors():
            yield
    except duckdb.Error as error:
        raise UsageError(f"query: {str(error).splitlines()[0]}", _hint(error)) from error


def _hint(error: duckdb.Error) -> str:
    first, *rest = str(error).splitlines()
    if isinstance(error, duckdb.ParserException) and _BARE_OFFSET.search(str(error)):
        return 'offset is a word of SQL: write "offset" or ops.offset'
    lines = [line.strip() for line in takewhile(lambda line: not line.startswith("LINE "), rest)]
    start = next((i for i, line in enumerate(lines) if line.startswith(_SUGGESTING)), len(lines))
    suggested = " ".join(line for line in lines[start : start + 1 + _SUGGESTED] if line)
    if first.startswith(_NO_TABLE) and '"ops"' not in suggested:
        return "the view is called ops"
    return suggested


@contextmanager
def value_errors(path: Path) -> Iterator[None]:
    """Raise DuckDB's errors about impossible values (such as an overflow) as TraceFormatError, in one line.

    Memory that does not suffice is a UsageError.
    """
    try:
        with memory_errors():
            yield
    except (duckdb.DataError, duckdb.InvalidInputException) as error:
        said = str(error).splitlines()[0]
        raise TraceFormatError(
            f"{path} holds values that no op can have: {said}", "tracekit verify describes them"
        ) from error
    except (duckdb.ProgrammingError, duckdb.InterruptException):
        raise  # a defect of ours, Ctrl-C
    except duckdb.Error as error:  # of a damaged file
        raise TraceFormatError(
            f"{path} cannot be read: {str(error).splitlines()[0]}", "tracekit verify describes the damage"
        ) from error
