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
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pyarrow as pa

from tracekit.errors import TraceFormatError
from tracekit.schema import META_PREFIX, OPS
from tracekit.store.footer import parquet_errors, read_footer, sealed_writer
from tracekit.store.layout import (
    INDEX_NAME,
    MANIFEST_NAME,
    OLD_MANIFEST_NAME,
    SEALED_NAME,
    segments_of,
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
from tracekit.whole import fsync_dir, whole_file

__all__ = [
    "Entry",
    "Index",
    "append_entry",
    "digest_of",
    "entry_of",
    "read_index",
    "seal",
    "seal_if_last",
    "write_sealed",
]

_SEGMENTS_KEY = f"{META_PREFIX}segments".encode()


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

    Raises TraceFormatError if the list in `_trace.parquet` is damaged.
    """
    # The lines first: sealing writes them into the other file before it removes them.
    try:
        lines = (root / INDEX_NAME).read_bytes().splitlines()
    except FileNotFoundError:
        lines = None
    try:
        sealed = json.loads(sealed_metadata(root / SEALED_NAME)[_SEGMENTS_KEY])
        unsigned(sealed)
        index = Index({entry["name"]: Entry(**entry) for entry in sealed["segments"]})
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
            entry = Entry(**unsigned(json.loads(line)))
        except (ValueError, TypeError, AttributeError):
            index.damaged_lines += bool(line)
            continue
        index.entries[entry.name] = entry
    return index


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
    index = read_index(root) or Index()
    for file in segments_of(root):
        if file.name not in index.entries:
            with contextlib.suppress(pa.ArrowException, OSError):
                footer = read_footer(file)
                if (footer.metadata or {}).get(
                    f"{META_PREFIX}trace_id".encode()
                ) == manifest.trace_id.encode():
                    index.entries[file.name] = replace(entry_of(file, footer.num_rows), writer="")
    write_sealed(root, manifest, index.entries.values())
    for name in (INDEX_NAME, MANIFEST_NAME, OLD_MANIFEST_NAME):
        (root / name).unlink(missing_ok=True)
    fsync_dir(root)


def write_sealed(root: Path, manifest: Manifest, entries: Iterable[Entry]) -> None:
    """Write the manifest and the list of segments as `_trace.parquet`: no rows, the columns of the segments."""
    listed = sorted(entries, key=lambda entry: entry.name)
    metadata = {
        MANIFEST_KEY: json.dumps(manifest_values(manifest)).encode(),
        _SEGMENTS_KEY: json.dumps(signed({"segments": [asdict(entry) for entry in listed]})).encode(),
    }
    schema = _common_schema([root / entry.name for entry in listed if not entry.lost])
    labelled = schema.with_metadata(metadata)
    with whole_file(root / SEALED_NAME) as aside, sealed_writer(aside, labelled) as writer:
        writer.write_table(labelled.empty_table())


def _common_schema(segments: list[Path]) -> pa.Schema:
    """Return the columns that the segments hold, so that tools read them and `_trace.parquet` as one table."""
    found: dict[tuple[str, ...], pa.Schema] = {}
    for file in segments:
        with contextlib.suppress(OSError, pa.ArrowException), parquet_errors():
            schema = read_footer(file).schema.to_arrow_schema()
            found.setdefault(tuple(schema.names), schema.remove_metadata())
    try:
        return pa.unify_schemas(list(found.values())) if found else OPS
    except pa.ArrowException:  # extra columns of one name and two types
        return OPS
