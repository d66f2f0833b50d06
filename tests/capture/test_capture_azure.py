import asyncio
from datetime import UTC, datetime, timedelta

import pytest
import servers

from tracekit import capture
from tracekit.capture import sample, step
from tracekit.store.reader import open_reader

blob = pytest.importorskip("azure.storage.blob", reason="azure-storage-blob is not installed")
BODY = bytes(range(256)) * 400
SIZE = len(BODY)


def facts(found):
    return [(r["op"], r["offset"], r["len"], r["bytes"], r["error"]) for r in found]


@pytest.fixture
def container(az_container, az_env):
    with blob.BlobServiceClient.from_connection_string(az_env.connection_string) as service:
        service.get_blob_client(az_container, "data/a ü.bin").upload_blob(BODY)
    return az_container


def service(az_env, **more):
    return blob.BlobServiceClient.from_connection_string(az_env.connection_string, **more)


def test_ranges_whole_blobs_and_other_requests_have_their_kinds_of_op(container, az_env, trace, ops):
    with capture.start(trace, hooks=["azure"]), service(az_env) as client, step(2), sample(9):
        one = client.get_blob_client(container, "data/a ü.bin")
        assert one.download_blob(offset=100, length=1000).readall() == BODY[100:1100]
        assert one.download_blob().readall() == BODY
        one.get_blob_properties()
        other = client.get_blob_client(container, "b")
        other.upload_blob(b"12345")
        list(client.get_container_client(container).list_blobs(name_starts_with="data/"))
        other.delete_blob()
    found = ops(trace)
    assert facts(found) == [
        ("read", 100, 1000, 1000, None),
        ("get", None, SIZE, SIZE, None),
        ("stat", None, None, None, None),
        ("put", None, 5, 5, None),
        ("list", None, None, None, None),
        ("delete", None, None, None, None),
    ]
    assert found[0]["uri"] == f"az://{container}/data/a ü.bin"
    assert found[4]["uri"] == f"az://{container}/data/"
    assert {(row["sample_id"], row["step"]) for row in found} == {(9, 2)}
    assert all(0 < row["ttfb"] <= row["latency"] for row in found)


def test_large_blobs_come_in_the_ranges_that_the_sdk_asks_for(container, az_env, trace, ops):
    small = {"max_single_get_size": 40_000, "max_chunk_get_size": 40_000}
    with capture.start(trace, hooks=["azure"]), service(az_env, **small) as client:
        one = client.get_blob_client(container, "data/a ü.bin")
        assert one.download_blob(max_concurrency=2).readall() == BODY
    assert sorted(facts(ops(trace))) == [
        ("read", 0, 40_000, 40_000, None),
        ("read", 40_000, 40_000, 40_000, None),
        ("read", 80_000, 22_400, 22_400, None),
    ]


def test_each_retry_is_a_row(container, az_env, trace, ops, fault_proxy):
    proxy = fault_proxy(az_env.endpoint)
    proxy.faults += [servers.Fault(503, "<Error><Code>ServerBusy</Code></Error>")] * 2
    connection = az_env.connection_string.replace(az_env.endpoint, proxy.endpoint)
    with capture.start(trace, hooks=["azure"]):
        client = blob.BlobServiceClient.from_connection_string(
            connection, retry_policy=blob.LinearRetry(backoff=0, retry_total=3, random_jitter_range=0)
        )
        one = client.get_blob_client(container, "data/a ü.bin")
        assert one.download_blob(offset=0, length=10).readall() == BODY[:10]
        with pytest.raises(Exception, match="does not exist"):
            client.get_blob_client(container, "none").download_blob()
    assert facts(ops(trace))[:3] == [
        ("read", 0, 10, 0, "throttled"),
        ("read", 0, 10, 0, "throttled"),
        ("read", 0, 10, 10, None),
    ]
    assert ops(trace)[-1]["error"] == "not_found"
    assert open_reader(trace).counters == {"retries": 2, "throttles": 2}


def test_asynchronous_clients_keep_the_samples_of_their_tasks(container, az_env, trace, ops):
    aio = pytest.importorskip("azure.storage.blob.aio")
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")

    async def run():
        async with aio.BlobServiceClient.from_connection_string(az_env.connection_string) as client:
            one = client.get_blob_client(container, "data/a ü.bin")

            async def fetch(number):
                with sample(number):
                    return await (await one.download_blob(offset=number * 10, length=10)).readall()

            return await asyncio.gather(*(fetch(number) for number in range(6)))

    with capture.start(trace, hooks=["azure"]):
        assert asyncio.run(run()) == [BODY[n * 10 : n * 10 + 10] for n in range(6)]
    assert sorted((r["sample_id"], r["offset"], r["bytes"], r["error"]) for r in ops(trace)) == [
        (n, n * 10, 10, None) for n in range(6)
    ]


def test_adlfs_is_recorded_once_by_the_hook_below_it(container, az_env, trace, ops):
    pytest.importorskip("adlfs", reason="adlfs is not installed")
    import fsspec

    with capture.start(trace):
        filesystem = fsspec.filesystem(
            "abfs", connection_string=az_env.connection_string, skip_instance_cache=True
        )
        with step(4), filesystem.open(f"{container}/data/a ü.bin", block_size=20_000) as file:
            file.seek(10)
            file.read(10)
    reads = [r for r in ops(trace) if r["op"] in ("read", "get")]
    assert [(r["uri"], r["offset"], r["step"]) for r in reads] == [(f"az://{container}/data/a ü.bin", 10, 4)]


def test_a_sas_token_never_reaches_a_trace(container, az_env, trace):
    sas = blob.generate_blob_sas(
        servers.AZURITE_ACCOUNT, container, "data/a ü.bin", account_key=servers.AZURITE_KEY,
        permission="r", expiry=datetime.now(UTC) + timedelta(hours=1),
    )  # fmt: skip
    with capture.start(trace, hooks=["azure"]):
        url = f"{az_env.endpoint}/{container}/data/a%20%C3%BC.bin?{sas}"
        with blob.BlobClient.from_blob_url(url) as one:
            assert one.download_blob(offset=0, length=10).readall() == BODY[:10]
    reader = open_reader(trace)
    rows = str(reader.query("SELECT * FROM ops").to_pylist())
    raw = b"".join(path.read_bytes() for path in trace.iterdir())
    assert reader.rows == 1 and "?" not in rows and "sig" not in rows
    assert b"sig=" not in raw and servers.AZURITE_KEY.encode() not in raw


def test_stop_leaves_no_policy_behind(container, az_env, trace):
    from azure.storage.blob._shared import base_client

    before = base_client.StorageAccountHostsMixin._create_pipeline
    with capture.start(trace, hooks=["azure"]):
        assert base_client.StorageAccountHostsMixin._create_pipeline is not before
    assert base_client.StorageAccountHostsMixin._create_pipeline is before
