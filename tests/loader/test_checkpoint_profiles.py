"""`tracekit record` writes and reads checkpoints, and a replay of either ends as the recording did."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import tracekit
from tracekit.backends.registry import backend_for
from tracekit.errors import UsageError
from tracekit.store.reader import open_reader

MIB = 1 << 20
LOOSE: dict[str, Any] = {"tolerance": 1e9, "max_lateness": "1h"}


def place(request: pytest.FixtureRequest, folder: Path, scheme: str) -> str:
    if scheme in ("file", "direct"):
        return f"{scheme}://{folder}"
    return f"{scheme}://{request.getfixturevalue('s3_bucket' if scheme == 's3' else 'az_container')}/{folder.name}"


def found(uri: str) -> dict[str, int]:
    backend = backend_for(uri)
    try:
        return {info.uri.removeprefix(f"{uri}/"): info.size for info in backend.list(uri)}
    finally:
        backend.close()


def rows(trace: Path) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = open_reader(trace).query("SELECT * FROM ops ORDER BY t_submit").to_pylist()
    return listed


@pytest.mark.parametrize("layout", ["rank", "shared"])
@pytest.mark.parametrize("scheme", ["file", "direct", "s3", "az"])
def test_checkpoints_are_written_by_ranks_recorded_and_replayed(
    request: pytest.FixtureRequest, tmp_path: Path, scheme: str, layout: str
) -> None:
    source = place(request, tmp_path / "ckpt", scheme)
    trace = tmp_path / "save.trace"
    done = tracekit.record(
        source, trace, profile="checkpoint-save", epochs=2, checkpoint_ranks=2, checkpoint_bytes="12MiB",
        checkpoint_layout=layout, target_request_bytes="6MiB",
    )  # fmt: skip
    names = ["shared.ckpt"] if layout == "shared" else ["rank-00000.ckpt", "rank-00001.ckpt"]
    size = (24 if layout == "shared" else 12) * MIB
    assert found(source) == {f"step-{step:05}/{name}": size for step in (0, 1) for name in names}
    assert (done.steps, done.samples, done.sample_bytes) == (2, 2 * len(names), 48 * MIB)
    ops = rows(trace)
    local = scheme in ("file", "direct")
    ends = {"sync": 4} if local else {"complete": 2 * len(names)}
    assert Counter(op["op"] for op in ops) == {"write" if local else "part": 8, **ends}
    assert {(op["step"], op["rank"]) for op in ops} >= {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert done.ops == len(ops)
    assert {op["tries"] for op in ops} == {None if local else 1}
    moved = f"{source.rpartition('/')[0]}/again"
    options: dict[str, Any] = {"map": f"{source}={moved}", "pace": "asap", "allow_writes": True, **LOOSE}
    result = tracekit.replay(trace, **options)
    assert result.ok, (result.failures, result.parity)
    assert found(moved) == found(source)
    loaded = tmp_path / "load.trace"
    read = tracekit.record(source, loaded, profile="checkpoint-load", num_workers=2)
    assert read.sample_bytes == 48 * MIB
    assert tracekit.replay(loaded, pace="asap", **LOOSE).ok


@pytest.mark.parametrize(("sync", "syncs"), [("none", 0), ("file", 2), ("request", 6)])
def test_the_sync_policy_decides_which_syncs_there_are(tmp_path: Path, sync: str, syncs: int) -> None:
    tracekit.record(
        tmp_path / "ckpt", tmp_path / "t", profile="checkpoint-save", checkpoint_ranks=2,
        checkpoint_bytes=3000, target_request_bytes=1000, checkpoint_sync=sync,
    )  # fmt: skip
    ops = rows(tmp_path / "t")
    assert Counter(op["op"] for op in ops) == Counter({"write": 6, "sync": syncs})
    assert sum(op["bytes"] or 0 for op in ops) == 6000


def test_what_is_there_is_not_overwritten_and_its_trace_stays(tmp_path: Path) -> None:
    options: dict[str, Any] = {"profile": "checkpoint-save", "checkpoint_bytes": 1000}
    tracekit.record(tmp_path / "ckpt", tmp_path / "t", **options)
    before = (tmp_path / "ckpt/step-00000/rank-00003.ckpt").read_bytes()
    with pytest.raises(UsageError, match="is there already"):
        tracekit.record(tmp_path / "ckpt", tmp_path / "t", overwrite=True, **options)
    assert (tmp_path / "ckpt/step-00000/rank-00003.ckpt").read_bytes() == before
    assert len(rows(tmp_path / "t")) == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"profile": "checkpoint-save", "batch_size": 4}, "batch_size= is for reading"),
        ({"profile": "checkpoint-save", "steps": 4}, "steps= is for reading"),
        ({"profile": "checkpoint-save", "checkpoint_layout": "row"}, "checkpoint_layout"),
        ({"profile": "checkpoint-save", "checkpoint_bytes": 0}, "checkpoint_bytes"),
        ({"checkpoint_ranks": 4}, "checkpoint_ranks= is for checkpoints"),
        ({"profile": "torch", "checkpoint_sync": "none"}, "checkpoint_sync= is for checkpoints"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        tracekit.record(tmp_path / "ckpt", tmp_path / "t", **options)
    assert list(tmp_path.iterdir()) == []


def test_what_a_store_cannot_do_is_refused_before_anything_is_written(tmp_path: Path, s3_bucket: str) -> None:
    for options, message in (
        ({"checkpoint_sync": "file"}, "has no sync"),
        ({"checkpoint_bytes": "12MiB", "target_request_bytes": "1MiB"}, "too small"),
        ({"checkpoint_bytes": "10MiB", "checkpoint_layout": "shared"}, "too small"),
    ):
        given: dict[str, Any] = {"profile": "checkpoint-save", **options}
        with pytest.raises(UsageError, match=message):
            tracekit.record(f"s3://{s3_bucket}/ckpt", tmp_path / "t", **given)
    assert found(f"s3://{s3_bucket}") == {}
    assert list(tmp_path.iterdir()) == []
