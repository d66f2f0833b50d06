"""What a row of the table in docs/reliability.md is, and what its trials share.

A trial causes the fault `times` times and raises AssertionError if the promise is broken. It returns how often it
tried, and what was lost, in words.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from tracekit.errors import TracekitError
from tracekit.recorder import Recorder
from tracekit.store.check import verify
from tracekit.store.reader import open_reader

Trial: TypeAlias = Callable[[Path, int, random.Random], tuple[int, str]]


@dataclass(frozen=True, slots=True)
class Row:
    """A fault, how often `make test` and `make soak` cause it, what is promised, and the trial."""

    name: str
    fault: str
    promise: str
    short: int
    soak: int
    trial: Trial


def rows_of(trace: Path) -> list[dict[str, Any]]:
    """Return the ops of a trace in the order of their samples."""
    found = [row for batch in open_reader(trace).batches() for row in batch.to_pylist()]
    return sorted(found, key=lambda row: row["sample_id"] or 0)


def recorded(trace: Path, ops: int = 300, segments: int = 1) -> Path:
    """Record `ops` ops into each of `segments` segments, with values that a flipped bit changes."""
    for part in range(segments):
        with Recorder(trace) as recorder:
            for i in range(ops):
                sample = part * ops + i
                begin = recorder.epoch_mono_ns + sample * 1009
                recorder.record(f"file:///d/{sample % 7}", sample * 7919, 4096, begin, sample * 31 % 977, bytes=4096, sample_id=sample)  # fmt: skip
    return trace


def journal_left(trace: Path, flushes: int = 3, ops: int = 40) -> Path:
    """Leave a trace as a killed recorder does; return its journal."""
    child = subprocess.run([sys.executable, "-c", _KILLED, str(trace), str(flushes), str(ops)], check=False)
    assert child.returncode == -signal.SIGKILL
    (journal,) = trace.glob(".seg-*.journal")
    return journal


_KILLED = """
import os, sys, time
from tracekit.recorder import Recorder
recorder = Recorder(sys.argv[1], flush_interval_s=1)
for part in range(int(sys.argv[2])):
    for i in range(int(sys.argv[3])):
        recorder.record("file:///d/f", i * 4096, 4096, time.monotonic_ns(), 1000 + i, bytes=4096, sample_id=part * int(sys.argv[3]) + i)
    recorder.flush()
os.kill(os.getpid(), 9)
"""


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "tracekit", *map(str, words)]


def run(*words: object, before: Sequence[str] = (), **how: Any) -> subprocess.CompletedProcess[str]:
    """Run a command line of tracekit to its end, under the command `before`."""
    return subprocess.run(
        [*before, *command(*words)], capture_output=True, text=True, check=False, timeout=300, stdin=subprocess.DEVNULL, **how
    )  # fmt: skip


def one_line(done: subprocess.CompletedProcess[str], *codes: int) -> None:
    """Check that a command ended with one of `codes`, and a failure with one line and no traceback."""
    said = done.stderr
    assert done.returncode in codes, (done.args, done.returncode, said[-2000:])
    assert "Traceback" not in said and "internal error" not in said, (done.args, said[-2000:])
    if done.returncode == 2:
        assert len([line for line in said.splitlines() if line.startswith("tracekit: ")]) == 1, (
            done.args,
            said,
        )


def noticed_or_harmless(trace: Path, wanted: list[dict[str, Any]]) -> bool:
    """Check that damage is reported or changes no row; return whether it was reported."""
    try:
        if any(finding.broken for finding in verify(trace)):
            return True
        assert rows_of(trace) == wanted, f"{trace}: rows changed, and verify calls it whole"
    except TracekitError:
        return True
    return False


def core_file(path: Path, uris: Sequence[str], **columns: list[Any]) -> Path:
    """Write a trace of one Parquet file with the six core columns, and `columns`."""
    n = len(uris)
    core = {"offset": [0] * n, "len": [100] * n, "t_submit": list(range(n)), "sample_id": list(range(n)), "latency": [1000] * n}  # fmt: skip
    pq.write_table(pa.table({"uri": list(uris), **core, **columns}), path)
    return path


def soon(draw: random.Random, most_s: float) -> float:
    """Return a moment from now to `most_s` seconds later."""
    return draw.random() * most_s
