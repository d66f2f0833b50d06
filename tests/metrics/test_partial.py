"""Parts of a trace add up to the whole, however it is cut."""

from __future__ import annotations

import dataclasses
import pickle
import random
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from tracekit.errors import UsageError
from tracekit.metrics.partial import Partial, partial, windows
from tracekit.metrics.snapshot import snapshot
from tracekit.metrics.sweep import Flight, sweep
from tracekit.recorder import Recorder
from tracekit.store.reader import TraceReader, open_reader
from tracekit.store.writer import TraceWriter


def make(path: Path, n: int, seed: int, *, in_order: bool = True, segment_ops: int = 11) -> TraceReader:
    rng, t, rows = random.Random(seed), 0, []
    for i in range(n):
        t += rng.choice([0, 0, 1, 40, 900])
        rows.append(
            {"t_submit": t if in_order else rng.randrange(3000), "uri": f"s3://b/{rng.randrange(9)}", "op": rng.choice(["read"] * 9 + ["hint", "put"]),
             "offset": rng.randrange(99), "len": rng.choice([None, 0, 7, 4096]), "bytes": rng.choice([None, 7]),
             "latency": rng.choice([None, 0, 3, 500, 20_000, 127]), "sample_id": rng.choice([None, i // 2]), "step": rng.choice([None, i // 5]),
             "rank": i % 2, "error": rng.choice([None, None, "timeout", "throttled"])}
        )  # fmt: skip
    kinds = {"uri": pa.string(), "op": pa.string(), "error": pa.string()}
    with TraceWriter(path, source="import:test", epoch_unix_ns=0, segment_ops=segment_ops) as writer:
        if rows:
            arrays = {k: pa.array([r[k] for r in rows], kinds.get(k, pa.int64())) for k in rows[0]}
            writer.write(pa.RecordBatch.from_pydict(arrays))
        writer.count("whole_gets", 3)
    return open_reader(path)


def segments(reader: TraceReader) -> list[TraceReader]:
    return [dataclasses.replace(reader, segments=(segment,)) for segment in reader.segments]


def merged(parts: list[Partial]) -> Partial:
    return reduce(Partial.merge, parts)


@examples(15)
@given(n=st.integers(0, 45), seed=st.integers(0, 10**6))
def test_merged_segments_are_the_snapshot_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, n: int, seed: int
) -> None:
    reader = make(tmp_path_factory.mktemp("p") / "t", n, seed)
    parts = [partial(one) for one in segments(reader)]
    assert merged(parts).snapshot() == snapshot(reader)
    assert merged([parts[0], merged(parts[1:])] if parts[1:] else parts).snapshot() == snapshot(reader)


@examples(15)
@given(n=st.integers(0, 45), seed=st.integers(0, 10**6), parts=st.integers(1, 5))
def test_merged_windows_are_the_snapshot_of_the_whole_though_segments_overlap(
    tmp_path_factory: pytest.TempPathFactory, n: int, seed: int, parts: int
) -> None:
    reader = make(tmp_path_factory.mktemp("p") / "t", n, seed, in_order=False)
    assert merged([partial(reader, w) for w in windows(reader, parts)]).snapshot() == snapshot(reader)


ops = st.lists(
    st.tuples(st.integers(0, 60), st.one_of(st.none(), st.integers(1, 50)), st.integers(0, 9)), max_size=40
)


def swept(rows: list[tuple[int, int | None, int]], batch: int) -> Flight:
    import numpy as np

    never = np.iinfo(np.int64).max
    columns = [
        np.array(c, np.int64)
        for c in zip(*((t, never if d is None else t + d, w) for t, d, w in rows), strict=True)
    ]
    return sweep((tuple(c[i : i + batch] for c in columns)) for i in range(0, len(rows), batch))  # type: ignore[misc]


@examples(100)
@given(rows=ops, cuts=st.lists(st.integers(0, 40), max_size=4), batch=st.integers(1, 9))
def test_in_flight_summaries_merge_in_any_grouping_to_the_brute_force_peak(
    rows: Any, cuts: list[int], batch: int
) -> None:
    rows = sorted(rows, key=lambda row: row[0])
    edges = [0, *sorted(min(c, len(rows)) for c in cuts), len(rows)]
    parts = [swept(rows[a:b], batch) if b > a else Flight() for a, b in pairwise(edges)]
    left = reduce(Flight.merge, parts)
    right = reduce(lambda later, part: part.merge(later), reversed(parts))
    now = [[w for s, d, w in rows if s <= t and (d is None or t < s + d)] for t, _, _ in rows]
    want = (max(map(len, now), default=0), max(map(sum, now), default=0))
    assert (left.peaks.ops, left.peaks.bytes) == (right.peaks.ops, right.peaks.bytes) == want


def test_parts_that_overlap_are_refused(tmp_path: Path) -> None:
    a, b, *_ = (partial(one) for one in segments(make(tmp_path / "t", 40, 1, in_order=False)))
    with pytest.raises(UsageError, match="overlap in time"):
        a.merge(b)


def test_a_partial_travels_by_pickle(tmp_path: Path) -> None:
    reader = make(tmp_path / "t", 40, 2)
    parts = [pickle.loads(pickle.dumps(partial(reader, w))) for w in windows(reader, 3)]
    assert merged(parts).snapshot() == snapshot(reader)


def test_the_in_flight_summary_stays_small_when_no_op_ends() -> None:
    found = swept([(i, None, 1) for i in range(10_000)], 100)
    assert (found.peaks.ops, found.never_ops, found.pending) == (10_000, 10_000, ())


@pytest.mark.parametrize("by", ["file", "stream"])
def test_parts_of_a_sample_estimate_the_whole_run_as_the_sample_does(tmp_path: Path, by: str) -> None:
    sample = {"sample_rate": 0.3, "sample_by": by}
    with Recorder(tmp_path / "t", source="capture", options=sample) as recorder:
        zero = recorder.epoch_mono_ns
        for i in range(60):
            moved = None if i % 7 == 0 else (1 << 40) + i
            kind = ("read", "write", "list")[i % 3]
            recorder.record(f"s3://b/{i % 5}", 0, 1, zero + i * 1000, 5, bytes=moved, op=kind, worker=i % 4)
    reader = open_reader(tmp_path / "t")
    alone = snapshot(reader)
    assert alone.estimates is not None and alone.estimates["ops"] == pytest.approx(200)
    assert merged([partial(reader, window) for window in windows(reader, 4)]).snapshot() == alone


def test_parts_that_were_sampled_differently_estimate_nothing(tmp_path: Path) -> None:
    for name, options in (("a", {"sample_rate": 0.3}), ("b", {})):
        with Recorder(tmp_path / name, source="capture", options=options) as recorder:
            recorder.record("s3://b/k", 0, 1, recorder.epoch_mono_ns, 5)
    a, b = (partial(open_reader(tmp_path / name)) for name in ("a", "b"))
    assert a.snapshot().estimates is not None
    assert b.snapshot().estimates is None
    assert a.merge(dataclasses.replace(b, flight=Flight())).snapshot().estimates is None
