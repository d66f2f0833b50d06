"""The metrics of a trace from many hosts: the same figures as from one process, and one line where that cannot be."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import tracekit
from tracekit.spread import spread
from tracekit.store.writer import TraceWriter

OPS = 4000


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ops of two ranks that overlap each other and every edge between windows, some of them failed."""
    path, random = tmp_path_factory.mktemp("trace") / "t", np.random.default_rng(7)
    kinds = {
        "t_submit": np.sort(random.integers(0, 10**9, OPS)),
        "uri": pa.array([f"file:///d/{n}" for n in random.integers(0, 97, OPS)]),
        "op": pa.array(random.choice(["read", "get", "list"], OPS).tolist()),
        "offset": random.integers(0, 1 << 20, OPS),
        "len": random.integers(1, 1 << 16, OPS),
        "latency": random.integers(1, 10**8, OPS),
        "sample_id": random.integers(0, 700, OPS),
        "step": np.arange(OPS) // 50,
        "rank": pa.array(np.arange(OPS) % 2, pa.int32()),
        "error": pa.array([None if n % 41 else "timeout" for n in range(OPS)], pa.string()),
    }
    with TraceWriter(path, source="import:test", epoch_unix_ns=0, segment_ops=900) as writer:
        writer.write(pa.RecordBatch.from_pydict(kinds))
    return path


def test_several_processes_give_the_figures_of_one(trace: Path) -> None:
    opened = tracekit.open_trace(trace)
    alone = opened.snapshot()
    assert opened.snapshot(on="local", hosts=2) == alone


def test_the_number_of_windows_changes_no_figure(trace: Path) -> None:
    opened = tracekit.open_trace(trace)
    merged, *more = (opened.partial(window) for window in opened.windows(5))
    for part in more:
        merged = merged.merge(part)
    assert merged.snapshot() == opened.snapshot()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on": "mars"}, "no place to work"),
        ({"hosts": 2}, "give on="),
        ({"on": "local", "hosts": 0}, "less than 1"),
    ],
)
def test_a_wrong_place_or_number_is_refused(trace: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(tracekit.UsageError, match=message):
        tracekit.open_trace(trace).snapshot(**options)  # type: ignore[arg-type]


def _die(part: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _refuse(part: int) -> None:
    raise tracekit.UsageError(f"part {part} is wrong", "give another")


def test_a_process_that_dies_and_one_that_refuses_are_one_line() -> None:
    with pytest.raises(tracekit.TracekitError, match="was killed"):
        spread(_die, range, on="local", hosts=1)
    with pytest.raises(tracekit.UsageError, match="part 0 is wrong"):
        spread(_refuse, range, on="local", hosts=1)
