"""What every foreign format gives and takes, and how bad lines are counted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from tracekit.errors import TraceFormatError

__all__ = ["Importer", "Tally"]


@dataclass(slots=True)
class Tally:
    """Bad lines of one import: counted and the first few kept, or (strict) an error at the first.

    `notes` are things that the reader of the trace should know, such as what was assumed.
    """

    source: Path
    strict: bool = False
    skipped: int = 0
    examples: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def bad(self, line: int, why: str) -> None:
        """Count the bad line number `line` (from 1). Raises TraceFormatError if strict."""
        if self.strict:
            raise TraceFormatError(
                f"{self.source}, line {line}: {why}", "import without --strict to skip bad lines"
            )
        self.skipped += 1
        if len(self.examples) < 5:
            self.examples.append(f"line {line}: {why}")


class Importer(Protocol):
    """One foreign format, read."""

    name: str
    about: str

    def read(self, source: Path, tally: Tally) -> Iterator[pa.RecordBatch]:
        """The log's ops, any schema columns, `t_submit` in ns since the Unix epoch, in any order.

        Raises TraceFormatError if `source` is no such log at all.
        """
        ...
