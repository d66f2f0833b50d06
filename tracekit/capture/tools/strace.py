"""strace: the command line that runs a program under it.

Needs no library and sees every system call, of static programs too, at a price of about a
tenth of a millisecond a call. The log is read by `formats.syscalls.strace`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from tracekit.capture.tools.engine import Start
from tracekit.formats.base import Tally
from tracekit.formats.syscalls.calls import TRACED, VECTORED
from tracekit.formats.syscalls.strace import StraceLog

__all__ = ["StraceEngine"]


class StraceEngine:
    """Runs a command under strace.

    With `-D` the command stays our own child. One log for all threads keeps their calls in
    order, even if the system uses a process number twice. `?` lets strace ignore calls that
    the machine does not have; `abbrev` has vectors written out, whose lengths are needed.
    """

    name = "strace"
    below = ("files", "numpy")
    asks_for_faults = False

    def available(self) -> str | None:
        return shutil.which("strace")

    def start(
        self, tool: str, command: Sequence[str], logs: Path, environ: Mapping[str, str], *, metadata: bool
    ) -> Start:
        return [
            tool, "-D", "-f", "-ttt", "-T", "-y", "-s", "0", "-q", "-e", "signal=none",
            "-e", "trace=" + ",".join(f"?{name}" for name in TRACED), "-e", "abbrev=!" + ",".join(f"?{name}" for name in VECTORED),
            "--seccomp-bpf", "-o", str(logs / "log"), "--", *command,
        ], {}  # fmt: skip

    @contextmanager
    def read(self, logs: Path) -> Iterator[_Log]:
        yield _Log(logs / "log")


class _Log:
    """The log of one run; it may be absent."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tally = Tally(path)
        self._log = StraceLog(self._tally, every_open=False, inherited_streams=False)

    @property
    def mapped_files(self) -> set[str]:
        return self._log.mapped_files

    def threads(self) -> list[tuple[int, int]]:
        return []

    def batches(self) -> Iterator[pa.RecordBatch]:
        if self._path.is_file():
            yield from self._log.batches(self._path)

    def notes(self) -> Iterator[str]:
        yield from self._log.not_recorded()
        yield from self._tally.not_understood("strace log")
