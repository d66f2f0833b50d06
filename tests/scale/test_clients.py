"""One trace replayed as several clients: every copy whole, shifted, with its own ranks and names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from ranked import write_ops

import tracekit
from tracekit.replayer.clients import client_and_uri, client_tables, sources_of
from tracekit.replayer.mapping import parse_rules
from tracekit.store.reader import open_reader
from tracekit.store.writer import TraceWriter


def table(submits: list[int], start: int) -> pa.Table:
    n = len(submits)
    return pa.table({
        "t_submit": pa.array(submits, pa.int64()), "rank": pa.array([None if i % 2 else 1 for i in range(n)], pa.int32()),
        "uri": pa.array([f"file:///d/{i % 3}" for i in range(n)]).dictionary_encode(),
        "to_uri": pa.array([None] * n, pa.string()).dictionary_encode(), "row": pa.array(range(start, start + n), pa.int64()),
    })  # fmt: skip


@examples(60)
@given(
    parts=st.lists(st.lists(st.integers(0, 50), max_size=8), max_size=5),
    clients=st.integers(1, 5),
    shift=st.integers(0, 120),
    own=st.booleans(),
)
def test_copies_come_in_order_each_whole_and_shifted(
    parts: list[list[int]], clients: int, shift: int, own: bool
) -> None:
    submits = sorted(submit for part in parts for submit in part)
    tables, at = [], 0
    for part in parts:
        tables.append(table(submits[at : at + len(part)], at))
        at += len(part)
    found = [
        tuple(row.values())
        for each in client_tables(tables, clients, shift_ns=shift, ranks=2, own_names=own)
        for row in each.to_pylist()
    ]
    wanted = []
    for each in tables:
        for row in each.to_pylist():
            for client in range(clients):
                uri = sources_of([row["uri"]], client)[0] if own else row["uri"]
                rank = row["rank"] if client == 0 else (row["rank"] or 0) + 2 * client
                wanted.append((row["t_submit"] + client * shift, rank, uri, None, row["row"]))
    assert sorted(found, key=str) == sorted(wanted, key=str)
    assert [row[0] for row in found] == sorted(row[0] for row in found)


@given(
    uri=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    client=st.integers(0, 4095),
)
def test_a_source_tells_its_client_and_its_uri(uri: str, client: int) -> None:
    assert client_and_uri(sources_of([uri], client)[0]) == (client, uri)
    assert client_and_uri(uri) == (0, uri)


@pytest.mark.parametrize("uri", ["\0", "\0file:///a", "\0x\0file:///a", "\0\u0661\0file:///a", "\0" * 3])
def test_a_name_that_only_looks_like_that_of_a_client_stays_as_it_is(uri: str) -> None:
    assert client_and_uri(uri) == (0, uri)


def test_a_recorded_name_stands_for_no_client_unless_clients_have_names_of_their_own() -> None:
    rules = parse_rules(["~file:///(.*)=direct:///\\1"])
    assert rules.apply("\0" + "1\0file:///a") == "\0" + "1\0direct:///a"


def record(folder: Path, *, ranks: int = 1, ops: int = 40) -> Path:
    (folder / "data").mkdir()
    (folder / "data" / "a.bin").write_bytes(b"a" * 4096 * 16)
    n = ops * ranks
    columns: dict[str, Any] = {
        "t_submit": [i * 1_000_000 for i in range(n)], "uri": [f"file://{folder}/data/a.bin"] * n, "op": ["read"] * n,
        "offset": [(i % 16) * 4096 for i in range(n)], "len": [4096] * n, "bytes": [4096] * n, "latency": [50_000] * n,
        "sample_id": list(range(n)), "step": [i // 4 for i in range(n)], "rank": [i % ranks for i in range(n)],
    }  # fmt: skip
    return write_ops(folder / "t", columns)


def exact(result: tracekit.ReplayResult) -> None:
    for metric in ("completeness", "identity", "ops", "due_times", "early_ops"):
        assert result.parity.row(metric).ok, metric


def test_clients_share_names_and_are_told_apart_by_rank(tmp_path: Path) -> None:
    trace = record(tmp_path, ranks=2)
    result = tracekit.replay(trace, out=tmp_path / "r", clients=3, stagger="7ms", engine="interpreter")
    exact(result)
    assert (result.ops, result.planned_ops) == (240, 240)
    found = tracekit.open_trace(tmp_path / "r").query(
        "SELECT rank, count(*) AS n, min(t_due) AS first FROM ops GROUP BY rank ORDER BY rank"
    )
    assert [(row["rank"], row["n"]) for row in found.to_pylist()] == [(rank, 40) for rank in range(6)]
    first = found.column("first").to_pylist()
    assert [first[2 * client] - first[0] for client in range(3)] == [0, 7_000_000, 14_000_000]
    again = tracekit.compare(trace, tmp_path / "r")
    assert again.row("completeness").a == 240 and again.row("identity").ok


def test_each_client_has_names_of_its_own_and_materialize_makes_them(tmp_path: Path) -> None:
    trace = record(tmp_path)
    rule = f"file://{tmp_path}/data=file://{tmp_path}/copies/{{client}}"
    made = tracekit.materialize(trace, [rule], clients=3)
    assert (made.made, made.bytes) == (3, 3 * 16 * 4096)
    result = tracekit.replay(trace, out=tmp_path / "r", clients=3, map=rule, pace="asap")
    assert result.ok, result.parity.verdict
    uris = (
        tracekit.open_trace(tmp_path / "r")
        .query("SELECT rank, uri FROM ops GROUP BY ALL ORDER BY rank")
        .to_pylist()
    )
    assert uris == [{"rank": i, "uri": f"file://{tmp_path}/copies/{i}/a.bin"} for i in range(3)]


def test_writing_clients_each_need_a_target_of_their_own(tmp_path: Path) -> None:
    n = 4
    columns = {"t_submit": [i * 1000 for i in range(n)], "uri": [f"file://{tmp_path}/x/{i}" for i in range(n)], "op": ["put"] * n,
               "len": [100] * n, "bytes": [100] * n, "latency": [50] * n, "offset": [None] * n, "sample_id": [None] * n}  # fmt: skip
    kinds = {"uri": pa.string(), "op": pa.string()}
    with TraceWriter(tmp_path / "t", source="import:test", epoch_unix_ns=0) as writer:
        writer.write(
            pa.RecordBatch.from_pydict({k: pa.array(v, kinds.get(k, pa.int64())) for k, v in columns.items()})
        )
    with pytest.raises(tracekit.UsageError, match="would write the same objects"):
        tracekit.replay(tmp_path / "t", clients=2, allow_writes=True, map=f"{tmp_path}/x={tmp_path}/y")
    result = tracekit.replay(
        tmp_path / "t", clients=2, allow_writes=True, pace="asap", map=f"{tmp_path}/x={tmp_path}/y/{{client}}"
    )
    assert result.ok, result.parity.verdict
    assert {
        str(path.relative_to(tmp_path / "y")) for path in (tmp_path / "y").rglob("*") if path.is_file()
    } == {f"{client}/{i}" for client in range(2) for i in range(n)}


def test_a_dry_run_counts_every_client(tmp_path: Path) -> None:
    trace = record(tmp_path)
    plan = tracekit.dry_run(
        trace, clients=4, stagger="10ms", speed=2, map=f"{tmp_path}/data={tmp_path}/c/{{client}}"
    )
    assert (plan.ops, plan.files, plan.span_ns) == (160, 4, 39_000_000 // 2 + 30_000_000)
    assert set(plan.missing) == {f"file://{tmp_path}/c/{client}/a.bin" for client in range(4)}


def test_filters_choose_from_the_recording_before_it_is_copied(tmp_path: Path) -> None:
    trace = record(tmp_path, ranks=2)
    assert tracekit.dry_run(trace, clients=3, rank=1, end="20ms").ops == 3 * 10


def test_a_streamed_plan_has_every_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tracekit.replayer import planning
    from tracekit.replayer.mapping import parse_rules
    from tracekit.replayer.options import ReplayOptions

    trace = record(tmp_path)
    monkeypatch.setattr(planning, "_STREAM_FROM", 10)
    rule = f"{tmp_path}/data={tmp_path}/c/{{client}}"
    plan = planning.build_plan(
        open_reader(trace), parse_rules([rule]), ReplayOptions(clients=2, stagger=500, map=rule)
    )
    assert plan.streamed
    while plan.wait_for(plan.ops):
        pass
    assert plan.ops == 80
    assert set(plan.uris) == {f"file://{tmp_path}/c/{client}/a.bin" for client in range(2)}


def test_many_objects_may_map_to_one_that_nothing_changes(tmp_path: Path) -> None:
    n = 24
    columns: dict[str, Any] = {
        "t_submit": [i * 10_000 for i in range(n)], "uri": [f"file:///in/{i % 3}/a.bin" for i in range(n)], "op": ["read"] * n,
        "offset": [i * 512 for i in range(n)], "len": [512] * n, "bytes": [512] * n, "latency": [50] * n, "rank": [i % 2 for i in range(n)],
    }  # fmt: skip
    trace, rule = write_ops(tmp_path / "t", columns), f"~file:///in/[0-9]=file://{tmp_path}/one"
    assert tracekit.dry_run(trace, map=rule).missing == (f"file://{tmp_path}/one/a.bin",)
    made = tracekit.materialize(trace, [rule])
    assert (made.made, made.bytes) == (1, n * 512)  # as large as the furthest read of all three
    options: dict[str, Any] = {"map": rule, "pace": "asap", "engine": "interpreter"}
    result = tracekit.replay(trace, out=tmp_path / "r", clients=2, **options)
    assert result.ok, result.parity.verdict
    assert {
        row["uri"] for row in tracekit.open_trace(tmp_path / "r").query("SELECT uri FROM ops").to_pylist()
    } == {f"file://{tmp_path}/one/a.bin"}
    assert tracekit.compare(trace, tmp_path / "r").row("identity").ok
    with pytest.raises(tracekit.UsageError, match="both map to"):
        tracekit.replay(trace, allow_writes=True, **options)


@pytest.mark.parametrize("speed", [1, 4])
def test_clients_start_a_share_of_the_recording_apart(tmp_path: Path, speed: int) -> None:
    trace = record(tmp_path)  # 39 ms from the first op to the last
    options: dict[str, Any] = {"clients": 4, "stagger_phase": 0.25, "speed": speed, "engine": "interpreter"}
    result = tracekit.replay(trace, out=tmp_path / "r", **options)
    exact(result)
    sql = "SELECT min(t_due) AS first FROM ops GROUP BY rank ORDER BY rank"
    first = tracekit.open_trace(tmp_path / "r").query(sql).column("first").to_pylist()
    assert [due - first[0] for due in first] == [client * 9_750_000 // speed for client in range(4)]
    again = tracekit.compare(trace, tmp_path / "r")
    assert again.row("due_times").ok and again.row("completeness").a == 160


def test_stagger_without_clients_is_refused() -> None:
    for options in ({"stagger": "1s"}, {"stagger_phase": 0.5}):
        with pytest.raises(tracekit.UsageError, match="is the time between clients"):
            tracekit.ReplayOptions(**options)
