"""The bytes that the kernel counts for a command: those that its processes read and write by system calls."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tracekit.processes import descendants_of

__all__ = ["Counted", "counted_bytes", "moved_by_children"]


@dataclass(frozen=True, slots=True)
class Counted:
    """Bytes read and written so far: by this process and all children that it has waited for, and by each of its threads."""

    all: tuple[int, int]
    threads: dict[str, tuple[int, int]]


def counted_bytes(*, descendants: bool = False) -> Counted | None:
    """Bytes that were read and written by system calls up to now, with `descendants` also by those that still run.

    None where the kernel does not say.
    """
    try:
        counts = _io(Path("/proc/self/io"))
        for pid in descendants_of(os.getpid()) if descendants else ():
            with suppress(OSError):  # it has ended
                more = _io(Path(f"/proc/{pid}/io"))
                counts = (counts[0] + more[0], counts[1] + more[1])
    except (OSError, ValueError, IndexError):
        return None
    threads: dict[str, tuple[int, int]] = {}
    for thread in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # it has ended
            threads[thread.name] = _io(thread / "io")
    return Counted(counts, threads)


def moved_by_children(before: Counted | None, after: Counted | None) -> tuple[int, int] | None:
    """Bytes read and written between the two by children that were waited for, without what our own threads moved."""
    if before is None or after is None:
        return None
    read, written = (
        after.all[way]
        - before.all[way]
        - sum(
            counts[way] - before.threads.get(thread, (0, 0))[way] for thread, counts in after.threads.items()
        )
        for way in (0, 1)
    )
    return max(read, 0), max(written, 0)


def _io(path: Path) -> tuple[int, int]:
    lines = path.read_text().split()
    return int(lines[1]), int(lines[3])
