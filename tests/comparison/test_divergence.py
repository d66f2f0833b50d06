"""What moved: distances against brute force, intervals that hold, places that are named."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracekit.comparison.divergence import diverge, ks, wasserstein
from tracekit.metrics.histogram import Histogram
from tracekit.replayer.compare import compare
from tracekit.reporting.table import divergence_tables
from tracekit.store.reader import TraceReader, open_reader
from tracekit.store.writer import TraceWriter

values = st.lists(st.integers(0, 60), min_size=1, max_size=60)


def unit_buckets(found: list[int]) -> Histogram:
    return Histogram.from_rows("ns", [(v, v + 1, 1) for v in found])


@given(a=values, b=values)
def test_distances_match_a_numerical_integration(a: list[int], b: list[int]) -> None:
    x, y = unit_buckets(a), unit_buckets(b)
    grid = np.linspace(0, 62, 62 * 200 + 1)

    def share(found: list[int]) -> np.ndarray:
        return np.mean([np.clip(grid - v, 0, 1) for v in found], axis=0)

    gap = np.abs(share(a) - share(b))
    assert ks(x, y) == pytest.approx(gap.max(), abs=1e-9)
    assert wasserstein(x, y) == pytest.approx(np.trapezoid(gap, grid), abs=2e-3)
    assert ks(x, x) == wasserstein(x, x) == 0
    assert wasserstein(x, y) == pytest.approx(wasserstein(y, x))


@given(a=values, shift=st.integers(1, 40))
def test_the_distance_to_a_shifted_distribution_is_the_shift(a: list[int], shift: int) -> None:
    assert wasserstein(unit_buckets(a), unit_buckets([v + shift for v in a])) == pytest.approx(shift)


def trace(
    path: Path, root: str, *, slow: str = "", factor: float = 1.0, seed: int = 1, ops: int = 3000
) -> TraceReader:
    rng = random.Random(seed)
    names = [f"{root}/f{i % 4}" for i in range(ops)]
    latency = [int(rng.lognormvariate(11, 0.4) * (factor if name.endswith(slow) else 1)) for name in names]
    with TraceWriter(path, source="import:test", epoch_unix_ns=0) as writer:
        columns = {"t_submit": pa.array([i * 1000 for i in range(ops)], pa.int64()), "uri": names, "offset": [0] * ops,
                   "len": [4096] * ops, "bytes": [4096] * ops, "latency": latency, "sample_id": [0] * ops}  # fmt: skip
        writer.write(pa.RecordBatch.from_pydict(columns))
    return open_reader(path)


def test_two_runs_of_the_same_load_hardly_differ_and_the_intervals_contain_zero(tmp_path: Path) -> None:
    moved = diverge(trace(tmp_path / "a", "file:///x", seed=1), trace(tmp_path / "b", "file:///x", seed=2))
    assert all(d.ks is not None and d.ks < 0.06 for d in moved.distances)
    assert all(q.shift_lo_ns <= 0 <= q.shift_hi_ns for q in moved.quantiles)


def test_a_slower_file_is_named_first_also_under_another_root(tmp_path: Path) -> None:
    moved = diverge(
        trace(tmp_path / "a", "file:///x/y"), trace(tmp_path / "b", "s3://bucket/deep/z", slow="f2", factor=5)
    )
    assert moved.files[0].where == "f2"
    assert moved.files[0].b_p50_ns == pytest.approx(5 * (moved.files[0].a_p50_ns or 0), rel=0.01)
    assert (moved.distances[0].ks or 0) > 0.15
    assert moved.distances[1].ks == 0
    assert moved.quantiles[2].shift_lo_ns > 0


def test_the_divergence_is_the_same_every_time(tmp_path: Path) -> None:
    a, b = trace(tmp_path / "a", "file:///x", seed=1), trace(tmp_path / "b", "file:///x", seed=2)
    assert diverge(a, b) == diverge(a, b)


def test_the_distance_of_unknown_values_is_unknown_and_not_zero(tmp_path: Path) -> None:
    known = trace(tmp_path / "a", "file:///x", ops=50)
    with TraceWriter(tmp_path / "b", source="import:test", epoch_unix_ns=0) as writer:
        columns = {"t_submit": pa.array(range(50), pa.int64()), "uri": ["file:///x/f0"] * 50, "offset": [0] * 50,
                   "len": pa.nulls(50, pa.int64()), "bytes": pa.nulls(50, pa.int64()), "latency": pa.nulls(50, pa.int64()),
                   "sample_id": [0] * 50}  # fmt: skip
        writer.write(pa.RecordBatch.from_pydict(columns))
    unknown = open_reader(tmp_path / "b")
    for a, b in ((known, unknown), (unknown, known), (unknown, unknown)):
        moved = diverge(a, b)
        assert [(d.ks, d.wasserstein) for d in moved.distances] == [(None, None)] * 2
        assert moved.quantiles == ()
    assert diverge(known, known).distances[0].ks == 0
    parity = compare(known, unknown, judge=["latency_ks<=1", "latency_wasserstein<=1s"])
    assert [(row.ok, row.b, row.note) for row in parity.gates] == [(False, None, "the value is unknown")] * 2
    texts = [
        "unknown" in str(cell)
        for cell in divergence_tables(diverge(known, unknown), names=("a", "b"))[0].columns[1].cells
    ]
    assert texts == [True, True]


def test_empty_traces_diverge_by_nothing_known(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with TraceWriter(tmp_path / name, source="import:test"):
            pass
    moved = diverge(open_reader(tmp_path / "a"), open_reader(tmp_path / "b"))
    assert (moved.quantiles, moved.windows, moved.files) == ((), (), ())
    assert all(d.ks is None and d.wasserstein is None for d in moved.distances)


def of(path: Path, lengths: list[int], uris: list[str]) -> TraceReader:
    n = len(lengths)
    columns = {"t_submit": pa.array(range(n), pa.int64()), "uri": uris, "offset": [0] * n, "len": lengths,
               "latency": [1000] * n, "sample_id": [0] * n}  # fmt: skip
    with TraceWriter(path, source="import:test", epoch_unix_ns=0) as writer:
        writer.write(pa.RecordBatch.from_pydict(columns))
    return open_reader(path)


@pytest.mark.parametrize("many", [65_536, 1])
def test_sizes_that_differ_within_a_power_of_two_diverge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, many: int
) -> None:
    monkeypatch.setattr("tracekit.comparison.divergence._SIZES", many)
    a = of(tmp_path / "a", [4096] * 6 + [100] * 2, ["file:///d/x"] * 8)
    b = of(tmp_path / "b", [6000] * 6 + [100] * 2, ["file:///d/x"] * 8)
    sizes = diverge(a, b).distances[1]
    assert sizes.metric == "req_bytes"
    assert sizes.ks == pytest.approx(0.75)
    assert sizes.wasserstein == pytest.approx(0.75 * (6000 - 4096), abs=0 if many > 1 else 64)


def test_files_of_one_root_are_matched_when_only_some_are_read_again(tmp_path: Path) -> None:
    a = of(tmp_path / "a", [10] * 4, [f"file:///r/{i % 2}/f{i}" for i in range(4)])
    b = of(tmp_path / "b", [10] * 2, ["file:///r/0/f0", "file:///r/0/f2"])
    found = {place.where: (place.a_ops, place.b_ops) for place in diverge(a, b).files}
    assert found == {"1/f1": (1, 0), "1/f3": (1, 0)}
