"""Exports for other tools' eyes: Perfetto's JSON and libCacheSim's binary records."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tracekit.errors import UsageError
from tracekit.formats.libcachesim import RECORD
from tracekit.formats.registry import export_trace
from tracekit.store.writer import TraceWriter
from tracekit.trace import open_trace


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    rng = np.random.default_rng(5)
    rows = 3000
    submit = np.sort(rng.integers(0, 3 * 10**9, rows))
    with TraceWriter(tmp_path / "t", source="test", epoch_unix_ns=0) as writer:
        writer.write(
            pa.RecordBatch.from_pydict(
                {"t_submit": submit, "uri": [f'file:///d/"{i}\\' for i in rng.integers(0, 9, rows)],
                 "offset": rng.integers(0, 20, rows) * 4096, "len": rng.integers(1, 4096, rows),
                 "latency": rng.integers(0, 10_000_000, rows), "sample_id": pa.nulls(rows, pa.int64()),
                 "rank": rng.integers(0, 2, rows), "worker": rng.integers(0, 2, rows),
                 "op": ["read"] * (rows - 2) + ["stat", "put"],
                 "error": [None] * (rows - 1) + ["io_error"]}
            )
        )  # fmt: skip
    return tmp_path / "t"


def events(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text())["traceEvents"]
    return found


def test_every_op_is_a_slice_and_slices_of_a_track_never_overlap(trace: Path, tmp_path: Path) -> None:
    done = export_trace("chrome", trace, tmp_path / "o.json")
    assert done.ops == 3000
    slices = [e for e in events(tmp_path / "o.json") if e["ph"] == "X"]
    assert len(slices) == 3000
    key = lambda e: (e["pid"], e["tid"])  # noqa: E731
    for _, track in itertools.groupby(sorted(slices, key=lambda e: (*key(e), e["ts"])), key=key):
        ends = 0.0
        for one in track:
            assert round(one["ts"] * 1000) >= round(ends * 1000)
            ends = one["ts"] + one["dur"]
    names = {
        (e["pid"], e["tid"]): e["args"]["name"]
        for e in events(tmp_path / "o.json")
        if e["name"] == "thread_name"
    }
    assert {key(e) for e in slices} <= set(names)
    assert names[key(slices[0])].startswith("worker ")
    assert slices[0]["args"]["uri"].startswith('file:///d/"')


def test_counters_are_queue_depth_and_bytes_in_flight_and_end_at_zero(trace: Path, tmp_path: Path) -> None:
    export_trace("chrome", trace, tmp_path / "o.json")
    every = events(tmp_path / "o.json")
    depth = [e["args"]["ops"] for e in every if e["name"] == "queue depth"]
    size = [e["args"]["bytes"] for e in every if e["name"] == "bytes in flight"]
    edges = [(e["ts"], 1) for e in every if e["ph"] == "X" and e["dur"]] + [
        (e["ts"] + e["dur"], -1) for e in every if e["ph"] == "X" and e["dur"]
    ]
    running = peak = 0
    for _, step in sorted((round(at * 1000), step) for at, step in edges):
        running += step
        peak = max(peak, running)
    assert max(depth) == peak
    assert (depth[-1], size[-1]) == (0, 0)


def test_unended_ops_are_left_out_and_reported(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "t", source="test") as writer:
        writer.write(pa.RecordBatch.from_pydict({"uri": ["file:///a"], "t_submit": [5]}))
    done = export_trace("chrome", tmp_path / "t", tmp_path / "o.json")
    assert done.ops == 0
    assert "have no latency" in done.notes[0]
    assert events(tmp_path / "o.json")


@pytest.mark.parametrize("by", ["range", "uri"])
def test_the_next_request_of_each_object_is_right(trace: Path, tmp_path: Path, by: str) -> None:
    done = export_trace("libcachesim", trace, tmp_path / "o.oracle", object_by=by)
    records = np.fromfile(tmp_path / "o.oracle", RECORD)
    assert len(records) == done.ops == 2998
    upcoming: dict[int, int] = {}
    for position in range(len(records) - 1, -1, -1):
        key = int(records["object_id"][position])
        assert records["next_request"][position] == upcoming.get(key, -1)
        upcoming[key] = position
    assert len(upcoming) == (180 if by == "range" else 9)
    assert list(records["time_s"]) == sorted(records["time_s"])


def test_the_real_libcachesim_reads_it_and_its_caches_run_on_it(trace: Path, tmp_path: Path) -> None:
    library = pytest.importorskip("libcachesim", reason="libcachesim is not installed")
    export_trace("libcachesim", trace, tmp_path / "o.oracleGeneral")
    reader = library.TraceReader(str(tmp_path / "o.oracleGeneral"), library.TraceType.ORACLE_GENERAL_TRACE)
    records = np.fromfile(tmp_path / "o.oracleGeneral", RECORD)
    seen = [(r.obj_id, r.obj_size, r.next_access_vtime) for r in reader]
    assert [s[:2] for s in seen] == list(
        zip(records["object_id"].tolist(), records["size_bytes"].tolist(), strict=True)
    )
    missed, _ = library.Belady(100_000).process_trace(reader)
    lru_missed, _ = library.LRU(100_000).process_trace(reader)
    assert 0 < missed <= lru_missed < 1


def test_an_unknown_kind_of_object_is_refused(trace: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="choose range, uri"):
        export_trace("libcachesim", trace, tmp_path / "o", object_by="block")
    assert not (tmp_path / "o").exists()


def test_times_before_the_epoch_and_odd_kinds_are_right_in_chromes_json(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "t", source="test", epoch_unix_ns=0) as writer:
        columns = {
            "uri": ["file:///a"] * 2,
            "t_submit": [-1500, -1],
            "latency": [1000, 7],
            "op": ['re"ad', "read"],
        }
        writer.write(pa.RecordBatch.from_pydict(columns))
    export_trace("chrome", tmp_path / "t", tmp_path / "o.json")
    slices = {e["cat"]: (e["ts"], e["dur"]) for e in events(tmp_path / "o.json") if e["ph"] == "X"}
    assert slices == {"re_ad": (-1.5, 1.0), "read": (-0.001, 0.007)}
    counted = [(e["ts"], e["args"]["ops"]) for e in events(tmp_path / "o.json") if e["name"] == "queue depth"]
    assert counted == [(-1.5, 1), (-0.5, 0), (-0.001, 1), (0.006, 0)]


def test_chromes_counters_reach_what_the_snapshot_says(tmp_path: Path) -> None:
    """Hints are not in flight, an op of no length in time is there for 1 ns, one that never ended stays."""
    with TraceWriter(tmp_path / "t", source="test", epoch_unix_ns=0) as writer:
        columns = {"uri": ["file:///a"] * 4, "t_submit": [0, 5, 5, 5], "latency": [None, 0, 9, 100], "len": [10, 20, 40, 80],
                   "op": ["read", "read", "read", "hint"]}  # fmt: skip
        writer.write(pa.RecordBatch.from_pydict(columns))
    export_trace("chrome", tmp_path / "t", tmp_path / "o.json")
    found = open_trace(tmp_path / "t").snapshot()
    every = events(tmp_path / "o.json")
    assert max(e["args"]["ops"] for e in every if e["name"] == "queue depth") == found.max_qd == 3
    assert (
        max(e["args"]["bytes"] for e in every if e["name"] == "bytes in flight") == found.peak_inflight == 70
    )
