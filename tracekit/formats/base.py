"""The protocols of importers and exporters, their options, and the tally of bad lines.

A format reads or writes record batches of ops. It knows neither the CLI nor how a trace is
stored. An unknown value stays null; it is never made up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tracekit.errors import TraceFormatError
from tracekit.store.reader import TraceReader

__all__ = [
    "WAIT_UNITS",
    "Carries",
    "ExportOptions",
    "Exporter",
    "ImportOptions",
    "Importer",
    "Lines",
    "Tally",
    "TogetherImporter",
]

Lines = npt.NDArray[np.int64]
"""Line numbers, from 1."""

WAIT_UNITS = ("ms", "us")
"""See `ImportOptions.wait_unit`."""

_EXAMPLES = 5
_WORDS_SHOWN = 10


@dataclass(slots=True)
class Tally:
    """The bad lines of one import: counted, with the first few kept, or (strict) an error at the first.

    `notes` are what the user of the trace should know, such as what was assumed; those of `losses` say what the
    log itself counts and does not hold. `unknown_ops`
    and `left_out` count the ops of unknown words, and those that were left out on purpose, by name.
    `several`: whether the import reads several logs, so that a line needs the name of its log;
    a format sets `shares_ranks` if its ranks are `clients`, which mean the same in all of them, and `ends_unknown`
    if an op without a latency may have ended.
    """

    source: Path
    strict: bool = False
    several: bool = False
    shares_ranks: bool = False
    skipped: int = 0
    notes: list[str] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)
    unknown_ops: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    ends_unknown: bool = False
    clients: dict[object, int] = field(default_factory=dict)
    _found: list[tuple[int, str]] = field(default_factory=list)

    @property
    def examples(self) -> list[str]:
        """The first few bad lines, in order."""
        return [why for _, why in self._found]

    def bad(self, line: int, why: str) -> None:
        """Count the bad line number `line` (from 1)."""
        self.skipped += 1
        where = f"{self.source}, line {line}" if self.strict or self.several else f"line {line}"
        self._found = sorted([*self._found, (line, f"{where}: {why}")])[:_EXAMPLES]

    def bad_lines(self, lines: Lines, why: str) -> None:
        """Count each of `lines` as bad, for the reason `why`."""
        for line in lines[:_EXAMPLES]:
            self.bad(int(line), why)
        self.skipped += max(len(lines) - _EXAMPLES, 0)

    def fresh(self) -> Tally:
        """Return an empty tally for a part of the same import; see `add`."""
        return Tally(self.source, self.strict, self.several)

    def add(self, part: Tally) -> None:
        """Add what `part` counted."""
        self.skipped += part.skipped
        self._found = sorted([*self._found, *part._found])[:_EXAMPLES]
        self.unknown_ops += part.unknown_ops
        self.left_out += part.left_out
        self.ends_unknown |= part.ends_unknown
        for text in part.notes:
            self.note(text)
        self.losses += part.losses

    def settle(self) -> None:
        """Raise TraceFormatError for the first bad line if strict. Call it when all lines so far have been read."""
        if self.strict and self._found:
            raise TraceFormatError(self._found[0][1], "import with strict=False to skip bad lines")

    def nothing(self, hint: str) -> TraceFormatError:
        """Return the error of a log without an op that could be read: the first bad line, and what to do."""
        first = "".join(f"; {one}" for one in self.examples[:1])
        if self.unknown_ops:
            word = next(iter(self.unknown_ops))
            hint = f"say what the op words mean, such as map_ops='{word}=read'"
        return TraceFormatError(f"{self.source} contains no op that can be read{first}", hint)

    def closing_notes(self) -> Iterator[str]:
        """Return notes on op words that were not known, and on ops left out on purpose, with their counts."""
        if self.unknown_ops:
            words = ", ".join(
                f"{word!r} {count}" for word, count in self.unknown_ops.most_common(_WORDS_SHOWN)
            )
            more = (
                f" and {len(self.unknown_ops) - _WORDS_SHOWN} more"
                if len(self.unknown_ops) > _WORDS_SHOWN
                else ""
            )
            yield f"unknown op words: {words}{more}; say what they mean with map_ops="
        if self.left_out:
            yield "left out: " + ", ".join(f"{name} {count}" for name, count in self.left_out.most_common())

    def note_mapped(self, files: int) -> None:
        """Note how many files were mapped into memory, if any: reads through a mapping are not calls."""
        if files:
            self.note(f"files mapped into memory: {files}; reads through a mapping are not in the log")

    def not_understood(self, log: str) -> Iterator[str]:
        """Return a note on the bad lines of a log that a tool of ours had written, if there are any."""
        if self.skipped:
            yield f"{self.skipped} lines of the {log} were not understood, the first: {self.examples[0]}"

    def lost(self, text: str) -> None:
        """Note that the log lacks ops that it counts, or says it has lost: the trace is not complete."""
        self.note(text)
        if text not in self.losses:
            self.losses.append(text)

    def note(self, text: str) -> None:
        """Add `text` to the notes, once."""
        if text not in self.notes:
            self.notes.append(text)


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What a log does not say of itself. A format ignores the options that it does not need.

    `map_columns` is `COLUMN=SOURCE[:UNIT],…` or the name of a preset (csv and jsonl); `base` is what
    names without a scheme are placed under, such as `s3://bucket/`; `separator` separates csv
    columns; `map_ops` says what the log's words for ops mean (`none`: leave such ops out);
    `wait_unit` is how the waits of a fio iolog of version 2 count: `ms` since the job's start, as
    fio replays them, or `us` since the line before, as its manual says. `block_bytes` is the size of a
    block of a KV cache (mooncake); its default is that of 512 tokens of Llama 3 70B in 16 bits.
    """

    map_columns: str | None = None
    base: str | None = None
    separator: str | None = None
    map_ops: Mapping[str, str] = field(default_factory=dict)
    wait_unit: str = "ms"
    block_bytes: int = 160 << 20


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """`object_by` says what a cache object is (libcachesim only): `range` or `uri`."""

    object_by: str = "range"


@dataclass(frozen=True, slots=True)
class Carries:
    """What a format can hold: `yes`, `no`, or how. The table in docs/formats.md and an import's closing line are made of it.

    `completeness` is what the log says of its own: whether the reader can tell that ops are missing. `ends` says whether
    it tells of each op without a latency that the op never ended, unless its `Tally` says otherwise. `reads`
    and `writes` are versions or conditions of the format, where it can be read or written at all.
    """

    times: str
    latency: str = "yes"
    offset: str = "yes"
    length: str = "yes"
    samples: str = "no"
    streams: str = "yes"
    errors: str = "class"
    completeness: str = "no"
    ends: str = "no"
    reads: str = "yes"
    writes: str = "yes"

    def lacking(self) -> tuple[str, ...]:
        """Return the names of what no log of the format holds."""
        return tuple(word for name, word in _CARRIED.items() if getattr(self, name) == "no")

    def closing(self, name: str) -> str:
        """Return a sentence on what the format, called `name`, holds, and what it does not."""
        told = {word: getattr(self, field) for field, word in {"times": "times", **_CARRIED}.items()}
        held = [word if how == "yes" else f"{word} ({how})" for word, how in told.items() if how != "no"]
        lacking = f"; not {', '.join(self.lacking())}" if self.lacking() else ""
        whole = "it does not say whether ops are missing"
        if self.completeness != "no":
            whole = f"of its completeness it says: {self.completeness}"
        return f"the format {name} holds {', '.join(held)}{lacking}; {whole}"


_CARRIED = {
    "latency": "latencies",
    "offset": "offsets",
    "length": "lengths",
    "samples": "samples and steps",
    "streams": "streams",
    "errors": "errors",
}
"""What may be absent from a format, by field of `Carries`."""


class Importer(Protocol):
    """One foreign format, read."""

    name: str
    about: str
    carries: Carries

    def read(self, source: Path, tally: Tally, options: ImportOptions) -> Iterator[pa.RecordBatch]:
        """Yield the log's ops: any schema columns, `t_submit` in ns since the Unix epoch, in any order.

        Logs without absolute time count from an epoch of their own. Raises
        TraceFormatError if `source` is not such a log.
        """
        ...


@runtime_checkable
class TogetherImporter(Importer, Protocol):
    """A format whose logs of one run belong together, so that all are read at once."""

    def read_together(
        self, sources: Sequence[Path], tally: Tally, options: ImportOptions
    ) -> Iterator[pa.RecordBatch]:
        """As `read`, for several logs."""
        ...


class Exporter(Protocol):
    """One foreign format, written."""

    name: str
    about: str
    carries: Carries

    def write(self, trace: TraceReader, sink: BinaryIO, tally: Tally, options: ExportOptions) -> int:
        """Write the trace's ops to `sink` and return their number. `tally.notes` gets what the format cannot hold."""
        ...
