"""The macros: golden results on a small trace, brute force where the arithmetic is subtle, and plain DuckDB."""

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

from tracekit.metrics.library import install, library, macros
from tracekit.metrics.sweep import peaks
from tracekit.schema import DATA_KINDS, OP_KINDS, READ_KINDS, WRITE_KINDS
from tracekit.store.reader import open_reader
from tracekit.store.writer import TraceWriter
from tracekit.trace import open_trace

GOLDEN = Path(__file__).parent / "golden"
CALLS = (
    "totals()", "by_op()", "file_ids()", "sample_ids()", "step_ids()", "run_extent()",
    "latency_hist('op')", "req_bytes_hist('scheme')", "over_time(4)", "in_flight()", "per_step()", "step_skew()", "stragglers()", "per_file()",
    "per_sample()", "hot_set(0.5)", "sequentiality('worker')", "interarrival('all')", "tail_by(0.1, 'uri')",
    "tail_windows(0.1, 3)", "lateness(3)", "over_windows_by(50000, 'op')", "idle_gaps()", "file_patterns()", "reuse_distance()",
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
    if call.endswith("_ids()"):  # these promise no order
        rows, golden = (sorted(found, key=lambda row: [*row.values()]) for found in (rows, golden))
    assert len(rows) == len(golden)
    for row, want in zip(rows, golden, strict=True):
        assert list(row) == list(want)
        for name, value in row.items():
            value = float(value) if hasattr(value, "as_tuple") else value
            assert value == (pytest.approx(want[name]) if isinstance(value, float) else want[name]), (
                call,
                name,
            )


@pytest.mark.parametrize("windows", [1, 7, 40, 60, 70, 80])
def test_windows_add_up_to_the_whole_and_mean_depth_is_op_time(tmp_path: Path, windows: int) -> None:
    path = make(tmp_path / "t", 500)
    ops = rows_of(path, "FROM ops WHERE op <> 'hint'")
    found = rows_of(path, f"FROM over_time({windows})")
    assert len(found) <= windows
    assert sum(w["ops"] for w in found) == len(ops)
    assert sum(w["bytes"] for w in found) == sum(r["bytes"] or 0 for r in ops)
    op_time = sum(r["latency"] or 0 for r in ops)
    assert sum(w["mean_qd"] * w["window_s"] * 1e9 for w in found) == pytest.approx(op_time)


def periodic(path: Path, *, period_ns: int, latency_ns: int, n: int = 300) -> Path:
    """One request at a time, a period after another, each of 1 MiB."""
    columns = {"t_submit": [i * period_ns for i in range(n)], "len": [1 << 20] * n, "bytes": [1 << 20] * n,
               "latency": [latency_ns] * n, "offset": [0] * n}  # fmt: skip
    with TraceWriter(path, source="import:test", epoch_unix_ns=0) as writer:
        arrays = {"uri": pa.array(["file:///d"] * n)} | {k: pa.array(v) for k, v in columns.items()}
        writer.write(pa.RecordBatch.from_pydict(arrays))
    return path


@pytest.mark.parametrize("windows", [1, 13, 40, 60, 70, 80, 120])
def test_a_load_without_gaps_has_the_same_throughput_in_every_window(tmp_path: Path, windows: int) -> None:
    path = periodic(tmp_path / "t", period_ns=7_300_000, latency_ns=7_300_000)
    for row in rows_of(path, f"FROM over_time({windows})"):
        assert row["bytes_per_s"] == pytest.approx((1 << 20) / 7.3e-3, rel=1e-6)
        assert row["mean_qd"] == pytest.approx(1)


@pytest.mark.parametrize("windows", [13, 40, 60, 70, 80])
def test_a_periodic_load_with_gaps_has_the_same_throughput_in_every_window(
    tmp_path: Path, windows: int
) -> None:
    path = periodic(tmp_path / "t", period_ns=10_000_000, latency_ns=3_000_000)
    whole = rows_of(path, f"FROM over_time({windows})")[:-1]
    assert {round(row["bytes_per_s"]) for row in whole} == {100 << 20}


@pytest.mark.parametrize("windows", [13, 30, 60, 100, 400])
@pytest.mark.parametrize("n", [40, 64, 400])
def test_bursts_of_steps_that_drift_have_the_same_throughput_in_every_window(
    tmp_path: Path, windows: int, n: int
) -> None:
    """Steps of 50 ms of work and some overhead, each of which reads 8 x 1 MiB in its first 12 ms."""
    rng, t, rows = random.Random(n), 0, []
    for step in range(n):
        rows += [(t + i * 1_500_000 + rng.randrange(300_000), step) for i in range(8)]
        t += 50_800_000 + rng.randrange(-500_000, 500_000)
    kinds = {"t_submit": [at for at, _ in rows], "step": [step for _, step in rows], "len": [1 << 20] * len(rows),
             "bytes": [1 << 20] * len(rows), "latency": [1_000_000] * len(rows), "offset": [0] * len(rows)}  # fmt: skip
    with TraceWriter(tmp_path / "t", source="import:test", epoch_unix_ns=0) as writer:
        arrays = {"uri": pa.array(["file:///d"] * len(rows))} | {k: pa.array(v) for k, v in kinds.items()}
        writer.write(pa.RecordBatch.from_pydict(arrays))
    found = rows_of(tmp_path / "t", f"FROM over_time({windows})")
    assert len(found) <= windows
    (cut,) = rows_of(tmp_path / "t", f"FROM time_window((SELECT span_ns FROM run_extent()), {windows})")
    if cut["period_ns"] is None:  # a quarter of a step at most: the bursts themselves are seen
        assert cut["width_ns"] <= 50_800_000 / 4
        return
    steps, rest = divmod(cut["width_ns"], cut["period_ns"])
    assert rest == 0 and abs(cut["period_ns"] - 50_800_000) < 200_000
    assert {row["bytes"] for row in found[:-1]} == {steps * 8 << 20}


def test_windows_have_a_round_length_that_is_reported(tmp_path: Path) -> None:
    path = periodic(tmp_path / "t", period_ns=10_000_000, latency_ns=3_000_000)
    spans = rows_of(
        path, "SELECT n, round_window(n, 60) AS w FROM (VALUES (1), (59), (61), (601), (3000000001)) t(n)"
    )
    assert [row["w"] for row in spans] == [1, 1, 2, 20, 100_000_000]
    windows = [row["window_s"] for row in rows_of(path, "FROM over_time(60)")]
    assert set(windows[:-1]) == {0.05} and windows[-1] <= 0.05


def test_without_latencies_the_number_in_flight_is_unknown(tmp_path: Path) -> None:
    rows = {
        "t_submit": [0, 5],
        "uri": ["file:///d"] * 2,
        "len": [10, 10],
        "latency": [None, None],
        "offset": [0, 0],
    }
    with TraceWriter(tmp_path / "t", source="import:test", epoch_unix_ns=0) as writer:
        kinds = {"uri": pa.string()}
        writer.write(
            pa.RecordBatch.from_pydict({k: pa.array(v, kinds.get(k, pa.int64())) for k, v in rows.items()})
        )
    assert {(r["qd"], r["inflight_bytes"]) for r in rows_of(tmp_path / "t", "FROM in_flight()")} == {
        (None, None)
    }
    for row in rows_of(tmp_path / "t", "FROM over_time(10)"):
        assert (row["bytes"], row["bytes_per_s"], row["mean_qd"]) == (None, None, None)


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
        for sql in library().values():
            connection.execute(sql)
        for call in CALLS:
            assert connection.sql(f"FROM {call}").fetchall() or call == "lateness(3)"
        install(connection)


def test_every_file_has_a_header_with_an_example() -> None:
    for name, sql in library().items():
        header = [line for line in sql.splitlines() if line.startswith("--")]
        assert len(header) >= 4, name
        assert any("Example:" in line for line in header), name


def test_macros_return_only_the_types_that_their_headers_use(tmp_path: Path) -> None:
    with closing(open_reader(make(tmp_path / "t")).connect()) as connection:
        install(connection)
        for call in CALLS:
            relation = connection.sql(f"FROM {call}")
            assert {str(kind) for kind in relation.types} <= {
                "VARCHAR",
                "BIGINT",
                "INTEGER",
                "DOUBLE",
                "BOOLEAN",
            }, call


def test_a_prefix_has_the_given_number_of_path_parts_with_or_without_a_scheme(tmp_path: Path) -> None:
    (row,) = rows_of(
        make(tmp_path / "t"),
        "SELECT uri_prefix('file:///data/train/x/y', 2) AS file, uri_prefix('/data/train/x/y', 2) AS plain, "
        "uri_prefix('data/train/x/y', 2) AS relative, uri_prefix('s3://bucket/data/train/x', 2) AS s3",
    )
    assert row == {"file": "file:///data/train", "plain": "/data/train", "relative": "data/train",
                   "s3": "s3://bucket/data/train"}  # fmt: skip


def test_the_kinds_of_the_macros_are_those_of_the_schema() -> None:
    with closing(duckdb.connect()) as connection:
        connection.register("ops", pa.table({"op": OP_KINDS}))
        connection.execute(library()["base"])
        for macro, kinds in (("is_read", READ_KINDS), ("is_write", WRITE_KINDS), ("is_data", DATA_KINDS)):
            found = connection.execute(f"SELECT op FROM ops WHERE {macro}(op)").fetchall()
            assert {kind for (kind,) in found} == set(kinds), macro


def test_every_macro_is_described_with_its_columns_or_its_type(tmp_path: Path) -> None:
    with closing(open_reader(make(tmp_path / "t")).connect()) as connection:
        install(connection)
        defined = connection.execute(
            "SELECT DISTINCT function_name, function_type FROM duckdb_functions() WHERE schema_name = 'main' "
            "AND NOT internal AND function_type LIKE '%macro'"
        ).fetchall()
        described = {macro.name: macro for macro in macros()}
        assert {name for name, _ in defined} == set(described)
        assert all((kind == "macro") == bool(described[name].returns) for name, kind in defined)
        for call in (*CALLS, "over_windows(1000)", "per_sample()", "response_hist('op')"):
            relation = connection.sql(f"FROM {call}")
            given = zip(relation.columns, map(str, relation.types), strict=True)
            assert described[call.partition("(")[0]].columns == tuple(given), call


def test_the_macros_that_a_text_names_come_with_those_that_they_use(tmp_path: Path) -> None:
    with closing(open_reader(make(tmp_path / "t")).connect()) as connection:
        install(connection, "FROM latency_hist('all')")
        sql = "SELECT DISTINCT function_name FROM duckdb_functions() WHERE NOT internal AND function_name <> 'ends_unknown'"
        defined = {name for (name,) in connection.execute(sql).fetchall()}
        assert {"latency_hist", "latency_lo", "op_key"} <= defined < {macro.name for macro in macros()}
        assert connection.execute("SELECT sum(counts) FROM latency_hist('all')").fetchone() is not None


@pytest.mark.parametrize("call", CALLS)
def test_a_macro_works_with_only_the_macros_that_its_call_names(tmp_path: Path, call: str) -> None:
    with closing(open_reader(make(tmp_path / "t")).connect()) as connection:
        install(connection, call)
        alone = connection.execute(f"SELECT count(*) FROM {call}").fetchone()
    assert alone == (len(rows_of(tmp_path / "t", f"FROM {call}")),)
