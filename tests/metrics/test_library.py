"""The macros: golden results on a small trace, brute force where arithmetic is subtle, plain DuckDB enough."""

from __future__ import annotations

import json
import math
import random
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from tracekit.metrics.library import install, names, text
from tracekit.metrics.sweep import peaks
from tracekit.store.reader import open_reader
from tracekit.store.writer import TraceWriter
from tracekit.trace import open_trace

GOLDEN = Path(__file__).parent / "golden"
CALLS = (
    "latency_hist('op')", "req_bytes_hist('scheme')", "over_time(4)", "in_flight()", "per_step()", "per_file()",
    "per_sample()", "hot_set(0.5)", "sequentiality('worker')", "interarrival('all')", "tail_by(0.1, 'uri')",
    "tail_windows(0.1, 3)", "lateness(3)",
)  # fmt: skip


def make(path: Path, n: int = 60, seed: int = 5) -> Path:
    rng, t, rows = random.Random(seed), 0, []
    for i in range(n):
        t += rng.choice([0, 100, 1000, 5000])
        rows.append(
            {"t_submit": t, "uri": f"{'s3' if i % 5 == 0 else 'file'}:///data/set/{rng.randrange(3)}", "op": "hint" if i % 13 == 12 else "read",
             "offset": rng.randrange(4) * 4096, "len": rng.choice([4096, 8192, 1]), "bytes": 4096 if i % 7 else 0,
             "latency": None if i == 31 else rng.randrange(1, 9000), "sample_id": i // 3, "step": i // 6, "rank": i % 2,
             "worker": i % 3, "t_due": t - rng.randrange(50), "error": "timeout" if i % 7 == 0 else None}
        )  # fmt: skip
    kinds = {"uri": pa.string(), "op": pa.string(), "error": pa.string()}
    arrays = {k: pa.array([r[k] for r in rows], kinds.get(k, pa.int64())) for k in rows[0]}
    with TraceWriter(path, source="import:test", epoch_unix_ns=0) as writer:
        writer.write(pa.RecordBatch.from_pydict(arrays))
    return path


def rows_of(path: Path, sql: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = open_trace(path).query(sql).to_pylist()
    return found


@pytest.mark.parametrize("call", CALLS)
def test_each_macro_gives_its_golden_rows(tmp_path: Path, call: str) -> None:
    rows = rows_of(make(tmp_path / "t"), f"FROM {call}")
    golden = json.loads((GOLDEN / "library.json").read_text())[call]
    assert len(rows) == len(golden)
    for row, want in zip(rows, golden, strict=True):
        assert list(row) == list(want)
        for name, value in row.items():
            value = float(value) if hasattr(value, "as_tuple") else value
            assert value == (pytest.approx(want[name]) if isinstance(value, float) else want[name]), (
                call,
                name,
            )


def test_the_sum_of_windows_is_the_whole_and_mean_depth_is_op_time(tmp_path: Path) -> None:
    path = make(tmp_path / "t", 500)
    ops = rows_of(path, "FROM ops WHERE op <> 'hint'")
    windows = rows_of(path, "FROM over_time(7)")
    t0 = min(r["t_submit"] for r in ops)
    span = max(r["t_submit"] + (r["latency"] or 0) for r in ops) - t0
    assert sum(w["ops"] for w in windows) == len(ops)
    assert sum(w["bytes"] for w in windows) == sum(r["bytes"] or 0 for r in ops)
    for w in windows:
        lo, hi = t0 + w["win"] * span / 7, t0 + (w["win"] + 1) * span / 7
        op_time = sum(
            max(min(r["t_submit"] + (r["latency"] or 0), hi) - max(r["t_submit"], lo), 0) for r in ops
        )
        assert w["mean_qd"] == pytest.approx(op_time / (span / 7), rel=1e-6, abs=1e-9)


def test_the_in_flight_macro_agrees_with_the_sweep(tmp_path: Path) -> None:
    path = make(tmp_path / "t", 500)
    (row,) = rows_of(
        path, "SELECT max(qd)::BIGINT AS qd, max(inflight_bytes)::BIGINT AS bytes FROM in_flight()"
    )
    found = peaks(open_reader(path))
    assert (row["qd"], row["bytes"]) == (found.ops, found.bytes)


def test_the_tail_is_the_slowest_share(tmp_path: Path) -> None:
    path = make(tmp_path / "t", 500)
    latencies = sorted(
        (r["latency"] for r in rows_of(path, "FROM ops WHERE op <> 'hint' AND latency IS NOT NULL")),
        reverse=True,
    )
    rows = rows_of(path, "FROM tail_by(0.02, 'worker')")
    assert sum(r["tail_ops"] for r in rows) == math.ceil(0.02 * len(latencies))
    assert sum(r["tail_share"] for r in rows) == pytest.approx(1)


def test_an_unknown_grouping_is_named(tmp_path: Path) -> None:
    from tracekit.errors import UsageError

    with pytest.raises(UsageError, match="grouping is one of"):
        open_trace(make(tmp_path / "t")).query("FROM latency_hist('colour')")


def test_macros_work_on_an_empty_trace(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "t", source="import:test"):
        pass
    for call in CALLS:
        assert len(rows_of(tmp_path / "t", f"FROM {call}")) in (0, 1)


def test_plain_duckdb_reads_every_file_without_tracekit(tmp_path: Path) -> None:
    path = make(tmp_path / "t")
    with closing(duckdb.connect()) as connection:
        connection.read_parquet(str(path / "*.parquet")).create_view("ops")
        for name in names():
            connection.execute(text(name))
        for call in CALLS:
            assert connection.sql(f"FROM {call}").fetchall() or call == "lateness(3)"
        install(connection)


def test_every_file_says_what_comes_out() -> None:
    for name in names():
        header = [line for line in text(name).splitlines() if line.startswith("--")]
        assert len(header) >= 4, name
        assert any("Example:" in line for line in header), name


def test_every_column_of_a_macro_is_of_a_type_that_its_header_names(tmp_path: Path) -> None:
    with closing(open_reader(make(tmp_path / "t")).connect()) as connection:
        install(connection)
        for call in CALLS:
            relation = connection.sql(f"FROM {call}")
            assert {str(kind) for kind in relation.types} <= {"VARCHAR", "BIGINT", "INTEGER", "DOUBLE"}, call


def test_a_prefix_is_so_many_parts_of_the_path_with_a_scheme_or_without(tmp_path: Path) -> None:
    (row,) = rows_of(
        make(tmp_path / "t"),
        "SELECT uri_prefix('file:///data/train/x/y', 2) AS file, uri_prefix('/data/train/x/y', 2) AS plain, "
        "uri_prefix('data/train/x/y', 2) AS relative, uri_prefix('s3://bucket/data/train/x', 2) AS s3",
    )
    assert row == {"file": "file:///data/train", "plain": "/data/train", "relative": "data/train",
                   "s3": "s3://bucket/data/train"}  # fmt: skip
