"""Compiles the engine. Used by the package's build and, where a package came without one, at the first capture.

Imports nothing of tracekit: the build loads this file before tracekit is installed.
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

__all__ = ["compile_engine", "file_name", "reason_against"]

SOURCE = Path(__file__).with_name("engine.c")
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
)


def file_name() -> str:
    """Return the file name of the compiled engine: a digest of its source, and no suffix of a Python module."""
    return f"engine-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]}-{platform.machine()}.so.1"


def reason_against() -> str | None:
    """Return why the engine cannot be compiled here, or None if it can."""
    if sys.platform != "linux" or platform.machine() not in _MACHINES:
        return f"it exists for Linux on {' and '.join(_MACHINES)} only"
    if _compiler() is None:
        return "no C compiler was found (apt install gcc libc6-dev)"
    return None


def compile_engine(folder: Path) -> Path | None:
    """Compile the engine into `folder` and return its path; None if there is no compiler, or it fails."""
    compiler = _compiler()
    if compiler is None or reason_against() is not None:
        return None
    target = folder / file_name()
    with tempfile.TemporaryDirectory(dir=folder, prefix=".engine-") as work:
        made = Path(work, target.name)
        command = [compiler, *_FLAGS, "-o", str(made), str(SOURCE), "-ldl", "-pthread"]
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
