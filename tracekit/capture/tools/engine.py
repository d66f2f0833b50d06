"""What the engines that record file I/O below a language have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import pyarrow as pa

__all__ = ["Engine", "Log", "Start"]

Start = tuple[list[str], dict[str, str]]
"""The command line to run, and the variables to add to its environment."""


class Log(Protocol):
    """What an engine wrote during one run."""

    @property
    def mapped_files(self) -> set[str]:
        """The URIs of the files that were mapped into memory."""

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Return the ops, with the columns pid and tid. Times are ns since the Unix epoch."""

    def notes(self) -> Iterator[str]:
        """Yield what was left out, once all batches have been read."""


class Engine(Protocol):
    """Records the file I/O of a command."""

    @property
    def name(self) -> str:
        """As `method=` spells it."""

    @property
    def below(self) -> tuple[str, ...]:
        """The hooks whose layer the engine records."""

    @property
    def asks_for_faults(self) -> bool:
        """Whether it asks for page faults to be followed when the command maps its first file."""

    @property
    def detached(self) -> bool:
        """Whether its tool is a process beside the command, and no child of ours."""

    def available(self) -> str | None:
        """Return the path of its library or program, or None if it cannot be used here."""

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
        """Return how to run `command` so that it logs into the directory `logs`: with `metadata` also what is asked about files;
        without `memory` it may leave out what is done to shared memory (files of /dev/shm)."""

    def read(self, logs: Path) -> AbstractContextManager[Log]:
        """Open what the command logged."""
