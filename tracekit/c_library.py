"""Compiles C sources of the package. Used by its build and, where a package came without them, at their first use.

Imports nothing of tracekit at its top: the build loads this file before tracekit is installed.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["compile_library", "file_name", "find_library", "reason_against"]

_MACHINES = ("x86_64", "aarch64")
_FLAGS = (
    "-std=gnu17",
    "-O2",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-fno-builtin",
    "-U_FORTIFY_SOURCE",
    "-Wall",
    "-Wl,-Bsymbolic-functions",
)


def file_name(source: Path) -> str:
    """Return the file name of a compiled source: with a digest of it, and no suffix of a Python module."""
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    return f"{source.stem}-{digest}-{platform.machine()}.so.1"


def reason_against() -> str | None:
    """Return why nothing can be compiled here, or None if it can."""
    if sys.platform != "linux" or platform.machine() not in _MACHINES:
        return f"it exists for Linux on {' and '.join(_MACHINES)} only"
    if _compiler() is None:
        return "no C compiler was found (apt install gcc libc6-dev)"
    return None


def find_library(source: Path) -> Path | None:
    """Return the compiled `source`: from the package, or else from the user's cache, compiled if need be."""
    from tracekit.cache import cache_directory

    packaged = source.with_name(file_name(source))
    if packaged.is_file():
        return packaged
    kept = cache_directory("native") / packaged.name
    return kept if kept.is_file() else compile_library(source, kept.parent)


def compile_library(source: Path, folder: Path) -> Path | None:
    """Compile `source` into `folder` and return its path; None if there is no compiler, or it fails."""
    compiler = _compiler()
    if compiler is None or reason_against() is not None:
        return None
    target = folder / file_name(source)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{source.stem}-") as work:
        made = Path(work, target.name)
        command = [compiler, *_FLAGS, "-o", str(made), str(source), "-ldl", "-pthread"]
        if subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).returncode:
            return None
        made.chmod(0o755)
        made.replace(target)
    return target


def _compiler() -> str | None:
    return next(
        (
            found
            for name in (os.environ.get("CC"), "cc", "gcc", "clang")
            if name and (found := shutil.which(name))
        ),
        None,
    )
