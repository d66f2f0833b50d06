"""A process's segments of one trace: journal first, Parquet at roll-over.

One thread appends. A second one, started here, turns each full journal into a segment,
so that appending never waits for compression. A crash at any point leaves the journal,
which readers take as it is.
"""

from __future__ import annotations

import errno
import os
import queue
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from tracekit.store.journal import JournalWriter, read_journal
from tracekit.store.layout import JOURNAL_SUFFIX, SEGMENT_SUFFIX, Manifest, process_stem, segment_metadata
from tracekit.store.segment import conform, write_segment

__all__ = ["RollingSegments", "compact"]


class RollingSegments:
    """Appends conforming batches; rolls to a new segment after `segment_ops` rows.

    Used by one thread. `labels` are the source, options, rank and world size for
    the segments' metadata. `failure` is what stopped the compactor, if anything did; its
    journal is kept.
    """

    def __init__(self, path: Path, manifest: Manifest, *, segment_ops: int, labels: dict[str, Any]) -> None:
        self._path = path
        self._manifest = manifest
        self._segment_ops = segment_ops
        self._labels = labels
        self._stem = process_stem()
        self._next = 0
        self._journal: JournalWriter | None = None
        self._base: dict[str, int] = {}
        self._full: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self._compactor = threading.Thread(target=self._compact_loop, name="tracekit-compactor", daemon=True)
        self._compactor.start()
        self.failure: Exception | None = None

    def append(self, batch: pa.RecordBatch, counters: Mapping[str, int]) -> None:
        """Journal `batch`: it is in the kernel's hands on return. Raises OSError if it cannot be.

        `counters` are the process's cumulative ones; a segment keeps its own share.
        """
        if self._journal is not None and self._journal.schema.names != batch.schema.names:
            self.roll(counters)
        if self._journal is None:
            self._journal = self._open(batch.schema)
        self._journal.append(batch, self._share(counters))
        if self._journal.rows >= self._segment_ops:
            self.roll(counters)

    def roll(self, counters: Mapping[str, int]) -> None:
        """Finish the open segment, with what has been counted until now."""
        share = self._share(counters)
        if self._journal is None and share:
            self._journal = self._open(conform(pa.RecordBatch.from_pydict({})).schema)
        if self._journal is None:
            return
        journal, self._journal = self._journal, None
        journal.append(pa.RecordBatch.from_pylist([], schema=journal.schema), share)
        journal.close()
        self._base = dict(counters)
        self._full.put(journal.path)

    def close(self, counters: Mapping[str, int]) -> None:
        """Finish the open segment and wait until every journal has become Parquet."""
        self.roll(counters)
        self._full.put(None)
        self._compactor.join()

    def _open(self, schema: pa.Schema) -> JournalWriter:
        name = f"{self._stem}-{self._next:05d}"
        self._next += 1
        metadata = segment_metadata(self._manifest, segment=name, **self._labels)
        return JournalWriter(self._path / f"{name}{JOURNAL_SUFFIX}", schema.with_metadata(metadata))

    def _share(self, counters: Mapping[str, int]) -> dict[str, int]:
        grown = {name: value - self._base.get(name, 0) for name, value in counters.items()}
        return {name: value for name, value in grown.items() if value}

    def _compact_loop(self) -> None:
        while (path := self._full.get()) is not None:
            try:
                compact(path)
            except Exception as error:  # noqa: BLE001 - the journal stays; the owner raises this
                self.failure = self.failure or error


def compact(journal: Path) -> Path | None:
    """Turn one journal into the segment of the same stem and remove it.

    None if the journal holds neither ops nor counters (it is removed then too). Raises
    TraceFormatError if it is no journal, OSError if the segment cannot be written.
    """
    contents = read_journal(journal)
    segment = None
    if contents is not None and (contents.rows or contents.counters):
        segment = journal.with_suffix(SEGMENT_SUFFIX)
        try:
            write_segment(segment, contents.table(), contents.schema.metadata or {}, contents.counters)
        except OSError as error:
            raise OSError(
                error.errno, f"cannot write it: {os.strerror(error.errno or errno.EIO)}", str(segment)
            ) from error
    journal.unlink()
    return segment
