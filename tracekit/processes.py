"""Tells a process from a later one that was given its number, its descendants, and its clocks from those of the machine."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from pathlib import Path

__all__ = [
    "clock_instant",
    "clock_offset_ns",
    "clock_shift_ns",
    "descendants_of",
    "is_alive",
    "start_here",
    "start_of",
]

_READINGS = 8


def clock_instant() -> tuple[int, int]:
    """Return the monotonic and the wall clock of one instant, ns.

    Of some readings it is the one that took least: a thread may lose its processor between two clocks.
    """
    found = []
    for _ in range(_READINGS):
        before, wall, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        found.append((after - before, (before + after) // 2, wall))
    _, monotonic, wall = min(found)
    return monotonic, wall


def clock_offset_ns() -> int:
    """Return how far the wall clock is ahead of the monotonic clock now."""
    monotonic, wall = clock_instant()
    return wall - monotonic


def clock_shift_ns(clock: str) -> int | None:
    """Return by how much the clock `monotonic` or `boottime` of this process's time namespace is ahead of the machine's; None if
    unknown.

    Containers that were restored or moved have one; all namespaces of a machine share its boot id.
    """
    own = Path("/proc/self/ns")
    try:
        if (own / "time").readlink() != (own / "time_for_children").readlink():
            return None  # the offsets below are those of the children
        said = Path("/proc/self/timens_offsets").read_text()
    except FileNotFoundError:  # a kernel without time namespaces
        return 0
    except OSError:
        return None
    found = re.search(rf"^{clock}\s+(-?\d+)\s+(\d+)$", said, re.MULTILINE)
    return None if found is None else int(found[1]) * 1_000_000_000 + int(found[2])


def start_of(pid: int) -> int | None:
    """Return when the process `pid` started, in clock ticks since the boot of the machine, to within one; None if that cannot be
    told."""
    shift = clock_shift_ns("boottime")
    start = start_here(pid)
    if shift is None or start is None:
        return None
    return start - shift * os.sysconf("SC_CLK_TCK") // 1_000_000_000


def start_here(pid: int) -> int | None:
    """Return when the process `pid` started, in clock ticks that only this process may compare; None if there is none.

    It takes a quarter of the time of `start_of`.
    """
    try:
        words = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return int(words[19])


def is_alive(pid: int, start: int | None) -> bool:
    """Return whether the process `pid` that started at `start` is alive; any process of that number if `start` is not known."""
    if not Path(f"/proc/{pid}").exists():
        return False
    now = start_of(pid)
    return start is None or now is None or abs(now - start) <= 1


def descendants_of(pid: int) -> list[int]:
    """Return the processes that are children of the process `pid`, or of one of these, and have not been waited for."""
    children: dict[int, list[int]] = {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(OSError):  # it has ended
                parent = int((process / "stat").read_bytes().rpartition(b")")[2].split()[1])
                children.setdefault(parent, []).append(int(process.name))
    found = [pid]
    for each in found:
        found += children.get(each, ())
    return found[1:]
