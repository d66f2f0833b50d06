"""Writes a complete trace from batches, as importers do, whole or not at all.

Unlike the recorder it keeps no journal: the trace is written to a hidden directory beside its target, and
renamed into place when it is complete.
"""

from __future__ import annotations

import errno
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tracekit.errors import TraceFormatError, UsageError
from tracekit.schema import OPS
from tracekit.store.index import Entry, write_sealed
from tracekit.store.labels import Labels
from tracekit.store.layout import SEGMENT_SUFFIX
from tracekit.store.locate import local_path
from tracekit.store.manifest import Manifest, new_manifest
from tracekit.store.segment import check_errors, conform, write_segment
from tracekit.store.target import beside, check_target, publish

__all__ = ["TraceWriter"]


class TraceWriter:
    """Writes a new trace directory from record batches; a context manager.

    Batches may have any schema columns (the core ones are needed; extra columns are kept), in any order:
    each segment of `segment_ops` rows is sorted by `t_submit`. Times count from `epoch_unix_ns`; if that is
    None, they are ns since the Unix epoch and are rebased to the earliest op. URIs lose their queries and
    user-info.

    On a clean exit the trace appears at `path`; on an exception nothing does. Raises UsageError as
    `check_target` does, TraceFormatError for a batch that does not fit the schema.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        source: str,
        epoch_unix_ns: int | None = None,
        overwrite: bool = False,
        options: dict[str, Any] | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        segment_ops: int = 1_048_576,
    ) -> None:
        self.path = Path(os.path.abspath(local_path(path)))
        check_target(self.path, overwrite=overwrite)
        self.rows = 0
        self._overwrite = overwrite
        self._absolute = epoch_unix_ns is None
        self._epoch_unix_ns = epoch_unix_ns
        self._earliest: int | None = None
        self._manifest: Manifest | None = None
        self._labels = Labels(source, options, rank, world_size)
        self._segment_ops = segment_ops
        self._pending: list[pa.Table] = []
        self._pending_rows = 0
        self._next = 0
        self._counters: dict[str, int] = {}
        self._aside = beside(self.path)
        # One segment is sorted and compressed while the next is collected: at most two are in memory.
        self._beside = ThreadPoolExecutor(2, thread_name_prefix="tracekit-segment")
        self._writing: list[Future[Entry]] = []
        self._entries: list[Entry] = []

    def write(self, batch: pa.RecordBatch) -> None:
        """Add the ops of `batch`."""
        try:
            table = conform(batch)
            check_errors(table)
            submit = pc.min(table.column("t_submit")).as_py()
            if batch.num_rows and (table.column("t_submit").null_count or table.column("uri").null_count):
                raise TraceFormatError("an op lacks t_submit or uri", "every op needs both")
        except (pa.ArrowException, OverflowError) as error:
            raise TraceFormatError(
                f"values do not fit the op schema: {error}", "see docs/trace.md"
            ) from error
        if submit is None:
            return
        if self._manifest is None:
            self._epoch_unix_ns = submit if self._epoch_unix_ns is None else self._epoch_unix_ns
            self._manifest = new_manifest(self._epoch_unix_ns)
        self._earliest = submit if self._earliest is None else min(self._earliest, submit)
        self._pending.append(self._rebased(table))
        self._pending_rows += len(table)
        self.rows += len(table)
        while self._pending_rows >= self._segment_ops:
            self._write_segment(self._segment_ops)

    def count(self, name: str, n: int = 1) -> None:
        """Add `n` to a counter of the trace."""
        self._counters[name] = self._counters.get(name, 0) + n

    def describe(
        self, *, completeness: dict[str, Any] | None = None, has: tuple[str, ...] | None = None
    ) -> None:
        """State what the trace holds of what really happened, in the segments still to be written; None leaves it as it was.

        `has` names the columns that an import's source knows, and `ENDS` if an op without a latency never ended.
        """
        before = self._labels
        self._labels = replace(
            before,
            completeness=before.completeness if completeness is None else completeness,
            has=before.has if has is None else has,
        )

    def abort(self) -> None:
        """Discard everything written; nothing appears at `path`."""
        self._beside.shutdown()
        shutil.rmtree(self._aside, ignore_errors=True)

    def close(self) -> None:
        """Publish the trace."""
        if self._pending_rows or self._counters or self._labels.completeness is not None:
            self._write_segment(self._pending_rows)
        self._settle()
        self._beside.shutdown()
        write_sealed(self._aside, self._final_manifest(), self._entries)
        try:
            publish(self._aside, self.path, overwrite=self._overwrite)
        except OSError as error:
            self.abort()
            taken = error.errno in (errno.ENOTEMPTY, errno.EEXIST)  # by another process, since the beginning
            what = f"{self.path} exists" if taken else f"{self.path}: {error.strerror}"
            raise UsageError(what, "choose another path") from error

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.abort()
            return
        try:
            self.close()
        except BaseException:
            self.abort()
            raise

    def _rebased(self, table: pa.Table) -> pa.Table:
        if not self._absolute:
            return table
        base = pa.scalar(self._epoch_unix_ns, pa.int64())
        for name in ("t_submit", "t_due"):
            index = OPS.get_field_index(name)
            table = table.set_column(index, table.field(index), pc.subtract(table.column(index), base))
        return table

    def _write_segment(self, rows: int) -> None:
        if self._pending:
            table = pa.concat_tables(self._pending, promote_options="default")
        else:
            table = conform(pa.RecordBatch.from_pydict({}))
        segment, rest = table.slice(0, rows), table.slice(rows)
        self._pending = [rest] if len(rest) else []
        self._pending_rows = len(rest)
        if self._manifest is None:
            self._manifest = new_manifest(self._epoch_unix_ns)
        name = f"seg-{self._next:05d}"
        metadata = self._labels.metadata(self._manifest, name)
        counters, self._counters = self._counters, {}
        if rows == self._segment_ops:  # the last, usually small segment is written beside the previous one
            self._settle()
        path = self._aside / f"{name}{SEGMENT_SUFFIX}"
        self._writing.append(self._beside.submit(write_segment, path, segment, metadata, counters))
        self._next += 1

    def _settle(self) -> None:
        """Wait for the segments that are being written; raises the errors of writing them."""
        while self._writing:
            self._entries.append(self._writing.pop(0).result())

    def _final_manifest(self) -> Manifest:
        """Return the manifest; with absolute times, its epoch is the earliest op, and readers shift segments."""
        manifest = self._manifest or new_manifest(self._epoch_unix_ns)
        if not self._absolute or self._earliest is None:
            return manifest
        return Manifest(manifest.trace_id, self._earliest, None, None)
