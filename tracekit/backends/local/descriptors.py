"""How many files this process may still open."""

from __future__ import annotations

import resource
from pathlib import Path

__all__ = ["open_file_budget"]

_RESERVE = 24
"""Descriptors left to others: trace segments, sockets, DuckDB, the host program."""


def open_file_budget() -> int:
    """Return how many more files may be open at once under RLIMIT_NOFILE; at least 1."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        soft = 1 << 20
    used = sum(1 for _ in Path("/proc/self/fd").iterdir())
    return max(1, soft - used - _RESERVE)
