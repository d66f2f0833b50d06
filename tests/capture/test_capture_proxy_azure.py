"""The recording proxy in front of Azure Blob Storage."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import servers

import tracekit
from tracekit.capture.command import capture_command
from tracekit.errors import UsageError
from tracekit.store.reader import open_reader

pytestmark = pytest.mark.server
blob = pytest.importorskip("azure.storage.blob", reason="azure-storage-blob is not installed")


def facts(trace: Path, *columns: str) -> list[tuple[Any, ...]]:
    found = open_reader(trace).query("SELECT * FROM ops ORDER BY t_submit").to_pylist()
    return [tuple(row[column] for column in columns) for row in found]


def client(proxy: tracekit.Proxy, **options: Any) -> Any:
    text = proxy.environment()["AZURE_STORAGE_CONNECTION_STRING"]
    return blob.BlobServiceClient.from_connection_string(text, retry_total=0, **options)


def test_each_request_is_one_row(az_env: servers.AzuriteServer, az_container: str, trace: Path) -> None:
    key = f"az://{az_container}/a b/ü"
    with tracekit.proxy(trace, "az://") as proxy, client(proxy) as service:
        one = service.get_blob_client(az_container, "a b/ü")
        one.upload_blob(b"0123456789" * 1000, overwrite=True)
        assert one.download_blob().readall() == b"0123456789" * 1000
        assert one.download_blob(offset=105, length=20).readall() == b"56789012345678901234"
        one.get_blob_properties()
        copied = service.get_blob_client(az_container, "copy")
        copied.start_copy_from_url(one.url)
        assert [found.name for found in service.get_container_client(az_container).list_blobs("a b")] == [
            "a b/ü"
        ]
        copied.delete_blob()
        with pytest.raises(Exception, match="BlobNotFound"):
            copied.download_blob()
    assert facts(trace, "op", "uri", "offset", "len", "bytes", "error") == [
        ("put", key, None, 10_000, 10_000, None),
        ("get", key, None, 10_000, 10_000, None),
        ("read", key, 105, 20, 20, None),
        ("stat", key, None, None, None, None),
        ("copy", key, None, None, None, None),
        ("list", f"az://{az_container}/a b", None, None, None, None),
        ("delete", f"az://{az_container}/copy", None, None, None, None),
        ("read", f"az://{az_container}/copy", 0, 33_554_432, 0, "not_found"),
    ]
    assert facts(trace, "to_uri")[4] == (f"az://{az_container}/copy",)


def test_blocks_are_parts_in_the_order_in_which_they_were_sent(
    az_env: servers.AzuriteServer, az_container: str, trace: Path
) -> None:
    with tracekit.proxy(trace, f"az://{az_container}/") as proxy, client(proxy) as service:
        one = service.get_blob_client(az_container, "blocks")
        for name, size in (("b", 300), ("a", 200), ("c", 100)):
            one.stage_block(name, bytes(size))
        one.commit_block_list([blob.BlobBlock(name) for name in "bac"])
        log = service.get_blob_client(az_container, "log")
        log.create_append_blob()
        log.append_block(b"12345")
        log.append_block(b"678")
    assert facts(trace, "op", "part", "offset", "len", "bytes") == [
        ("part", 1, 0, 300, 300),
        ("part", 2, 300, 200, 200),
        ("part", 3, 500, 100, 100),
        ("complete", None, None, None, None),
        ("write", None, 0, 5, 5),
        ("write", None, 5, 3, 3),
    ]
    assert open_reader(trace).counters["other_requests"] == 1


def test_shared_access_signatures_pass(az_env: servers.AzuriteServer, az_container: str, trace: Path) -> None:
    az_env.put(az_container, "k", b"x" * 500)
    from datetime import UTC, datetime, timedelta

    token = blob.generate_blob_sas(
        servers.AZURITE_ACCOUNT, az_container, "k", account_key=servers.AZURITE_KEY,
        permission="r", expiry=datetime.now(UTC) + timedelta(hours=1),
    )  # fmt: skip
    with (
        tracekit.proxy(trace, "az://") as proxy,
        blob.BlobClient.from_blob_url(f"{proxy.endpoint}/{az_container}/k?{token}") as one,
    ):
        assert one.download_blob().readall() == b"x" * 500
    assert facts(trace, "op", "uri", "bytes") == [("get", f"az://{az_container}/k", 500)]
    assert "sig=" not in json.dumps(open_reader(trace).options)


class Cloud:
    """A store that has no account in its path, as Azure itself; what it was asked, and with which signature."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, str]] = []
        seen = self.seen

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                signed = {name.lower(): value for name, value in self.headers.items()}
                seen.append((self.path, signed.get("authorization", ""), json.dumps(signed)))
                self.send_response(206)
                self.send_header("Content-Length", "4")
                self.send_header("Content-Range", "bytes 2-5/9")
                self.end_headers()
                self.wfile.write(b"data")

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    made = Cloud()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_a_request_is_signed_again_for_a_store_without_the_account_in_its_path(
    cloud: Cloud, trace: Path, clean_env: pytest.MonkeyPatch
) -> None:
    from azure.core.pipeline import PipelineContext, PipelineRequest
    from azure.core.rest import HttpRequest
    from azure.storage.blob._shared.authentication import SharedKeyCredentialPolicy

    clean_env.setenv("AZURE_STORAGE_ACCOUNT", servers.AZURITE_ACCOUNT)
    clean_env.setenv("AZURE_STORAGE_KEY", servers.AZURITE_KEY)
    with tracekit.proxy(trace, "az://", upstream=cloud.endpoint) as proxy:
        with client(proxy) as service:
            service.get_blob_client("box", "a b").download_blob(offset=2, length=4).readall()
        others = proxy.environment()["AZURE_STORAGE_CONNECTION_STRING"].replace("Eby8", "AAAA")
        with (
            blob.BlobServiceClient.from_connection_string(others, retry_total=0) as service,
            pytest.raises(Exception, match="not signed with the account key"),
        ):
            service.get_blob_client("box", "a b").download_blob()
    ((path, signature, headers),) = cloud.seen
    assert path == "/box/a%20b"
    signed = json.loads(headers)

    sent = {name: value for name, value in signed.items() if name != "authorization"}
    asked = PipelineRequest(
        HttpRequest("GET", f"{cloud.endpoint}{path}", headers=sent), PipelineContext(None)
    )
    SharedKeyCredentialPolicy(servers.AZURITE_ACCOUNT, servers.AZURITE_KEY).on_request(asked)
    assert asked.http_request.headers["Authorization"] == signature
    assert facts(trace, "op", "uri", "error") == [
        ("read", "az://box/a b", None),
        ("read", "az://box/a b", "permission"),
    ]


def test_a_command_is_led_to_it(
    az_env: servers.AzuriteServer, az_container: str, trace: Path, tmp_path: Path, s3_env: Any
) -> None:
    pytest.importorskip("obstore", reason="obstore is not installed")
    for name, value in az_env.env.items():
        os.environ[name] = value
    az_env.put(az_container, "k", bytes(1000))
    code = f"""
        import os
        from azure.storage.blob import BlobServiceClient
        from obstore.store import AzureStore
        with BlobServiceClient.from_connection_string(os.environ["AZURE_STORAGE_CONNECTION_STRING"]) as service:
            service.get_blob_client("{az_container}", "k").download_blob(offset=0, length=300).readall()
        store = AzureStore("{az_container}", account_name="{servers.AZURITE_ACCOUNT}", account_key="{servers.AZURITE_KEY}")
        store.get_range("k", start=100, length=200)
    """
    try:
        done = capture_command([sys.executable, "-c", textwrap.dedent(code)], trace, proxy=True)
    finally:
        for name in az_env.env:
            del os.environ[name]
    assert done.exit_code == 0
    assert facts(trace, "op", "uri", "offset", "bytes") == [
        ("read", f"az://{az_container}/k", 0, 300), ("read", f"az://{az_container}/k", 100, 200),
    ]  # fmt: skip
    assert sum("requests were passed on to" in note for note in done.notes) == 2


def test_no_credential_is_shown(az_env: servers.AzuriteServer, trace: Path) -> None:
    main = [sys.executable, "-m", "tracekit", "proxy", "az://", "-o", str(trace), "--json"]
    with subprocess.Popen(main, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        assert running.stdout is not None
        said = running.stdout.readline()
        running.terminate()
        said += running.stdout.read()
    shown = json.loads(said.splitlines()[0])
    assert shown["endpoint"].endswith(f"/{servers.AZURITE_ACCOUNT}")
    assert shown["environment"]["AZURE_STORAGE_BLOB_ENDPOINT"] == shown["endpoint"]
    assert servers.AZURITE_KEY not in said


def test_without_an_account_it_is_refused(clean_env: pytest.MonkeyPatch, trace: Path) -> None:
    with pytest.raises(UsageError, match="no storage account"):
        tracekit.proxy(trace, "az://box")
    assert not trace.exists()
