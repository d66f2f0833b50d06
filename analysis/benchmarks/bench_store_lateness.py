"""Measure how punctually whole GETs of 64 KiB are sent to a store on the same machine, at fixed rates.

nginx serves one folder as `s3://bucket`. A trace of evenly spaced GETs is replayed at 1,000, 2,000 and
4,000 a second with the event-loop engine, in turn for several rounds; the medians of lateness are
reported against their bars.

    python analysis/benchmarks/bench_store_lateness.py [--seconds 3] [--rounds 5]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

REPO = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPO / "tests"), str(Path(__file__).resolve().parent)]
import servers
from results import Table

import tracekit
from tracekit.store.writer import TraceWriter

SIZE, OBJECTS = 64 << 10, 64
BARS_US = {1000: 300, 2000: 600, 4000: 2000}


def make(path: Path, rate: int, seconds: float) -> Path:
    """A recording of GETs of all objects in turn, `rate` a second."""
    i = np.arange(int(rate * seconds))
    names = pa.array([f"s3://bucket/{n}" for n in range(OBJECTS)])
    with TraceWriter(path, source="import:bench", epoch_unix_ns=0) as writer:
        writer.write(
            pa.RecordBatch.from_pydict(
                {
                    "t_submit": i * (1_000_000_000 // rate), "len": np.full(len(i), SIZE),
                    "uri": pa.DictionaryArray.from_arrays(pa.array((i % OBJECTS).astype(np.int32)), names),
                    "op": pa.array(["get"] * len(i)), "bytes": np.full(len(i), SIZE),
                    "latency": np.full(len(i), 1_000_000),
                }
            )
        )  # fmt: skip
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    found: dict[int, list[Any]] = {rate: [] for rate in BARS_US}
    with tempfile.TemporaryDirectory(prefix="bench-lateness-") as temp:
        folder = Path(temp)
        (folder / "data").mkdir()
        for number in range(OBJECTS):
            (folder / "data" / str(number)).write_bytes(bytes(SIZE))
        traces = {rate: make(folder / f"t{rate}", rate, chosen.seconds) for rate in BARS_US}
        with servers.nginx_bucket(folder / "data", folder / "nginx") as server:
            for _ in range(chosen.rounds):
                for rate, trace in traces.items():
                    result = tracekit.replay(
                        trace, endpoint=server.endpoint, region="us-east-1", anonymous=True, tolerance=1e9
                    )
                    if result.failed_ops or result.client.engine != "loop":
                        raise SystemExit(f"{result.failures} {result.client}")
                    found[rate].append((result.timing, result.client.cpu_ns / result.ops))
    table = Table(
        "store_lateness", ["GETs of 64 KiB a second", "p50 us", "p99 us", "max us", "CPU us an op", "bar us", "holds"]
    )  # fmt: skip
    for rate, runs in found.items():
        p50, p99, worst = (
            statistics.median(timing[f"lateness_{name}_ns"] / 1e3 for timing, _ in runs)
            for name in ("p50", "p99", "max")
        )
        cpu = statistics.median(cpu for _, cpu in runs) / 1e3
        table.add(rate, p50, p99, worst, cpu, BARS_US[rate], "yes" if p99 <= BARS_US[rate] else "no")
    table.finish()


if __name__ == "__main__":
    main()
