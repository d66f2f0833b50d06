"""Large numbers: ranks, segments, names, and many flushes."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pyarrow as pa
from fault_rows import Row

from tracekit.recorder import Recorder
from tracekit.store.check import verify
from tracekit.store.reader import open_reader
from tracekit.trace import open_trace


def ranks(folder: Path, times: int, draw: random.Random) -> tuple[int, str]:
    trace = folder / "a.trace"
    for rank in range(times):
        with Recorder(trace, rank=rank, world_size=times) as recorder:
            for i in range(5):
                recorder.record(f"file:///d/{rank}", i, 1, time.monotonic_ns(), 1, bytes=1, sample_id=i)
    assert verify(trace) == []
    info = open_trace(trace).info()
    assert (info["ops"], info["streams"], info["segments"]) == (times * 5, times, times)
    return times, "nothing"


def segments(folder: Path, times: int, draw: random.Random) -> tuple[int, str]:
    trace = folder / "a.trace"
    with Recorder(trace, segment_ops=1, flush_interval_s=1) as recorder:
        for i in range(times):
            recorder.record("file:///d/f", i, 1, time.monotonic_ns(), 1, bytes=1, sample_id=i)
            recorder.flush()
    reader = open_reader(trace)
    assert (len(reader.segments), reader.rows) == (times, times)
    assert verify(trace) == []
    found = open_trace(trace).snapshot()
    assert (found.ops, found.samples) == (times, times)
    return times, "nothing"


def names(folder: Path, times: int, draw: random.Random) -> tuple[int, str]:
    trace = folder / "a.trace"
    with Recorder(trace) as recorder:
        for start in range(0, times, 10_000):
            count = min(10_000, times - start)
            uris = [f"s3://bucket/prefix/{n:09d}.bin" for n in range(start, start + count)]
            zeros = [0] * count
            now = time.monotonic_ns()
            recorder.record_batch(
                pa.RecordBatch.from_pydict(
                    {"uri": uris, "offset": zeros, "len": zeros, "t_submit": [now] * count, "sample_id": zeros, "latency": zeros}
                )
            )  # fmt: skip
    assert open_trace(trace).query("SELECT count(DISTINCT uri) AS n FROM ops").to_pylist() == [{"n": times}]
    assert verify(trace) == []
    return times, "nothing"


def long_run(folder: Path, times: int, draw: random.Random) -> tuple[int, str]:
    """Flush and roll segments as a recorder does in `times` seconds, at once; memory and descriptors stay."""
    trace = folder / "a.trace"
    with Recorder(trace, segment_ops=2000, flush_interval_s=1) as recorder:
        base: tuple[int, int] | None = None
        for second in range(times):
            for i in range(100):
                recorder.record("file:///d/f", i, 1, time.monotonic_ns(), 1, bytes=1, sample_id=second)
            recorder.flush()
            if second == times // 3:
                base = _usage()
        assert base is not None
        resident, descriptors = _usage()
        assert descriptors <= base[1] + 2, (base, descriptors)
        assert resident < base[0] + 64_000_000, (base, resident)
    assert (open_reader(trace).rows, verify(trace)) == (times * 100, [])
    return times, "nothing; resident memory and open descriptors stay as they are"


def _usage() -> tuple[int, int]:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), len(list(Path("/proc/self/fd").iterdir()))


ROWS = [
    Row("ranks", "1,024 ranks record into one trace", "each rank is a stream of the trace", 16, 1024, ranks),
    Row("segments", "a trace of 2,000 segments", "it opens, verifies and is measured", 50, 2000, segments),
    Row("names", "a trace of a million URIs", "every name is kept", 20_000, 1_000_000, names),
    Row("long-run", "an hour of flushes, one a second, at once", "memory and descriptors do not grow", 60, 3600, long_run),
]  # fmt: skip
