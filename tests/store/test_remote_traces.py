"""Traces on an object store: every verb that reads opens them in place, by ranges, and a replay can be put there."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import tracekit
from tracekit.remote import Stores
from tracekit.store.layout import SEALED_NAME
from tracekit.store.reader import open_reader
from tracekit.store.remote import RemotePath, is_remote
from tracekit.store.writer import TraceWriter

OPS = 3000


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace of three segments whose file exists."""
    folder = tmp_path_factory.mktemp("recorded")
    (folder / "data").write_bytes(b"x" * 65536)
    with TraceWriter(folder / "t", source="import:test", epoch_unix_ns=0, segment_ops=OPS) as writer:
        for part in range(3):
            at = np.arange(part * OPS, (part + 1) * OPS) * 1000
            columns = {
                "t_submit": at,
                "uri": pa.array([f"file://{folder}/data"] * OPS),
                "op": pa.array(["read"] * OPS),
                "offset": at % 65000,
                "len": np.full(OPS, 100),
                "bytes": np.full(OPS, 100),
                "latency": 500 + at % 777,
                "sample_id": at,
                "rank": pa.array(at // 1000 % 2, pa.int32()),
            }
            writer.write(pa.RecordBatch.from_pydict(columns))
    return folder / "t"


def upload(trace: Path, uri: str) -> str:
    """Copy a trace to a store."""
    backend = tracekit.backend_for(uri)
    for file in trace.iterdir():
        backend.put(f"{uri}/{file.name}", file.read_bytes())
    backend.close()
    return uri


@pytest.fixture
def remote(local: Path, s3_bucket: str) -> str:
    """The same trace on a store, reached by the environment."""
    return upload(local, f"s3://{s3_bucket}/runs/run.trace")


def test_what_is_said_of_a_trace_does_not_depend_on_where_it_is(local: Path, remote: str) -> None:
    there, here = tracekit.open_trace(remote), tracekit.open_trace(local)
    assert {**there.info(), "path": ""} == {**here.info(), "path": ""}
    assert there.info()["path"] == str(there.path) == remote
    assert there.snapshot() == here.snapshot()
    for sql in (
        "SELECT * FROM ops WHERE uri LIKE '%data' AND op = 'read' AND rank = 1 AND t_submit > 500000 ORDER BY t_submit",
        "SELECT count(*), sum(len), min(t_submit), max(latency) FROM ops",
        "FROM by_op()",
    ):
        assert there.query(sql).equals(here.query(sql)), sql
    assert next(there.batches(["uri", "len"])).equals(next(here.batches(["uri", "len"])))
    assert tracekit.compare(local, remote).ok
    assert tracekit.verify(remote) == []
    assert tracekit.ask(remote, "ranks").table.equals(tracekit.ask(local, "ranks").table)


def test_a_query_reads_ranges_of_the_columns_that_it_needs(
    tmp_path: Path, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    random, n = np.random.default_rng(1), 100_000
    columns = {
        "t_submit": np.arange(n),
        "uri": pa.array(["file:///a"] * n),
        "rank": pa.array(np.arange(n) % 2, pa.int32()),
    }
    columns |= {name: random.integers(0, 1 << 40, n) for name in ("offset", "len", "latency", "sample_id")}
    with TraceWriter(tmp_path / "t", source="import:test", epoch_unix_ns=0) as writer:
        writer.write(pa.RecordBatch.from_pydict(columns))
    uri = upload(tmp_path / "t", f"s3://{s3_bucket}/large.trace")
    moved: list[int] = []
    before = Stores.read_into

    def read_into(self: Stores, uri: str, offset: int, buffer: memoryview) -> int:
        moved.append(before(self, uri, offset, buffer))
        return moved[-1]

    monkeypatch.setattr(Stores, "read_into", read_into)
    reader = open_reader(uri)
    whole = sum(segment.file_bytes for segment in reader.segments)
    assert sum(moved) < whole / 10  # footers
    moved.clear()
    assert reader.query("SELECT count(DISTINCT rank) AS n FROM ops").to_pylist() == [{"n": 2}]
    assert 0 < sum(moved) < whole / 3


def test_the_command_line_reads_them_too(local: Path, remote: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tracekit", "stats", remote, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == json.loads(tracekit.open_trace(local).snapshot().to_json())


def test_a_watch_shows_a_trace_on_a_store_at_once(remote: str) -> None:
    assert sum(reading.ops for reading in tracekit.watch(remote)) == 3 * OPS


def test_a_replay_from_a_store_to_a_store_is_a_whole_trace(remote: str, tmp_path: Path) -> None:
    out = remote.replace("run.trace", "again.trace")
    for options in ({}, {"on": "local", "hosts": 2}):
        result = tracekit.replay(remote, out=out, pace="asap", engine="interpreter", overwrite=bool(options), **options)  # type: ignore[arg-type]  # fmt: skip
        assert str(result.out) == out == result.to_dict()["out"]
        assert result.ok, result.parity.verdict
        assert tracekit.verify(out) == []
        assert tracekit.open_trace(out).ops == 3 * OPS
        assert tracekit.compare(remote, out).row("identity").ok
    names = [entry.name for entry in RemotePath(out).iterdir()]
    assert sorted(name for name in names if name.startswith("_")) == [SEALED_NAME]
    assert len(names) == 1 + len(open_reader(out).segments)  # nothing of the one that was replaced
    with pytest.raises(tracekit.UsageError, match="exists"):
        tracekit.replay(remote, out=out, pace="asap", engine="interpreter")


def test_a_single_parquet_object_is_a_trace(local: Path, s3_bucket: str) -> None:
    (file, *_) = sorted(local.glob("seg-*"))
    backend = tracekit.backend_for("s3://")
    backend.put(f"s3://{s3_bucket}/one.parquet", file.read_bytes())
    backend.close()
    there = tracekit.open_trace(f"s3://{s3_bucket}/one.parquet")
    assert there.query("SELECT * FROM ops").equals(tracekit.open_trace(file).query("SELECT * FROM ops"))


def test_what_cannot_be_opened_there_is_one_line(remote: str, s3_bucket: str) -> None:
    for name, message in (
        (f"s3://{s3_bucket}/nothing.trace", "no such trace"),
        ("s3://no-such-bucket-here/run.trace", "no such trace|no-such-bucket-here"),
        ("mars://run.trace", "unknown scheme"),
    ):
        with pytest.raises(tracekit.TracekitError, match=message) as caught:
            tracekit.open_trace(name)
        assert caught.value.hint
    with pytest.raises(tracekit.UsageError, match="repair needs a file system"):
        tracekit.repair(remote)
    backend = tracekit.backend_for(remote)
    (some, *_) = (entry for entry in RemotePath(remote).iterdir() if entry.name.startswith("seg-"))
    backend.put(str(some), b"PAR1 is no more than this", overwrite=True)
    backend.close()
    with pytest.raises(tracekit.TraceFormatError, match=f"{some.name}"):
        tracekit.open_trace(remote)


@pytest.fixture
def names() -> Iterator[list[str]]:
    yield ["s3://bucket/a/b.trace", "az://container/x", "abfss://c@account.dfs.core.windows.net/x/y"]


def test_a_remote_path_prints_as_its_uri(names: list[str]) -> None:
    for name in names:
        path = RemotePath(name)
        assert (str(path), path.name, str(path.parent / path.name)) == (name, name.rpartition("/")[2], name)
        assert str(path.with_name("z")) == f"{name.rpartition('/')[0]}/z"
        assert is_remote(path) and not is_remote(f"file:///{path.name}")
        with pytest.raises(OSError, match="cannot be written"):
            path.open("wb")


def test_a_trace_on_azure_is_read_the_same_way(local: Path, az_container: str) -> None:
    uri = upload(local, f"az://{az_container}/run.trace")
    assert dataclasses.asdict(tracekit.open_trace(uri).snapshot()) == dataclasses.asdict(
        tracekit.open_trace(local).snapshot()
    )
