"""The loader over HTTP: whole and range GETs, the cap, the listing, errors of one line."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import servers

from tracekit.backends.registry import backend_for
from tracekit.errors import BackendError
from tracekit.loader.dataset import create_dataset
from tracekit.loader.loader import create_async_loader
from tracekit.store.reader import TraceReader, open_reader

SIZE = 300_000


@pytest.fixture
def bucket(s3_bucket: str) -> tuple[str, dict[str, bytes]]:
    """A prefix with ten objects, and their contents."""
    uri = f"s3://{s3_bucket}/train"
    backend = backend_for(uri)
    content = {f"{uri}/{index:02}": os.urandom(SIZE) for index in range(10)}
    for name, data in content.items():
        backend.put(name, data)
    backend.close()
    return uri, content


def ops(trace: TraceReader) -> dict[str, int]:
    rows = trace.query("SELECT op, count(*) AS n FROM ops GROUP BY op").to_pylist()
    return {row["op"]: row["n"] for row in rows}


@pytest.mark.parametrize(
    ("reader_mode", "cap", "expected", "counter"),
    [
        ("sequential", None, {"get": 10}, "whole_gets"),
        ("range", None, {"read": 50}, "range_gets"),
        ("range", "128KiB", {"read": 50}, "range_gets"),
        ("sequential", "128KiB", {"read": 50}, "range_gets"),
    ],
)
def test_samples_come_by_whole_gets_or_range_gets(
    bucket: tuple[str, dict[str, bytes]], tmp_path: Path, reader_mode: str, cap: str | None,
    expected: dict[str, int], counter: str,
) -> None:  # fmt: skip
    uri, content = bucket
    options = {
        "batch_size": 4, "num_workers": 8, "target_request_bytes": "64KiB", "reader_mode": reader_mode,
        "max_bytes_in_flight": cap,
    }  # fmt: skip
    with create_async_loader(uri, options, tmp_path / "trace") as loader:
        got = {sample.uri: bytes(sample.data or b"") for batch in loader for sample in batch.samples}
    assert got == content
    trace = open_reader(tmp_path / "trace")
    assert ops(trace) == {"list": 1, **expected}
    assert trace.counters[counter] == sum(expected.values())
    assert trace.counters["lists"] >= 1
    if cap is not None:
        rows = trace.query("SELECT t_submit, latency, len FROM ops WHERE op = 'read'")
        begin, size = rows["t_submit"].to_numpy(), rows["len"].to_numpy()
        times, moves = (
            np.concatenate([begin, begin + rows["latency"].to_numpy()]),
            np.concatenate([size, -size]),
        )
        assert np.cumsum(moves[np.lexsort((moves > 0, times))]).max() <= 128 * 1024


def test_async_iteration_and_globs_work_on_a_bucket(bucket: tuple[str, dict[str, bytes]]) -> None:
    uri, content = bucket

    async def run() -> dict[str, bytes]:
        async with create_async_loader(f"{uri}/*[0-4]", batch_size=2, loading_mode="async_pool") as loader:
            return {
                sample.uri: bytes(sample.data or b"") async for batch in loader for sample in batch.samples
            }

    assert asyncio.run(run()) == {name: data for name, data in content.items() if name[-1] in "01234"}


def test_records_of_objects_are_range_gets(bucket: tuple[str, dict[str, bytes]], tmp_path: Path) -> None:
    uri, content = bucket
    with create_async_loader(uri, recorder=tmp_path / "trace", sample_bytes=100_000, shuffle=True) as loader:
        total = sum(batch.nbytes for batch in loader)
    assert total == sum(map(len, content.values()))
    assert ops(open_reader(tmp_path / "trace")) == {"list": 1, "read": 30}


def test_a_missing_source_is_reported_in_one_line(
    s3_env: servers.S3Server, bucket: tuple[str, dict[str, bytes]]
) -> None:
    for uri in ("s3://no-such-bucket-here/x", f"{bucket[0]}/missing", f"{bucket[0]}/*.tar"):
        with pytest.raises(BackendError) as caught:
            create_async_loader(uri)
        assert caught.value.error_class == "not_found"
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("verb", ["record", "materialize"])
def test_a_failure_leaves_no_unclosed_session(
    s3_bucket: str, bucket: tuple[str, dict[str, bytes]], tmp_path: Path, verb: str
) -> None:
    """A client of the reference library prints a warning if it is not closed."""
    with create_async_loader(bucket[0], recorder=tmp_path / "trace") as loader:
        for _ in loader:
            pass
    what = ["s3://no-such-bucket-here/x", "-o", str(tmp_path / "r")]
    if verb == "materialize":
        what = [str(tmp_path / "trace"), "--map", f"s3://{s3_bucket}=s3://no-such-bucket-here"]
    run = subprocess.run(
        [sys.executable, "-m", "tracekit", verb, *what, "--client", "aiobotocore"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert run.returncode == 2
    assert "no such bucket" in run.stderr and run.stderr.count("\n") == 1


def test_backend_options_are_passed_on(bucket: tuple[str, dict[str, bytes]]) -> None:
    with pytest.raises(BackendError) as caught:
        create_async_loader(bucket[0], endpoint=f"http://127.0.0.1:{servers.free_port()}", retries=0)
    assert caught.value.error_class == "unreachable"
    with create_async_loader(bucket[0], client="aiobotocore", timeout_s=10, region="us-east-1") as loader:
        assert sum(len(batch.samples) for batch in loader) == 10


@pytest.mark.parametrize("client", ["obstore", "aiobotocore"])
def test_an_object_that_grew_is_read_to_its_listed_length(
    s3_bucket: str, tmp_path: Path, client: str
) -> None:
    backend = backend_for("s3://x")
    for name in ("a", "b"):
        backend.put(f"s3://{s3_bucket}/{name}", b"1234")
    dataset = create_dataset(f"s3://{s3_bucket}", client=client)
    backend.put(f"s3://{s3_bucket}/b", b"12345678", overwrite=True)
    with create_async_loader(dataset, recorder=tmp_path / "trace", batch_size=2, client=client) as loader:
        (batch,) = list(loader)
    assert [bytes(sample.data or b"") for sample in batch.samples] == [b"1234", b"1234"]
    rows = open_reader(tmp_path / "trace").query("SELECT op, bytes, len FROM ops").to_pylist()
    assert rows == [{"op": "get", "bytes": 4, "len": 4}] * 2
    assert open_reader(tmp_path / "trace").counters["range_gets"] == 1
    backend.close()
    dataset.close()
