"""The directory for what tracekit compiles: in the user's cache, or a private temporary one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tracekit.version import __version__

__all__ = ["cache_directory"]


def cache_directory(name: str) -> Path:
    """Return the directory `name` of this version in the user's cache, made if needed.

    If the cache cannot be written, it is a directory of the temporary one that only this user can write.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "tracekit" / f"{name}-{__version__}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(folder)
    except OSError:
        folder = Path(tempfile.gettempdir()) / f"tracekit-{name}-{os.getuid()}-{__version__}"
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid != os.getuid():  # made by someone else, who could put code there
            folder = Path(tempfile.mkdtemp(prefix=f"tracekit-{name}-"))
    return folder
