"""The memory that work on a trace may use, and where queries put what does not fit.

Every DuckDB connection of tracekit has a limit, and a private scratch directory for what exceeds it. A query
that cannot keep to the limit even so ends with one line.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from tracekit.errors import UsageError
from tracekit.units import parse_size

__all__ = [
    "MEMORY_VARIABLE",
    "bounded",
    "free_bytes",
    "lacks_memory",
    "memory_bytes",
    "memory_errors",
    "too_large",
]

MEMORY_VARIABLE = "TRACEKIT_MEMORY"
_DEFAULT = "2GiB"
_HINT = f"give memory=SIZE where there is such an option, or set {MEMORY_VARIABLE}, such as 8GiB"
_NO_MEMORY = re.compile(
    r"MemoryError|bad.?alloc|out of memory|cannot allocate memory|alloc of size", re.IGNORECASE
)
_log = logging.getLogger(__name__)


def memory_bytes(limit: int | str | None = None) -> int:
    """Return the limit in bytes: `limit`, else that of the environment, else 2 GiB. Raises UsageError."""
    if limit is not None:
        return parse_size(limit, name="memory")
    return parse_size(os.environ.get(MEMORY_VARIABLE) or _DEFAULT, name=MEMORY_VARIABLE)


def free_bytes() -> int:
    """Return the memory that this process may still take: what the machine and its control group have left.

    The environment's limit, if it sets one, goes before both.
    """
    if os.environ.get(MEMORY_VARIABLE):
        return memory_bytes()
    left = [int(found[1]) << 10 for found in re.finditer(r"MemAvailable:\s+(\d+) kB", _read("/proc/meminfo"))]
    group = Path("/sys/fs/cgroup") / _read("/proc/self/cgroup").partition("0::/")[2].strip()
    for folder in (group, *group.parents):
        most, used = (_read(folder / name).strip() for name in ("memory.max", "memory.current"))
        if most.isdigit() and used.isdigit():
            left.append(max(int(most) - int(used), 0))
    return min(left, default=1 << 62)


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def bounded(memory: int, threads: int | None = None) -> duckdb.DuckDBPyConnection:
    """Return a new DuckDB connection that keeps to `memory` bytes, loads no extensions and shows no progress.

    Its scratch directory is readable by this user alone and is removed with the connection. Where no directory
    for temporary files can be written, nothing is spilled.
    """
    try:
        scratch = tempfile.mkdtemp(prefix="tracekit-spill-")
    except OSError as error:
        _log.debug("queries cannot spill: %s", error)
        scratch = ""
    config: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "memory_limit": f"{memory}B",
        "temp_directory": scratch,
    }
    if threads is not None:
        config["threads"] = threads
    try:
        connection = duckdb.connect(":memory:", config=config)
    except BaseException:
        _remove(scratch, os.getpid())
        raise
    weakref.finalize(connection, _remove, scratch, os.getpid())
    connection.execute("SET enable_progress_bar = false")  # it prints on standard output, into our JSON
    return connection


def _remove(scratch: str, owner: int) -> None:
    if scratch and os.getpid() == owner:  # a forked child has the finalizers of its parent
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def memory_errors() -> Iterator[None]:
    """Raise UsageError, in one line, for a query that needs more memory than its limit or more scratch than the disk has."""
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        said = str(error).splitlines()[0].removeprefix("Out of Memory Error: ")
        raise UsageError(f"out of memory: {said}", _HINT) from error
    except duckdb.Error as error:
        if not lacks_memory(error):
            raise
        raise UsageError("out of memory: the process may not take more", _HINT) from error


def lacks_memory(error: Exception) -> bool:
    """Return whether a library says, in an error of another kind, that it got no memory."""
    return _NO_MEMORY.search(str(error)) is not None


def too_large(memory: int) -> UsageError:
    """Return the error for a result that does not fit into `memory` bytes."""
    return UsageError(f"the result is larger than the limit of {memory} bytes", f"select less, or {_HINT}")
