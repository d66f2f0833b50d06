"""The journal: an append-only Arrow IPC stream that outlives `kill -9`.

Each batch is handed to the kernel whole before it counts as flushed, so what a crash
can tear is at most the batch being written; a reader takes all batches before the tear.
Counters ride along as metadata of each batch, cumulative, so the last one read is right.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from tracekit.errors import TraceFormatError
from tracekit.schema import META_PREFIX

__all__ = ["COUNTERS_KEY", "JournalContents", "JournalWriter", "read_journal"]

COUNTERS_KEY = f"{META_PREFIX}counters"


class JournalWriter:
    """Appends batches of one schema to one new file. Used by one thread."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self.schema = schema
        self.rows = 0
        self._sink = pa.OSFile(str(path), "wb")
        self._stream = pa.ipc.new_stream(self._sink, schema)

    def append(self, batch: pa.RecordBatch, counters: Mapping[str, int]) -> None:
        """Hand `batch` to the kernel, with the counters as they stand. Raises OSError if it cannot."""
        self._stream.write_batch(batch, custom_metadata={COUNTERS_KEY: json.dumps(counters)})
        self.rows += batch.num_rows

    def close(self) -> None:
        self._stream.close()
        self._sink.close()


@dataclass(slots=True)
class JournalContents:
    """What could be read of a journal. `torn_bytes` lie after the last whole batch."""

    schema: pa.Schema
    batches: list[pa.RecordBatch] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)
    torn_bytes: int = 0

    @property
    def rows(self) -> int:
        return sum(batch.num_rows for batch in self.batches)

    def table(self) -> pa.Table:
        return pa.Table.from_batches(self.batches, self.schema)


def read_journal(path: Path) -> JournalContents | None:
    """Every whole batch of the journal at `path`; None if not even its schema is there.

    Memory-mapped: the columns are pages of the file, not copies. Raises TraceFormatError
    if the file is no journal at all, FileNotFoundError if it is gone.
    """
    size = path.stat().st_size
    if size == 0:
        return None
    source = pa.memory_map(str(path), "r")
    try:
        reader = pa.ipc.open_stream(source)
    except (pa.ArrowInvalid, OSError) as error:
        if size < 16 * 1024:  # a crash while the first message (the schema) was being written
            return None
        raise TraceFormatError(f"{path} is no journal: {error}", "remove it to read the rest") from error
    contents = JournalContents(reader.schema)
    whole = source.tell()
    for batch, counters in _whole_batches(reader):
        contents.batches.append(batch)
        contents.counters = counters
        whole = source.tell()
    contents.torn_bytes = max(0, size - whole)
    return contents


def _whole_batches(reader: pa.RecordBatchReader) -> Iterator[tuple[pa.RecordBatch, dict[str, int]]]:
    while True:
        try:
            batch, metadata = reader.read_next_batch_with_custom_metadata()
        except StopIteration:
            return
        except (pa.ArrowInvalid, OSError):  # torn by a crash: what came before is whole
            return
        raw = metadata.get(COUNTERS_KEY) if metadata is not None else None
        yield batch, json.loads(raw) if raw else {}
