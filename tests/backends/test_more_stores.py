"""Google Cloud Storage, web servers, other spellings, and stores that ignore create-only puts."""

from __future__ import annotations

import http.server
import json
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import servers

from tracekit import backend_for, create_dataset, import_trace, open_trace, replay
from tracekit.backends.objects.gs import GsOptions
from tracekit.backends.objects.gs_changes import gs_changes
from tracekit.backends.objects.native.client import NativeClient
from tracekit.backends.objects.native.endpoint import endpoints_of, limits_of
from tracekit.backends.objects.native.gs import GsService
from tracekit.backends.objects.store import ObjectStoreBackend
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


@pytest.mark.server
def test_objects_of_google_are_copied_renamed_and_deleted_by_the_store(gcs: str) -> None:
    backend = backend_for("gs://bucket", endpoint=gcs, anonymous=True, retries=0)
    for key in ("moves/a b?", "moves/c/d"):
        backend.put(f"gs://bucket/{key.replace('?', '%3F')}", BODY)
    backend.changer.copy("gs://bucket/moves/a b%3F", "gs://bucket/moves/e%25")
    backend.changer.rename("gs://bucket/moves/c/d", "gs://bucket/moves/f")
    backend.changer.delete("gs://bucket/moves/a b%3F")
    assert [info.uri for info in backend.list("gs://bucket/moves")] == [
        "gs://bucket/moves/e%25",
        "gs://bucket/moves/f",
    ]
    assert bytes(backend.open("gs://bucket/moves/e%25").get()[0]) == BODY
    with pytest.raises(BackendError) as raised:
        backend.changer.copy("gs://bucket/moves/none", "gs://bucket/moves/g")
    assert raised.value.error_class == "not_found"
    counters = backend.counters
    assert (counters["copies"], counters["deletes"]) == (3, 2)
    backend.close()


@pytest.mark.server
def test_a_large_copy_of_google_goes_on_until_it_is_done() -> None:
    answers = [{"done": False, "rewriteToken": "t/1"}, {"done": True}]

    class Rewrites(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(self.path)
            body = json.dumps(answers[len(seen) - 1]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    seen: list[str] = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Rewrites)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    backend = backend_for("gs://two", endpoint=f"http://127.0.0.1:{server.server_port}", anonymous=True)
    backend.changer.copy("gs://one/a/b", "gs://two/c")
    server.shutdown()
    server.server_close()
    path = "/storage/v1/b/one/o/a%2Fb/rewriteTo/b/two/o/c"
    assert seen == [path, f"{path}?rewriteToken=t%2F1"]
    backend.close()


@pytest.mark.server
def test_uploads_in_parts_to_google_are_those_of_its_xml_interface(
    s3_env: servers.S3Server, s3_bucket: str
) -> None:
    """moto speaks the same requests; fake-gcs-server has no uploads in parts."""
    options = GsOptions(endpoint=s3_env.endpoint, anonymous=True)
    service = GsService(s3_bucket, endpoints_of((s3_env.endpoint,), options))
    client = NativeClient(service, limits_of(options), lambda _: None, False)
    changes = gs_changes(client, lambda _: None, emulated=False, total_timeout_s=None)
    first, second = memoryview(BODY * 2560), memoryview(BODY)
    whole, given_up = changes.begin("parts/a b"), changes.begin("parts/c")
    tags = [(2, changes.part("parts/a b", whole, 2, second)), (1, changes.part("parts/a b", whole, 1, first))]
    changes.part("parts/c", given_up, 1, second)
    changes.abort("parts/c", given_up)
    changes.complete("parts/a b", whole, sorted(tags))
    assert list(client.pages("parts", "")) == [[("parts/a b", len(first) + len(second))]]
    assert bytes(client.get("parts/a b", None)[0] or b"") == BODY * 2561
    changes.close()


@pytest.mark.server
def test_uploads_in_parts_to_an_emulator_of_google_leave_one_object(gcs: str) -> None:
    backend = backend_for("gs://bucket", endpoint=gcs, anonymous=True, retries=0)
    uri = "gs://bucket/joined/a b"
    whole, given_up = backend.changer.upload(uri), backend.changer.upload(f"{uri}2")
    for number in range(70, 0, -1):
        whole.part(number, 0, memoryview(b"%02d" % number))
    whole.part(7, 0, memoryview(b"again"))
    given_up.part(1, 0, memoryview(b"x"))
    given_up.abort()
    whole.complete()
    assert [info.uri for info in backend.list("gs://bucket/joined")] == [uri]
    assert bytes(backend.open(uri).get()[0]) == b"".join(
        b"again" if number == 7 else b"%02d" % number for number in range(1, 71)
    )
    backend.close()


@pytest.mark.server
def test_changes_replay_on_google(gcs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs)
    done = [
        ("write", "/d/a", 0, 1000, None), ("write", "/d/a", 1000, 24, None), ("rename", "/d/a", None, None, "/d/b"),
        ("copy", "/d/b", None, None, "/d/c"), ("delete", "/d/b", None, None, None), ("put", "/d/e", None, 10, None),
        ("get", "/d/c", None, 1024, None),
    ]  # fmt: skip
    lines = [
        {"t_submit": i * 10**6, "op": op, "uri": uri, "offset": at, "len": size, "bytes": size or 0, "latency": 1000,
         "to_uri": to}
        for i, (op, uri, at, size, to) in enumerate(done)
    ]  # fmt: skip
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    import_trace("jsonl", tmp_path / "log.jsonl", tmp_path / "t")
    rule = "file:///d=gs://bucket/replayed"
    result = replay(
        tmp_path / "t", map=rule, out=tmp_path / "r", allow_writes=True, pace="asap", tolerance=1e9
    )
    assert (result.ops, result.failed_ops) == (len(done), 0)
    backend = backend_for("gs://bucket")
    found = {info.uri: info.size for info in backend.list("gs://bucket/replayed")}
    assert found == {"gs://bucket/replayed/c": 1024, "gs://bucket/replayed/e": 10}
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
    backend.close()


@pytest.mark.server
@pytest.mark.parametrize("client", ["native", "obstore", "azure-sdk"])
def test_a_uri_of_azure_may_name_its_account_as_hadoop_does(
    az_env: servers.AzuriteServer, az_container: str, client: str, tmp_path: Path
) -> None:
    root = f"abfss://{az_container}@{servers.AZURITE_ACCOUNT}.dfs.core.windows.net"
    backend = backend_for(root, client=client)
    backend.put(f"{root}/d/k", BODY)
    backend.changer.copy(f"{root}/d/k", f"{root}/d/l")
    assert [info.uri for info in backend.list(root)] == [f"{root}/d/k", f"{root}/d/l"]
    assert bytes(backend.open(f"{root}/d/l").get()[0]) == BODY
    with pytest.raises(UsageError, match="the account in use is devstoreaccount1"):
        backend.stat(f"abfss://{az_container}@other.dfs.core.windows.net/d/k")
    backend.close()
    table = {"uri": [f"{root}/d/k"], "offset": [0], "len": [100], "t_submit": [0], "sample_id": [0]}
    pq.write_table(pa.table({**table, "latency": [1000]}), tmp_path / "a.parquet")
    result = replay(tmp_path / "a.parquet", out=tmp_path / "r", client=client)
    assert (result.ops, result.failed_ops) == (1, 0)
    assert open_trace(tmp_path / "r").query("SELECT uri FROM ops").to_pylist() == [{"uri": f"{root}/d/k"}]


def test_the_account_in_a_uri_counts_as_the_option_and_has_one_host(clean_env: pytest.MonkeyPatch) -> None:
    clean_env.setenv("AZURE_STORAGE_KEY", "a2V5")
    root = "abfss://lake@acc.dfs.core.windows.net"
    backend = backend_for(root)
    assert isinstance(backend, ObjectStoreBackend)
    assert backend.endpoint == "https://acc.blob.core.windows.net"
    with pytest.raises(UsageError, match=r"give endpoint=https://acc\.blob\.core\.example\.net"):
        backend.open("abfss://lake@acc.dfs.core.example.net/k")
    with pytest.raises(UsageError, match="the account in use is other"):
        backend_for(root, account="other").open(f"{root}/k")
    with pytest.raises(UsageError, match="invalid container or account"):
        backend.open("abfss://la ke@acc.dfs.core.windows.net/k")


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
