"""Opens a trace, and gives DuckDB the view `ops` over it.

Everything above the store reads a trace through `TraceReader`. It never writes, and its DuckDB connections
can read the trace's files and nothing else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import duckdb
import pyarrow as pa

from tracekit.errors import TraceFormatError, UsageError
from tracekit.schema import META_PREFIX, OPS
from tracekit.sql import load_sql
from tracekit.store.cleaning import clean_uris
from tracekit.store.index import RESTORE, index_problems, list_state, read_index
from tracekit.store.layout import (
    MANIFEST_NAME,
    SEALED_NAME,
    journals_of,
    segment_of,
    segments_of,
    stem_of,
)
from tracekit.store.locate import Name, literal, trace_paths
from tracekit.store.manifest import read_manifest, sealed_metadata
from tracekit.store.memory import bounded, memory_bytes, memory_errors
from tracekit.store.opening import SegmentInfo, open_file, open_segment, records_ends, unnamed_ops
from tracekit.store.remote import RemotePath
from tracekit.store.statements import collected, query_errors, select, streamed, value_errors

__all__ = ["HasReader", "SegmentInfo", "TraceLike", "TraceReader", "open_reader", "where_it_is"]

_TRIES = 3
_TEXT = "VARCHAR"
_CLEAN = "CASE WHEN regexp_matches({0}, '[@?#]') THEN clean_uris({0}::VARCHAR) ELSE {0}::VARCHAR END"
_SQL_TYPES = {
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.dictionary(pa.int32(), pa.string()): "VARCHAR",
}
"""Written as SQL because DuckDB imports pandas, where it is installed, to look at an Arrow table."""
_FOOTERS_AT_ONCE = 16


@dataclass(frozen=True)
class TraceReader:
    """An open trace. Only footers are read until it is queried."""

    path: Path
    segments: tuple[SegmentInfo, ...]
    trace_id: str | None
    epoch_unix_ns: int | None
    removed_ops: int = 0
    """Ops that the trace had once: of segments that were removed to keep it small, or lost."""

    @property
    def rows(self) -> int:
        """Ops in the trace."""
        return sum(segment.rows for segment in self.segments)

    @property
    def source(self) -> str:
        """What produced the ops: loader, replay, import:FORMAT, capture; `mixed` if several did."""
        sources = {segment.source for segment in self.segments}
        return sources.pop() if len(sources) == 1 else "mixed" if sources else "unknown"

    @cached_property
    def options(self) -> dict[str, Any]:
        """The producer's options, from the first segment that has any."""
        for segment in self.segments:
            options_ = json.loads(segment.metadata.get("options") or "{}")
            if isinstance(options_, dict) and options_:
                return options_
        return {}

    @property
    def completeness(self) -> dict[str, Any]:
        """What the producer saw of what really happened; empty if it does not say."""
        for segment in reversed(self.segments):
            found = json.loads(segment.metadata.get("completeness") or "{}")
            if isinstance(found, dict) and found:
                return found
        return {}

    @cached_property
    def not_issued(self) -> dict[str, Any]:
        """The ops of the plan that a replay which lost a host did not issue, by their numbers; empty for any other trace.

        Raises TraceFormatError if what the trace says of them cannot be read.
        """
        file = self.path / SEALED_NAME
        try:
            noted = sealed_metadata(file).get(f"{META_PREFIX}not_issued".encode(), b"{}")
            found = json.loads(noted)
            if not isinstance(found, dict):
                raise ValueError("it is no JSON object")
        except (FileNotFoundError, NotADirectoryError):  # one file, or still being recorded
            return {}
        except (OSError, ValueError, pa.ArrowException) as error:
            raise TraceFormatError(
                f"{file}: which ops were not issued cannot be read: {str(error).splitlines()[0]}",
                "tracekit verify names the damage",
            ) from error
        return found

    @property
    def schema_versions(self) -> tuple[int, ...]:
        """The versions of the op schema that the files state, ascending; empty if none states one."""
        if not self.segments and self.path.is_dir() and (manifest := read_manifest(self.path)) is not None:
            return (manifest.schema_version,)
        stated = {segment.schema_version for segment in self.segments}
        return tuple(sorted(version for version in stated if version is not None))

    @property
    def counters(self) -> dict[str, int]:
        """Backend counters, added over segments."""
        total: dict[str, int] = {}
        for segment in self.segments:
            for name, value in segment.counters.items():
                total[name] = total.get(name, 0) + value
        return total

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that at least one file has, extra ones included."""
        return tuple(dict.fromkeys(name for segment in self.segments for name in segment.schema.names))

    @property
    def unfinished(self) -> tuple[SegmentInfo, ...]:
        """Journals: segments being written now, or left by a crash."""
        return tuple(segment for segment in self.segments if segment.journal)

    def connect(
        self,
        *,
        ordered: bool = False,
        threads: int | None = None,
        memory: int | str | None = None,
    ) -> duckdb.DuckDBPyConnection:
        """Return a new DuckDB connection with the view `ops`, and `internal.ops_scan`: the same rows in file order.

        Both have every schema column (see `ops.sql`). With `ordered`, `ops` is in order of `t_submit`. The
        connection can read the trace's files and nothing else: no other files, writes, extensions or
        settings. It keeps to `memory` (default: `memory_bytes()`); larger work spills to a scratch directory.
        """
        with memory_errors():
            connection = bounded(memory_bytes(memory), threads)
            try:
                self._define_views(connection, ordered)
                self._enclose(connection)
            except BaseException:
                connection.close()
                raise
        return connection

    def _enclose(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Take from the connection what is not needed to read the trace."""
        files = [segment.path for segment in self.segments if segment.by_name]
        allowed = [*(str(file.absolute()) for file in files), *map(literal, files)]
        connection.execute("SET allowed_paths = $paths", {"paths": allowed})
        connection.execute("SET python_enable_replacements = false")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")

    def query(self, sql: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> pa.Table:
        """Return the result of `sql` over the view `ops` (in order of `t_submit`), as an Arrow table.

        Raises UsageError with DuckDB's message if the query is wrong or does more than read.
        """
        with closing(self.connect(ordered=True)) as connection, query_errors():
            return collected(select(connection, sql, params))

    def batches(
        self, columns: Sequence[str] | None = None, *, batch_rows: int = 65_536, ordered: bool = True
    ) -> Iterator[pa.RecordBatch]:
        """Stream the ops: all columns, or those in `columns`. Raises UsageError for an unknown column."""
        with closing(self.connect(ordered=ordered)) as connection, value_errors(self.path):
            view = connection.view("ops")
            unknown = set(columns or ()) - set(view.columns)
            if unknown:
                raise UsageError(
                    f"no column {', '.join(sorted(unknown))}", f"the columns are {', '.join(view.columns)}"
                )
            chosen = view.select(*(duckdb.ColumnExpression(name) for name in columns)) if columns else view
            yield from streamed(chosen, batch_rows)

    def extent(self) -> tuple[int | None, int | None]:
        """Return the first and last submit, ns since the trace's epoch; from statistics if every file has them."""
        full = [segment for segment in self.segments if segment.rows]
        if any(segment.first_submit is None or segment.last_submit is None for segment in full):
            row = self.query("SELECT min(t_submit) AS first, max(t_submit) AS last FROM ops").to_pylist()[0]
            return row["first"], row["last"]
        firsts = [(segment.first_submit or 0) + self.shift_of(segment) for segment in full]
        lasts = [(segment.last_submit or 0) + self.shift_of(segment) for segment in full]
        return min(firsts, default=None), max(lasts, default=None)

    def shift_of(self, segment: SegmentInfo) -> int:
        """Return the ns to add to the segment's times so that they count from the trace's epoch."""
        if segment.epoch_unix_ns is None or self.epoch_unix_ns is None:
            return 0
        return segment.epoch_unix_ns - self.epoch_unix_ns

    def _define_views(self, connection: duckdb.DuckDBPyConnection, ordered: bool) -> None:
        connection.execute(f"CREATE MACRO ends_unknown() AS {records_ends(self.segments) is False}")
        connection.execute("CREATE SCHEMA internal; USE internal")  # so that SHOW TABLES lists only `ops`
        columns = ", ".join(f'"{field.name}" {_SQL_TYPES[field.type]}' for field in OPS)
        connection.execute(f"CREATE TABLE ops_template ({columns})")
        parts = [connection.table("internal.ops_template")]
        if any(segment.foreign for segment in self.segments):
            connection.create_function("clean_uris", clean_uris, [_TEXT], _TEXT, type="arrow")  # type: ignore[call-overload]
        for how, segments in self._by_reading().items():
            parquet = [literal(segment.path) for segment in segments if segment.by_name]
            if parquet:
                parts.append(_read_as(connection.read_parquet(parquet, union_by_name=True), *how))
            for segment in segments:
                if not segment.by_name:
                    name = f"unnamed_{stem_of(segment.path)}"
                    connection.register(name, unnamed_ops(segment))
                    parts.append(_read_as(connection.table(name), *how))
        names = []
        for index, part in enumerate(parts):
            part.create_view(f"segments_{index}")
            names.append(f"SELECT * FROM internal.segments_{index}")
        connection.execute(f"CREATE VIEW segments AS {' UNION ALL BY NAME '.join(names)}")
        connection.execute(load_sql("tracekit.store", "ops"))
        connection.execute("USE main")
        scan = connection.view("internal.ops_scan")
        (scan.order("t_submit") if ordered and not self._in_order() else scan).create_view("ops")

    def _by_reading(self) -> dict[tuple[int, bool, bool], list[SegmentInfo]]:
        """Return the segments that hold ops, by their `shift_of`, `puts_are_ranges` and `foreign`."""
        groups: dict[tuple[int, bool, bool], list[SegmentInfo]] = {}
        for segment in self.segments:
            if segment.rows:
                how = self.shift_of(segment), segment.puts_are_ranges, segment.foreign
                groups.setdefault(how, []).append(segment)
        return groups

    def _in_order(self) -> bool:
        """Return whether the files are in order of `t_submit` as they are: one file that tracekit wrote."""
        full = [segment for segment in self.segments if segment.rows]
        return not full or (len(full) == 1 and full[0].is_sorted and full[0].by_name)


class HasReader(Protocol):
    """An object that stands for an open trace, such as `tracekit.Trace`."""

    @property
    def reader(self) -> TraceReader: ...


TraceLike = Name | Sequence[Name] | TraceReader | HasReader
"""An open trace, its path or URI, or several Parquet files (a list or a glob)."""


def open_reader(trace: TraceLike) -> TraceReader:
    """Open a trace: a directory of segments, one Parquet file, or several Parquet files as one trace.

    An open trace is returned as it is. Raises TraceFormatError, in one line, if there is no trace, a segment
    is truncated, missing, changed or of another trace, a core column is missing or has a wrong type, or the
    schema is newer than known.
    """
    if isinstance(trace, TraceReader):
        return trace
    if hasattr(trace, "reader"):
        return trace.reader
    paths = trace_paths(trace)
    if len(paths) > 1:
        return _open_files(paths)
    (root,) = paths
    if root.is_dir():
        return _open_directory(root)
    if not root.exists():
        raise TraceFormatError(f"{root}: no such trace", "give a trace directory or a Parquet file")
    segment = open_file(root)
    return TraceReader(root, (segment,), segment.metadata.get("trace_id"), segment.epoch_unix_ns)


def where_it_is(reader: TraceReader) -> str | list[str]:
    """Return what `open_reader` opens the same trace by, in a process that sees the same files."""
    if reader.path.is_dir() and read_manifest(reader.path) is not None:
        return str(reader.path.resolve())
    return [str(segment.path.resolve()) for segment in reader.segments]


def _open_files(paths: Sequence[Path]) -> TraceReader:
    """Open Parquet files as one trace, named by the directory that they share."""
    for path in paths:
        if not path.is_file():
            what = "is a directory" if path.is_dir() else "no such file"
            raise TraceFormatError(f"{path}: {what}", "several names must all be Parquet files")
    return _joined(
        Path(os.path.commonpath([path.absolute().parent for path in paths])),
        [open_file(path) for path in paths],
    )


def _open_directory(root: Path) -> TraceReader:
    for _ in range(_TRIES - 1):
        before = list_state(root)
        try:
            return _open_directory_once(root)
        except TraceFormatError:
            if list_state(root) == before:  # else a live recorder finished or removed a segment meanwhile
                raise
    return _open_directory_once(root)


def _open_directory_once(root: Path) -> TraceReader:
    manifest = read_manifest(root)
    index = None if manifest is None else read_index(root)  # before the listing: a live recorder adds to both
    found = [segment for segment in _opened(_segment_files(root)) if segment is not None]
    if manifest is None and not found:
        raise TraceFormatError(
            f"{root} is not a trace: it holds neither {MANIFEST_NAME} nor segments", "give a trace directory"
        )
    if manifest is None:
        return _joined(root, found)
    wrong = index_problems(manifest, index, found)
    if wrong:
        raise TraceFormatError(f"{root / wrong[0][0]}: {wrong[0][1]}", wrong[0][2])
    removed = 0 if index is None else sum(entry.rows for entry in index.entries.values() if entry.lost)
    return TraceReader(root, tuple(found), manifest.trace_id, manifest.epoch_unix_ns, removed)


def _opened(files: Sequence[Path]) -> list[SegmentInfo | None]:
    """Open the files of a trace; several at once on an object store, where each takes some requests."""
    if not isinstance(next(iter(files), None), RemotePath):
        return [_open_or_finished(file) for file in files]
    with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as threads:
        return list(threads.map(_open_or_finished, files))


def _open_or_finished(file: Path) -> SegmentInfo | None:
    try:
        return open_segment(file)
    except FileNotFoundError:  # a live recorder has just turned this journal into a segment, or removed it
        return _finished(file)


def _finished(file: Path) -> SegmentInfo | None:
    """Open the segment that `file`, which is gone, has become."""
    try:
        return open_segment(segment_of(file))
    except FileNotFoundError as error:
        raise TraceFormatError(f"{file} is missing, or is a link to nothing", RESTORE) from error


def _joined(root: Path, found: Sequence[SegmentInfo]) -> TraceReader:
    """Return the trace of segments without a manifest; its times count from the earliest epoch.

    Raises TraceFormatError if two of them are the same segment: its ops would count twice.
    """
    known: dict[tuple[str | None, str | None], Path] = {}
    for segment in found:
        if segment.sealed and segment.metadata.get("segment"):
            first = known.setdefault(
                (segment.metadata.get("trace_id"), segment.metadata["segment"]), segment.path
            )
            if first != segment.path:
                raise TraceFormatError(
                    f"{first} and {segment.path} are copies of one segment", "give only one of them"
                )
    epochs = [segment.epoch_unix_ns for segment in found if segment.epoch_unix_ns is not None]
    return TraceReader(root, tuple(found), found[0].metadata.get("trace_id"), min(epochs, default=None))


def _segment_files(root: Path) -> list[Path]:
    # Journals before segments: one that is finished meanwhile is seen twice, not never.
    journals = journals_of(root)
    finished = segments_of(root)
    stems = {entry.stem for entry in finished}
    return finished + [entry for entry in journals if stem_of(entry) not in stems]


def _read_as(
    relation: duckdb.DuckDBPyRelation, shift: int, puts_are_ranges: bool, foreign: bool
) -> duckdb.DuckDBPyRelation:
    """Return the ops of some segments with times `shift` ns later.

    From old files, ranges of a `put` are `write`; from those of other tools, URIs lose their secrets.
    """
    columns = relation.columns
    changed = {}
    if shift:
        for name in {"t_submit", "t_due"} & set(columns):
            changed[name] = duckdb.ColumnExpression(name) + duckdb.ConstantExpression(shift)
    if puts_are_ranges and {"op", "offset"} <= set(columns):
        changed["op"] = duckdb.SQLExpression(load_sql("tracekit.store", "op_of_version_1"))
    if foreign:
        for name in {"uri", "to_uri"} & set(columns):
            changed[name] = duckdb.SQLExpression(_CLEAN.format(name))
    if not changed:
        return relation
    return relation.project(
        *(changed.get(name, duckdb.ColumnExpression(name)).alias(name) for name in columns)
    )
