"""Writes the segments of several traces as one new trace, with all times from one epoch.

Every op, label and counter is kept. One segment is in memory at a time. Which clock and which ranks a segment
gets is the caller's decision.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from tracekit.errors import TraceFormatError
from tracekit.schema import META_PREFIX, OPS, SCHEMA_VERSION
from tracekit.store.clocks import CLOCK, Clock
from tracekit.store.index import Entry, write_sealed
from tracekit.store.layout import SEGMENT_SUFFIX
from tracekit.store.manifest import Manifest, new_manifest
from tracekit.store.merge import segment_batches
from tracekit.store.opening import SegmentInfo
from tracekit.store.segment import ROW_GROUP_ROWS, write_segment
from tracekit.store.target import beside, check_target, publish

__all__ = ["ORIGIN", "Piece", "assembling", "join", "origin_of", "write_pieces"]

ORIGIN = "origin"
"""The metadata key with the trace and the segment that a joined segment was copied from."""
_OF_THE_ROWS = ("bytes", "streams", "kinds", "fingerprint", "counters", "footer_digest", "manifest")
"""Metadata that describes the rows of a file; it is made anew."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One segment, and how it becomes part of the joined trace.

    `shift_ns` is added to its times, as they count from its own epoch. `ranks` has the new number of each rank that
    changes. `change`, if given, is applied to its rows.
    """

    segment: SegmentInfo
    shift_ns: int
    clock: Clock
    ranks: Mapping[int, int] = field(default_factory=dict)
    change: Callable[[pa.Table], pa.Table] | None = None


def origin_of(segment: SegmentInfo) -> str:
    """Return what identifies the ops of `segment`, however often they were joined; empty for other tools' files."""
    trace, name = segment.metadata.get("trace_id"), segment.metadata.get("segment")
    return segment.metadata.get(ORIGIN) or (f"{trace}/{name}" if trace and name else "")


def join(
    pieces: Iterable[Piece],
    path: Path,
    *,
    epoch_unix_ns: int,
    overwrite: bool = False,
    lost: Iterable[Entry] = (),
    notes: Mapping[str, str] | None = None,
) -> int:
    """Write `pieces` as the trace `path`, whole or not at all; return its number of ops.

    `lost` lists segments whose ops the parts had once, and `notes` are kept in the metadata of the trace. Raises UsageError as `check_target` does, TraceFormatError for a piece that cannot be read.
    """
    manifest = new_manifest(epoch_unix_ns)
    with assembling(path, manifest, overwrite=overwrite, notes=notes) as (aside, entries):
        written = write_pieces(pieces, aside, manifest)
        entries += [*written, *lost]
    return sum(entry.rows for entry in written)


@contextmanager
def assembling(
    path: Path, manifest: Manifest, *, overwrite: bool = False, notes: Mapping[str, str] | None = None
) -> Iterator[tuple[Path, list[Entry]]]:
    """Yield a directory for segments, and a list for their entries; on a clean exit they are the trace `path`.

    `notes`, as they are then, are added to the metadata of the trace.
    """
    check_target(path, overwrite=overwrite)
    aside = beside(path)
    entries: list[Entry] = []
    try:
        yield aside, entries
        write_sealed(aside, manifest, entries, notes=notes)
        publish(aside, path, overwrite=overwrite)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def write_pieces(
    pieces: Iterable[Piece], folder: Path, manifest: Manifest, *, name: str = "seg"
) -> list[Entry]:
    """Write `pieces` as segments of the trace of `manifest` into `folder`; return their entries."""
    entries: list[Entry] = []
    for piece in pieces:
        entries.extend(_written(piece, folder, manifest, name, len(entries)))
    return entries


def _written(piece: Piece, folder: Path, manifest: Manifest, name: str, number: int) -> Iterator[Entry]:
    """Write one piece, as several segments if it is larger than a segment may be."""
    counters = dict(piece.segment.counters)
    for offset, table in enumerate(_tables(piece)):
        stem = f"{name}-{number + offset:05d}"
        metadata = _metadata(piece, manifest, stem)
        yield write_segment(folder / f"{stem}{SEGMENT_SUFFIX}", table, metadata, counters)
        counters = {}


def _tables(piece: Piece) -> Iterator[pa.Table]:
    """Yield the rows of a piece in tables of the size of a segment; one without rows if it has none."""
    extra = [name for name in piece.segment.schema.names if OPS.get_field_index(name) < 0]
    columns = [*OPS.names, *extra]
    held: list[pa.Table] = []
    rows = 0
    for batch in _batches(piece, columns) if piece.segment.rows else ():
        held.append(batch)
        rows += len(batch)
        if rows >= ROW_GROUP_ROWS:
            whole = pa.concat_tables(held)
            for start in range(0, rows - ROW_GROUP_ROWS + 1, ROW_GROUP_ROWS):
                yield whole.slice(start, ROW_GROUP_ROWS)
            held = [whole.slice(rows - rows % ROW_GROUP_ROWS)]
            rows %= ROW_GROUP_ROWS
    if rows or not piece.segment.rows:
        yield pa.concat_tables(held) if rows else OPS.empty_table()


def _batches(piece: Piece, columns: list[str]) -> Iterator[pa.Table]:
    try:
        for batch in segment_batches(piece.segment, columns, piece.shift_ns):
            table = _renumbered(batch, piece.ranks) if piece.ranks else batch
            yield table if piece.change is None else piece.change(table)
    except pa.ArrowInvalid as error:
        raise TraceFormatError(f"{piece.segment.path}: {error}", "give another offset=") from error


def _renumbered(table: pa.Table, ranks: Mapping[int, int]) -> pa.Table:
    """Return `table` with the new number of each rank in `ranks`."""
    index = table.schema.get_field_index("rank")
    old = pc.fill_null(table.column(index), 0).to_numpy()
    found = old.copy()
    for before, after in ranks.items():
        found[old == before] = after
    return table.set_column(index, table.field(index), pa.chunked_array([pa.array(found, pa.int32())]))


def _metadata(piece: Piece, manifest: Manifest, name: str) -> dict[bytes, bytes]:
    kept = {key: text for key, text in piece.segment.metadata.items() if key not in _OF_THE_ROWS}
    values = {
        **kept,
        "schema_version": str(SCHEMA_VERSION),
        "trace_id": manifest.trace_id,
        "segment": name,
        "epoch_unix_ns": str(manifest.epoch_unix_ns),
        CLOCK: piece.clock.to_json(),
        ORIGIN: origin_of(piece.segment) or piece.segment.path.name,
    }
    if piece.ranks:
        values["ranks"] = json.dumps({str(old): new for old, new in piece.ranks.items()}, sort_keys=True)
        own = kept.get("rank", "0")
        values["rank"] = str(piece.ranks.get(int(own), own)) if own.isdecimal() else own
    return {f"{META_PREFIX}{key}".encode(): text.encode() for key, text in values.items()}
