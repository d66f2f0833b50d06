"""DFTracer's preload library: the environment that has a program log its calls.

The library comes from the wheel `dftracer`, is found without importing it, and is configured
by environment variables alone. It sees the calls of the C library in forks and threads; it
does not see statically linked programs, C++ streams, streams made by `fdopen`, reads through
a mapping, or processes of fewer than three calls, which leave no log. The logs are read by
`formats.dftracer`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

__all__ = ["environment", "library"]


def library() -> Path | None:
    """Return the path of the preload library in the installed wheel, or None."""
    spec = importlib.util.find_spec("dftracer")
    for directory in (spec.submodule_search_locations if spec is not None else None) or ():
        for folder in ("lib64", "lib"):
            found = Path(directory, folder, "libdftracer_preload.so")
            if found.is_file():
                return found
    return None


def environment(preload: Path, logs: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that make a command and its children log into the directory `logs`."""
    already = environ.get("LD_PRELOAD")
    return {
        "LD_PRELOAD": f"{preload}:{already}" if already else str(preload),
        "DFTRACER_ENABLE": "1",
        "DFTRACER_INIT": "PRELOAD",
        "DFTRACER_LOG_FILE": str(logs / "log"),
        "DFTRACER_DATA_DIR": "all",  # a filter would compare names as given, and miss relative ones
        "DFTRACER_INC_METADATA": "1",
        "DFTRACER_TIME_METRIC": "NS",
        # Plain text costs half as much as compression, and a killed process leaves all but its last MiB.
        # With 64 KiB, events of programs that start others by vfork are lost; with the default, a killed
        # process leaves nothing.
        "DFTRACER_TRACE_COMPRESSION": "0",
        "DFTRACER_WRITE_BUFFER_SIZE": "1048576",
    }
