"""Every figure of the snapshot against a brute-force count in plain Python."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from rich.console import Console

from tracekit.errors import TraceFormatError, UsageError
from tracekit.metrics.histogram import Histogram
from tracekit.metrics.partial import partial
from tracekit.metrics.snapshot import MetricsSnapshot, snapshot
from tracekit.reporting.table import snapshot_tables
from tracekit.schema import DATA_KINDS, READ_KINDS, WRITE_KINDS
from tracekit.store import merge
from tracekit.store.reader import open_reader
from tracekit.store.writer import TraceWriter

GOLDEN = Path(__file__).parent / "golden"

op = st.fixed_dictionaries(
    {
        "t_submit": st.integers(0, 300),
        "uri": st.sampled_from(["file:///a", "direct:///b", "s3://k/c", "S3://k/d"]),
        "op": st.sampled_from(["read", "read", "get", "put", "part", "list", "sync", "hint"]),
        "offset": st.one_of(st.none(), st.integers(0, 10)),
        "len": st.one_of(st.none(), st.integers(0, 300), st.sampled_from([2**40, 2**40 - 1, 1])),
        "bytes": st.one_of(st.none(), st.integers(0, 300)),
        "latency": st.one_of(
            st.none(), st.integers(0, 200), st.sampled_from([2**30, 2**49 - 1, 2**49, 127, 128, 129])
        ),
        "tries": st.one_of(st.none(), st.integers(1, 3)),
        "wait_ns": st.one_of(st.none(), st.none(), st.integers(0, 400)),
        "sample_id": st.one_of(st.none(), st.integers(0, 5)),
        "step": st.one_of(st.none(), st.integers(0, 5)),
        "rank": st.integers(0, 2),
        "error": st.one_of(st.none(), st.none(), st.sampled_from(["not_found", "throttled"])),
    }
)


def write(path: Path, rows: list[dict[str, Any]], segment_ops: int = 7) -> Path:
    columns = {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}
    with TraceWriter(path, source="import:test", epoch_unix_ns=0, segment_ops=segment_ops) as writer:
        if rows:
            kinds = {"uri": pa.string(), "op": pa.string(), "error": pa.string()}
            arrays = {n: pa.array(v, kinds.get(n, pa.int64())) for n, v in columns.items()}
            writer.write(pa.RecordBatch.from_pydict(arrays))
    return path


def read_bytes(row: dict[str, Any]) -> Any:
    """The view's rule: what an op moved, if it does not say."""
    if (
        row["bytes"] is None
        and row["latency"] is not None
        and row["error"] is None
        and row["op"] in DATA_KINDS
    ):
        return row["len"]
    return row["bytes"]


def response(row: dict[str, Any]) -> int:
    return int(row["latency"] + (row["wait_ns"] or 0))


def brute_peaks(rows: list[dict[str, Any]]) -> tuple[int, int]:
    flying = [
        (r["t_submit"], math.inf if r["latency"] is None else r["t_submit"] + max(response(r), 1),
         r["len"] if r["len"] is not None else read_bytes(r) or 0)
        for r in rows if r["op"] != "hint"
    ]  # fmt: skip
    now = [[w for s, e, w in flying if s <= t < e] for t, _, _ in flying]
    return max((len(x) for x in now), default=0), max((sum(x) for x in now), default=0)


@examples(60)
@given(rows=st.lists(op, max_size=40), batch_rows=st.integers(1, 9))
def test_every_figure_matches_a_brute_force_count(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], batch_rows: int
) -> None:
    reader = open_reader(write(tmp_path_factory.mktemp("s") / "t", rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge, "_BATCH_ROWS", batch_rows)
        found = snapshot(reader)
    data = [r for r in rows if r["op"] != "hint"]
    ended = [r["latency"] for r in data if r["latency"] is not None]
    moved = [read_bytes(r) or 0 for r in data]
    assert found.ops == len(data)
    assert found.failed_ops == sum(r["error"] is not None for r in data)
    ends_known = bool(ended) or not data
    assert found.unfinished_ops == (sum(r["latency"] is None for r in data) if ends_known else None)
    silent = [r for r in data if read_bytes(r) is None]
    unknown = sum(r["op"] in DATA_KINDS for r in silent)
    bytes_known = len(silent) < len(data) or not unknown
    assert found.bytes == (sum(moved) if bytes_known else None)
    assert found.unknown_bytes_ops == unknown
    lengths = [r["len"] for r in data if r["len"] is not None]
    assert found.requested_bytes == (sum(lengths) if lengths else None)
    for kinds, ops, size in (
        (READ_KINDS, found.read_ops, found.read_bytes),
        (WRITE_KINDS, found.write_ops, found.write_bytes),
    ):
        some = [read_bytes(r) for r in data if r["op"] in kinds]
        assert ops == len(some)
        known = any(n is not None for n in some) or not some
        assert size == (sum(n or 0 for n in some) if known else None)
    waits = [r["wait_ns"] for r in data if r["wait_ns"] is not None]
    assert found.wait_sum_ns == (sum(waits) if waits else None)
    tried = [r["tries"] for r in data if r["tries"] is not None]
    assert found.retried_ops == (sum(n > 1 for n in tried) if tried else None)
    assert found.first_submit_ns == min((r["t_submit"] for r in data), default=None)
    assert found.last_submit_ns == max((r["t_submit"] for r in data), default=None)
    ends = [r["t_submit"] + response(r) for r in data if r["latency"] is not None]
    assert found.last_end_ns == max(ends, default=None)
    duration = max([*ends, found.last_submit_ns or 0]) - (found.first_submit_ns or 0)
    assert found.duration_ns == duration
    assert found.throughput_bytes_per_s == (sum(moved) * 1e9 / duration if duration and bytes_known else None)
    steps = {(r["rank"], r["step"]) for r in data if r["step"] is not None}
    assert found.steps == len(steps)
    in_steps = [read_bytes(r) for r in data if r["step"] is not None]
    steps_known = any(n is not None for n in in_steps) or not unknown
    assert found.bytes_per_step == (
        sum(n or 0 for n in in_steps) / len(steps) if steps and steps_known else None
    )
    assert found.files == len({r["uri"] for r in data if r["op"] != "list"})
    assert found.samples == len({r["sample_id"] for r in data if r["sample_id"] is not None})
    assert found.latency_sum_ns == (sum(ended) if ended else None)
    assert (found.latency_min_ns, found.latency_max_ns) == (
        min(ended, default=None),
        max(ended, default=None),
    )
    assert (found.max_qd, found.peak_inflight) == (brute_peaks(rows) if ends_known else (None, None))
    for name, values in (
        ("req_bytes", [r["len"] for r in data if r["len"] is not None]),
        ("latency_us", ended),
        ("response_us", [response(r) for r in data if r["latency"] is not None]),
    ):
        histogram = found.histogram(name)
        scale = 1 if name == "req_bytes" else 1000
        assert histogram.total == len(values)
        for lo, hi, count in zip(histogram.lo, histogram.hi, histogram.counts, strict=True):
            assert count == sum(lo * scale <= v + 1e-9 < hi * scale for v in values)
    for row in found.by_op:
        mine = [
            r
            for r in rows
            if (r["op"], r["error"]) == (row["op"], row["error"])
            and r["uri"].split(":")[0].lower() == row["scheme"]
        ]
        assert row["ops"] == len(mine)
        counted = [n for n in map(read_bytes, mine) if n is not None]
        assert row["bytes"] == (sum(counted) if counted else None)
    assert sum(row["ops"] for row in found.by_op) == len(rows)
    assert found.backend_counters.get("throttles", 0) == sum(r["error"] == "throttled" for r in rows)
    assert found.backend_counters.get("hints_applied", 0) == sum(r["op"] == "hint" for r in rows)
    ordered = sorted(ended)
    for name, q in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99_9", 0.999)):
        value = found.latency_us[name]
        if not ordered:
            assert value is None
        else:
            exact = ordered[max(math.ceil(len(ordered) * q) - 1, 0)] / 1e3
            assert value == pytest.approx(exact, rel=0.008, abs=0.0006)
    assert MetricsSnapshot.from_dict(json.loads(found.to_json())) == found


@examples(30)
@given(latencies=st.lists(st.integers(0, 2**60), min_size=1, max_size=50))
def test_no_latency_bucket_is_wider_than_five_percent(
    tmp_path_factory: pytest.TempPathFactory, latencies: list[int]
) -> None:
    rows = [
        {"t_submit": 0, "uri": "file:///a", "op": "read", "offset": 0, "len": 1, "bytes": 1, "latency": latency,
         "sample_id": 0, "step": 0, "rank": 0, "error": None}
        for latency in latencies
    ]  # fmt: skip
    histogram = snapshot(open_reader(write(tmp_path_factory.mktemp("s") / "t", rows))).latency_us_hist
    for lo, hi in zip(histogram.lo, histogram.hi, strict=True):
        assert hi - lo <= max(0.05 * lo, 0.001 + 1e-12)
    assert histogram.total == len(latencies)


def fixed_trace(path: Path) -> Path:
    rows = [
        {"t_submit": 1000 * i, "uri": f"file:///data/{i % 2}", "op": "read" if i % 5 else "hint", "offset": 4096 * i,
         "len": 4096 << (i % 3), "bytes": 4096 << (i % 3) if i != 7 else 0, "latency": 1500 * (i + 1),
         "sample_id": i // 2, "step": i // 4, "rank": 0, "error": "not_found" if i == 7 else None}
        for i in range(12)
    ]  # fmt: skip
    return write(path, rows)


def test_the_json_and_csv_are_the_golden_ones(tmp_path: Path) -> None:
    found = snapshot(open_reader(fixed_trace(tmp_path / "t")))
    assert found.to_json() == (GOLDEN / "snapshot.json").read_text()
    assert found.to_csv() == (GOLDEN / "snapshot.csv").read_text()


def test_json_has_the_promised_top_level_keys(tmp_path: Path) -> None:
    keys = json.loads(snapshot(open_reader(fixed_trace(tmp_path / "t"))).to_json())
    assert {"req_bytes_hist", "latency_us_hist", "max_qd", "peak_inflight", "backend_counters"} <= set(keys)
    assert set(keys["req_bytes_hist"]) == {"unit", "lo", "hi", "counts"}


def test_csv_rows_all_have_a_unit_and_parse(tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(snapshot(open_reader(fixed_trace(tmp_path / "t"))).to_csv())))
    assert all(row["unit"] and row["metric"] for row in rows)
    assert {row["metric"] for row in rows} >= {"ops", "max_qd", "peak_inflight", "latency_us.p99_9"}


def test_a_file_with_only_the_core_six_has_every_metric(tmp_path: Path) -> None:
    pq.write_table(
        pa.table(
            {"uri": ["a"], "offset": [0], "len": [8], "t_submit": [5], "sample_id": [1], "latency": [10]}
        ),
        tmp_path / "core.parquet",
    )
    found = snapshot(open_reader(tmp_path / "core.parquet"))
    assert (found.ops, found.bytes, found.max_qd, found.peak_inflight, found.steps) == (1, 8, 1, 8, 0)


def test_an_empty_trace_has_a_snapshot(tmp_path: Path) -> None:
    found = snapshot(open_reader(write(tmp_path / "t", [])))
    assert (found.ops, found.max_qd, found.latency_us["p99"], found.throughput_bytes_per_s) == (
        0,
        0,
        None,
        None,
    )
    assert found.to_csv().startswith("metric,value,unit\n")


buckets = st.lists(st.tuples(st.sampled_from([1, 2, 4, 8]), st.integers(1, 9)), max_size=8)


@given(a=buckets, b=buckets, c=buckets)
def test_histograms_add_in_any_order(a: Any, b: Any, c: Any) -> None:
    x, y, z = (Histogram.from_rows("bytes", [(lo, 2 * lo, n) for lo, n in rows]) for rows in (a, b, c))
    assert x.merge(y).merge(z) == z.merge(x.merge(y))
    assert x.merge(y).total == x.total + y.total
    assert Histogram.from_rows("bytes", [(lo, 2 * lo, n) for lo, n in a + b]) == x.merge(y)


def test_histograms_of_different_units_do_not_add() -> None:
    with pytest.raises(UsageError, match="bytes and us"):
        Histogram("bytes").merge(Histogram("us"))


@pytest.mark.parametrize("limit", ["plenty", "1KiB"])
def test_an_invalid_or_too_small_memory_limit_is_named(tmp_path: Path, limit: str) -> None:
    with pytest.raises(UsageError, match="memory"):
        snapshot(open_reader(fixed_trace(tmp_path / "t")), memory=limit)


def test_a_step_of_hints_alone_is_no_step(tmp_path: Path) -> None:
    hint = {"t_submit": 0, "uri": "file:///a", "op": "hint", "offset": None, "len": None, "bytes": None, "latency": 5,
            "sample_id": 9, "step": 7, "rank": 0, "error": None}  # fmt: skip
    read = {**hint, "op": "read", "offset": 0, "len": 10, "bytes": 10, "step": 8}
    reader = open_reader(write(tmp_path / "t", [hint, read]))
    found = snapshot(reader)
    assert (found.steps, found.bytes_per_step, found.samples) == (1, 10, 1)
    assert partial(reader).snapshot() == found


@pytest.mark.parametrize(
    "wrong", [{"latency": -5}, {"len": 2**63 - 1}, {"latency": 2**62, "t_submit": 2**62}]
)
def test_impossible_values_are_reported_in_one_line(tmp_path: Path, wrong: dict[str, int]) -> None:
    row = {"t_submit": 0, "uri": "file:///a", "op": "read", "offset": 0, "len": 1, "bytes": 1, "latency": 9,
           "sample_id": 0, "step": 0, "rank": 0, "error": None}  # fmt: skip
    reader = open_reader(write(tmp_path / "t", [row, {**row, **wrong}, {**row, **wrong}]))
    with pytest.raises(TraceFormatError, match="values that no op can have") as caught:
        snapshot(reader)
    assert "\n" not in str(caught.value)


def test_counters_of_time_and_size_say_their_unit_in_csv(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "t", source="loader", epoch_unix_ns=0) as writer:
        for name in ("consumer_wait_ns", "alignment_bytes", "retries"):
            writer.count(name, 3)
    rows = csv.DictReader(io.StringIO(snapshot(open_reader(tmp_path / "t")).to_csv()))
    units = {row["metric"]: row["unit"] for row in rows}
    assert units["backend_counters.consumer_wait_ns"] == "ns"
    assert units["backend_counters.alignment_bytes"] == "bytes"
    assert units["backend_counters.retries"] == "count"


def without_latency(path: Path, *, source: str, ended: bool = False) -> MetricsSnapshot:
    columns = {
        "t_submit": pa.array([10 * i for i in range(100)]),
        "uri": pa.array(["file:///d/x"] * 100),
        "offset": pa.array([4096 * i for i in range(100)]),
        "len": pa.array([4096] * 100),
        "latency": pa.array([5 if ended and i == 0 else None for i in range(100)], pa.int64()),
    }
    with TraceWriter(path, source=source, epoch_unix_ns=0) as writer:
        writer.write(pa.RecordBatch.from_pydict(columns))
    return snapshot(open_reader(path))


def test_a_source_without_latencies_says_nothing_of_what_ended_moved_or_was_in_flight(tmp_path: Path) -> None:
    found = without_latency(tmp_path / "t", source="import:fio")
    assert found.ops == found.unknown_bytes_ops == 100
    assert (found.unfinished_ops, found.max_qd, found.peak_inflight, found.bytes) == (None, None, None, None)
    assert (found.throughput_bytes_per_s, found.last_end_ns, found.latency_us["mean"]) == (None, None, None)
    assert (found.requested_bytes, found.duration_ns) == (409600, 990)
    assert partial(open_reader(tmp_path / "t")).snapshot() == found


def test_ops_of_a_recording_without_latencies_never_ended(tmp_path: Path) -> None:
    found = without_latency(tmp_path / "t", source="loader")
    assert (found.unfinished_ops, found.max_qd, found.peak_inflight) == (100, 100, 409600)


def test_one_latency_in_a_foreign_trace_shows_that_the_other_ops_never_ended(tmp_path: Path) -> None:
    found = without_latency(tmp_path / "t", source="import:fio", ended=True)
    assert (found.unfinished_ops, found.max_qd, found.bytes, found.unknown_bytes_ops) == (99, 99, 4096, 99)


def test_a_listing_counts_as_an_op_but_not_as_a_file(tmp_path: Path) -> None:
    read = {"t_submit": 0, "uri": "file:///d/a", "op": "read", "offset": 0, "len": 10, "bytes": 10, "latency": 5,
            "sample_id": 9, "step": 7, "rank": 0, "error": None}  # fmt: skip
    listing = {**read, "uri": "file:///d/", "op": "list", "offset": None, "len": None, "bytes": None}
    found = snapshot(open_reader(write(tmp_path / "t", [listing, read])))
    assert (found.ops, found.files, found.bytes, found.unknown_bytes_ops) == (2, 1, 10, 0)


def test_snapshots_and_histograms_print_as_one_line_and_as_a_table(tmp_path: Path) -> None:
    found = snapshot(open_reader(fixed_trace(tmp_path / "t")))
    for shown in (found, found.req_bytes_hist, Histogram("us")):
        assert repr(shown).startswith(f"<{type(shown).__name__}: ")
        assert len(repr(shown)) < 200 and "\n" not in repr(shown)
        assert shown._repr_html_().startswith("<table>")
    assert "1 failed" not in repr(found) and "failed 1" in repr(found)


def test_a_snapshot_of_version_2_tells_reads_and_writes_apart_and_says_retries_are_unknown(
    tmp_path: Path,
) -> None:
    rows = [
        {"t_submit": i, "uri": "file:///a", "op": op, "offset": 0, "len": 10, "latency": 5}
        for i, op in enumerate(["read", "write", "put", "sync"])
    ]
    now = snapshot(open_reader(write(tmp_path / "t", rows)))
    old = now.to_dict()
    for name in list(old):
        if name.startswith(("read_", "write_", "response_", "retried", "wait_")):
            del old[name]
    found = MetricsSnapshot.from_dict({**old, "schema_version": 2})
    assert (found.read_ops, found.read_bytes, found.write_ops, found.write_bytes) == (1, 10, 2, 20)
    assert (found.retried_ops, found.wait_sum_ns) == (None, None)
    assert found.response_us == now.response_us


def test_the_table_of_a_snapshot_tells_reads_writes_and_retries(tmp_path: Path) -> None:
    rows = [
        {
            "t_submit": i,
            "uri": "s3://b/k",
            "op": op,
            "len": 1024,
            "latency": 5,
            "tries": tries,
            "wait_ns": wait,
        }
        for i, (op, tries, wait) in enumerate([("get", 1, 0), ("part", 3, 2_000_000), ("part", 1, 0)])
    ]
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(*snapshot_tables(snapshot(open_reader(write(tmp_path / "t", rows)))))
    text = " ".join(console.export_text().split())
    assert "3 KiB (1 KiB read, 2 KiB written)" in text
    assert "1 op; 2 ms of earlier tries and waits" in text
