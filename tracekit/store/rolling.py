"""The segments that one process adds to a trace: a journal first, Parquet at roll-over.

One thread appends. A second thread, started here, turns each full journal into a segment, so that appending
never waits for compression. A crash at any point leaves the journal, which readers understand.
"""

from __future__ import annotations

import errno
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa

from tracekit.store.index import append_entry
from tracekit.store.journal import JournalContents, JournalWriter, read_journal
from tracekit.store.labels import Labels
from tracekit.store.layout import BROKEN_SUFFIX, journal_path, process_stem, segment_of
from tracekit.store.manifest import Manifest
from tracekit.store.segment import conform, write_segment

__all__ = ["RollingSegments", "compact"]


class RollingSegments:
    """Appends conforming batches; rolls to a new segment after `segment_ops` rows, or when the journal has `journal_bytes`.

    Used by one thread. The compactor calls `finished` with the path of each segment. `failure` is the error that stopped the compactor, if any; its journal is kept.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        *,
        segment_ops: int,
        labels: Labels,
        journal_bytes: int | None = None,
        finished: Callable[[Path], None] | None = None,
    ) -> None:
        self._path = path
        self._manifest = manifest
        self._segment_ops = segment_ops
        self._labels = labels
        self._journal_bytes = journal_bytes
        self._finished = finished
        self._opened_at = 0.0
        self._stem = process_stem()
        self._next = 0
        self._journal: JournalWriter | None = None
        self._base: dict[str, int] = {}
        self._full: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self._compactor = threading.Thread(target=self._compact_loop, name="tracekit-compactor", daemon=True)
        self._compactor.start()
        self.failure: Exception | None = None
        self.cpu_ns = 0
        """CPU time of the compactor."""

    def append(self, batch: pa.RecordBatch, counters: Mapping[str, int]) -> None:
        """Hand `batch` to the kernel before returning. Raises OSError if that fails.

        `counters` are the cumulative ones of the process; a segment keeps its own share.
        """
        if self._journal is not None and self._journal.schema.names != batch.schema.names:
            self.roll(counters)
        if self._journal is None:
            self._journal = self._open(batch.schema)
        self._journal.append(batch, self._share(counters))
        if self._journal.rows >= self._segment_ops or (
            self._journal_bytes is not None and self._journal.bytes >= self._journal_bytes
        ):
            self.roll(counters)

    def roll_after(self, seconds: float, counters: Mapping[str, int]) -> None:
        """Finish the open segment if it was begun this long ago."""
        if self._journal is not None and time.monotonic() - self._opened_at >= seconds:
            self.roll(counters)

    def roll(self, counters: Mapping[str, int]) -> None:
        """Finish the open segment, with the counters so far."""
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
        self.stop()

    def stop(self) -> None:
        """End the compactor once the full journals are segments. A thread left at exit keeps DuckDB's types alive."""
        self._full.put(None)
        self._compactor.join()

    def _open(self, schema: pa.Schema) -> JournalWriter:
        name = f"{self._stem}-{self._next:05d}"
        self._next += 1
        self._opened_at = time.monotonic()
        metadata = self._labels.metadata(self._manifest, name)
        return JournalWriter(journal_path(self._path, name), schema.with_metadata(metadata))

    def present(self) -> bool:
        """Return whether the open journal is still at its path."""
        return self._journal is None or self._journal.path.exists()

    def _share(self, counters: Mapping[str, int]) -> dict[str, int]:
        grown = {name: value - self._base.get(name, 0) for name, value in counters.items()}
        return {name: value for name, value in grown.items() if value}

    def _compact_loop(self) -> None:
        while (path := self._full.get()) is not None:
            try:
                compact(path)
                if self._finished is not None and (segment := segment_of(path)).exists():
                    self._finished(segment)
            except Exception as error:  # noqa: BLE001 - the journal stays; the owner raises this
                self.failure = self.failure or error
            self.cpu_ns = time.thread_time_ns()


def compact(journal: Path) -> JournalContents | None:
    """Turn one journal into the segment of the same stem, list the segment, and remove the journal.

    A journal with neither ops nor counters becomes no segment. A journal with bytes that could not be read
    is not removed but renamed `*.broken`. Returns what was read (None: the file was empty). Raises
    TraceFormatError if it is not a journal, OSError if the segment cannot be written.
    """
    contents = read_journal(journal)
    if contents is not None and (contents.rows or contents.counters):
        segment = segment_of(journal)
        try:
            entry = write_segment(
                segment, contents.table(), contents.schema.metadata or {}, contents.counters
            )
            append_entry(segment.parent, entry)
        except OSError as error:
            raise OSError(
                error.errno, f"cannot write it: {os.strerror(error.errno or errno.EIO)}", str(segment)
            ) from error
    if contents is not None and contents.lost_bytes:
        journal.rename(journal.with_name(journal.name + BROKEN_SUFFIX))
    else:
        journal.unlink()
    return contents
