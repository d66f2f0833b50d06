"""The names of the files of a trace. Reads and writes none of them.

A trace directory holds

- `_trace.json`, the manifest, while it is being recorded; `_trace.parquet`, the manifest with the list
  of segments, once it is complete. The second is a Parquet file without rows, because some tools open a
  directory only if every file in it has one extension. `trace.json` is what tracekit 0.1 wrote.
- `_segments.jsonl`, the list of segments while it grows.
- `seg-….parquet`, the segments.
- `.seg-….journal`, the journals of segments being written or left by a crash (`*.arrows` in 0.1).

A journal and the segment made from it share their stem; where both exist, the segment counts.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from pathlib import Path

from tracekit.errors import UsageError
from tracekit.uri import as_text

__all__ = [
    "BROKEN_SUFFIX",
    "INDEX_NAME",
    "JOURNAL_SUFFIX",
    "MANIFEST_NAME",
    "OLD_JOURNAL_SUFFIX",
    "OLD_MANIFEST_NAME",
    "SEALED_NAME",
    "SEGMENT_SUFFIX",
    "check_name",
    "is_leftover",
    "is_trace_file",
    "journal_path",
    "journals_of",
    "partial_path",
    "process_stem",
    "segment_of",
    "segments_of",
    "stem_of",
]

MANIFEST_NAME = "_trace.json"
SEALED_NAME = "_trace.parquet"
OLD_MANIFEST_NAME = "trace.json"
INDEX_NAME = "_segments.jsonl"
SEGMENT_SUFFIX = ".parquet"
JOURNAL_SUFFIX = ".journal"
OLD_JOURNAL_SUFFIX = ".arrows"
BROKEN_SUFFIX = ".broken"
_HIDDEN = (".", "_")
_LEFTOVER = re.compile(r"\..*\.partial|\.trace\.json\.\d+\.[0-9a-f]+")
_SEGMENT_FILE = re.compile(r"[._]?seg-[\w-]+\.(parquet|journal|arrows)(\.broken)*")


def process_stem() -> str:
    """Return a file-name stem that no other process chooses, on this host or another."""
    return f"seg-{time.time_ns() // 1_000_000:x}-{os.getpid()}-{secrets.token_hex(4)}"


def segments_of(root: Path) -> list[Path]:
    """Return the Parquet files in `root` that hold ops, by name."""
    return sorted(
        entry
        for entry in root.iterdir()
        if entry.suffix == SEGMENT_SUFFIX and not entry.name.startswith(_HIDDEN)
    )


def journals_of(root: Path) -> list[Path]:
    """Return the journals in `root`, by name, whether or not their segment exists."""
    return sorted(
        entry
        for entry in root.iterdir()
        if entry.suffix == JOURNAL_SUFFIX or (entry.suffix == OLD_JOURNAL_SUFFIX and entry.name[0] != ".")
    )


def journal_path(root: Path, stem: str) -> Path:
    """Return the path of the journal of segment `stem`."""
    return root / f".{stem}{JOURNAL_SUFFIX}"


def stem_of(file: Path) -> str:
    """Return the stem that a journal and its segment share."""
    return file.stem.removeprefix(".")


def segment_of(journal: Path) -> Path:
    """Return the path of the segment made from `journal`."""
    return journal.with_name(f"{stem_of(journal)}{SEGMENT_SUFFIX}")


def partial_path(path: Path) -> Path:
    """Return a new hidden name beside `path`, for what becomes `path` or is removed."""
    return path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}.partial")


def is_leftover(name: str) -> bool:
    """Return whether a file of this name in a trace is what an interrupted write left."""
    return _LEFTOVER.fullmatch(name) is not None


def is_trace_file(name: str) -> bool:
    """Return whether tracekit gives this name to a file of a trace."""
    if name in (MANIFEST_NAME, SEALED_NAME, OLD_MANIFEST_NAME, INDEX_NAME):
        return True
    return is_leftover(name) or _SEGMENT_FILE.fullmatch(name) is not None


def check_name(path: Path) -> None:
    """Raise UsageError for a name with a NUL or invalid UTF-8, which the Parquet libraries cannot open."""
    text = str(path)
    if as_text(text) != text or "\0" in text:
        raise UsageError(f"{as_text(text)!r} is not a valid name for a trace", "use valid UTF-8 without NUL")
