"""Parity: what is judged, and how far apart two traces are."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracekit.comparison.parity import compare, histogram_distance, measure
from tracekit.errors import UsageError
from tracekit.store.reader import TraceReader, open_reader
from tracekit.store.writer import TraceWriter


def trace(
    path: Path, *, ops: int = 100, gap: int = 1000, length: int = 4096, steps: bool = True, latency: int = 10
) -> TraceReader:
    with TraceWriter(path, source="import:test", epoch_unix_ns=0) as writer:
        columns = {
            "t_submit": pa.array([i * gap for i in range(ops)], pa.int64()),
            "uri": ["file:///a"] * ops, "offset": [0] * ops, "len": [length] * ops, "latency": [latency] * ops,
            "bytes": [length] * ops, "sample_id": [0] * ops,
            "step": pa.array([i // 10 if steps else None for i in range(ops)], pa.int64()),
        }  # fmt: skip
        writer.write(pa.RecordBatch.from_pydict(columns))
    return open_reader(path)


def test_a_trace_matches_itself(tmp_path: Path) -> None:
    a = trace(tmp_path / "a")
    parity = compare(a, a, tolerance=0.0)
    assert parity.ok
    assert all(row.difference in (0, None) for row in parity.rows)


def test_each_difference_is_found_and_judged(tmp_path: Path) -> None:
    a = trace(tmp_path / "a")
    slower = compare(a, trace(tmp_path / "slow", gap=1200))
    assert [row.metric for row in slower.rows if row.ok is False] == ["duration_ns", "throughput_bytes_per_s"]
    assert slower.row("duration_ns").difference == pytest.approx(0.2, rel=0.01)
    larger = compare(a, trace(tmp_path / "large", length=8192))
    assert larger.row("req_bytes_hist").difference == 1
    assert larger.row("bytes_per_step").difference == 1
    assert not larger.ok
    assert compare(a, trace(tmp_path / "near", gap=1100)).ok


def test_a_recording_that_took_no_time_is_not_judged_by_time(tmp_path: Path) -> None:
    a = trace(tmp_path / "a", ops=1, latency=0)
    parity = compare(a, trace(tmp_path / "b", ops=1, latency=70))
    assert parity.ok
    assert parity.row("duration_ns").ok is None


def test_a_difference_from_nothing_is_null_in_json(tmp_path: Path) -> None:
    a = trace(tmp_path / "a", length=0)
    parity = compare(a, trace(tmp_path / "b"), tolerance=float("inf"))
    assert parity.row("bytes").difference == float("inf")
    told = json.loads(json.dumps(parity.to_dict(), allow_nan=False))
    assert told["tolerance"] is None
    assert [row["difference"] for row in told["metrics"] if row["metric"] == "bytes"] == [None]


def test_speed_divides_the_times_of_the_first(tmp_path: Path) -> None:
    a, b = trace(tmp_path / "a", gap=1000), trace(tmp_path / "b", gap=100)
    assert not compare(a, b).ok
    assert compare(a, b, speed=10).ok


def test_steps_are_compared_only_where_there_are_some(tmp_path: Path) -> None:
    a = trace(tmp_path / "a", steps=False)
    assert measure(a).bytes_per_step is None
    assert "bytes_per_step" not in [row.metric for row in compare(a, a).rows]


@pytest.mark.parametrize(("tolerance", "speed"), [(-1, 1), (0.1, 0), (0.1, -2)])
def test_a_tolerance_or_speed_that_cannot_be_meant_is_refused(
    tmp_path: Path, tolerance: float, speed: float
) -> None:
    a = trace(tmp_path / "a")
    with pytest.raises(UsageError):
        compare(a, a, tolerance=tolerance, speed=speed)


counts = st.dictionaries(st.integers(-1, 30), st.integers(1, 1000), max_size=6)


@given(a=counts, b=counts)
def test_the_histogram_distance_is_a_distance_between_0_and_1(a: dict[int, int], b: dict[int, int]) -> None:
    distance = histogram_distance(a, b)
    assert 0 <= distance <= 1 + 1e-12
    assert distance == pytest.approx(histogram_distance(b, a))
    assert histogram_distance(a, a) == 0
    assert histogram_distance(a, {k: 3 * n for k, n in a.items()}) == pytest.approx(0)
