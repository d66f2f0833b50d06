"""Files appear whole or not at all: written aside, synced, renamed.

Whatever tracekit leaves behind goes through here, so that a crash, a full disk or Ctrl-C
never leaves a half. This module imports nothing of tracekit.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["fsync_dir", "whole_file"]


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """What to write instead of `path`: it becomes `path` on a clean exit, and nothing otherwise."""
    aside = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}.partial")
    try:
        yield aside
        _fsync(aside, os.O_RDONLY)
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    fsync_dir(path.parent)


def fsync_dir(path: Path) -> None:
    """Make the names in directory `path` durable."""
    _fsync(path, os.O_RDONLY | os.O_DIRECTORY)


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
