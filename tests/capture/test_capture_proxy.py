"""The recording proxy: clients of several languages in front, and the store's own log as the judge."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import boto3
import pytest
import servers
from botocore.client import Config

import tracekit
from tracekit.capture.command import capture_command
from tracekit.errors import UsageError
from tracekit.store.reader import open_reader

pytestmark = pytest.mark.server
MIB = 1 << 20
_SIGNED = "Authorization: AWS4-HMAC-SHA256 Credential=testing/20240101/us-east-1/s3/aws4_request, Signature=0"
_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_REQUEST = re.compile(r'"([A-Z]+) (\S+) HTTP/[\d.]+" (\d+)')


class Store:
    """A moto server of its own, and what it logged."""

    def __init__(self, server: servers.S3Server, log: Path) -> None:
        self.server, self._log = server, log

    def client(self, endpoint: str | None = None, **config: Any) -> Any:
        settings = Config(retries={"max_attempts": 3, "mode": "standard"}, **config)
        return boto3.session.Session().client(
            "s3", endpoint_url=endpoint or self.server.endpoint, config=settings
        )

    def position(self) -> int:
        return self._log.stat().st_size

    def requests(self, since: int) -> Counter[tuple[str, str]]:
        """Method and path of each request that the server logged."""
        text = _COLOUR.sub("", self._log.read_bytes()[since:].decode())
        return Counter((found[1], unquote(found[2].partition("?")[0])) for found in _REQUEST.finditer(text))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    log = tmp_path_factory.mktemp("proxied") / "log"
    with servers.moto_server(log) as server:
        yield Store(server, log)


@pytest.fixture
def store(served: Store, clean_env: pytest.MonkeyPatch) -> Store:
    for name, value in served.server.env.items():
        clean_env.setenv(name, value)
    return served


@pytest.fixture
def bucket(store: Store, request: pytest.FixtureRequest) -> str:
    name = f"b{abs(hash(request.node.nodeid)) % 10**9}"
    store.client().create_bucket(Bucket=name)
    return name


def rows(trace: Path, where: str = "true") -> list[dict[str, Any]]:
    """The ops of a trace in order of time."""
    return open_reader(trace).query(f"SELECT * FROM ops WHERE {where} ORDER BY t_submit").to_pylist()


def counters(trace: Path) -> dict[str, int]:
    return dict(open_reader(trace).counters)


def facts(found: list[dict[str, Any]], *columns: str) -> list[tuple[Any, ...]]:
    return [tuple(row[column] for column in columns) for row in found]


def test_each_request_is_one_row_and_the_store_logs_the_same(store: Store, bucket: str, trace: Path) -> None:
    data = os.urandom(3 * MIB)
    since = store.position()
    with tracekit.proxy(trace) as proxy:
        client = store.client(proxy.endpoint)
        client.put_object(Bucket=bucket, Key="a b/ü%.bin", Body=data)
        whole = client.get_object(Bucket=bucket, Key="a b/ü%.bin")["Body"].read()
        part = client.get_object(Bucket=bucket, Key="a b/ü%.bin", Range="bytes=100-1099")["Body"].read()
        tail = client.get_object(Bucket=bucket, Key="a b/ü%.bin", Range="bytes=-50")["Body"].read()
        client.head_object(Bucket=bucket, Key="a b/ü%.bin")
        client.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "a b/ü%.bin"})
        listed = client.list_objects_v2(Bucket=bucket, Prefix="a b/")["Contents"]
        client.delete_object(Bucket=bucket, Key="copy")
        client.get_bucket_location(Bucket=bucket)
        with pytest.raises(client.exceptions.NoSuchKey):
            client.get_object(Bucket=bucket, Key="absent")
    assert (whole, part, tail) == (data, data[100:1100], data[-50:])
    assert [one["Key"] for one in listed] == ["a b/ü%.bin"]
    key = f"s3://{bucket}/a b/ü%25.bin"
    found = rows(trace)
    assert facts(found, "op", "uri", "offset", "len", "bytes", "error") == [
        ("put", key, None, 3 * MIB, 3 * MIB, None),
        ("get", key, None, 3 * MIB, 3 * MIB, None),
        ("read", key, 100, 1000, 1000, None),
        ("read", key, 3 * MIB - 50, 50, 50, None),
        ("stat", key, None, None, None, None),
        ("copy", key, None, None, None, None),
        ("list", f"s3://{bucket}/a b/", None, None, None, None),
        ("delete", f"s3://{bucket}/copy", None, None, None, None),
        ("stat", f"s3://{bucket}/", None, None, None, None),
        ("get", f"s3://{bucket}/absent", None, None, 0, "not_found"),
    ]
    assert found[5]["to_uri"] == f"s3://{bucket}/copy"
    assert all(0 <= row["ttfb"] <= row["latency"] for row in found)
    assert sum(store.requests(since).values()) == len(found)


def test_a_multipart_upload_is_its_parts_and_their_completion(store: Store, bucket: str, trace: Path) -> None:
    data = os.urandom(11 * MIB)
    since = store.position()
    with tracekit.proxy(trace) as proxy:
        client = store.client(proxy.endpoint)
        upload = {"Bucket": bucket, "Key": "big"}
        upload["UploadId"] = client.create_multipart_upload(**upload)["UploadId"]
        parts = [
            {"PartNumber": n + 1, "ETag": client.upload_part(**upload, PartNumber=n + 1, Body=data[n * 5 * MIB : (n + 1) * 5 * MIB])["ETag"]}
            for n in range(3)
        ]  # fmt: skip
        client.list_parts(**upload)
        client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
        other = client.create_multipart_upload(Bucket=bucket, Key="other")["UploadId"]
        client.abort_multipart_upload(Bucket=bucket, Key="other", UploadId=other)
    assert store.client().get_object(Bucket=bucket, Key="big")["Body"].read() == data
    assert facts(rows(trace), "op", "part", "offset", "len", "bytes") == [
        ("part", 1, 0, 5 * MIB, 5 * MIB),
        ("part", 2, 5 * MIB, 5 * MIB, 5 * MIB),
        ("part", 3, 10 * MIB, MIB, MIB),
        ("list", None, None, None, None),
        ("complete", None, None, None, None),
        ("abort", None, None, None, None),
    ]
    assert counters(trace)["other_requests"] == 2  # the starts of the uploads
    assert sum(store.requests(since).values()) - 1 == len(rows(trace)) + 2


def test_a_part_that_the_store_copies_is_a_copy_with_its_number(
    store: Store, bucket: str, trace: Path
) -> None:
    store.client().put_object(Bucket=bucket, Key="src", Body=bytes(6 * MIB))
    with tracekit.proxy(trace) as proxy:
        client = store.client(proxy.endpoint)
        upload = {"Bucket": bucket, "Key": "new"}
        upload["UploadId"] = client.create_multipart_upload(**upload)["UploadId"]
        copied = client.upload_part_copy(
            **upload, PartNumber=1, CopySource=f"{bucket}/src", CopySourceRange=f"bytes=7-{5 * MIB + 6}"
        )
        sent = client.upload_part(**upload, PartNumber=2, Body=b"x" * 1000)
        tags = [copied["CopyPartResult"]["ETag"], sent["ETag"]]
        parts = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, 1)]
        client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    assert facts(rows(trace), "op", "uri", "part", "offset", "len", "bytes", "to_uri") == [
        ("copy", f"s3://{bucket}/src", 1, 7, 5 * MIB, None, f"s3://{bucket}/new"),
        ("part", f"s3://{bucket}/new", 2, 5 * MIB, 1000, 1000, None),
        ("complete", f"s3://{bucket}/new", None, None, None, None, None),
    ]


def test_a_request_that_deletes_several_objects_is_a_row_for_each(
    store: Store, bucket: str, trace: Path
) -> None:
    names = ["a", "b&c", "d e"]
    for name in names:
        store.server.put(bucket, name, b"x")
    with tracekit.proxy(trace) as proxy:
        done = store.client(proxy.endpoint).delete_objects(
            Bucket=bucket, Delete={"Objects": [{"Key": name} for name in names]}
        )
    assert sorted(one["Key"] for one in done["Deleted"]) == names
    assert sorted(row["uri"] for row in rows(trace, "op = 'delete'")) == [f"s3://{bucket}/{n}" for n in names]


def test_a_compressed_object_passes_as_it_is(store: Store, bucket: str, trace: Path) -> None:
    packed = gzip.compress(b"text " * 10_000)
    store.client().put_object(Bucket=bucket, Key="x.gz", Body=packed, ContentEncoding="gzip")
    with tracekit.proxy(trace) as proxy:
        got = store.client(proxy.endpoint).get_object(Bucket=bucket, Key="x.gz")
        assert got["Body"].read() == packed
        assert got["ContentEncoding"] == "gzip"
    assert facts(rows(trace), "op", "bytes") == [("get", len(packed))]


def test_what_pyarrow_reads_is_recorded_as_the_store_logs_it(store: Store, bucket: str, trace: Path) -> None:
    fs = pytest.importorskip("pyarrow.fs")
    data = os.urandom(MIB)
    with tracekit.proxy(trace) as proxy:
        s3 = fs.S3FileSystem(
            access_key="testing", secret_key="testing-secret-key", region="us-east-1", scheme="http",
            endpoint_override=urlsplit(proxy.endpoint).netloc, background_writes=False,
        )  # fmt: skip
        with s3.open_output_stream(f"{bucket}/arrow.bin") as out:
            out.write(data)
        since = store.position()
        with s3.open_input_file(f"{bucket}/arrow.bin") as file:
            assert file.read_at(5000, 100_000) == data[100_000:105_000]
            assert file.read_at(MIB, 0) == data
        logged = store.requests(since)
    found = rows(trace, "op IN ('read', 'get')")
    assert facts(found, "offset", "len", "bytes") == [(100_000, 5000, 5000), (0, MIB, MIB)]
    assert logged["GET", f"/{bucket}/arrow.bin"] == len(found)
    assert store.client().get_object(Bucket=bucket, Key="arrow.bin")["Body"].read() == data


def test_what_polars_reads_is_recorded_as_the_store_logs_it(store: Store, bucket: str, trace: Path) -> None:
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"x": range(200_000), "y": [str(i) for i in range(200_000)]})
    with tracekit.proxy(trace) as proxy:
        settings = {
            "aws_endpoint_url": proxy.endpoint, "aws_access_key_id": "testing", "aws_region": "us-east-1",
            "aws_secret_access_key": "testing-secret-key", "aws_allow_http": "true",
        }  # fmt: skip
        frame.write_parquet(f"s3://{bucket}/t.parquet", storage_options=settings)
        since = store.position()
        total = polars.scan_parquet(f"s3://{bucket}/t.parquet", storage_options=settings).select(
            polars.col("x").sum()
        )
        assert total.collect().item() == sum(range(200_000))
        logged = store.requests(since)
    found = rows(trace, "op IN ('read', 'get')")
    assert logged["GET", f"/{bucket}/t.parquet"] == len(found) > 0
    assert all(row["offset"] is not None and row["bytes"] == row["len"] for row in found)
    assert rows(trace, "op IN ('put', 'part')")


def test_requests_of_one_worker_never_overlap(store: Store, bucket: str, trace: Path) -> None:
    store.server.put(bucket, "x", os.urandom(MIB))
    with tracekit.proxy(trace) as proxy:
        client = store.client(proxy.endpoint, max_pool_connections=8)

        def read(_: int) -> int:
            return len(client.get_object(Bucket=bucket, Key="x")["Body"].read())

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(read, range(40))) == {MIB}
    ended: dict[int, int] = {}
    for row in rows(trace):
        assert row["t_submit"] >= ended.get(row["worker"], 0)
        ended[row["worker"]] = row["t_submit"] + row["latency"]
    assert len(rows(trace)) == 40


def test_a_failed_request_and_its_retry_are_two_rows(
    store: Store, bucket: str, trace: Path, fault_proxy: Callable[[str], servers.FaultProxy]
) -> None:
    store.server.put(bucket, "x", b"0123456789")
    faulty = fault_proxy(store.server.endpoint)
    faulty.faults = [servers.SLOW_DOWN, servers.Fault(500, "<Error><Code>InternalError</Code></Error>")]
    with tracekit.proxy(trace, upstream=faulty.endpoint) as proxy:
        body = store.client(proxy.endpoint).get_object(Bucket=bucket, Key="x")["Body"]
        assert body.read() == b"0123456789"
    assert facts(rows(trace), "bytes", "error") == [(0, "throttled"), (0, "server_error"), (10, None)]
    assert counters(trace) == {"retries": 2, "throttles": 1}


def test_a_body_that_breaks_off_breaks_off_for_the_client_too(
    store: Store, bucket: str, trace: Path, fault_proxy: Callable[[str], servers.FaultProxy]
) -> None:
    store.server.put(bucket, "x", os.urandom(MIB))
    faulty = fault_proxy(store.server.endpoint)
    faulty.faults = [servers.Fault(truncate=True)]
    with tracekit.proxy(trace, upstream=faulty.endpoint) as proxy:
        body = store.client(proxy.endpoint).get_object(Bucket=bucket, Key="x")["Body"]
        with pytest.raises(Exception, match=r"(?i)incomplete|broken|bytes"):
            body.read()
    (row,) = rows(trace)
    assert (row["error"], row["len"], row["bytes"]) == ("short_read", MIB, MIB // 2)


def test_a_store_that_cannot_be_reached_is_an_error_for_client_and_trace(store: Store, trace: Path) -> None:
    with tracekit.proxy(trace, upstream=f"http://127.0.0.1:{servers.free_port()}") as proxy:
        client = boto3.session.Session().client(
            "s3", endpoint_url=proxy.endpoint, config=Config(retries={"total_max_attempts": 1})
        )
        with pytest.raises(client.exceptions.ClientError, match="cannot be reached"):
            client.get_object(Bucket="b", Key="x")
    assert facts(rows(trace), "op", "error") == [("get", "unreachable")]


def test_a_client_that_waits_to_be_asked_for_the_body_is_asked(
    store: Store, bucket: str, trace: Path
) -> None:
    """As aiobotocore does, and with it s3fs: it sends no body before the answer 100."""
    with (
        tracekit.proxy(trace) as proxy,
        socket.create_connection(("127.0.0.1", urlsplit(proxy.endpoint).port or 0)) as client,
    ):
        client.settimeout(30)
        length = "Content-Length: 5\r\nExpect: 100-continue\r\nConnection: close"
        client.sendall(f"PUT /{bucket}/x HTTP/1.1\r\nHost: x\r\n{_SIGNED}\r\n{length}\r\n\r\n".encode())
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"hello")
        assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
    assert store.client().get_object(Bucket=bucket, Key="x")["Body"].read() == b"hello"
    assert facts(rows(trace), "op", "bytes", "error") == [("put", 5, None)]


def test_a_client_that_goes_away_is_a_cancelled_request(store: Store, bucket: str, trace: Path) -> None:
    store.server.put(bucket, "x", bytes(32 * MIB))
    with tracekit.proxy(trace) as proxy:
        with socket.create_connection(("127.0.0.1", urlsplit(proxy.endpoint).port or 0)) as client:
            client.sendall(f"GET /{bucket}/x HTTP/1.1\r\nHost: x\r\n{_SIGNED}\r\n\r\n".encode())
            assert client.recv(1000)
        while not (found := rows(trace)):
            time.sleep(0.05)
    assert facts(found, "op", "error") == [("get", "cancelled")]
    assert found[0]["bytes"] < 32 * MIB


def test_only_what_lies_below_the_uri_and_passes_the_filters_is_recorded(
    store: Store, bucket: str, trace: Path
) -> None:
    for key in ("train/a.bin", "train/b.idx", "test/a.bin"):
        store.server.put(bucket, key, b"x")
    with tracekit.proxy(trace, f"s3://{bucket}/train/", exclude=["*.idx"]) as proxy:
        client = store.client(proxy.endpoint)
        for key in ("train/a.bin", "train/b.idx", "test/a.bin"):
            assert client.get_object(Bucket=bucket, Key=key)["Body"].read() == b"x"
        result = proxy.close()
    assert (result.requests, result.ops) == (3, 1)
    assert [row["uri"] for row in rows(trace)] == [f"s3://{bucket}/train/a.bin"]


def test_no_secret_of_a_presigned_url_is_recorded(store: Store, bucket: str, trace: Path) -> None:
    store.server.put(bucket, "x", b"0123456789")
    with tracekit.proxy(trace) as proxy:
        client = store.client(proxy.endpoint, signature_version="s3v4")
        url = urlsplit(client.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "x"}))
        connection = http.client.HTTPConnection(url.netloc, timeout=20)
        connection.request("GET", f"{url.path}?{url.query}")
        assert connection.getresponse().read() == b"0123456789"
        connection.close()
    assert facts(rows(trace), "op", "uri") == [("get", f"s3://{bucket}/x")]
    kept = b"".join(path.read_bytes() for path in trace.iterdir() if path.is_file())
    assert b"Signature" not in kept
    assert b"testing-secret" not in kept


def test_a_request_signed_by_others_is_not_signed_for_aws(
    clean_env: pytest.MonkeyPatch, trace: Path, store: Store
) -> None:
    clean_env.delenv("AWS_ENDPOINT_URL")
    with tracekit.proxy(trace) as proxy:
        stranger = boto3.session.Session().client(
            "s3", endpoint_url=proxy.endpoint, aws_access_key_id="testing", aws_secret_access_key="guessed",
            config=Config(retries={"total_max_attempts": 1}),
        )  # fmt: skip
        with pytest.raises(stranger.exceptions.ClientError, match="not signed with the credentials"):
            stranger.get_object(Bucket="b", Key="x")
    assert facts(rows(trace), "op", "error") == [("get", "permission")]


@pytest.fixture
def strict(tmp_path: Path, clean_env: pytest.MonkeyPatch) -> Iterator[servers.S3Server]:
    """A store that checks signatures, with an empty bucket, and the keys of its only user in the environment."""
    with servers.moto_server(tmp_path / "log") as server:
        for name, value in server.env.items():
            clean_env.setenv(name, value)
        server.make_bucket("bucket")
        iam = boto3.session.Session().client("iam", endpoint_url=server.endpoint, region_name="us-east-1")
        iam.create_user(UserName="us")
        policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
        iam.put_user_policy(UserName="us", PolicyName="all", PolicyDocument=json.dumps(policy))
        keys = iam.create_access_key(UserName="us")["AccessKey"]
        clean_env.setenv("AWS_ACCESS_KEY_ID", keys["AccessKeyId"])
        clean_env.setenv("AWS_SECRET_ACCESS_KEY", keys["SecretAccessKey"])
        server.request("POST", "/moto-api/reset-auth", b"0")  # from now on, every signature is checked
        yield server


def test_requests_are_signed_again_for_a_store_that_checks_signatures(
    strict: servers.S3Server, trace: Path
) -> None:
    data, key = os.urandom(2 * MIB), "a b+ü"
    with tracekit.proxy(trace, upstream=strict.endpoint) as proxy:
        client = boto3.session.Session().client("s3", endpoint_url=proxy.endpoint)
        client.put_object(Bucket="bucket", Key=key, Body=data)
        assert client.get_object(Bucket="bucket", Key=key)["Body"].read() == data
        assert [one["Key"] for one in client.list_objects_v2(Bucket="bucket", Prefix="a b")["Contents"]] == [
            key
        ]
        stranger = boto3.session.Session().client(
            "s3",
            endpoint_url=proxy.endpoint,
            aws_secret_access_key="guessed",
            aws_access_key_id=os.environ["AWS_ACCESS_KEY_ID"],
        )
        with pytest.raises(stranger.exceptions.ClientError):
            stranger.get_object(Bucket="bucket", Key=key)
    assert facts(rows(trace, "error IS NULL"), "op", "bytes") == [
        ("put", 2 * MIB),
        ("get", 2 * MIB),
        ("list", None),
    ]
    assert facts(rows(trace, "error IS NOT NULL"), "op", "error") == [("get", "permission")]


def test_the_verb_serves_until_it_is_told_to_end(store: Store, bucket: str, trace: Path) -> None:
    store.server.put(bucket, "x", b"0123456789")
    command = [sys.executable, "-m", "tracekit", "proxy", "-o", str(trace), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            begun = json.loads(running.stdout.readline())
            assert begun["environment"]["AWS_ENDPOINT_URL"] == begun["endpoint"]
            body = store.client(begun["endpoint"]).get_object(Bucket=bucket, Key="x")["Body"]
            assert body.read() == b"0123456789"
            running.send_signal(signal.SIGTERM)
            assert json.loads(running.stdout.readline()) == {"path": str(trace), "requests": 1, "ops": 1}
            assert running.wait(30) == 0
        finally:
            running.kill()  # or the end of the block would wait for it
    assert facts(rows(trace), "op", "bytes") == [("get", 10)]


def test_a_port_that_is_taken_and_a_bad_option_are_plain_refusals(store: Store, trace: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"port={port}.*in use"):
            tracekit.proxy(trace, port=port)
    assert not trace.exists()
    with pytest.raises(UsageError, match="understands S3 and Azure only"):
        tracekit.proxy(trace, "gs://c/")
    with pytest.raises(UsageError, match="upstream='ftp://x' is not valid"):
        tracekit.proxy(trace, upstream="ftp://x")
    assert not trace.exists()


CLIENTS = """
    import os
    import sys
    import boto3
    import pyarrow.fs
    boto3.client("s3").get_object(Bucket=sys.argv[1], Key="x")["Body"].read()
    store, path = pyarrow.fs.FileSystem.from_uri("s3://" + sys.argv[1] + "/x?region=us-east-1")
    with store.open_input_file(path) as file:
        file.read_at(1000, 500)
    with open(sys.argv[2], "rb") as file:
        file.read()
"""


def test_capture_leads_clients_of_any_language_to_the_proxy(
    store: Store, bucket: str, trace: Path, tmp_path: Path
) -> None:
    store.server.put(bucket, "x", bytes(5000))
    program, local = tmp_path / "program.py", tmp_path / "local.bin"
    program.write_text(textwrap.dedent(CLIENTS))
    local.write_bytes(bytes(700))
    since = store.position()
    result = capture_command([sys.executable, str(program), bucket, str(local)], trace, proxy=True)
    assert result.exit_code == 0
    found = rows(trace, "uri LIKE 's3://%'")
    assert facts([row for row in found if row["op"] in ("get", "read")], "op", "offset", "bytes") == [
        ("get", None, 5000),
        ("read", 500, 1000),
    ]
    assert sum(store.requests(since).values()) == len(found)
    assert rows(trace, f"uri = 'file://{local}' AND op = 'read'")
    assert any("requests were passed on to" in note for note in result.notes)


def agrees_with_the_store(store: Store, since: int, trace: Path) -> Counter[str]:
    """Check that each request of the store's log is a row, or counted as another one; return the rows by kind."""
    found = rows(trace)
    assert all(row["error"] is None or row["error"] == "not_found" for row in found), found
    assert sum(store.requests(since).values()) == len(found) + counters(trace).get("other_requests", 0)
    return Counter(row["op"] for row in found)


def test_what_the_rclone_program_moves_is_recorded_as_the_store_logs_it(
    store: Store, bucket: str, trace: Path, tmp_path: Path
) -> None:
    try:
        rclone = servers.rclone()
    except servers.Unavailable as missing:
        pytest.skip(str(missing))
    (tmp_path / "up").mkdir()
    for number in range(3):
        (tmp_path / "up" / f"{number}.bin").write_bytes(os.urandom(100_000 + number))
    settings = {
        "RCLONE_CONFIG": "/dev/null", "RCLONE_S3_PROVIDER": "Other", "RCLONE_S3_ENV_AUTH": "true",
        "RCLONE_S3_FORCE_PATH_STYLE": "true", "RCLONE_RETRIES": "1", "RCLONE_S3_NO_CHECK_BUCKET": "true",
    }  # fmt: skip
    since = store.position()
    with tracekit.proxy(trace) as proxy:
        environ = {**os.environ, **proxy.environment(), **settings, "RCLONE_S3_ENDPOINT": proxy.endpoint}
        for ends in ((tmp_path / "up", f":s3:{bucket}/data"), (f":s3:{bucket}/data", tmp_path / "down")):
            subprocess.run([rclone, "copy", *map(str, ends)], env=environ, check=True, timeout=60)
    kinds = agrees_with_the_store(store, since, trace)
    assert kinds["put"] == kinds["get"] == 3
    assert [path.read_bytes() for path in sorted((tmp_path / "down").iterdir())] == [
        path.read_bytes() for path in sorted((tmp_path / "up").iterdir())
    ]


DUCKDB = """
    import os, sys
    from pathlib import Path
    from urllib.parse import urlsplit
    sys.path.insert(0, sys.argv[1])
    import duckdb
    connection = duckdb.connect()
    [extension] = Path(sys.argv[1]).glob(f"duckdb_extension_httpfs/extensions/v{duckdb.__version__}/*.duckdb_extension")
    connection.execute(f"LOAD '{extension}'")
    settings = {
        "s3_endpoint": urlsplit(os.environ["AWS_ENDPOINT_URL"]).netloc, "s3_url_style": "path", "s3_region": "us-east-1",
        "s3_access_key_id": os.environ["AWS_ACCESS_KEY_ID"], "s3_secret_access_key": os.environ["AWS_SECRET_ACCESS_KEY"],
    }
    connection.execute("SET s3_use_ssl = false")
    for name, value in settings.items():
        connection.execute(f"SET {name} = '{value}'")
    table = f"s3://{sys.argv[2]}/d.parquet"
    connection.execute(f"COPY (SELECT range AS a FROM range(100000)) TO '{table}'")
    assert connection.execute(f"SELECT sum(a) FROM '{table}'").fetchall() == [(4999950000,)]
"""


def test_what_httpfs_of_duckdb_moves_is_recorded_as_the_store_logs_it(
    store: Store, bucket: str, trace: Path, tmp_path: Path
) -> None:
    installed = servers.REPO / ".cache" / "httpfs"
    if not (installed / "duckdb_extension_httpfs").is_dir():
        pytest.skip("DuckDB's extension httpfs is not installed (.ci/servers .cache)")
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(DUCKDB))
    since = store.position()
    done = capture_command([sys.executable, str(program), str(installed), bucket], trace, proxy=True)
    assert done.exit_code == 0
    found = rows(trace, "uri LIKE 's3://%'")
    kinds = Counter(row["op"] for row in found)
    assert sum(store.requests(since).values()) == len(found) + counters(trace).get("other_requests", 0)
    assert kinds["put"] == 1 and kinds["read"] >= 1


def test_what_s3torchconnector_moves_is_recorded_as_the_store_logs_it(
    store: Store, bucket: str, trace: Path
) -> None:
    s3torch = pytest.importorskip("s3torchconnector")
    data = os.urandom(100_000)
    since = store.position()
    with tracekit.proxy(trace) as proxy:
        config = s3torch.S3ClientConfig(force_path_style=True)
        checkpoint = s3torch.S3Checkpoint(region="us-east-1", endpoint=proxy.endpoint, s3client_config=config)
        with checkpoint.writer(f"s3://{bucket}/model") as writer:
            writer.write(data)
        with checkpoint.reader(f"s3://{bucket}/model") as reader:
            assert reader.read() == data
    kinds = agrees_with_the_store(store, since, trace)
    assert sum(row["bytes"] for row in rows(trace, "op IN ('get', 'read')")) == len(data)
    assert kinds["put"] + kinds["part"] >= 1


def test_what_tensorstore_moves_is_recorded_as_the_store_logs_it(
    store: Store, bucket: str, trace: Path
) -> None:
    tensorstore = pytest.importorskip("tensorstore")
    numpy = pytest.importorskip("numpy")
    values = numpy.arange(10_000, dtype=numpy.int32).reshape(100, 100)
    since = store.position()
    with tracekit.proxy(trace) as proxy:
        spec = {
            "driver": "zarr",
            "kvstore": {
                "driver": "s3", "bucket": bucket, "path": "array/", "endpoint": proxy.endpoint,
                "aws_region": "us-east-1", "aws_credentials": {"type": "environment"},
            },
        }  # fmt: skip
        chunks = {"chunks": [50, 50], "compressor": None}
        described = {**spec, "metadata": chunks}
        made = tensorstore.open(described, create=True, dtype="int32", shape=[100, 100]).result()
        made.write(values).result()
        assert (tensorstore.open(spec).result().read().result() == values).all()
    kinds = agrees_with_the_store(store, since, trace)
    assert kinds["put"] >= 5  # four chunks, and what describes the array
    assert (
        sum(row["bytes"] for row in rows(trace, "op IN ('get', 'read') AND error IS NULL")) >= values.nbytes
    )


LANCE = """
    import sys
    import lance
    import pyarrow as pa
    settings = {
        "endpoint": sys.argv[1], "region": "us-east-1", "allow_http": "true",
        "access_key_id": "testing", "secret_access_key": "testing-secret-key",
    }
    uri = f"s3://{sys.argv[2]}/t.lance"
    lance.write_dataset(pa.table({"x": list(range(20_000))}), uri, storage_options=settings)
    assert lance.dataset(uri, storage_options=settings).to_table().num_rows == 20_000
"""


@pytest.mark.skipif(find_spec("lance") is None, reason="pylance is not installed")
def test_what_lance_moves_is_recorded_as_the_store_logs_it(store: Store, bucket: str, trace: Path) -> None:
    since = store.position()
    with tracekit.proxy(trace) as proxy:  # a process that has loaded lance may not fork any more
        program = [sys.executable, "-c", textwrap.dedent(LANCE), proxy.endpoint, bucket]
        subprocess.run(program, check=True, timeout=100)
    kinds = agrees_with_the_store(store, since, trace)
    assert kinds["put"] + kinds["part"] >= 2
    assert kinds["read"] + kinds["get"] >= 1
