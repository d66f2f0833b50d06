"""Keeps a trace within a budget of disk space: the oldest segments go first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tracekit.store.index import Entry, append_entry, read_index
from tracekit.store.layout import segments_of
from tracekit.units import format_size

__all__ = ["rotate"]


def rotate(root: Path, keep: int) -> list[Entry]:
    """Remove the oldest segments of the trace at `root` until its files have at most `keep` bytes; return them.

    The list of segments says of each that it is gone, and with how many ops. Several processes may do this at once.
    """
    sizes = {}
    for entry in root.iterdir():
        try:
            status = entry.stat()
        except FileNotFoundError:  # another process has finished or removed it
            continue
        sizes[entry] = (status.st_size, status.st_mtime_ns)
    too_much = sum(size for size, _ in sizes.values()) - keep
    removed: list[Entry] = []
    index = None
    for segment in sorted(
        (file for file in segments_of(root) if file in sizes), key=lambda file: (sizes[file][1], file.name)
    ):
        if too_much <= 0:
            break
        index = index or read_index(root)
        known = index.entries.get(segment.name) if index is not None else None
        if known is None:  # it is being listed just now
            continue
        # Said before it is done: a crash in between leaves a file that the next rotation removes.
        append_entry(root, replace(known, lost=f"removed to keep the trace below {format_size(keep)}"))
        segment.unlink(missing_ok=True)
        too_much -= sizes[segment][0]
        removed.append(known)
    return removed
