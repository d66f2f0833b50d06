"""The layout of the logs that the engine (`engine.c`) writes, and how their records become ops.

A log is a header, then chunks of either records (64 bytes an op) or names of files. A thread fills a chunk of its own,
so that chunks grow beside each other. The kind of a record and the number of a name are written last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tracekit.errors import ErrorClass, UsageError
from tracekit.formats.sound import MAX_INT

__all__ = [
    "CHUNK_BYTES",
    "ENTRIES_AT",
    "HEADER_BYTES",
    "NAMES",
    "RECORD",
    "RECORDS",
    "Header",
    "Records",
    "add_names",
    "are_whole",
    "as_batch",
    "header_of",
    "mapped_names",
    "names_by_number",
    "whole_records",
]

HEADER_BYTES, CHUNK_BYTES = 16384, 32768
RECORDS, NAMES = 1, 2
"""The first 4 bytes of a chunk: what it holds."""
ENTRIES_AT = 64
"""Bytes before the first entry of a chunk."""
_MAGIC = b"TKNATIVE"
_VERSION = 4
_HEADER = np.dtype(
    [
        ("magic", "S8"),
        ("version", "<u4"),
        ("pid", "<u4"),
        ("parent_pid", "<u4"),
        ("forked", "<u4"),
        ("began", "<i8"),
        ("clock_offset", "<i8"),
        ("ended", "<i8"),
        ("read0", "<u8"),
        ("written0", "<u8"),
        ("read1", "<u8"),
        ("written1", "<u8"),
        ("other_read", "<u8"),
        ("other_written", "<u8"),
        ("lost", "<u8"),
        ("flags", "<u8"),
        ("storage_read", "<u8"),
        ("storage_written", "<u8"),
        ("objects", "<u8"),
        ("recording", "<i8"),
        ("cpu0", "<i8"),
        ("cpu1", "<i8"),
        ("measured", "<u8"),
        ("queued_read", "<u8"),
        ("queued_written", "<u8"),
        ("parent", "S64"),
        ("program", "V1024"),
        ("libraries", "S2048"),
        ("unseen", "S512"),
        ("callers", [("moved", "<u8"), ("connections", "<u4"), ("library", "S52")], 16),
        ("ports", "V8192"),
    ]
)
RECORD = np.dtype(
    [
        ("begin", "<i8"),
        ("took", "<i8"),
        ("offset", "<i8"),
        ("length", "<i8"),
        ("moved", "<i8"),
        ("file", "<u4"),
        ("to", "<u4"),
        ("thread", "<u4"),
        ("kind", "u1"),
        ("unused", "V3"),
        ("spare", "<i8"),
    ]
)
_KINDS = ("", "read", "write", "sync", "truncate", "rename", "delete", "hint", "mapped", "stat", "list")
_MAPPED = _KINDS.index("mapped")
_MOVING = (1, 2)

Records = npt.NDArray[np.void]
Header = np.void


def header_of(log: Path) -> Header | None:
    """Return the header of a log; None while its process has not written it.

    Raises UsageError if another version of tracekit wrote it.
    """
    found = np.fromfile(log, _HEADER, 1)
    if not len(found) or found[0]["magic"] != _MAGIC:
        return None
    header: Header = found[0]
    if (version := int(header["version"])) != _VERSION:
        raise UsageError(
            f"{log}: the log of another version of tracekit (its layout is {version}, not {_VERSION})",
            "use the version that captured it",
        )
    return header


def whole_records(data: npt.NDArray[np.uint8]) -> Records:
    """Return the complete records in `data`."""
    records = data.view(RECORD)
    return records[are_whole(records)]


def are_whole(records: Records) -> npt.NDArray[np.bool_]:
    """Return which of `records` are complete."""
    kinds = records["kind"]
    return np.asarray((kinds > 0) & (kinds < len(_KINDS)))


def add_names(names: dict[int, str], data: bytes) -> int:
    """Add the names in `data`, the entries of a chunk, to `names`; return where the next one will begin."""
    at = 0
    while at + 8 <= len(data):
        number, length = (
            int.from_bytes(data[at : at + 4], "little"),
            int.from_bytes(data[at + 4 : at + 8], "little"),
        )
        if not number:
            break
        names[number] = "file://" + data[at + 8 : at + 8 + length].decode("utf-8", "replace")
        at += 8 + (length + 7 & ~7)
    return at


def names_by_number(
    log: str, parents: Mapping[str, str], names_of: Callable[[str], Mapping[int, str]]
) -> list[str]:
    """Return the names that `log` refers to, by number; a forked process knows those of its parent too."""
    line = [log]
    while (parent := parents.get(line[-1])) and parent not in line:
        line.append(parent)
    names: dict[int, str] = {}
    for each in reversed(line):
        names |= names_of(each)
    return [names.get(number, "") for number in range(max(names, default=0) + 1)]


def mapped_names(records: Records, uris: list[str]) -> set[str]:
    """Return the names of the files that are mapped into memory by `records`; `uris` are the names by number."""
    files = np.unique(records["file"][records["kind"] == _MAPPED])
    return {uris[file] for file in files.tolist() if file < len(uris)}


def as_batch(records: Records, uris: list[str], clock_offset: int, pid: int) -> pa.RecordBatch:
    """Return the ops among `records`, with the columns pid and tid; `uris` are the names by number."""
    records = records[(records["kind"] != _MAPPED) & (records["file"] < len(uris))]
    moved, moving = records["moved"], np.isin(records["kind"], _MOVING)
    failed = moved < 0
    errors = np.unique(moved[failed])
    classes = pa.array([str(ErrorClass.from_errno(int(-error))) for error in errors], pa.string())
    codes = pa.array(
        np.searchsorted(errors, moved).clip(0, max(len(errors) - 1, 0)).astype(np.int32), mask=~failed
    )
    columns = {
        "t_submit": pa.array(records["begin"] + clock_offset),
        "uri": _coded(records["file"], uris),
        "op": _coded(records["kind"], list(_KINDS)),
        "offset": _known(records["offset"]),
        "len": _known(np.minimum(records["length"], MAX_INT)),
        "bytes": pa.array(np.maximum(moved, 0), mask=~moving),
        "latency": _known(records["took"]),
        "to_uri": _coded(records["to"], uris, mask=records["to"] == 0),
        "error": pa.DictionaryArray.from_arrays(codes, classes),
        "pid": pa.array(np.full(len(records), pid, np.int64)),
        "tid": pa.array(records["thread"].astype(np.int64)),
    }
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def _coded(
    numbers: npt.NDArray[np.integer], values: list[str], mask: npt.NDArray[np.bool_] | None = None
) -> pa.Array:
    codes = pa.array(numbers.astype(np.int32), mask=mask)
    return pa.DictionaryArray.from_arrays(codes, pa.array(values, pa.string()))


def _known(values: npt.NDArray[np.int64]) -> pa.Array:
    return pa.array(values, mask=values < 0)
