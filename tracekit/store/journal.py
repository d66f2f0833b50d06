"""The journal: an append-only file of batches that survives `kill -9`.

A journal is a sequence of frames. Each frame is a head (magic, number, rows, length, checksums) and one
self-contained Arrow IPC stream of one batch, with the segment's metadata and the counters so far. A frame
is handed to the kernel whole before its ops count as flushed. A reader checks every frame; behind damage
it goes on at the next intact one. Journals of tracekit 0.1 (`*.arrows`, one IPC stream) are still read.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from tracekit.errors import TraceFormatError
from tracekit.schema import META_PREFIX, OPS
from tracekit.store.layout import OLD_JOURNAL_SUFFIX
from tracekit.whole import is_stream

__all__ = ["COUNTERS_KEY", "JournalContents", "JournalWriter", "new_frames", "read_journal"]

COUNTERS_KEY = f"{META_PREFIX}counters"
_MAGIC = b"\xf4tkJrnl\n"
_HEAD = struct.Struct("<8sIIQI")  # magic, frame number, rows, length of the stream, its CRC-32
_CHECK = struct.Struct("<I")  # CRC-32 of the head
_HEAD_BYTES = _HEAD.size + _CHECK.size  # 32, so that the stream is aligned to 8 bytes
_ALIGNED = 8
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"


class JournalWriter:
    """Appends batches of one schema to the new file `path`. Used by one thread."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self.schema = schema
        self.rows = self.bytes = 0
        self._frames = 0
        # Units and meanings of columns are those of OPS: no need to repeat them in each frame.
        self._plain = pa.schema([f.remove_metadata() for f in schema], metadata=schema.metadata)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def append(self, batch: pa.RecordBatch, counters: Mapping[str, int]) -> None:
        """Hand `batch` to the kernel, with the counters as they stand. Raises OSError if that fails."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self._plain) as stream:
            stream.write_batch(
                pa.RecordBatch.from_arrays(batch.columns, schema=self._plain),
                custom_metadata={COUNTERS_KEY: json.dumps(counters)},
            )
        body = sink.getvalue()
        head = _HEAD.pack(_MAGIC, self._frames, batch.num_rows, body.size, zlib.crc32(body))
        _write_all(self._file, [head + _CHECK.pack(zlib.crc32(head)), body])
        self.rows += batch.num_rows
        self.bytes += _HEAD_BYTES + body.size
        self._frames += 1

    def close(self) -> None:
        os.close(self._file)


def _write_all(file: int, parts: list[Any]) -> None:
    left = [memoryview(part) for part in parts]
    while left:
        written = os.writev(file, left)
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if left:
            left[0] = left[0][written:]


@dataclass(slots=True)
class JournalContents:
    """The intact batches of a journal, and what could not be read.

    `torn_bytes` are of a batch that was being written when the process died, `damaged_bytes` of anything
    else that fails its checksum.
    """

    schema: pa.Schema
    batches: list[pa.RecordBatch] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)
    torn_bytes: int = 0
    damaged_bytes: int = 0

    @property
    def rows(self) -> int:
        return sum(batch.num_rows for batch in self.batches)

    @property
    def lost_bytes(self) -> int:
        """Bytes of the file that are in no intact batch."""
        return self.torn_bytes + self.damaged_bytes

    def table(self) -> pa.Table:
        return pa.Table.from_batches(self.batches, self.schema)


def read_journal(path: Path) -> JournalContents | None:
    """Return the intact batches of the journal at `path`; None for an empty file.

    The columns are pages of the file, not copies. A frame that is there twice, or of another journal, counts as
    damage. Raises FileNotFoundError if it is gone, TraceFormatError if it is no file, or an old journal (`*.arrows`)
    is not one.
    """
    pages = _pages(path)
    if pages is None:
        return None
    if path.suffix == OLD_JOURNAL_SUFFIX:
        return _read_stream(path, pa.py_buffer(pages))
    contents = JournalContents(OPS)
    schema: pa.Schema | None = None
    numbers: set[int] = set()
    at = 0
    while at < len(pages):
        frame = _frame(pages, at)
        if frame is None:
            following = _next_frame(pages, at)
            _count_lost(contents, pages, at, following)
            at = following
            continue
        batch, counters, following = frame
        number = int(_HEAD.unpack_from(pages, at)[1])
        if schema is None:
            schema = contents.schema = _described(batch.schema)
        alike = batch.schema.names == schema.names and batch.schema.metadata == schema.metadata
        if alike and number not in numbers:
            contents.batches.append(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
            contents.counters = counters
        else:
            contents.damaged_bytes += following - at
        numbers.add(number)
        at = following
    return contents


def _pages(path: Path) -> mmap.mmap | None:
    """Return the bytes of a journal; None if it is empty."""
    if is_stream(path):
        raise TraceFormatError(f"{path} is a pipe or a device, not a journal", "move it out of the trace")
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            return mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ) if size else None
    except FileNotFoundError:
        raise
    except OSError as error:
        raise TraceFormatError(
            f"{path} cannot be read: {error.strerror}", "check its permissions, or move it out of the trace"
        ) from error


def new_frames(file: int, at: int) -> tuple[list[pa.RecordBatch], int]:
    """Return the intact batches of the open journal `file` from byte `at` on, and where the next one will begin.

    A frame that is just being written is left for the next call. Damage is passed over once an intact frame follows it.
    """
    size = os.fstat(file).st_size
    if at >= size:
        return [], at
    pages = mmap.mmap(file, size, prot=mmap.PROT_READ)
    batches = []
    while at < size:
        frame = _frame(pages, at)
        if frame is not None:
            batch, _, at = frame
            batches.append(batch)
        elif (following := _next_frame(pages, at)) < size:
            at = following
        else:
            break
    return batches, at


def _described(plain: pa.Schema) -> pa.Schema:
    """Return the schema of a frame with the units and meanings of OPS."""
    known = {field.name: field for field in OPS}
    return pa.schema([known.get(field.name, field) for field in plain], metadata=plain.metadata)


def _frame(pages: mmap.mmap, at: int) -> tuple[pa.RecordBatch, dict[str, int], int] | None:
    """Return the batch of the frame at `at`, its counters, and where the next begins; None if it is damaged."""
    length = _intact_head(pages, at)
    start = at + _HEAD_BYTES
    if length is None or start + length > len(pages):
        return None
    with memoryview(pages) as whole, whole[start : start + length] as body:
        if zlib.crc32(body) != _HEAD.unpack_from(pages, at)[4]:
            return None
    stream = pa.py_buffer(pages).slice(start, length)
    if start % _ALIGNED:
        stream = pa.py_buffer(stream.to_pybytes())
    with pa.ipc.open_stream(stream) as reader:
        batch, metadata = reader.read_next_batch_with_custom_metadata()
    return batch, json.loads(metadata[COUNTERS_KEY]), start + length


def _intact_head(pages: mmap.mmap, at: int) -> int | None:
    """Return the length of the stream in the frame at `at`; None if there is no intact head."""
    head = pages[at : at + _HEAD_BYTES]
    if len(head) < _HEAD_BYTES or not head.startswith(_MAGIC):
        return None
    if zlib.crc32(head[: _HEAD.size]) != _CHECK.unpack_from(head, _HEAD.size)[0]:
        return None
    return int(_HEAD.unpack_from(head)[3])


def _next_frame(pages: mmap.mmap, damaged: int) -> int:
    """Return where the next intact frame behind `damaged` begins, or the end of the file."""
    at = pages.find(_MAGIC, damaged + 1)
    while at >= 0:
        if _frame(pages, at) is not None:
            return at
        at = pages.find(_MAGIC, at + 1)
    return len(pages)


def _count_lost(contents: JournalContents, pages: mmap.mmap, at: int, following: int) -> None:
    length = _intact_head(pages, at)
    left = len(pages) - at
    begun = pages[at : at + len(_MAGIC)]
    torn = left < _HEAD_BYTES if length is None else left < _HEAD_BYTES + length
    if following == len(pages) and torn and _MAGIC.startswith(begun):
        contents.torn_bytes += left
    else:
        contents.damaged_bytes += following - at


def _read_stream(path: Path, pages: pa.Buffer) -> JournalContents | None:
    """Read a journal of tracekit 0.1, which has no checksums: up to the first batch that does not parse."""
    source = pa.BufferReader(pages)
    try:
        reader = pa.ipc.open_stream(source)
    except (pa.ArrowInvalid, OSError) as error:
        if pages.size < 16 * 1024:  # the process died while it wrote the schema
            return JournalContents(OPS, torn_bytes=pages.size)
        raise TraceFormatError(f"{path} is not a journal: {error}", "remove it to read the rest") from error
    contents = JournalContents(reader.schema)
    whole = source.tell()
    for batch, counters in _whole_batches(reader):
        contents.batches.append(batch)
        contents.counters = counters
        whole = source.tell()
    rest = pages.slice(whole).to_pybytes()
    contents.torn_bytes = 0 if rest == _END_OF_STREAM else len(rest)
    return contents


def _whole_batches(reader: pa.RecordBatchReader) -> Iterator[tuple[pa.RecordBatch, dict[str, int]]]:
    while True:
        try:
            batch, metadata = reader.read_next_batch_with_custom_metadata()
        except (StopIteration, pa.ArrowInvalid, OSError):  # the end, or a batch torn by a crash
            return
        raw = metadata.get(COUNTERS_KEY) if metadata is not None else None
        yield batch, json.loads(raw) if raw else {}
