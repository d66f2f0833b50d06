"""strace: the command line that runs a program under it.

Needs no library and sees every system call, of static programs too, at a price of about a
tenth of a millisecond a call. The log is read by `formats.syscalls.strace`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from tracekit.capture.tools.engine import Start
from tracekit.formats.base import Tally
from tracekit.formats.syscalls.names import TRACED, VECTORED
from tracekit.formats.syscalls.strace import StraceLog

__all__ = ["Moved", "StraceCalls", "StraceEngine"]


class StraceEngine:
    """Runs a command under strace.

    With `-D` the command stays our own child. One log for all threads keeps their calls in
    order, even if the system uses a process number twice. `?` lets strace ignore calls that
    the machine does not have; `abbrev` has vectors written out, whose lengths are needed.
    """

    name = "strace"
    below = ("files", "numpy")
    asks_for_faults = False
    detached = True

    def available(self) -> str | None:
        return shutil.which("strace")

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
        return [
            tool,
            "-D",
            "-f",
            "-ttt",
            "-T",
            "-y",
            "-s",
            "0",
            "-q",
            "-e",
            "signal=none",
            "-e",
            "trace=" + ",".join(f"?{name}" for name in TRACED),
            "-e",
            "abbrev=!" + ",".join(f"?{name}" for name in VECTORED),
            "--seccomp-bpf",
            "-o",
            str(logs / "log"),
            "--",
            *command,
        ], {}

    @contextmanager
    def read(self, logs: Path) -> Iterator[StraceCalls]:
        yield StraceCalls(logs / "log")


@dataclass(slots=True)
class Moved:
    """Bytes read and written by calls: of all files and streams, and of those that are ops."""

    read: int = 0
    written: int = 0
    read_ops: int = 0
    written_ops: int = 0


class StraceCalls:
    """The log of one run; it may be absent."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tally = Tally(path)
        self._log = StraceLog(self._tally, every_open=False, inherited_streams=False)
        self.calls = Moved()

    @property
    def mapped_files(self) -> set[str]:
        return self._log.mapped_files

    @property
    def unseen(self) -> tuple[str, ...]:
        """How storage was used without calls that say so."""
        return self._log.unseen

    @property
    def ports(self) -> set[int]:
        """The ports that connections were made to."""
        return self._log.ports

    @property
    def ends_unknown(self) -> bool:
        """Whether an op without a latency may have ended."""
        return self._log.ends_unknown

    def batches(self) -> Iterator[pa.RecordBatch]:
        """As the protocol says. The process is the number of the stream: a number of a thread may be used again."""
        if not self._path.is_file():
            return
        for batch in self._log.batches(self._path):
            reads = pc.equal(pc.cast(batch.column("op"), pa.string()), "read")
            self.calls.read_ops += pc.sum(batch.filter(reads).column("bytes")).as_py() or 0
            self.calls.written_ops += pc.sum(batch.filter(pc.invert(reads)).column("bytes")).as_py() or 0
            streams = pc.cast(batch.column("worker"), pa.int64())
            threads = pa.array(self._log.threads, pa.int64()).take(streams)
            yield batch.drop_columns(["worker"]).append_column("pid", streams).append_column("tid", threads)
        self.calls.read, self.calls.written = self._log.moved

    def notes(self) -> Iterator[str]:
        yield from self._log.not_recorded()
        yield from self._tally.not_understood("strace log")
