"""Google Cloud Storage, web servers, other spellings, and stores that ignore create-only puts."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import servers

from tracekit import backend_for, create_dataset, replay
from tracekit.errors import BackendError, UsageError

BODY = bytes(range(256)) * 8


@pytest.fixture(scope="module")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    try:
        with servers.gcs_server(tmp_path_factory.mktemp("gcs") / "log") as endpoint:
            made = json.dumps({"name": "bucket"}).encode()
            asked = urllib.request.Request(
                f"{endpoint}/storage/v1/b", made, {"Content-Type": "application/json"}
            )
            urllib.request.urlopen(asked, timeout=20).close()
            yield endpoint
    except servers.Unavailable as missing:
        pytest.skip(str(missing))


@pytest.mark.server
@pytest.mark.parametrize("scheme", ["gs", "gcs"])
def test_google_cloud_storage_is_read_listed_and_written(
    gcs: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs)
    backend = backend_for(f"{scheme}://bucket", retries=0)
    root = f"{scheme}://bucket/{scheme}-dir"
    for key in ("b", "a c?", "d/e"):
        assert backend.put(f"{root}/{key.replace('?', '%3F')}", BODY) == len(BODY)
    assert [info.uri for info in backend.list(root)] == [f"{root}/a c%3F", f"{root}/b", f"{root}/d/e"]
    assert backend.stat(f"{root}/b").size == len(BODY)
    buffer = backend.allocate(100)
    assert backend.open(f"{root}/b").read_into(2000, buffer).nbytes == 48
    assert bytes(buffer[:48]) == BODY[2000:]
    assert bytes(backend.open(f"{root}/a c%3F").get()[0]) == BODY
    for call in (backend.stat, lambda uri: backend.open(uri).get()):
        with pytest.raises(BackendError) as raised:
            call(f"{root}/none")
        assert raised.value.error_class == "not_found"
    backend.close()


@pytest.mark.server
def test_a_store_that_ignores_create_only_is_found_out_and_asked_first(gcs: str) -> None:
    backend = backend_for("gs://bucket", endpoint=gcs, anonymous=True, retries=0)
    backend.put("gs://bucket/once/a", b"first")
    assert backend.counters["puts"] == 2  # the second is the probe
    for uri in ("gs://bucket/once/a", "gs://bucket/once/b", "gs://bucket/once/b"):
        if uri.endswith("b") and backend.counters["puts"] == 2:
            backend.put(uri, b"first")
            continue
        with pytest.raises(BackendError, match="already exists") as raised:
            backend.put(uri, b"second")
        assert raised.value.error_class == "exists"
        assert bytes(backend.open(uri).get()[0]) == b"first"
    backend.close()


def test_a_login_token_is_not_sent_without_tls() -> None:
    with pytest.raises(UsageError, match="without TLS"):
        backend_for("gs://bucket", endpoint="http://127.0.0.1:1")


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "object").write_bytes(BODY)
    (folder / "empty").write_bytes(b"")
    try:
        with servers.nginx_bucket(folder, tmp_path / "nginx") as server:
            yield f"{server.endpoint}/bucket"
    except servers.Unavailable as missing:
        pytest.skip(str(missing))


@pytest.mark.server
def test_a_web_server_is_read_only(web: str) -> None:
    backend = backend_for(web)
    uri = f"{web}/object"
    backend.preflight(uri)
    assert (backend.stat(uri).size, backend.stat(f"{web}/empty").size) == (len(BODY), 0)
    assert [info.uri for info in backend.list(uri)] == [uri]
    buffer = backend.allocate(10)
    assert backend.open(uri).read_into(5, buffer).nbytes == 10
    assert bytes(buffer) == BODY[5:15]
    assert bytes(backend.open(uri).get()[0]) == BODY
    with pytest.raises(BackendError, match="read only"):
        backend.put(f"{web}/new", b"x")
    with pytest.raises(BackendError, match="no such object"):
        backend.stat(f"{web}/none")
    backend.close()


@pytest.mark.server
def test_the_signature_of_a_url_is_sent_and_reaches_no_trace(web: str, tmp_path: Path) -> None:
    signed = f"{web}/object?X-Amz-Signature=hush123&X-Amz-Expires=60"
    (sample,) = create_dataset(signed)
    assert "hush123" not in sample.uri and sample.length == len(BODY)
    backend = backend_for(web)
    assert bytes(backend.open(signed).get()[0]) == BODY
    with pytest.raises(BackendError) as raised:
        backend.stat(f"{web}/none?sig=hush123")
    assert "hush123" not in str(raised.value)
    table = {"uri": [f"{web}/object"], "offset": [0], "len": [100], "t_submit": [0], "sample_id": [0]}
    pq.write_table(pa.table({**table, "latency": [1000]}), tmp_path / "a.parquet")
    replay(tmp_path / "a.parquet", out=tmp_path / "r")
    written = b"".join(path.read_bytes() for path in (tmp_path / "r").rglob("*") if path.is_file())
    assert b"hush123" not in written


@pytest.mark.server
@pytest.mark.parametrize("scheme", ["abfs", "abfss"])
def test_other_spellings_of_azure_are_understood(az_container: str, scheme: str) -> None:
    backend = backend_for(f"{scheme}://{az_container}")
    backend.put(f"{scheme}://{az_container}/k", BODY)
    assert [info.uri for info in backend.list(f"{scheme}://{az_container}")] == [
        f"{scheme}://{az_container}/k"
    ]
    with pytest.raises(UsageError, match="give account="):
        backend.stat(f"{scheme}://{az_container}@account.dfs.core.windows.net/k")
    backend.close()


@pytest.mark.server
def test_an_object_that_google_stores_compressed_is_read_as_it_is_stored(
    gcs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gzip

    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs)
    packed = gzip.compress(BODY)
    about = json.dumps({"name": "packed", "contentEncoding": "gzip"}).encode()
    parts = (b"application/json", about), (b"application/octet-stream", packed)
    body = (
        b"".join(b"--x\r\nContent-Type: " + kind + b"\r\n\r\n" + part + b"\r\n" for kind, part in parts)
        + b"--x--"
    )
    upload = f"{gcs}/upload/storage/v1/b/bucket/o?uploadType=multipart"
    sent = urllib.request.Request(upload, body, {"Content-Type": "multipart/related; boundary=x"})
    urllib.request.urlopen(sent, timeout=20).close()
    backend = backend_for("gs://bucket", retries=0)
    assert bytes(backend.open("gs://bucket/packed").get()[0]) == packed
    buffer = backend.allocate(10)
    assert backend.open("gs://bucket/packed").read_into(3, buffer).nbytes == 10
    assert bytes(buffer) == packed[3:13]
    backend.close()
