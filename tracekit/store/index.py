"""The list of a trace's segments: name, rows, bytes, digest, writer.

While a trace is recorded, each finished segment is a line of `_segments.jsonl`, appended under a lock by
whichever process wrote it. When the last recorder closes, the list and the manifest become
`_trace.parquet`. A segment that is missing, changed or not listed is noticed by comparing with this list.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from tracekit.errors import TraceFormatError
from tracekit.schema import META_PREFIX, OPS
from tracekit.store.footer import parquet_errors, read_footer, sealed_writer, without_seal
from tracekit.store.layout import (
    INDEX_NAME,
    MANIFEST_NAME,
    OLD_MANIFEST_NAME,
    SEALED_NAME,
    journals_of,
    segments_of,
    stem_of,
)
from tracekit.store.lock import try_exclusive
from tracekit.store.manifest import (
    MANIFEST_KEY,
    Manifest,
    manifest_values,
    read_manifest,
    sealed_metadata,
    signed,
    unsigned,
)
from tracekit.store.opening import SegmentInfo
from tracekit.whole import file_bytes, fsync_dir, whole_file

__all__ = [
    "RESTORE",
    "Entry",
    "Index",
    "append_entry",
    "digest_of",
    "entry_of",
    "index_problems",
    "list_state",
    "read_index",
    "seal",
    "seal_if_last",
    "write_sealed",
]

RESTORE = "restore the file, or run tracekit repair to go on without it"
"""The hint of errors about a segment that is missing."""
_SEGMENTS_KEY = f"{META_PREFIX}segments".encode()
_TRACE_KEY, _NAME_KEY = f"{META_PREFIX}trace_id".encode(), f"{META_PREFIX}segment".encode()


@dataclass(frozen=True, slots=True)
class Entry:
    """A finished segment: file name, rows, bytes, SHA-256, and `HOST:PID` of its writer.

    `lost` says why a segment is no longer part of the trace; its rows are what was lost with it.
    """

    name: str
    rows: int
    bytes: int
    digest: str
    writer: str = ""
    lost: str = ""


@dataclass(slots=True)
class Index:
    """The segments that a trace lists, by name, and how many lines of the list are damaged."""

    entries: dict[str, Entry] = field(default_factory=dict)
    damaged_lines: int = 0


def digest_of(file: Path) -> str:
    """Return the SHA-256 of a file, as `sha256sum` prints it."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def entry_of(file: Path, rows: int, *, name: str | None = None) -> Entry:
    """Return the entry of the segment `file`, written by this process; reads all of it."""
    writer = f"{socket.gethostname()}:{os.getpid()}"
    return Entry(name or file.name, rows, file.stat().st_size, digest_of(file), writer)


def append_entry(root: Path, entry: Entry) -> None:
    """Add `entry` to the list of the trace at `root`, durably. An entry replaces an earlier one of its name."""
    line = json.dumps(signed(asdict(entry))).encode() + b"\n"
    file = os.open(root / INDEX_NAME, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        with contextlib.suppress(OSError):  # no locks here: a single append is atomic on a local file system
            fcntl.flock(file, fcntl.LOCK_EX)
        size = os.fstat(file).st_size
        if size and os.pread(file, 1, size - 1) != b"\n":  # a process died while it appended
            line = b"\n" + line
        if os.write(file, line) != len(line):
            raise OSError(28, os.strerror(28), str(root / INDEX_NAME))
        os.fsync(file)
    finally:
        os.close(file)


def read_index(root: Path) -> Index | None:
    """Return the list of segments of the trace at `root`; None if it has none (tracekit 0.1, other tools).

    Raises TraceFormatError if the list in `_trace.parquet` is damaged, or `_segments.jsonl` is no file.
    """
    # The lines first: sealing writes them into the other file before it removes them.
    try:
        lines = file_bytes(root / INDEX_NAME).splitlines()
    except FileNotFoundError:
        lines = None
    except OSError as error:
        raise TraceFormatError(
            f"{root / INDEX_NAME}: the list of segments cannot be read: {error.strerror}",
            "remove it to read the segments without their list",
        ) from error
    try:
        sealed = json.loads(sealed_metadata(root / SEALED_NAME)[_SEGMENTS_KEY])
        unsigned(sealed)
        listed = [_entry(values) for values in sealed["segments"]]
        index = Index({entry.name: entry for entry in listed})
        if len(index.entries) < len(listed):
            raise ValueError("it lists a segment twice")
    except FileNotFoundError:
        if lines is None:
            return None
        index = Index()
    except (ValueError, KeyError, TypeError, OSError, pa.ArrowException) as error:
        raise TraceFormatError(
            f"{root / SEALED_NAME}: the list of segments is damaged: {str(error).splitlines()[0]}",
            "remove it to read the segments without their list",
        ) from error
    for line in lines or ():
        try:
            entry = _entry(unsigned(json.loads(line)))
        except (ValueError, TypeError, AttributeError):
            index.damaged_lines += bool(line)
            continue
        index.entries[entry.name] = entry
    return index


def _entry(values: Mapping[str, Any]) -> Entry:
    """Return an entry as a list has it. Raises ValueError or TypeError for one that no segment can have."""
    entry = Entry(**values)
    if Path(entry.name).name != entry.name or min(entry.rows, entry.bytes) < 0:
        raise ValueError(f"{entry.name!r} is no segment")
    return entry


def list_state(root: Path) -> tuple[object, ...]:
    """Return what changes whenever the list of segments does: the files that hold it, and the names in the trace."""
    held: list[object] = []
    for name in (INDEX_NAME, SEALED_NAME):
        try:
            found = (root / name).stat()
            held.append((found.st_ino, found.st_size, found.st_mtime_ns))
        except OSError:
            held.append(None)
    return (*held, *sorted(file.name for file in (*segments_of(root), *journals_of(root))))


def index_problems(
    manifest: Manifest, index: Index | None, found: Sequence[SegmentInfo]
) -> list[tuple[str, str, str]]:
    """Compare the files of a trace with its list of segments; return name, problem and hint of each file that differs.

    Compares names, rows, bytes and trace ids: of segments, nothing but footers is read.
    """
    segments = {segment.path.name: segment for segment in found if not segment.journal}
    entries = {} if index is None else index.entries
    wrong: dict[str, tuple[str, str]] = {}
    for entry in entries.values():
        segment = segments.get(entry.name)
        if entry.lost:
            continue
        if segment is None:
            wrong[entry.name] = f"is missing, with {entry.rows} ops", RESTORE
        elif (segment.rows, segment.file_bytes) != (entry.rows, entry.bytes):
            what = f"has {segment.rows} ops in {segment.file_bytes} bytes, not {entry.rows} in {entry.bytes}"
            wrong[entry.name] = f"is not as it was written: {what}", "restore the file"
    for segment in found:
        name, own = segment.path.name, segment.metadata.get("trace_id")
        if own is None and (name in entries or segment.journal or index is None):
            continue  # listed, or a journal that lost its beginning, or of a trace without a list
        stem = stem_of(segment.path)
        written_as = segment.metadata.get("segment", stem)
        if name in entries:
            if (own, written_as) != (manifest.trace_id, stem):
                what = f"is not as it was written: it holds the ops of {written_as}"
                wrong[name] = what if own == manifest.trace_id else f"{what} of another trace", RESTORE
        elif own != manifest.trace_id:
            wrong[name] = "does not belong to this trace", "move it out of the directory"
        elif written_as != stem:
            what = f"does not belong to this trace under this name: it is a copy of {written_as}"
            wrong[name] = what, "move it out of the directory"
    return [(name, *said) for name, said in wrong.items()]


def seal_if_last(root: Path) -> None:
    """Complete the trace at `root` if no other recorder holds it."""
    with try_exclusive(root) as alone:
        if alone:
            seal(root)


def seal(root: Path) -> None:
    """Write `_trace.parquet` for the trace at `root`, which the caller holds alone, and remove what it replaces.

    Segments of this trace that a crash left unlisted are listed as they are.
    """
    manifest = read_manifest(root)
    if manifest is None:
        return
    before = _sealed_before(root)
    index = read_index(root) or Index()
    for file in segments_of(root):
        if file.name not in index.entries:
            with contextlib.suppress(pa.ArrowException, OSError):
                footer = read_footer(file)
                if _is_segment_of(manifest, file, footer.metadata or {}):
                    index.entries[file.name] = replace(entry_of(file, footer.num_rows), writer="")
    write_sealed(root, manifest, index.entries.values(), before)
    for name in (INDEX_NAME, MANIFEST_NAME, OLD_MANIFEST_NAME):
        (root / name).unlink(missing_ok=True)
    fsync_dir(root)


def _is_segment_of(manifest: Manifest, file: Path, metadata: Mapping[bytes, bytes]) -> bool:
    """Return whether `file` is a segment of the trace, under the name that it was written with."""
    own, name = metadata.get(_TRACE_KEY), metadata.get(_NAME_KEY, file.stem.encode())
    return own == manifest.trace_id.encode() and name == file.stem.encode()


@dataclass(frozen=True, slots=True)
class _Before:
    """The digests of the segments that `_trace.parquet` lists, and their columns: their footers need not be read again.

    `notes` is what it says of the trace as a whole.
    """

    digests: frozenset[str] = frozenset()
    schema: pa.Schema | None = None
    notes: Mapping[bytes, bytes] = field(default_factory=dict)


_NOTHING_BEFORE = _Before()


def _sealed_before(root: Path) -> _Before:
    """Return what `_trace.parquet` says of the segments; nothing if there is none, or it is damaged."""
    try:
        with parquet_errors():
            footer = read_footer(root / SEALED_NAME)
            metadata = without_seal(footer.metadata)
            listed = json.loads(metadata[_SEGMENTS_KEY])["segments"]
            schema = footer.schema.to_arrow_schema().remove_metadata()
        ours = META_PREFIX.encode()
        notes = {
            key: text
            for key, text in metadata.items()
            if key.startswith(ours) and key not in (MANIFEST_KEY, _SEGMENTS_KEY)
        }
        return _Before(frozenset(entry["digest"] for entry in listed if not entry["lost"]), schema, notes)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return _NOTHING_BEFORE


def write_sealed(
    root: Path,
    manifest: Manifest,
    entries: Iterable[Entry],
    before: _Before = _NOTHING_BEFORE,
    *,
    notes: Mapping[str, str] | None = None,
    segments_at: Path | None = None,
) -> None:
    """Write the manifest and the list of segments as `_trace.parquet`: no rows, the columns of the segments.

    The footers of segments that are known from `before` are not read: a thousand processes that close one after
    another would read half a million.

    `notes` are added to its metadata, to those that it had `before`: what is to be known of the trace as a whole.
    The segments are in `root`, or at another place.
    """
    listed = sorted(entries, key=lambda entry: entry.name)
    metadata = {
        MANIFEST_KEY: json.dumps(manifest_values(manifest)).encode(),
        _SEGMENTS_KEY: json.dumps(signed({"segments": [asdict(entry) for entry in listed]})).encode(),
        **before.notes,
        **{f"{META_PREFIX}{name}".encode(): text.encode() for name, text in (notes or {}).items()},
    }
    fresh = [
        (segments_at or root) / entry.name
        for entry in listed
        if not (entry.lost or entry.digest in before.digests)
    ]
    schema = _common_schema(fresh, before.schema)
    labelled = schema.with_metadata(metadata)
    with whole_file(root / SEALED_NAME) as aside, sealed_writer(aside, labelled):
        pass  # no row group: every byte but the magic number is in the footer, which has a digest


def _common_schema(segments: list[Path], before: pa.Schema | None) -> pa.Schema:
    """Return the columns that the segments hold, so that tools read them and `_trace.parquet` as one table."""
    found: dict[tuple[str, ...], pa.Schema] = {} if before is None else {tuple(before.names): before}
    for file in segments:
        with contextlib.suppress(OSError, pa.ArrowException), parquet_errors():
            schema = read_footer(file).schema.to_arrow_schema()
            found.setdefault(tuple(schema.names), schema.remove_metadata())
    try:
        return pa.unify_schemas(list(found.values())) if found else OPS
    except pa.ArrowException:  # extra columns of one name and two types
        return OPS
