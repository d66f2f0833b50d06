"""Write a large trace, with the same ops every time, for the benchmarks of the metrics.

Four ranks of eight workers read samples of four requests (3.5 x 128 KiB) in shuffled order. A step
is a batch of samples, latency is log-normal with a slow tail, and a few ops fail. Each rank writes
its own segments, so segments overlap in time as in a real run. 100 M ops are about 1 GB and take
some minutes:

    python analysis/benchmarks/make_big_trace.py --ops 100000000 -o /tmp/big.trace
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from tracekit.store.writer import TraceWriter

RANKS, WORKERS = 4, 8
SEGMENT_OPS = 1_000_000
REQUEST_BYTES = 128 * 1024
SHARD_REQUESTS = 8_192
SAMPLE_REQUESTS = 4
BATCH_SAMPLES = 64
EPOCH_UNIX_NS = 1_750_000_000_000_000_000


def make(path: Path, ops: int, *, segment_ops: int = SEGMENT_OPS) -> None:
    """Write the trace of `ops` ops to `path`, unless it exists."""
    if path.exists():
        return
    clocks = np.zeros(RANKS, np.int64)
    done = np.zeros(RANKS, np.int64)
    with TraceWriter(
        path, source="import:synthetic", epoch_unix_ns=EPOCH_UNIX_NS, segment_ops=segment_ops
    ) as writer:
        left, index = ops, 0
        while left:
            rows, rank = min(left, segment_ops), index % RANKS
            batch, clocks[rank] = _segment(rank, int(done[rank]), rows, int(clocks[rank]), seed=index)
            writer.write(batch)
            done[rank] += rows
            left, index = left - rows, index + 1
        writer.count("range_gets", ops)


def _segment(rank: int, first: int, rows: int, clock_ns: int, *, seed: int) -> tuple[pa.RecordBatch, int]:
    rng = np.random.default_rng(seed)
    at = first + np.arange(rows, dtype=np.int64)
    turn, worker = at // WORKERS, (at % WORKERS).astype(np.int32)
    submit = clock_ns + np.cumsum(rng.integers(20_000, 60_000, rows))
    latency = (rng.lognormal(12.2, 0.35, rows)).astype(np.int64)
    latency[rng.random(rows) < 0.002] *= 40
    shard = (turn // SHARD_REQUESTS) * WORKERS + worker
    names, codes = np.unique(shard, return_inverse=True)
    uris = [f"s3://training-data/rank{rank}/shard-{name:06d}.tar" for name in names]
    place = _shuffled(turn % SHARD_REQUESTS // SAMPLE_REQUESTS, shard)
    offset = (place * SAMPLE_REQUESTS + turn % SAMPLE_REQUESTS) * REQUEST_BYTES
    sample = (shard * RANKS + rank) * (SHARD_REQUESTS // SAMPLE_REQUESTS) + place
    failed = rng.random(rows) < 1e-5
    sizes = np.where(turn % SAMPLE_REQUESTS == SAMPLE_REQUESTS - 1, REQUEST_BYTES // 2, REQUEST_BYTES)
    columns = {
        "t_submit": submit,
        "uri": pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(uris)),
        "offset": offset,
        "len": sizes,
        "bytes": np.where(failed, 0, sizes),
        "latency": latency,
        "ttfb": (latency * rng.uniform(0.3, 0.9, rows)).astype(np.int64),
        "sample_id": sample,
        "step": turn // (SAMPLE_REQUESTS * BATCH_SAMPLES // WORKERS),
        "rank": np.full(rows, rank, np.int32),
        "worker": worker,
        "error": pa.array(np.where(failed, "timeout", ""), pa.string(), mask=~failed),
    }
    return pa.RecordBatch.from_pydict(columns), int(submit[-1])


def _shuffled(at: np.ndarray, shard: np.ndarray) -> np.ndarray:
    """Permute a shard's samples, differently for each shard: an odd multiplier modulo a power of two."""
    places = SHARD_REQUESTS // SAMPLE_REQUESTS
    return (at * (2 * ((shard * 7919) % places) + 1) + shard * 104_729) % places


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ops", type=int, default=10_000_000)
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    start = time.perf_counter()
    make(given.out, given.ops)
    size = sum(file.stat().st_size for file in given.out.iterdir())
    print(
        f"{given.out}: {given.ops:,} ops, {size / 1e6:,.0f} MB, {size / given.ops:.2f} bytes per op, {time.perf_counter() - start:.0f} s"
    )


if __name__ == "__main__":
    main()
