"""Which allocator Arrow uses while a long trace is replayed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

__all__ = ["returning_memory"]


@contextmanager
def returning_memory() -> Iterator[None]:
    """Have Arrow use an allocator that gives memory back. Its default one keeps what other threads have freed."""
    before = pa.default_memory_pool()
    try:
        pool = pa.jemalloc_memory_pool()
    except NotImplementedError:  # in a build without it
        pool = pa.system_memory_pool()
    pa.set_memory_pool(pool)
    try:
        yield
    finally:
        pa.set_memory_pool(before)
