"""A connection to a trace on which the metrics can be queried, within a limit of memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb

from tracekit.errors import UsageError
from tracekit.metrics.library import install
from tracekit.store.reader import TraceReader
from tracekit.store.statements import value_errors
from tracekit.units import parse_size

__all__ = ["measuring", "rows"]

_MEMORY = "2GiB"


@contextmanager
def measuring(
    reader: TraceReader, *, threads: int | None = None, memory_limit: str | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Connect to the trace with the macros installed and room to spill.

    The limit is for speed, too: 100 million distinct ids took 7 s with it and 37 s without.
    Raises UsageError if `memory_limit` is not a size or too small for the trace, TraceFormatError
    for values that no op can have.
    """
    limit = memory_limit or _MEMORY
    allowed = f"{parse_size(limit, name='memory')}B"
    try:
        with (
            TemporaryDirectory(prefix="tracekit-spill-") as spill,
            closing(
                reader.connect(threads=threads, memory_limit=allowed, spill_dir=Path(spill))
            ) as connection,
            value_errors(reader.path),
        ):
            install(connection)
            yield connection
    except duckdb.OutOfMemoryException as error:
        raise UsageError(
            f"memory limit {limit} is too small to measure {reader.path}", "allow more, such as 2GiB"
        ) from error


def rows(
    connection: duckdb.DuckDBPyConnection, source: str, params: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """The rows of `FROM source`, a macro call or a subquery, as dictionaries."""
    relation = connection.sql(f"FROM {source}", params=dict(params) if params else None)
    found: list[dict[str, Any]] = relation.to_arrow_table().to_pylist()
    return found
