"""Our own engine below the language: a preload library that records the calls of the C library.

`engine.c` is the library, `logs.py` reads what it wrote. It sees all threads, forks and
children of a program; it does not see statically linked programs, programs that clear LD_PRELOAD, system calls
made without the C library, and reads through a mapping, which it counts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tracekit.c_library import find_library, reason_against
from tracekit.capture.native.libraries import NOTED
from tracekit.capture.native.logs import NativeLogs
from tracekit.capture.tools.engine import Start

__all__ = ["NativeEngine", "missing"]


class NativeEngine:
    """Runs a command with our own library in LD_PRELOAD."""

    name = "native"
    below = ("files", "numpy")
    asks_for_faults = True
    detached = False

    def available(self) -> str | None:
        """As the protocol says. An engine that is compiled here is kept in the user's cache."""
        found = find_library(Path(__file__).with_name("engine.c"))
        return None if found is None else str(found)

    def start(
        self,
        tool: str,
        command: Sequence[str],
        logs: Path,
        environ: Mapping[str, str],
        *,
        metadata: bool,
        memory: bool,
    ) -> Start:
        already = environ.get("LD_PRELOAD")
        more = {
            "LD_PRELOAD": f"{tool}:{already}" if already else tool,
            "TRACEKIT_NATIVE_LOGS": str(logs),
            "TRACEKIT_NATIVE_STREAMS": ",".join(map(_identity, range(3))),
            "TRACEKIT_NATIVE_LIBRARIES": ",".join(NOTED),
        }
        more |= {"TRACEKIT_NATIVE_METADATA": "1"} if metadata else {}
        more |= {} if memory else {"TRACEKIT_NATIVE_WITHOUT_MEMORY": "1"}
        return list(command), more

    @contextmanager
    def read(self, logs: Path) -> Iterator[NativeLogs]:
        yield NativeLogs(logs)


def _identity(stream: int) -> str:
    """Device and inode of a standard stream: what its caller redirects is not the command's storage I/O."""
    try:
        status = os.fstat(stream)
    except OSError:
        return "0:0"
    return f"{status.st_dev}:{status.st_ino}"


def missing() -> str:
    """Return why there is no engine, for messages."""
    return reason_against() or "compiling it failed"
