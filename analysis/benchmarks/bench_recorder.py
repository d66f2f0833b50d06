"""Measure what recording costs the caller: a million ops in a tight loop, and at a loader's rate.

In one run: a `list.append` of the same tuple through a method (the floor), the recorder saturated
(the caller only records), and the recorder at a loader's rate. Reported per call: median, p99 and
the longest block. Reported in total: ns per op and waits for the writer.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from results import Table

from tracekit.recorder import Recorder
from tracekit.store.reader import open_reader

OPS = 1_000_000


class Floor:
    """The least that a recorder could do: keep one tuple per call."""

    def __init__(self) -> None:
        self.rows: list[tuple[object, ...]] = []

    def record(self, uri: str, offset: int, len: int, t_submit: int, latency: int, *, op: str = "read",
               bytes: int | None = None, ttfb: int | None = None, sample_id: int | None = None,
               step: int | None = None, worker: int | None = None, t_due: int | None = None,
               error: str | None = None) -> None:  # fmt: skip
        self.rows.append(
            (t_submit, uri, op, offset, len, bytes, latency, ttfb, sample_id, step, worker, t_due, error)
        )


def calls(record: Callable[..., None], ops: int, gap_ns: int) -> np.ndarray:
    """Return the ns of each of `ops` calls, one every `gap_ns` (0: back to back)."""
    took = np.empty(ops, np.int64)
    view = memoryview(took)
    now = time.perf_counter_ns
    due = now()
    for i in range(ops):
        if gap_ns:
            due += gap_ns
            while (wait := due - now()) > 0:
                if wait > 200_000:
                    time.sleep((wait - 100_000) / 1e9)
        began = now()
        record("file:///data/train-00001.tar", i * 131072, 131072, began, 250_000, bytes=131072, sample_id=i,
               step=i >> 5, worker=0)  # fmt: skip
        view[i] = now() - began
    return took


def main() -> None:
    table = Table(
        "recorder",
        ["case", "ops", "p50_ns", "p99_ns", "p99_9_us", "longest_hold_ms", "total_ns_per_op", "waits", "bytes_per_op", "ratio_to_floor"],
    )  # fmt: skip
    calls(Floor().record, 200_000, 0)
    floor = calls(Floor().record, OPS, 0)
    base = float(np.median(floor))
    table.add("floor: append one tuple", OPS, *quantiles(floor), floor.sum() / OPS, 0, 0.0, 1.0)
    for name, gap_ns, ops in (
        ("saturated", 0, OPS),
        ("100,000 ops/s", 10_000, OPS),
        ("20,000 ops/s", 50_000, 200_000),
    ):
        folder = Path(tempfile.mkdtemp(dir="."))
        try:
            with Recorder(folder / "t") as recorder:
                took = calls(recorder.record, ops, gap_ns)
            reader = open_reader(folder / "t")
            if reader.rows != ops:
                raise SystemExit(f"{ops - reader.rows} ops lost")
            size = sum(segment.file_bytes for segment in reader.segments) / ops
            p50 = float(np.median(took))
            table.add(
                f"Recorder.record, {name}",
                ops,
                *quantiles(took),
                took.sum() / ops,
                recorder.waits,
                size,
                p50 / base,
            )
        finally:
            shutil.rmtree(folder)
    table.finish()


def quantiles(took: np.ndarray) -> tuple[float, float, float, float]:
    p50, p99, p999 = np.quantile(took, [0.5, 0.99, 0.999])
    return p50, p99, p999 / 1e3, took.max() / 1e6


if __name__ == "__main__":
    main()
