"""Replaying changes: writes go to their places, ops follow what they depend on, and the target ends as recorded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tracekit.errors import BackendError, UsageError
from tracekit.replayer.compare import compare
from tracekit.replayer.mapping import MappingRules, parse_rules
from tracekit.replayer.materialize import materialize
from tracekit.replayer.options import ReplayOptions
from tracekit.replayer.planning import build_plan
from tracekit.replayer.run import dry_run, replay
from tracekit.store.reader import open_reader

LOOSE: dict[str, Any] = {"allow_writes": True, "tolerance": 1e9, "max_lateness": "1h"}
PART = 5 << 20


def trace_of(path: Path, *ops: dict[str, Any]) -> Path:
    """A recording of `ops`, 2 ms apart, each lasting 1 ms unless it says otherwise."""
    rows = [
        {
            "t_submit": index * 2_000_000, "latency": 1_000_000, "sample_id": index, "offset": None, "len": None,
            "bytes": op.get("len") if op["op"] in ("read", "get", "put", "write", "part") else None,
            "rank": 0, "worker": 0, "part": None, "to_uri": None, "error": None, **op,
        }
        for index, op in enumerate(ops)
    ]  # fmt: skip
    integers = ("t_submit", "latency", "sample_id", "offset", "len", "bytes", "rank", "worker", "part")
    columns = {
        name: pa.array([row[name] for row in rows], pa.int64() if name in integers else pa.string())
        for name in rows[0]
    }
    pq.write_table(pa.table(columns), path)
    return path


def checkpoint(root: str) -> list[dict[str, Any]]:
    """A file written in pieces out of order under a temporary name, synced, renamed, read; another one deleted."""
    name, final, old = f"{root}/model.tmp", f"{root}/model", f"{root}/old"
    pieces = [(0, 1000), (1000, 70_000), (200_000, 5000), (71_000, 129_000)]
    return [
        {"uri": old, "op": "put", "len": 3000},
        *({"uri": name, "op": "write", "offset": at, "len": size} for at, size in pieces),
        {"uri": name, "op": "sync"},
        {"uri": name, "op": "rename", "to_uri": final},
        {"uri": final, "op": "read", "offset": 150_000, "len": 55_000},
        {"uri": final, "op": "copy", "to_uri": f"{root}/copy"},
        {"uri": old, "op": "get", "len": 3000},
        {"uri": old, "op": "delete"},
    ]


def upload(uri: str, *sizes: int) -> list[dict[str, Any]]:
    """An upload in parts, sent in reverse order."""
    numbered = list(enumerate(sizes, start=1))[::-1]
    parts = [{"uri": uri, "op": "part", "part": number, "len": size} for number, size in numbered]
    return [*parts, {"uri": uri, "op": "complete"}]


@pytest.mark.parametrize("pace", ["recorded", "closed", "asap"])
@pytest.mark.parametrize("scheme", ["file", "direct"])
def test_a_checkpoint_ends_with_the_recorded_names_and_sizes(tmp_path: Path, scheme: str, pace: str) -> None:
    ops = [*checkpoint("file:///run"), *upload("file:///run/parts", PART, 4096, 777)]
    trace = trace_of(tmp_path / "t.parquet", *ops)
    rule = f"file:///run={scheme}://{tmp_path}/new"
    result = replay(trace, map=rule, pace=pace, out=tmp_path / "r.trace", **LOOSE)
    assert result.failures == ()
    assert result.ok, result.parity
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "new").iterdir()}
    assert sizes == {"model": 205_000, "copy": 205_000, "parts": PART + 4096 + 777}
    rows = {row.metric: (row.a, row.b) for row in result.parity.rows}
    assert rows["bytes_written"] == (3000 + 205_000 + PART + 4096 + 777,) * 2
    assert (
        rows["syncs"] == rows["renames"] == rows["deletes"] == rows["copies"] == rows["completes"] == (1, 1)
    )
    assert (rows["parts"], rows["writes"], rows["puts"]) == ((3, 3), (4, 4), (1, 1))
    assert rows["objects"] == (5, 5)
    assert compare(trace, tmp_path / "r.trace", tolerance=1e9, max_lateness="1h").ok


@pytest.mark.parametrize("there", ["s3", "az"])
def test_a_checkpoint_of_files_ends_as_objects_of_the_same_names_and_sizes(
    request: pytest.FixtureRequest, tmp_path: Path, there: str
) -> None:
    from tracekit.backends.registry import backend_for

    container = request.getfixturevalue("s3_bucket" if there == "s3" else "az_container")
    pieces: list[dict[str, Any]] = [
        {"uri": "file:///run/large", "op": "write", "offset": at << 20, "len": 1 << 20} for at in range(20)
    ]
    ops = [*checkpoint("file:///run"), *upload("file:///run/parts", PART, PART, 777), *pieces]
    trace = trace_of(tmp_path / "t.parquet", *ops)
    options: dict[str, Any] = {**LOOSE, "map": f"file:///run={there}://{container}/new"}
    with pytest.raises(UsageError, match=f"{there}:// cannot sync .1 ops"):
        replay(trace, **options)
    result = replay(trace, skip="sync", out=tmp_path / "r.trace", **options)
    assert result.failures == ()
    assert result.ok, result.parity
    found = {
        info.uri.rpartition("/")[2]: info.size
        for info in backend_for(f"{there}://").list(f"{there}://{container}")
    }
    assert found == {"model": 205_000, "copy": 205_000, "parts": 2 * PART + 777, "large": 20 << 20}
    counters = open_reader(tmp_path / "r.trace").counters
    assert (counters["parts"], counters["completes"]) == (3 + 3, 2)  # of 8 MiB: 20 writes are gathered
    with pytest.raises(UsageError, match="would be overwritten"):
        replay(trace, skip="sync", **options)


def test_parity_fails_if_the_target_does_not_end_as_the_recording(tmp_path: Path) -> None:
    trace = trace_of(
        tmp_path / "t.parquet",
        {"uri": "file:///run/a", "op": "write", "offset": 0, "len": 10},
        {"uri": "file:///run/a", "op": "truncate", "len": 4},
        {"uri": "file:///run/b", "op": "put", "len": 4},
        {"uri": "file:///run/b", "op": "delete"},
    )
    rule = f"file:///run={tmp_path}/new"
    replay(trace, map=rule, out=tmp_path / "r.trace", **LOOSE)
    whole = compare(trace, tmp_path / "r.trace", tolerance=1e9, max_lateness="1h")
    assert whole.ok and whole.row("objects").b == 2
    lacking = replay(trace, map=rule, skip=["truncate", "delete"], overwrite=True, **LOOSE)
    assert lacking.ok  # it is judged as what it was told to do
    assert (tmp_path / "new" / "a").stat().st_size == 10


def test_an_op_waits_for_the_changes_that_had_ended_before_it(tmp_path: Path) -> None:
    a, b = "file:///run/a", "file:///run/b"
    ops: list[dict[str, Any]] = [
        {"uri": a, "op": "write", "offset": 0, "len": 10},  # 0
        {"uri": a, "op": "write", "offset": 10, "len": 10},  # 1
        {"uri": a, "op": "read", "offset": 12, "len": 2},  # 2: of 1
        {"uri": a, "op": "write", "offset": 5, "len": 10, "latency": 100_000_000},  # 3: over 0 and 1, slow
        {"uri": a, "op": "read", "offset": 0, "len": 20},  # 4: 3 has not ended
        {"uri": b, "op": "put", "len": 3},  # 5: another object
        {"uri": a, "op": "sync"},  # 6
        {"uri": a, "op": "rename", "to_uri": b},  # 7: of everything on both that had ended
        {"uri": b, "op": "get"},  # 8
        {"uri": b, "op": "delete"},  # 9: not before the read
    ]
    plan = build_plan(
        open_reader(trace_of(tmp_path / "t.parquet", *ops)), MappingRules(), ReplayOptions(allow_writes=True)
    )
    assert plan.order is not None
    before = [plan.order.before(op) for op in range(plan.ops)]
    assert before[:7] == [set(), set(), {1}, {0, 1}, {0, 1}, set(), {0, 1}]
    assert {5, 0, 1, 2, 4} <= before[7] and 3 not in before[7]
    assert 7 in before[8] and {7, 8} <= before[9]
    free = ReplayOptions(allow_writes=True, order="none")
    assert build_plan(open_reader(tmp_path / "t.parquet"), MappingRules(), free).order is None


def test_what_uses_an_object_of_a_store_waits_for_all_of_its_writes(tmp_path: Path) -> None:
    a, slow = "file:///run/a", {"latency": 100_000_000}
    ops: list[dict[str, Any]] = [
        {"uri": a, "op": "write", "offset": 0, "len": 10},
        {"uri": a, "op": "write", "offset": 10, "len": 10, **slow},
        {"uri": a, "op": "sync"},
        {"uri": a, "op": "write", "offset": 20, "len": 10, "rank": 1},
        {"uri": a, "op": "read", "offset": 0, "len": 5},
        {"uri": a, "op": "read", "offset": 15, "len": 5, "rank": 1},
        {"uri": a, "op": "truncate", "len": 0},
        {"uri": a, "op": "write", "offset": 0, "len": 10},
        {"uri": a, "op": "rename", "to_uri": "file:///run/b"},
        {"uri": "file:///run/b", "op": "get"},
    ]
    trace = open_reader(trace_of(tmp_path / "t.parquet", *ops))
    stored, local = (
        build_plan(trace, parse_rules([f"file:///run={target}"]), ReplayOptions(allow_writes=True)).order
        for target in ("s3://bucket/run", "direct:///run")
    )
    assert stored is not None and local is not None
    assert stored.before(4) == stored.before(5) == {0, 1, 3}
    assert local.before(4) == {0} and local.before(5) == set()  # 1 has not ended
    assert {0, 1, 3} <= stored.before(6) and 7 in stored.before(8) and 8 in stored.before(9)


def test_many_writes_make_few_dependencies(tmp_path: Path) -> None:
    writes: list[dict[str, Any]] = [
        {"uri": "file:///a", "op": "write", "offset": i * 10, "len": 10} for i in range(500)
    ]
    syncs: list[dict[str, Any]] = [{"uri": "file:///a", "op": "sync"} for _ in range(500)]
    trace = trace_of(tmp_path / "t.parquet", *writes, *syncs)
    plan = build_plan(open_reader(trace), MappingRules(), ReplayOptions(allow_writes=True))
    assert plan.order is not None
    assert sum(map(len, plan.order.waits_for.values())) < 1500
    assert plan.order.before(999) == set(range(500))


def test_a_renamed_directory_takes_its_files_along(tmp_path: Path) -> None:
    trace = trace_of(
        tmp_path / "t.parquet",
        {"uri": "file:///run/step.tmp/a", "op": "write", "offset": 0, "len": 10},
        {"uri": "file:///run/step.tmp/b", "op": "put", "len": 20},
        {"uri": "file:///run/step.tmp", "op": "rename", "to_uri": "file:///run/step"},
        {"uri": "file:///run/step/b", "op": "read", "offset": 0, "len": 20},
    )
    result = replay(trace, map=f"file:///run={tmp_path}/new", pace="asap", **LOOSE)
    assert result.ok, result.failures
    assert {p.name: p.stat().st_size for p in (tmp_path / "new/step").iterdir()} == {"a": 10, "b": 20}


def test_positions_are_kept_by_file_direction_and_stream(tmp_path: Path) -> None:
    a = {"uri": "file:///a", "len": 100}
    ops = [
        {**a, "op": "write"}, {**a, "op": "read"}, {**a, "op": "write"}, {**a, "op": "read"},
        {**a, "op": "write", "rank": 1}, {**a, "op": "get"}, {**a, "op": "read"},
        {**a, "op": "truncate", "len": 0}, {**a, "op": "write"},
    ]  # fmt: skip
    trace = open_reader(trace_of(tmp_path / "t.parquet", *ops))
    plan = build_plan(trace, MappingRules(), ReplayOptions(allow_writes=True))
    assert plan.column("offset").tolist() == [0, 0, 100, 100, 0, 0, 200, 0, 0]
    assert plan.assumed_offsets == 7


def test_nothing_that_exists_is_changed_without_overwrite(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    kept = tmp_path / "new" / "kept"
    kept.write_bytes(b"precious")
    rule = f"file:///run={tmp_path}/new"
    for op in (
        {"op": "write", "offset": 0, "len": 3}, {"op": "truncate", "len": 0}, {"op": "delete"},
        {"op": "rename", "to_uri": "file:///run/other"}, {"op": "part", "part": 1, "len": 3},
    ):  # fmt: skip
        ops = [{"uri": "file:///run/kept", **op}]
        ops += [{"uri": "file:///run/kept", "op": "complete"}] if op["op"] == "part" else []
        trace = trace_of(tmp_path / "t.parquet", *ops)
        with pytest.raises(UsageError, match="would be overwritten"):
            replay(trace, map=rule, **LOOSE)
    for op in ({"op": "rename"}, {"op": "copy"}):
        trace = trace_of(
            tmp_path / "t.parquet",
            {"uri": "file:///run/new", "op": "put", "len": 3},
            {"uri": "file:///run/new", "to_uri": "file:///run/kept", **op},
        )
        with pytest.raises(UsageError, match="would be overwritten"):
            replay(trace, map=rule, **LOOSE)
    assert kept.read_bytes() == b"precious"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["kept"]


@pytest.mark.parametrize("kind", ["rename", "copy"])
def test_no_rename_or_copy_leaves_the_target(tmp_path: Path, kind: str) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "door").symlink_to(tmp_path)
    trace = trace_of(
        tmp_path / "t.parquet",
        {"uri": "file:///run/a", "op": "put", "len": 3},
        {"uri": "file:///run/a", "op": kind, "to_uri": "file:///run/door/outside"},
    )
    with pytest.raises(UsageError, match="outside the mapped target"):
        replay(trace, map=f"file:///run={tmp_path}/new", **LOOSE)
    assert not (tmp_path / "outside").exists()


def test_a_dry_run_names_what_would_change(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "old").write_bytes(b"x")
    trace = trace_of(tmp_path / "t.parquet", *checkpoint("file:///run"))
    summary = dry_run(trace, map=f"file:///run={tmp_path}/new", allow_writes=True, overwrite=True)
    at = f"file://{tmp_path}/new"
    assert summary.creates == (f"{at}/copy", f"{at}/model")
    assert summary.renames == (f"{at}/model.tmp -> {at}/model",)
    assert (summary.replaces, summary.deletes) == ((), (f"{at}/old",))
    assert summary.changes == {"put": 1, "write": 4, "sync": 1, "rename": 1, "copy": 1, "delete": 1}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["old"]


def test_what_a_trace_reads_before_it_writes_it_is_made_and_nothing_else(tmp_path: Path) -> None:
    trace = trace_of(
        tmp_path / "t.parquet",
        {"uri": "file:///run/kept", "op": "read", "offset": 100, "len": 50},
        {"uri": "file:///run/made", "op": "put", "len": 50},
        {"uri": "file:///run/made", "op": "read", "offset": 0, "len": 50},
        {"uri": "file:///run/moved", "op": "rename", "to_uri": "file:///run/there"},
        {"uri": "file:///run/there", "op": "read", "offset": 0, "len": 30},
    )
    rule = f"file:///run={tmp_path}/new"
    assert materialize(trace, rule).made == 2
    assert {p.name: p.stat().st_size for p in (tmp_path / "new").iterdir()} == {"kept": 150, "moved": 30}
    result = replay(trace, map=rule, overwrite=True, **LOOSE)
    assert result.ok, result.failures


def test_a_store_refuses_writes_into_objects_that_are_there(tmp_path: Path, s3_bucket: str) -> None:
    trace = trace_of(
        tmp_path / "t.parquet",
        {"uri": "file:///run/a", "op": "put", "len": 100},
        {"uri": "file:///run/a", "op": "write", "offset": 10, "len": 10},
    )
    with pytest.raises(UsageError, match="cannot write to parts of objects"):
        replay(trace, map=f"file:///run=s3://{s3_bucket}", **LOOSE)


def test_kinds_that_are_skipped_are_left_out(tmp_path: Path) -> None:
    trace = trace_of(tmp_path / "t.parquet", *checkpoint("file:///run"))
    result = replay(trace, map=f"file:///run={tmp_path}/new", skip=["sync", "copy"], **LOOSE)
    assert result.ok and result.skipped == {"sync": 1, "copy": 1}
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["model"]


def test_a_wait_for_a_change_is_named_in_the_lateness(tmp_path: Path) -> None:
    trace = trace_of(
        tmp_path / "t.parquet",
        {"uri": "file:///run/a", "op": "put", "len": 32 << 20, "latency": 1000},
        {"uri": "file:///run/a", "op": "read", "offset": 0, "len": 10, "t_submit": 2000},
    )
    result = replay(trace, map=f"file:///run={tmp_path}/new", out=tmp_path / "r.trace", **LOOSE)
    assert result.failed_ops == 0
    rows = open_reader(tmp_path / "r.trace").query("SELECT * FROM ops ORDER BY t_submit").to_pylist()
    assert rows[0]["dependency"] == 0 < rows[1]["dependency"]
    assert rows[1]["t_submit"] >= rows[0]["t_submit"] + rows[0]["latency"]
    assert result.timing["dependency_sum_ns"] == rows[1]["dependency"]


@pytest.mark.parametrize("write_data", ["random", "zeros", "compressible:4"])
def test_written_bytes_are_as_compressible_as_asked(tmp_path: Path, write_data: str) -> None:
    import zlib

    size = 1 << 20
    pieces: list[dict[str, Any]] = [
        {"uri": "file:///run/a", "op": "write", "offset": i * size, "len": size} for i in range(2)
    ]
    trace = trace_of(tmp_path / "t.parquet", *pieces)
    options: dict[str, Any] = {
        "map": f"file:///run={tmp_path}/new",
        "write_data": write_data,
        "overwrite": True,
        **LOOSE,
    }
    replay(trace, **options)
    first = (tmp_path / "new" / "a").read_bytes()
    replay(trace, **options)
    assert (tmp_path / "new" / "a").read_bytes() == first
    ratio = len(first) / len(zlib.compress(first, 1))
    if write_data == "random":
        assert ratio < 1.01
        blocks = [first[at : at + 4096] for at in range(0, len(first), 4096)]
        assert len(set(blocks)) == len(blocks)
    elif write_data == "zeros":
        assert not any(first)
    else:
        assert 3 < ratio < 5


def test_an_unknown_kind_of_data_is_refused() -> None:
    for wrong in ("ones", "compressible", "compressible:0.5", "compressible:x"):
        with pytest.raises(UsageError, match="write_data"):
            ReplayOptions(write_data=wrong)


@pytest.mark.parametrize("end", [[], [{"uri": "file:///run/a", "op": "abort"}]], ids=["open", "aborted"])
def test_an_upload_that_is_not_completed_leaves_nothing_behind(
    tmp_path: Path, end: list[dict[str, Any]]
) -> None:
    trace = trace_of(tmp_path / "t.parquet", *upload("file:///run/a", 10, 20)[:-1], *end)
    result = replay(trace, map=f"file:///run={tmp_path}/new", **LOOSE)
    assert result.failed_ops == 0
    assert result.ok, result.parity
    assert result.parity.row("objects").b == 0
    assert list((tmp_path / "new").iterdir()) == []


def test_a_complete_without_parts_is_a_failed_op(tmp_path: Path) -> None:
    trace = trace_of(tmp_path / "t.parquet", *upload("file:///run/a", 10)[-1:])
    result = replay(trace, map=f"file:///run={tmp_path}/new", **LOOSE)
    assert [failure["error"] for failure in result.failures] == ["unsupported"]
    assert not result.ok


def test_changes_of_files_raise_one_line(tmp_path: Path) -> None:
    from tracekit.backends.registry import backend_for

    changer = backend_for("file:///").changer
    calls: tuple[Callable[[], None], ...] = (
        lambda: changer.delete(f"file://{tmp_path}/none"),
        lambda: changer.rename(f"file://{tmp_path}/none", f"file://{tmp_path}/other"),
        lambda: changer.copy(f"file://{tmp_path}/none", f"file://{tmp_path}/other"),
        lambda: changer.sync(f"file://{tmp_path}/none"),
    )
    for call in calls:
        with pytest.raises(BackendError, match="No such file"):
            call()


def places(tmp_path: Path, request: pytest.FixtureRequest, scheme: str) -> str:
    """An empty place of a scheme."""
    if scheme in ("file", "direct"):
        return f"{scheme}://{tmp_path}/new"
    return f"{scheme}://{request.getfixturevalue('s3_bucket' if scheme == 's3' else 'az_container')}/new"


def found_at(place: str) -> dict[str, int]:
    """The names and sizes below a place."""
    from tracekit.backends.registry import backend_for

    backend = backend_for(place)
    try:
        return {info.uri.removeprefix(f"{place}/"): info.size for info in backend.list(place)}
    finally:
        backend.close()


def part(number: int, size: int, **more: Any) -> dict[str, Any]:
    return {"uri": "file:///run/a", "op": "part", "part": number, "len": size, **more}


END = {"uri": "file:///run/a", "op": "complete"}
ABORT = {"uri": "file:///run/a", "op": "abort"}
MIXED: dict[str, tuple[list[dict[str, Any]], int]] = {
    "by turns": ([part(1, PART), part(1, PART + 1), part(2, 20), part(2, 30), END, END], PART + 31),
    "the first ends in between": ([part(1, PART), part(1, PART + 1), part(2, 20), END, part(2, 30), END], PART + 31),
    "by streams": (
        [
            part(1, PART, rank=0), part(1, PART, rank=1), part(2, 30, rank=1), part(2, 20, rank=0),
            {**END, "rank": 1}, {**END, "rank": 0},
        ],
        PART + 20,
    ),
    "three in a row": (
        [
            part(1, PART), part(1, PART + 1), part(2, 20), END, part(1, PART + 2), part(2, 30), END, part(2, 40), END
        ],
        PART + 42,
    ),
    "a part sent again": ([part(1, PART), part(2, 20), part(2, 30), END], PART + 30),
    "a part sent again, and the next step": (
        [part(1, PART), part(2, 20), part(2, 30), END, part(1, PART + 1), part(2, 40), END],
        PART + 41,
    ),
    "an abort and a retry": ([part(1, PART), part(2, 20), ABORT, part(2, 40), part(1, PART), END], PART + 40),
    "one aborted beside another": (
        [
            part(1, PART, rank=0), part(1, PART + 1, rank=1), part(2, 20, rank=0), part(2, 30, rank=1),
            {**ABORT, "rank": 0}, {**END, "rank": 1},
        ],
        PART + 31,
    ),
}  # fmt: skip
MANY = ("by turns", "the first ends in between", "by streams", "three in a row", "one aborted beside another")
"""Azure drops the blocks of the other upload when one is committed."""


@pytest.mark.parametrize("scheme", ["file", "s3", "az"])
@pytest.mark.parametrize("how", MIXED)
def test_uploads_of_one_object_at_once_are_told_apart(
    tmp_path: Path, request: pytest.FixtureRequest, how: str, scheme: str
) -> None:
    ops, size = MIXED[how]
    place = places(tmp_path, request, scheme)
    trace = trace_of(tmp_path / "t.parquet", *ops)
    if scheme == "az" and how in MANY:
        with pytest.raises(UsageError, match="several uploads of one object"):
            replay(trace, map=f"file:///run={place}", pace="asap", **LOOSE)
        return
    result = replay(trace, map=f"file:///run={place}", pace="asap", **LOOSE)
    assert result.failures == ()
    assert result.ok, result.parity
    assert found_at(place) == {"a": size}


@pytest.mark.parametrize("scheme", ["file", "direct", "s3", "az"])
def test_directories_are_renamed_and_removed_everywhere(
    tmp_path: Path, request: pytest.FixtureRequest, scheme: str
) -> None:
    step: list[dict[str, Any]] = []
    for number in (1, 2):  # the same temporary names in every step
        step += [
            {"uri": "file:///run/tmp/a", "op": "write", "offset": 0, "len": 10 * number},
            {"uri": "file:///run/tmp/sub/b", "op": "write", "offset": 0, "len": 20 * number},
            {"uri": "file:///run/tmp", "op": "rename", "to_uri": f"file:///run/step{number}"},
            {"uri": f"file:///run/step{number}/a", "op": "read", "offset": 0, "len": 10},
        ]
    ops = [
        *step,
        {"uri": "file:///run/step1/a", "op": "delete"},
        {"uri": "file:///run/step1/sub/b", "op": "delete"},
        {"uri": "file:///run/step1/sub", "op": "delete"},
        {"uri": "file:///run/step1", "op": "delete"},
        {"uri": "file:///run/step2/a", "op": "put", "len": 77},
    ]
    place = places(tmp_path, request, scheme)
    trace = trace_of(tmp_path / "t.parquet", *ops)
    result = replay(trace, map=f"file:///run={place}", pace="asap", **LOOSE)
    assert result.failures == ()
    assert result.ok, result.parity
    assert found_at(place) == {"step2/a": 77, "step2/sub/b": 40}
    if scheme == "file":
        assert not (tmp_path / "new" / "step1").exists()


@pytest.mark.parametrize("scheme", ["file", "direct"])
def test_a_file_that_is_synced_before_its_first_write_is_there(tmp_path: Path, scheme: str) -> None:
    trace = trace_of(
        tmp_path / "t.parquet",
        {"uri": "file:///run/d/.metadata.tmp", "op": "sync"},
        {"uri": "file:///run/d/.metadata.tmp", "op": "write", "offset": 0, "len": 1704},
        {"uri": "file:///run/d/.metadata.tmp", "op": "rename", "to_uri": "file:///run/d/.metadata"},
        {"uri": "file:///run/d", "op": "sync"},
    )
    result = replay(trace, map=f"file:///run={scheme}://{tmp_path}/new", pace="asap", **LOOSE)
    assert result.ok, (result.failures, result.parity)
    assert {p.name: p.stat().st_size for p in (tmp_path / "new" / "d").iterdir()} == {".metadata": 1704}


def test_a_file_that_is_only_synced_has_to_be_there(tmp_path: Path) -> None:
    trace = trace_of(tmp_path / "t.parquet", {"uri": "file:///run/a", "op": "sync"})
    rule = f"file:///run={tmp_path}/new"
    with pytest.raises(BackendError, match="new/a"):
        replay(trace, map=rule, **LOOSE)
    assert materialize(trace, rule).made == 1
    assert replay(trace, map=rule, **LOOSE).ok


@pytest.mark.parametrize("scheme", ["file", "direct", "s3", "az"])
def test_an_object_keeps_its_bytes_when_it_is_given_its_own_name(
    tmp_path: Path, request: pytest.FixtureRequest, scheme: str
) -> None:
    name = "file:///run/a"
    trace = trace_of(
        tmp_path / "t.parquet",
        {"uri": name, "op": "put", "len": 50},
        {"uri": name, "op": "rename", "to_uri": name},
        {"uri": name, "op": "copy", "to_uri": name},
        {"uri": name, "op": "read", "offset": 0, "len": 50},
    )
    place = places(tmp_path, request, scheme)
    result = replay(trace, map=f"file:///run={place}", pace="asap", **LOOSE)
    assert result.ok, (result.failures, result.parity)
    assert found_at(place) == {"a": 50}


@pytest.mark.parametrize("scheme", ["file", "direct"])
def test_files_are_truncated_written_on_and_made_again_as_recorded(tmp_path: Path, scheme: str) -> None:
    a, b = "file:///run/a", "file:///run/b"
    trace = trace_of(
        tmp_path / "t.parquet",
        {"uri": a, "op": "write", "offset": 0, "len": 10},
        {"uri": a, "op": "truncate", "len": 5000},
        {"uri": b, "op": "put", "len": 9999},
        {"uri": a, "op": "rename", "to_uri": b},
        {"uri": b, "op": "write", "offset": 5000, "len": 3},
        {"uri": b, "op": "read", "offset": 4000, "len": 1003},
        {"uri": a, "op": "write", "offset": 0, "len": 4},
        {"uri": a, "op": "delete"},
        {"uri": a, "op": "write", "offset": 0, "len": 2},
    )
    result = replay(trace, map=f"file:///run={scheme}://{tmp_path}/new", pace="asap", **LOOSE)
    assert result.ok, (result.failures, result.parity)
    assert {p.name: p.stat().st_size for p in (tmp_path / "new").iterdir()} == {"a": 2, "b": 5003}


def test_a_store_refuses_writes_into_what_was_renamed_or_copied_there(tmp_path: Path, s3_bucket: str) -> None:
    for op in ("rename", "copy"):
        trace = trace_of(
            tmp_path / "t.parquet",
            {"uri": "file:///run/b", "op": "write", "offset": 0, "len": 10},
            {"uri": "file:///run/a", "op": "put", "len": 100},
            {"uri": "file:///run/a", "op": op, "to_uri": "file:///run/b"},
            {"uri": "file:///run/b", "op": "write", "offset": 10, "len": 10},
        )
        with pytest.raises(UsageError, match="cannot write to parts of objects"):
            replay(trace, map=f"file:///run=s3://{s3_bucket}", **LOOSE)


@pytest.mark.parametrize("scheme", ["s3", "az"])
def test_large_objects_are_made_in_parts_with_the_bytes_of_files(
    tmp_path: Path, request: pytest.FixtureRequest, scheme: str
) -> None:
    from tracekit.backends.registry import backend_for

    sizes = {"small": 1000, "large": (17 << 20) + 5, "empty": 0}
    trace = trace_of(
        tmp_path / "t.parquet",
        *(
            {"uri": f"file:///run/{name}", "op": "read", "offset": 0, "len": size}
            for name, size in sizes.items()
        ),
    )
    place = places(tmp_path, request, scheme)
    seen: list[tuple[int, int]] = []
    done = materialize(trace, f"file:///run={place}", seed=3, watch=lambda made, of: seen.append((made, of)))
    assert (done.made, done.bytes) == (3, sum(sizes.values()))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert found_at(place) == sizes
    materialize(trace, f"file:///run={tmp_path}/files", seed=3)
    backend = backend_for(place)
    for name in sizes:
        assert bytes(backend.open(f"{place}/{name}").get()[0]) == (tmp_path / "files" / name).read_bytes()
    backend.close()


@pytest.mark.parametrize("last", [END, ABORT], ids=["completed", "aborted"])
@pytest.mark.parametrize("scheme", ["file", "s3", "az"])
def test_parts_of_any_size_make_an_object_on_every_target(
    tmp_path: Path, request: pytest.FixtureRequest, scheme: str, last: dict[str, Any]
) -> None:
    ops = [part(number, 3 << 20) for number in (2, 1, 3, 5, 4)]
    place = places(tmp_path, request, scheme)
    trace = trace_of(tmp_path / "t.parquet", *ops, part(6, 17), last)
    result = replay(trace, map=f"file:///run={place}", pace="asap", out=tmp_path / "r.trace", **LOOSE)
    assert result.failures == ()
    assert result.ok, result.parity
    assert (result.parity.row("parts").b, result.parity.row("bytes_written").b) == (6, (15 << 20) + 17)
    assert found_at(place) == ({"a": (15 << 20) + 17} if last is END else {})
    if scheme == "s3":
        assert open_reader(tmp_path / "r.trace").counters["parts"] == (2 if last is END else 1)


def test_writes_that_were_sent_again_say_so_and_their_waits_are_no_latency(
    tmp_path: Path, s3_bucket: str, s3_env: Any, fault_proxy: Callable[[str], Any]
) -> None:
    import threading
    import time

    from servers import SLOW_DOWN

    proxy = fault_proxy(s3_env.endpoint)
    proxy.always["PUT"] = SLOW_DOWN

    def relent() -> None:
        while sum(seen.startswith("PUT") for seen in proxy.seen) < 3:
            time.sleep(0.002)
        proxy.always.clear()

    trace = trace_of(
        tmp_path / "t.parquet",
        {"uri": "file:///run/a", "op": "put", "len": 2 << 20},
        *upload("file:///run/b", PART, 30),
        {"uri": "file:///run/a", "op": "copy", "to_uri": "file:///run/c"},
        {"uri": "file:///run/a", "op": "delete"},
    )
    helper = threading.Thread(target=relent)
    helper.start()
    result = replay(
        trace, map=f"file:///run=s3://{s3_bucket}", endpoint=proxy.endpoint, pace="asap", threads=1, retries=20,
        out=tmp_path / "r.trace", **LOOSE,
    )  # fmt: skip
    helper.join()
    assert result.ok, result.parity
    reader = open_reader(tmp_path / "r.trace")
    rows = reader.query("SELECT op, tries, wait_ns FROM ops ORDER BY t_submit").to_pylist()
    assert [row["op"] for row in rows] == ["put", "part", "part", "complete", "copy", "delete"]
    assert rows[0]["tries"] >= 3 and rows[0]["wait_ns"] > 0
    assert [(row["tries"], row["wait_ns"]) for row in rows[1:]] == [(1, 0)] * 5
    assert reader.counters["retries"] == rows[0]["tries"] - 1


@pytest.mark.parametrize("how", ["compiled", "interpreter", "s3"])
def test_a_short_write_is_as_short_again_and_a_part_is_replaced_by_a_shorter_one(
    tmp_path: Path, request: pytest.FixtureRequest, how: str
) -> None:
    ops: list[dict[str, Any]] = [
        {"uri": "file:///run/short", "op": "write", "offset": 0, "len": 100, "bytes": 40},
        {"uri": "file:///run/parts", "op": "part", "part": 1, "len": 5000},
        {"uri": "file:///run/parts", "op": "part", "part": 1, "len": 300},
        {"uri": "file:///run/parts", "op": "complete"},
    ]
    place = places(tmp_path, request, "s3" if how == "s3" else "file")
    options: dict[str, Any] = {} if how == "s3" else {"engine": how}
    trace = trace_of(tmp_path / "t.parquet", *ops)
    result = replay(
        trace, map=f"file:///run={place}", pace="asap", out=tmp_path / "r.trace", **options, **LOOSE
    )
    assert result.failures == ()
    assert result.ok, result.parity
    assert found_at(place) == {"short": 40, "parts": 300}
    assert result.parity.row("bytes_written").b == 40 + 5000 + 300


def test_positions_go_along_with_a_rename_and_stay_where_an_object_is_copied(tmp_path: Path) -> None:
    log, old, copy = (f"file:///run/{name}" for name in ("log", "log.1", "copy"))
    ops: list[dict[str, Any]] = [
        *({"uri": log, "op": "write", "len": 5, "worker": worker} for worker in (0, 0, 1)),
        {"uri": log, "op": "copy", "to_uri": copy},
        {"uri": log, "op": "write", "len": 5},
        {"uri": log, "op": "rename", "to_uri": old, "worker": 2},
        {"uri": old, "op": "write", "len": 5},
        {"uri": old, "op": "write", "len": 7, "worker": 1},
        {"uri": log, "op": "write", "len": 3},
        {"uri": copy, "op": "write", "len": 1},
    ]
    trace = open_reader(trace_of(tmp_path / "t.parquet", *ops))
    plan = build_plan(trace, MappingRules(), ReplayOptions.of({"allow_writes": True}))
    kinds = ["write" in op["op"] for op in ops]
    assert plan.column("offset")[kinds].tolist() == [0, 5, 0, 10, 15, 5, 0, 0]
    assert plan.order is not None
    assert plan.order.before(4) == {3}  # the copy must not hold what is written later
    rule = f"file:///run=file://{tmp_path}/new"
    result = replay(trace, map=rule, pace="asap", out=tmp_path / "r.trace", **LOOSE)
    assert result.ok, result.parity
    assert {path.name: path.stat().st_size for path in (tmp_path / "new").iterdir()} == {
        "log.1": 20,
        "copy": 10,
        "log": 3,
    }


def test_ops_that_wait_for_an_object_of_a_store_are_in_order_behind_a_cap(
    tmp_path: Path, s3_bucket: str
) -> None:
    """They stand in line for the gate behind the ops of other objects, which overtook them."""
    a, b = "file:///run/a", "file:///run/b"
    ops: list[dict[str, Any]] = [
        *({"uri": a, "op": "write", "offset": i * 1000, "len": 1000} for i in range(10)),
        {"uri": b, "op": "put", "len": 10_000},
        *({"uri": uri, "op": "read", "offset": i * 100, "len": 100} for i in range(40) for uri in (b, a)),
    ]
    trace = trace_of(tmp_path / "t.parquet", *ops)
    rule = f"file:///run=s3://{s3_bucket}/run"
    result = replay(trace, map=rule, pace="asap", max_ops_in_flight=3, out=tmp_path / "r.trace", **LOOSE)
    assert result.ok, result.failures
    assert result.timing["dependency_max_ns"] and result.timing["gate_max_ns"]
