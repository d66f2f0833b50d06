"""The same options and the same bytes on `file`, `direct`, `s3` and `az`: the loader cannot tell them apart."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import servers

from tracekit.backends.registry import backend_for, known_schemes
from tracekit.errors import BackendError, TracekitError, UsageError
from tracekit.loader.dataset import create_dataset
from tracekit.loader.loader import create_async_loader
from tracekit.loader.options import LoaderOptions
from tracekit.loader.order import sample_order
from tracekit.store.reader import open_reader

OBJECTS = 24
OPTIONS = {
    "batch_size": 8,
    "num_workers": 4,
    "prefetch": 2,
    "shuffle": True,
    "seed": 11,
    "reader_mode": "range",
    "loading_mode": "async_pool",
    "target_request_bytes": "16KiB",
    "max_bytes_in_flight": "64KiB",
    "page_cache_mode": "default",
}


@pytest.fixture(scope="module")
def bodies() -> dict[str, bytes]:
    rng = random.Random(5)
    return {f"part-{i % 3}/{i:03d}": rng.randbytes(rng.randrange(1, 80_000)) for i in range(OBJECTS)}


@pytest.fixture
def root_of(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """A place on a scheme where nothing is yet."""

    def root(scheme: str) -> str:
        if scheme == "s3":
            return f"s3://{request.getfixturevalue('s3_bucket')}/data"
        if scheme == "az":
            return f"az://{request.getfixturevalue('az_container')}/data"
        return f"{scheme}://{tmp_path}/data"

    return root


@pytest.fixture(params=["file", "direct", "s3", "az"])
def filled(request: pytest.FixtureRequest, root_of: Callable[[str], str], bodies: dict[str, bytes]) -> str:
    """The objects, put on each scheme through its own backend: the URI that they are below."""
    root = root_of(request.param)
    backend = backend_for(root)
    for name, body in bodies.items():
        assert backend.put(f"{root}/{name}", body) == len(body)
    backend.close()
    return root


def test_the_schemes_of_the_cases_are_known() -> None:
    assert {"file", "direct", "s3", "az"} <= set(known_schemes())


def test_two_batches_and_more_carry_the_bytes_that_were_put(filled: str, bodies: dict[str, bytes]) -> None:
    async def iterate() -> list[dict[str, bytes]]:
        async with create_async_loader(filled, OPTIONS) as loader:
            return [
                {sample.uri.removeprefix(f"{filled}/"): bytes(sample.data or b"") for sample in batch.samples}
                async for batch in loader
            ]

    batches = asyncio.run(iterate())
    assert [len(batch) for batch in batches] == [8, 8, 8]
    assert {name: body for batch in batches for name, body in batch.items()} == bodies


def test_the_order_of_samples_is_the_same_on_every_scheme(filled: str, bodies: dict[str, bytes]) -> None:
    names = sorted(bodies)
    with create_dataset(filled, OPTIONS) as dataset:
        assert [uri.removeprefix(f"{filled}/") for uri in dataset.uris] == names
        assert dataset.sizes.tolist() == [len(bodies[name]) for name in names]
    in_order = {**OPTIONS, "loading_mode": "prefetch"}  # async_pool hands over what is ready first
    with create_async_loader(filled, in_order) as loader:
        ids = [sample.sample_id for batch in loader for sample in batch.samples]
    assert ids == list(sample_order(OBJECTS, LoaderOptions.of(in_order), 0))


def test_every_option_name_is_accepted_and_a_wrong_one_is_refused(filled: str) -> None:
    every = LoaderOptions.of(OPTIONS).to_dict()
    create_dataset(filled, every).close()
    set_too = {"region": "us-east-1", "account": servers.AZURITE_ACCOUNT, "timeout_s": 20, "retries": 3}
    with create_async_loader(filled, {**every, **set_too, "anonymous": False}) as loader:
        assert sum(len(batch.samples) for batch in loader) == OBJECTS
    with pytest.raises(UsageError, match="batchsize"):
        create_dataset(filled, {"batchsize": 4})


def test_the_recorded_ops_keep_to_the_cap_and_count_their_requests(
    filled: str, bodies: dict[str, bytes], tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    with create_async_loader(filled, OPTIONS, recorder=trace) as loader:
        for _ in loader:
            pass
    reader = open_reader(trace)
    ops = reader.query("SELECT t_submit, latency, len, ttfb FROM ops WHERE op IN ('read', 'get')").to_pydict()
    assert sum(ops["len"]) == sum(map(len, bodies.values()))
    assert most_in_flight(ops["t_submit"], ops["latency"], ops["len"]) <= 64 << 10
    if filled.startswith(("s3:", "az:")):
        assert reader.counters["range_gets"] == len(ops["len"])
        assert reader.counters.get("retries", 0) == reader.counters.get("throttles", 0) == 0
        assert all(0 < ttfb <= latency for ttfb, latency in zip(ops["ttfb"], ops["latency"], strict=True))


def most_in_flight(t_submit: list[int], latency: list[int], length: list[int]) -> int:
    """The most bytes submitted and not ended at any time, by a sweep over starts and ends."""
    start, size = np.array(t_submit), np.array(length)
    times = np.concatenate([start + np.array(latency), start])
    change = np.concatenate([-size, size])
    order = np.lexsort((change, times))  # at one instant, ends come before starts
    return int(np.cumsum(change[order]).max())


def test_whole_objects_are_one_get_each_in_sequential_mode(
    root_of: Callable[[str], str], bodies: dict[str, bytes], tmp_path: Path
) -> None:
    root = root_of("s3")
    backend = backend_for(root)
    for name, body in bodies.items():
        backend.put(f"{root}/{name}", body)
    with create_async_loader(root, reader_mode="sequential", recorder=tmp_path / "trace") as loader:
        got = {
            s.uri.removeprefix(f"{root}/"): bytes(s.data or b"") for batch in loader for s in batch.samples
        }
    assert got == bodies
    assert open_reader(tmp_path / "trace").counters["whole_gets"] == OBJECTS


@pytest.mark.parametrize("scheme", ["s3", "az"])
def test_2500_samples_are_listed_by_prefix(
    request: pytest.FixtureRequest, scheme: str, many_objects: list[str]
) -> None:
    request.getfixturevalue(f"{scheme}_env")
    with create_dataset(f"{scheme}://many/data") as dataset:
        assert len(dataset) == 2500
        assert dataset.uris == [f"{scheme}://many/{key}" for key in many_objects]


def test_an_unreachable_store_is_reported_in_one_line(
    s3_bucket: str, az_container: str, tmp_path: Path
) -> None:
    nowhere = f"http://127.0.0.1:{servers.free_port()}"
    cases: list[tuple[str, dict[str, object], str]] = [
        ("ftp://host/data", {}, "unknown scheme 'ftp'"),
        ("s3://no-such-bucket-1/data", {}, "no such bucket"),
        ("az://no-such-container-1/data", {}, "no such container"),
        (f"s3://{s3_bucket}/none", {}, "no samples found"),
        (f"az://{az_container}/none", {}, "no samples found"),
        (f"file://{tmp_path}/none", {}, "none"),
        (f"s3://{s3_bucket}/data", {"endpoint": nowhere, "retries": 0}, "the connection to"),
        (f"az://{az_container}/data", {"endpoint": f"{nowhere}/acc", "retries": 0}, "the connection to"),
    ]
    for uri, options, message in cases:
        with pytest.raises(TracekitError) as raised:
            create_dataset(uri, options)
        assert message in str(raised.value), uri
        assert "\n" not in str(raised.value)


def test_no_secret_is_in_a_trace(
    az_container: str, azurite: servers.AzuriteServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datetime import UTC, datetime, timedelta

    from azure.storage.blob import ContainerSasPermissions, generate_container_sas

    backend = backend_for("az://")
    backend.put(f"az://{az_container}/d/k", b"0123456789")
    sas = generate_container_sas(
        servers.AZURITE_ACCOUNT,
        az_container,
        account_key=servers.AZURITE_KEY,
        permission=ContainerSasPermissions(read=True, list=True),
        expiry=datetime.now(UTC) + timedelta(hours=1),
    )
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING")
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", sas)
    with create_async_loader(
        f"az://{az_container}/d", endpoint=azurite.endpoint, recorder=tmp_path / "trace"
    ) as loader:
        assert [len(batch.samples) for batch in loader] == [1]
    with (
        pytest.raises(BackendError),
        create_async_loader(
            f"az://{az_container}/none", endpoint=azurite.endpoint, recorder=tmp_path / "failed"
        ),
    ):
        pass
    signature = sas.partition("sig=")[2].partition("&")[0].encode()
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    for path in written:
        content = path.read_bytes()
        assert signature not in content and b"sig=" not in content
        assert servers.AZURITE_KEY.encode() not in content


_READ_ALL = """
from tracekit.loader.loader import create_async_loader
with create_async_loader(
    "s3://bucket", reader_mode="range", loading_mode="async_pool", num_workers=16, prefetch=8, batch_size=1,
    target_request_bytes="4MiB", max_bytes_in_flight="32MiB", keep_data=False,
) as loader:
    total = sum(sample.nbytes for batch in loader for sample in batch.samples)
# Not ru_maxrss: a child inherits that from the process that forked it, here the whole test run.
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(total, peak * 1024)
"""


def test_reading_2_gib_under_a_32_mib_cap_stays_below_400_mib(
    clean_env: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "big"
    folder.mkdir()
    for index in range(8):
        with (folder / f"{index}").open("wb") as file:
            file.truncate(256 << 20)  # holes: as long as they say, and no disk
    try:
        with servers.nginx_bucket(folder, tmp_path / "nginx") as server:
            child = subprocess.run(
                [sys.executable, "-c", _READ_ALL],
                env={**os.environ, **server.env},
                capture_output=True,
                text=True,
                timeout=100,
                check=True,
            )
    except servers.Unavailable as missing:
        pytest.skip(str(missing))
    total, peak_bytes = map(int, child.stdout.split())
    assert total == 2 << 30
    assert peak_bytes < 400 << 20
