"""Opens one segment or journal: its footer, its labels, and whether it holds ops.

Reads footers only, except for journals.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tracekit.errors import TraceFormatError
from tracekit.schema import META_PREFIX, WRITE_VERSION, problems
from tracekit.store.footer import is_sealed, parquet_errors, read_footer, without_seal
from tracekit.store.journal import COUNTERS_KEY, JournalContents, read_journal
from tracekit.store.layout import JOURNAL_SUFFIX, OLD_JOURNAL_SUFFIX, segment_of
from tracekit.store.manifest import check_version
from tracekit.store.remote import RemotePath, dataset_of, local_or_remote

if TYPE_CHECKING:
    import pyarrow.dataset as ds

__all__ = [
    "ENDS",
    "NotOpsError",
    "SegmentInfo",
    "damage_errors",
    "joined_ends",
    "journal_table",
    "open_file",
    "open_pages",
    "open_segment",
    "records_ends",
    "unnamed_ops",
]

ENDS = "ends"
"""In `has`, besides the columns that a source knows: an op without a latency never ended."""
_RECORDING = ("loader", "replay", "capture")
"""Sources that record every end, unless `has` says otherwise."""


class NotOpsError(TraceFormatError):
    """A Parquet file can be read, but its columns are not those of ops."""


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """One file of a trace, from its footer or journal. Sizes in bytes.

    `first_submit` and `last_submit` are ns since the segment's own epoch; None if it has no ops, or no
    statistics. `torn_bytes` and `damaged_bytes` are what could not be read of a journal. `sealed` is a file that
    is as tracekit wrote it: what its metadata says of its ops is true.
    """

    path: Path
    rows: int
    schema: pa.Schema = field(repr=False)
    journal: bool
    file_bytes: int
    metadata: Mapping[str, str]
    counters: Mapping[str, int]
    first_submit: int | None = None
    last_submit: int | None = None
    torn_bytes: int = 0
    damaged_bytes: int = 0
    sealed: bool = False

    @property
    def source(self) -> str:
        return self.metadata.get("source", "unknown")

    @property
    def by_name(self) -> bool:
        """Whether DuckDB reads the file by its name: a finished segment on a file system."""
        return not self.journal and not isinstance(self.path, RemotePath)

    @property
    def schema_version(self) -> int | None:
        """The version of the op schema that the file states; None for other tools' files."""
        raw = self.metadata.get("schema_version")
        return int(raw) if raw is not None else None

    @property
    def puts_are_ranges(self) -> bool:
        """Whether a `put` with an offset is a `write`: version 1, and files without a version, have no `write`."""
        return (self.schema_version or 1) < WRITE_VERSION

    @property
    def is_sorted(self) -> bool:
        """Whether its rows are known to be in order of `t_submit`, as in every segment that tracekit wrote."""
        return not self.journal and "trace_id" in self.metadata

    @property
    def foreign(self) -> bool:
        """Whether another tool wrote the file: its URIs may hold secrets."""
        return "trace_id" not in self.metadata

    @property
    def records_ends(self) -> bool | None:
        """Whether an op without a latency never ended; False if its end is not known, None if the file does not say."""
        has = self.metadata.get("has")
        if has is not None:
            return ENDS in has.split(",")
        return True if self.source in _RECORDING else None

    @property
    def epoch_unix_ns(self) -> int | None:
        raw = self.metadata.get("epoch_unix_ns")
        return int(raw) if raw is not None else None


def records_ends(segments: Iterable[SegmentInfo]) -> bool | None:
    """Whether ops without a latency never ended: False if that is unknown of any, None if no segment says.

    Where no segment says, a trace that has latencies at all has them of every op that ended.
    """
    return joined_ends(segment.records_ends for segment in segments if segment.rows)


def joined_ends(parts: Iterable[bool | None]) -> bool | None:
    """What `records_ends` says of a whole, from what it says of each part."""
    said = set(parts)
    return False if False in said else True if True in said else None


def open_segment(file: Path) -> SegmentInfo | None:
    """Open one segment or journal; None for an empty journal.

    Raises TraceFormatError if it cannot be read as ops, FileNotFoundError if it is gone.
    """
    return _journal(file) if file.suffix in (JOURNAL_SUFFIX, OLD_JOURNAL_SUFFIX) else _segment(file)


def open_file(file: Path) -> SegmentInfo:
    """Open one Parquet file, whatever its suffix. Raises as `open_segment` does."""
    return _segment(file)


def open_pages(file: Path) -> pq.ParquetFile:
    """Open a Parquet file for reading with its page checksums verified, where it has them."""
    return pq.ParquetFile(local_or_remote(file), memory_map=True, page_checksum_verification=True)


@contextmanager
def damage_errors(file: Path) -> Iterator[None]:
    """Raise TraceFormatError, in one line, for what Arrow says of a damaged segment."""
    try:
        with parquet_errors():
            yield
    except (pa.ArrowException, OSError) as error:
        raise TraceFormatError(
            f"{file} is damaged: {str(error).splitlines()[0]}",
            "tracekit verify names the damage, tracekit repair keeps the intact row groups",
        ) from error


def journal_table(segment: SegmentInfo) -> pa.Table:
    """Return the ops of an unfinished segment, from the segment if it has been finished since."""
    try:
        contents = read_journal(segment.path)
    except FileNotFoundError:
        with open_pages(segment_of(segment.path)) as finished:
            return finished.read()
    return segment.schema.empty_table() if contents is None else contents.table()


def unnamed_ops(segment: SegmentInfo) -> pa.Table | ds.Dataset:
    """Return the ops of a segment that DuckDB does not read by its name."""
    if isinstance(segment.path, RemotePath) and not segment.journal:
        return dataset_of(segment.path)
    return journal_table(segment)


def _segment(file: Path) -> SegmentInfo:
    try:
        footer = read_footer(file)
        with parquet_errors():
            schema = footer.schema.to_arrow_schema()
    except FileNotFoundError:
        raise
    except IsADirectoryError as error:
        raise TraceFormatError(
            f"{file} is a directory, not a Parquet file", "move it out of the trace"
        ) from error
    except PermissionError as error:
        raise TraceFormatError(f"{file}: {error.strerror}", "run as a user who may read it") from error
    except pa.ArrowNotImplementedError as error:
        raise TraceFormatError(f"{file}: {error}", "see docs/trace.md for the schema") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise TraceFormatError(
            f"{file} is truncated or not a Parquet file",
            "tracekit repair keeps what can be read of a trace",
        ) from error
    metadata = _metadata(without_seal(footer.metadata))
    _check(file, schema, metadata)
    _check_nulls(file, footer)
    first, last = _submits(footer)
    return SegmentInfo(
        path=file,
        rows=footer.num_rows,
        schema=schema,
        journal=False,
        file_bytes=file.stat().st_size,
        sealed=is_sealed(footer),
        metadata=metadata,
        counters=json.loads(metadata.get(COUNTERS_KEY.removeprefix(META_PREFIX)) or "{}"),
        first_submit=first,
        last_submit=last,
    )


def _check_nulls(file: Path, footer: pq.FileMetaData) -> None:
    """Raise TraceFormatError if the statistics show an op without a time or a URI."""
    for name in ("t_submit", "uri"):
        groups = _statistics(footer, name)
        nulls = sum(found.null_count for found in groups if found is not None and found.has_null_count)
        if nulls:
            raise TraceFormatError(f"{file}: {nulls} ops have no {name}", "every op needs t_submit and uri")


def _submits(footer: pq.FileMetaData) -> tuple[int | None, int | None]:
    groups = _statistics(footer, "t_submit")
    known = [found for found in groups if found is not None and found.has_min_max]
    if not known or len(known) < len(groups):
        return None, None
    return min(found.min for found in known), max(found.max for found in known)


def _statistics(footer: pq.FileMetaData, name: str) -> list[pq.Statistics | None]:
    """Return the statistics of column `name` in each row group."""
    # By path: a nested column may have a part of the same name.
    index = [footer.schema.column(at).path for at in range(footer.num_columns)].index(name)
    return [footer.row_group(group).column(index).statistics for group in range(footer.num_row_groups)]


def _journal(file: Path) -> SegmentInfo | None:
    contents = read_journal(file)
    if contents is None:
        return None
    metadata = _metadata(contents.schema.metadata)
    _check(file, contents.schema, metadata)
    first, last = _journal_submits(contents)
    return SegmentInfo(
        path=file,
        rows=contents.rows,
        schema=contents.schema,
        journal=True,
        file_bytes=file.stat().st_size,
        torn_bytes=contents.torn_bytes,
        damaged_bytes=contents.damaged_bytes,
        metadata=metadata,
        counters=contents.counters,
        first_submit=first,
        last_submit=last,
    )


def _journal_submits(contents: JournalContents) -> tuple[int | None, int | None]:
    if not contents.rows:
        return None, None
    found = pc.min_max(contents.table().column("t_submit")).as_py()
    return found["min"], found["max"]


def _metadata(raw: Mapping[bytes, bytes] | None) -> dict[str, str]:
    prefix = META_PREFIX.encode()
    return {
        key.removeprefix(prefix).decode(errors="replace"): value.decode(errors="replace")
        for key, value in (raw or {}).items()
        if key.startswith(prefix)
    }


def _check(file: Path, schema: pa.Schema, metadata: Mapping[str, str]) -> None:
    try:
        check_version(int(metadata.get("schema_version", "0")), file)
    except ValueError as error:
        raise TraceFormatError(f"{file}: its schema version is not a number", "record again") from error
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
        hint = "see docs/trace.md for the schema"
        if b"pandas" in (
            schema.metadata or {}
        ):  # pandas makes integers with gaps doubles, and leaves out an index
            hint = "write df.reset_index().convert_dtypes() if the columns are in it; " + hint
        raise NotOpsError(f"{file} does not hold ops: {'; '.join(found)}", hint)
