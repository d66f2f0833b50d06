"""Opening a trace: what it is, whether it can be read, and the view `ops` over it.

Everything above the store sees a trace through `TraceReader`. It never writes, and the
DuckDB connections that it hands out can read the trace's files and nothing else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tracekit.errors import TraceFormatError, UsageError
from tracekit.schema import META_PREFIX, OPS, problems
from tracekit.sql import load_sql
from tracekit.store.journal import COUNTERS_KEY, JournalContents, read_journal
from tracekit.store.layout import (
    JOURNAL_SUFFIX,
    MANIFEST_NAME,
    SEGMENT_SUFFIX,
    check_version,
    read_manifest,
)
from tracekit.store.locate import Name, trace_paths
from tracekit.store.statements import query_errors, select, value_errors

__all__ = [
    "HasReader",
    "SegmentInfo",
    "TraceLike",
    "TraceReader",
    "journal_table",
    "open_reader",
    "open_segment",
]


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """One file of a trace, from its footer or journal. Sizes in bytes.

    `first_submit` and `last_submit` are ns since its own epoch; None without ops, or where a
    foreign file has no statistics.
    """

    path: Path
    rows: int
    schema: pa.Schema = field(repr=False)
    journal: bool
    file_bytes: int
    torn_bytes: int
    metadata: Mapping[str, str]
    counters: Mapping[str, int]
    first_submit: int | None = None
    last_submit: int | None = None

    @property
    def source(self) -> str:
        return self.metadata.get("source", "unknown")

    @property
    def is_sorted(self) -> bool:
        """Whether its rows are known to be in order of `t_submit`: tracekit's own segments are."""
        return not self.journal and "trace_id" in self.metadata

    @property
    def epoch_unix_ns(self) -> int | None:
        raw = self.metadata.get("epoch_unix_ns")
        return int(raw) if raw is not None else None


@dataclass(frozen=True)
class TraceReader:
    """An open trace. Cheap: footers only, until something is queried."""

    path: Path
    segments: tuple[SegmentInfo, ...]
    trace_id: str | None
    epoch_unix_ns: int | None

    @property
    def rows(self) -> int:
        """Ops in the trace."""
        return sum(segment.rows for segment in self.segments)

    @property
    def source(self) -> str:
        """Who produced the ops: loader, replay, import:FORMAT, capture; `mixed` if several."""
        sources = {segment.source for segment in self.segments}
        return sources.pop() if len(sources) == 1 else "mixed" if sources else "unknown"

    @cached_property
    def options(self) -> dict[str, Any]:
        """The options that the producer noted, of the first segment that has any."""
        for segment in self.segments:
            noted = json.loads(segment.metadata.get("options") or "{}")
            if isinstance(noted, dict) and noted:
                return noted
        return {}

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
        """Columns that at least one file holds, extras included."""
        return tuple(dict.fromkeys(name for segment in self.segments for name in segment.schema.names))

    @property
    def unfinished(self) -> tuple[SegmentInfo, ...]:
        """Segments that are still journals: being written now, or left by a crash."""
        return tuple(segment for segment in self.segments if segment.journal)

    def connect(
        self,
        *,
        ordered: bool = False,
        threads: int | None = None,
        memory_limit: str | None = None,
        spill_dir: Path | None = None,
    ) -> duckdb.DuckDBPyConnection:
        """A fresh DuckDB connection with the view `ops` (and `internal.ops_scan`: the same rows in file order).

        Both have every schema column (see `ops.sql`), whatever the files hold. With
        `ordered`, `ops` is in order of `t_submit`. The connection can read the trace's
        files and nothing else: no other files, no writes, no extensions, no settings.
        `memory_limit` is DuckDB's (`4GiB`); with `spill_dir`, larger work spills there.
        """
        config: dict[str, Any] = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}
        if threads is not None:
            config["threads"] = threads
        if memory_limit is not None:
            config["memory_limit"] = memory_limit
        config["temp_directory"] = str(spill_dir) if spill_dir is not None else ""
        connection = duckdb.connect(":memory:", config=config)
        try:
            self._define_views(connection, ordered)
            allowed = [str(segment.path) for segment in self.segments if not segment.journal]
            connection.execute("SET allowed_paths = $paths", {"paths": allowed})
            connection.execute("SET enable_progress_bar = false")  # it prints on stdout, into our JSON
            connection.execute("SET python_enable_replacements = false")
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
        except BaseException:
            connection.close()
            raise
        return connection

    def query(self, sql: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> pa.Table:
        """The result of `sql` over the view `ops` (in order of `t_submit`), as an Arrow table.

        Raises UsageError with DuckDB's own words if the query is wrong or does not only read.
        """
        with closing(self.connect(ordered=True)) as connection, query_errors():
            return select(connection, sql, params).to_arrow_table()

    def batches(
        self, columns: Sequence[str] | None = None, *, batch_rows: int = 65_536, ordered: bool = True
    ) -> Iterator[pa.RecordBatch]:
        """The ops, streamed; all columns, or those of `columns`. Raises UsageError for an unknown one."""
        with closing(self.connect(ordered=ordered)) as connection, value_errors(self.path):
            view = connection.view("ops")
            unknown = set(columns or ()) - set(view.columns)
            if unknown:
                raise UsageError(
                    f"no column {', '.join(sorted(unknown))}", f"there are {', '.join(view.columns)}"
                )
            chosen = view.select(*(duckdb.ColumnExpression(name) for name in columns)) if columns else view
            yield from chosen.to_arrow_reader(batch_rows)

    def extent(self) -> tuple[int | None, int | None]:
        """First and last submit, ns since the trace's epoch; from statistics, where every file has them."""
        full = [segment for segment in self.segments if segment.rows]
        if any(segment.first_submit is None or segment.last_submit is None for segment in full):
            row = self.query("SELECT min(t_submit) AS first, max(t_submit) AS last FROM ops").to_pylist()[0]
            return row["first"], row["last"]
        firsts = [(segment.first_submit or 0) + self.shift_of(segment) for segment in full]
        lasts = [(segment.last_submit or 0) + self.shift_of(segment) for segment in full]
        return min(firsts, default=None), max(lasts, default=None)

    def shift_of(self, segment: SegmentInfo) -> int:
        """What to add to the segment's times so that they count from the trace's epoch, ns."""
        if segment.epoch_unix_ns is None or self.epoch_unix_ns is None:
            return 0
        return segment.epoch_unix_ns - self.epoch_unix_ns

    def _define_views(self, connection: duckdb.DuckDBPyConnection, ordered: bool) -> None:
        plain = pa.schema(
            [pa.field(f.name, pa.string() if pa.types.is_dictionary(f.type) else f.type) for f in OPS]
        )
        connection.execute("CREATE SCHEMA internal; USE internal")  # SHOW TABLES is to list `ops` alone
        connection.register("ops_template_arrow", plain.empty_table())
        connection.table("ops_template_arrow").create("ops_template")
        connection.unregister("ops_template_arrow")
        parts = [connection.table("internal.ops_template")]
        for shift, segments in self._by_shift().items():
            parquet = [str(segment.path) for segment in segments if not segment.journal]
            if parquet:
                parts.append(_shifted(connection.read_parquet(parquet, union_by_name=True), shift))
            for segment in segments:
                if segment.journal:
                    name = f"journal_{segment.path.stem}"
                    connection.register(name, journal_table(segment))
                    parts.append(_shifted(connection.table(name), shift))
        names = []
        for index, part in enumerate(parts):
            part.create_view(f"segments_{index}")
            names.append(f"SELECT * FROM internal.segments_{index}")
        connection.execute(f"CREATE VIEW segments AS {' UNION ALL BY NAME '.join(names)}")
        connection.execute(load_sql("tracekit.store", "ops"))
        connection.execute("USE main")
        scan = connection.view("internal.ops_scan")
        (scan.order("t_submit") if ordered and not self._in_order() else scan).create_view("ops")

    def _by_shift(self) -> dict[int, list[SegmentInfo]]:
        """Segments that hold ops, by their `shift_of`."""
        groups: dict[int, list[SegmentInfo]] = {}
        for segment in self.segments:
            if segment.rows:
                groups.setdefault(self.shift_of(segment), []).append(segment)
        return groups

    def _in_order(self) -> bool:
        """Whether scanning the files gives ascending `t_submit` as it is: one file of our own writing."""
        full = [segment for segment in self.segments if segment.rows]
        return not full or (len(full) == 1 and full[0].is_sorted)


class HasReader(Protocol):
    """An object that stands for an open trace, such as `tracekit.Trace`."""

    @property
    def reader(self) -> TraceReader: ...


TraceLike = Name | Sequence[Name] | TraceReader | HasReader
"""What stands for a trace: an open one, its path or `file://` URI, or several Parquet files (a list or a glob)."""


def open_reader(trace: TraceLike) -> TraceReader:
    """Open a trace: a directory of segments, one Parquet file, or several Parquet files as one trace.

    An open trace is returned as it is. Raises TraceFormatError, in one line, if there is no trace, a
    segment is truncated, a core column is missing or has a wrong type, or the schema is newer than known.
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
    segment = _segment(root)
    return TraceReader(root, (segment,), segment.metadata.get("trace_id"), segment.epoch_unix_ns)


def _open_files(paths: Sequence[Path]) -> TraceReader:
    """Open Parquet files as one trace, named by the directory that they share."""
    for path in paths:
        if not path.is_file():
            what = "is a directory" if path.is_dir() else "no such file"
            raise TraceFormatError(f"{path}: {what}", "several names must all be Parquet files")
    return _joined(
        Path(os.path.commonpath([path.absolute().parent for path in paths])),
        [_segment(path) for path in paths],
    )


def open_segment(file: Path) -> SegmentInfo | None:
    """One segment or journal of a trace; None for a journal that a crash left before its schema.

    Raises TraceFormatError if it cannot be read as ops, FileNotFoundError if it is gone.
    """
    return _journal(file) if file.suffix == JOURNAL_SUFFIX else _segment(file)


def journal_table(segment: SegmentInfo) -> pa.Table:
    """The ops of an unfinished segment as they stand, wherever they stand by now."""
    try:
        contents = read_journal(segment.path)
    except FileNotFoundError:  # its recorder has finished the segment since the trace was opened
        return pq.ParquetFile(segment.path.with_suffix(SEGMENT_SUFFIX)).read()
    return segment.schema.empty_table() if contents is None else contents.table()


def _open_directory(root: Path) -> TraceReader:
    manifest = read_manifest(root)
    found = []
    for file in _segment_files(root):
        try:
            segment = open_segment(file)
        except FileNotFoundError:  # a live recorder turned this journal into a segment just now
            segment = _segment(file.with_suffix(SEGMENT_SUFFIX))
        if segment is not None:
            found.append(segment)
    if manifest is None and not found:
        raise TraceFormatError(
            f"{root} is no trace: it holds neither {MANIFEST_NAME} nor segments", "give a trace directory"
        )
    if manifest is not None:
        return TraceReader(root, tuple(found), manifest.trace_id, manifest.epoch_unix_ns)
    return _joined(root, found)


def _joined(root: Path, found: Sequence[SegmentInfo]) -> TraceReader:
    """Return the trace of segments without a manifest: times count from the earliest epoch."""
    epochs = [segment.epoch_unix_ns for segment in found if segment.epoch_unix_ns is not None]
    return TraceReader(root, tuple(found), found[0].metadata.get("trace_id"), min(epochs, default=None))


def _segment_files(root: Path) -> list[Path]:
    names = sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))
    finished = [entry for entry in names if entry.suffix == SEGMENT_SUFFIX]
    stems = {entry.stem for entry in finished}
    return finished + [e for e in names if e.suffix == JOURNAL_SUFFIX and e.stem not in stems]


def _segment(file: Path) -> SegmentInfo:
    try:
        footer = pq.read_metadata(file)
        schema = footer.schema.to_arrow_schema()
    except FileNotFoundError:
        raise
    except PermissionError as error:
        raise TraceFormatError(f"{file}: {error.strerror}", "run as a user who may read it") from error
    except pa.ArrowNotImplementedError as error:
        raise TraceFormatError(f"{file}: {error}", "see docs/trace.md for the schema") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise TraceFormatError(
            f"{file} is truncated or no Parquet file",
            "tracekit repair salvages what the rest of a trace holds",
        ) from error
    metadata = _metadata(footer.metadata)
    _check(file, schema, metadata)
    _check_nulls(file, footer)
    first, last = _submits(footer)
    return SegmentInfo(
        path=file,
        rows=footer.num_rows,
        schema=schema,
        journal=False,
        file_bytes=file.stat().st_size,
        torn_bytes=0,
        metadata=metadata,
        counters=json.loads(metadata.get(COUNTERS_KEY.removeprefix(META_PREFIX), "{}")),
        first_submit=first,
        last_submit=last,
    )


def _check_nulls(file: Path, footer: pq.FileMetaData) -> None:
    """Raise TraceFormatError if the statistics tell of an op without a time or a name."""
    for name in ("t_submit", "uri"):
        groups = _statistics(footer, name)
        nulls = sum(found.null_count for found in groups if found is not None and found.has_null_count)
        if nulls:
            raise TraceFormatError(f"{file}: {nulls} ops have no {name}", "every op needs t_submit and uri")


def _submits(footer: pq.FileMetaData) -> tuple[int | None, int | None]:
    groups = _statistics(footer, "t_submit")
    told = [found for found in groups if found is not None and found.has_min_max]
    if not told or len(told) < len(groups):
        return None, None
    return min(found.min for found in told), max(found.max for found in told)


def _statistics(footer: pq.FileMetaData, name: str) -> list[pq.Statistics | None]:
    """What each row group tells of the column `name`; a nested column may have a part of that name."""
    index = [footer.schema.column(at).path for at in range(footer.num_columns)].index(name)
    return [footer.row_group(group).column(index).statistics for group in range(footer.num_row_groups)]


def _journal(file: Path) -> SegmentInfo | None:
    contents = read_journal(file)
    if contents is None:
        return None
    metadata = _metadata(contents.schema.metadata)
    _check(file, contents.schema, metadata)
    return SegmentInfo(
        path=file,
        rows=contents.rows,
        schema=contents.schema,
        journal=True,
        file_bytes=file.stat().st_size,
        torn_bytes=contents.torn_bytes,
        metadata=metadata,
        counters=contents.counters,
        **_journal_submits(contents),
    )


def _journal_submits(contents: JournalContents) -> dict[str, int]:
    if not contents.rows:
        return {}
    found = pc.min_max(contents.table().column("t_submit")).as_py()
    return {"first_submit": found["min"], "last_submit": found["max"]}


def _metadata(raw: Mapping[bytes, bytes] | None) -> dict[str, str]:
    prefix = META_PREFIX.encode()
    return {
        key.removeprefix(prefix).decode(): value.decode(errors="replace")
        for key, value in (raw or {}).items()
        if key.startswith(prefix)
    }


def _check(file: Path, schema: pa.Schema, metadata: Mapping[str, str]) -> None:
    try:
        check_version(int(metadata.get("schema_version", "0")), file)
    except ValueError as error:
        raise TraceFormatError(f"{file}: its schema version is no number", "record again") from error
    try:
        int(metadata.get("epoch_unix_ns", "0"))
        for name in ("counters", "options"):
            json.loads(metadata.get(name) or "{}")
    except ValueError as error:
        raise TraceFormatError(
            f"{file}: its tracekit metadata is damaged: {error}", "record again"
        ) from error
    found = problems(schema)
    if found:
        raise TraceFormatError(f"{file} is no op log: {'; '.join(found)}", "see docs/trace.md for the schema")


def _shifted(relation: duckdb.DuckDBPyRelation, shift: int) -> duckdb.DuckDBPyRelation:
    if shift == 0:
        return relation
    times = {"t_submit", "t_due"} & set(relation.columns)
    return relation.project(
        *(
            (duckdb.ColumnExpression(name) + duckdb.ConstantExpression(shift)).alias(name)
            if name in times
            else duckdb.ColumnExpression(name)
            for name in relation.columns
        )
    )
