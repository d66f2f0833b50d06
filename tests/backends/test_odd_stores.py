"""Stores that answer oddly: redirects, other bytes, waiting, wrong regions, broken TLS, dead proxies."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http.server
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import servers

from tracekit import replay
from tracekit.backends.objects import s3
from tracekit.backends.objects.store import ObjectStoreBackend
from tracekit.errors import BackendError, UsageError
from tracekit.store.reader import open_reader
from tracekit.store_options import CLIENTS

BODY = bytes(range(256)) * 16
WITH_EACH_CLIENT = pytest.mark.parametrize("client", CLIENTS["s3"])
Script = Callable[["Handler"], None]


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as the script says; `reply` and `ranged` help it."""

    protocol_version = "HTTP/1.1"
    script: Script
    seen: list[str]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.seen.append(f"{self.command} {self.path}")
        length = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(length)
        with contextlib.suppress(ConnectionError):
            type(self).script(self)

    do_HEAD = do_PUT = do_GET

    @property
    def asked(self) -> tuple[int, int]:
        first, _, last = self.headers.get("Range", "bytes=0-4095").removeprefix("bytes=").partition("-")
        return int(first), int(last)

    def reply(self, status: int, body: bytes = b"", length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.send_header("ETag", '"e"')
        self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def ranged(self) -> None:
        first, last = self.asked
        self.reply(206, BODY[first : last + 1], Content_Range=f"bytes {first}-{last}/{len(BODY)}")


@contextlib.contextmanager
def serving(script: Script, context: ssl.SSLContext | None = None) -> Iterator[tuple[str, list[str]]]:
    """Serve `script` on a free port; yield the endpoint and the requests that came."""
    seen: list[str] = []
    handler = type("Scripted", (Handler,), {"script": staticmethod(script), "seen": seen})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"{'http' if context is None else 'https'}://127.0.0.1:{server.server_address[1]}", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def keys(clean_env: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    clean_env.setenv("AWS_ACCESS_KEY_ID", "k")
    clean_env.setenv("AWS_SECRET_ACCESS_KEY", "s")
    clean_env.setenv("AWS_REGION", "us-east-1")
    return clean_env


def opened(endpoint: str, client: str, **options: object) -> ObjectStoreBackend:
    return s3.backend(**{"endpoint": endpoint, "client": client, "retries": 0, "timeout_s": 5, **options})


def read(backend: ObjectStoreBackend, offset: int = 100, length: int = 50) -> bytes:
    buffer = backend.allocate(length)
    return bytes(buffer[: backend.open("s3://bucket/k").read_into(offset, buffer).nbytes])


def failure(call: Callable[[], object]) -> BackendError:
    with pytest.raises(BackendError) as raised:
        call()
    assert "\n" not in str(raised.value)
    return raised.value


@WITH_EACH_CLIENT
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_to_another_host_is_followed(keys: pytest.MonkeyPatch, client: str, status: int) -> None:
    keys.setenv("AWS_SESSION_TOKEN", "tok3n") if client != "obstore" else None
    with serving(Handler.ranged) as (other, reached):
        elsewhere = other.replace("127.0.0.1", "localhost")

        def script(handler: Handler) -> None:
            handler.reply(status, Location=elsewhere + handler.path)

        with serving(script) as (endpoint, _):
            backend = opened(endpoint, client)
            for call in (
                lambda: read(backend),
                lambda: backend.open("s3://bucket/k").get(),
                lambda: backend.stat("s3://bucket/k"),
                lambda: list(backend.list("s3://bucket")),
                lambda: backend.put("s3://bucket/k", b"x", overwrite=True),
            ):
                assert failure(call).error_class == "wrong_region"
            backend.close()
        assert reached == []


def test_a_redirect_within_the_host_is_not_followed_by_the_default_client(keys: pytest.MonkeyPatch) -> None:
    with serving(Handler.ranged) as (other, reached):
        with serving(lambda handler: handler.reply(307, Location=other + handler.path)) as (endpoint, _):
            backend = s3.backend(endpoint=endpoint)
            assert failure(lambda: read(backend)).error_class == "wrong_region"
            backend.close()
        assert reached == []


def test_obstore_refuses_a_session_token_that_a_redirect_could_take_along(keys: pytest.MonkeyPatch) -> None:
    keys.setenv("AWS_SESSION_TOKEN", "tok3n")
    with pytest.raises(UsageError, match="session token"):
        opened("http://127.0.0.1:1", "obstore").open("s3://bucket/k")


def shifted(handler: Handler) -> None:
    first, last = handler.asked
    handler.reply(206, BODY[: last - first + 1], Content_Range=f"bytes {first + 1}-{last + 1}/{len(BODY)}")


def cut_range(handler: Handler) -> None:
    first, last = handler.asked
    handler.reply(206, BODY[first:last], Content_Range=f"bytes {first}-{last - 1}/{len(BODY)}")


def less_than_announced(handler: Handler) -> None:
    first, last = handler.asked
    handler.reply(206, BODY[first:last], Content_Range=f"bytes {first}-{last}/{len(BODY)}")


def no_range(handler: Handler) -> None:
    handler.reply(200, BODY)


@WITH_EACH_CLIENT
@pytest.mark.parametrize("script", [shifted, cut_range, less_than_announced, no_range])
def test_other_bytes_are_asked_for_again_and_are_an_io_error(
    keys: pytest.MonkeyPatch, client: str, script: Script
) -> None:
    if client == "obstore" and script in (cut_range, less_than_announced):
        pytest.skip("obstore does not show the headers")
    bad = [True, True]

    def passing(handler: Handler) -> None:
        script(handler) if bad and bad.pop() else handler.ranged()

    with serving(passing) as (endpoint, seen):
        backend = opened(endpoint, client)
        assert failure(lambda: read(backend)).error_class == "io_error"
        again = opened(endpoint, client, retries=2)
        assert read(again) == BODY[100:150]
        assert len(seen) == 3 and again.counters["retries"] == 1
        again.close()
        backend.close()


def unknown_total(handler: Handler) -> None:
    first, last = handler.asked
    handler.reply(206, BODY[first : last + 1], Content_Range=f"bytes {first}-{last}/*")


def ok_with_range(handler: Handler) -> None:
    first, last = handler.asked
    handler.reply(200, BODY[first : last + 1], Content_Range=f"bytes {first}-{last}/{len(BODY)}")


def chunked(handler: Handler) -> None:
    first, last = handler.asked
    handler.send_response(206)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.send_header("Content-Range", f"bytes {first}-{last}/{len(BODY)}")
    handler.end_headers()
    for at in range(first, last + 1, 7):
        part = BODY[at : min(at + 7, last + 1)]
        handler.wfile.write(f"{len(part):x};x=y\r\n".encode() + part + b"\r\n")
    handler.wfile.write(b"0\r\nTrailer: t\r\n\r\n")


@pytest.mark.parametrize("script", [unknown_total, ok_with_range, chunked])
def test_right_bytes_in_another_dress_are_accepted(keys: pytest.MonkeyPatch, script: Script) -> None:
    with serving(script) as (endpoint, seen):
        backend = opened(endpoint, "native")
        assert [read(backend), read(backend, 0, 4096)] == [BODY[100:150], BODY]

        async def on_a_loop() -> bytes:
            buffer = backend.allocate(50)
            await backend.open("s3://bucket/k").aread_into(100, buffer)
            await backend.aclose()
            return bytes(buffer)

        assert asyncio.run(on_a_loop()) == BODY[100:150]
        assert len(seen) == 3
        backend.close()


@WITH_EACH_CLIENT
def test_a_whole_body_that_ends_early_is_an_error(keys: pytest.MonkeyPatch, client: str) -> None:
    def cut(handler: Handler) -> None:
        handler.reply(200, BODY[:1000], length=len(BODY))
        handler.close_connection = True

    with serving(cut) as (endpoint, _):
        backend = opened(endpoint, client)
        assert failure(lambda: backend.open("s3://bucket/k").get()).error_class in ("unreachable", "io_error")
        backend.close()


def test_waiting_between_tries_is_not_latency(keys: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    came: list[int] = []

    def busy(handler: Handler) -> None:
        if handler.command == "GET" and "Range" in handler.headers:
            came.append(time.monotonic_ns())
            if len(came) <= 2:
                handler.reply(503, Retry_After="1" if len(came) == 1 else "0")
                return
        handler.ranged() if handler.command == "GET" else handler.reply(200, BODY)

    table = {"uri": ["s3://bucket/k"], "offset": [0], "len": [4096], "t_submit": [0], "sample_id": [0]}
    pq.write_table(pa.table({**table, "latency": [1000]}), tmp_path / "a.parquet")
    with serving(busy) as (endpoint, _):
        replay(tmp_path / "a.parquet", out=tmp_path / "r", endpoint=endpoint, retries=3)
    assert len(came) == 3
    assert came[1] - came[0] >= 1_000_000_000  # Retry-After
    sql = "SELECT tries, wait_ns, latency, ttfb, error FROM ops"
    (row,) = open_reader(tmp_path / "r").query(sql).to_pylist()
    assert (row["tries"], row["error"]) == (3, None)
    assert row["wait_ns"] >= 1_000_000_000
    assert 0 < row["ttfb"] <= row["latency"]


@WITH_EACH_CLIENT
def test_the_region_that_the_store_names_is_used_from_then_on(keys: pytest.MonkeyPatch, client: str) -> None:
    def elsewhere(handler: Handler) -> None:
        if "/eu-west-1/s3/" in handler.headers.get("Authorization", ""):
            handler.ranged()
            return
        told = (
            "<Error><Code>AuthorizationHeaderMalformed</Code><Message>the region 'us-east-1' is wrong; "
            "expecting 'eu-west-1'</Message><Region>eu-west-1</Region></Error>"
        )
        handler.reply(400, told.encode(), x_amz_bucket_region="eu-west-1")

    with serving(elsewhere) as (endpoint, seen):
        backend = opened(endpoint, client)
        assert [read(backend), read(backend)] == [BODY[100:150]] * 2
        assert len(seen) == 3
        backend.close()


def test_a_region_that_does_not_help_is_asked_once(keys: pytest.MonkeyPatch) -> None:
    def script(handler: Handler) -> None:
        handler.reply(301, x_amz_bucket_region=f"eu-west-{len(handler.seen)}")

    with serving(script) as (endpoint, seen):
        backend = opened(endpoint, "native", retries=4)
        assert failure(lambda: read(backend)).error_class == "wrong_region"
        assert len(seen) == 2
        backend.close()


def trickle(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b"x")
        handler.wfile.flush()
        time.sleep(0.1)


@WITH_EACH_CLIENT
def test_a_trickle_ends_with_the_total_timeout(keys: pytest.MonkeyPatch, client: str) -> None:
    with serving(trickle) as (endpoint, _):
        backend = opened(endpoint, client, total_timeout_s=1)
        assert failure(lambda: backend.open("s3://bucket/k").get()).error_class == "timeout"

        async def on_a_loop() -> None:
            try:
                await backend.open("s3://bucket/k").aget()
            finally:
                await backend.aclose()

        assert failure(lambda: asyncio.run(on_a_loop())).error_class == "timeout"
        backend.close()


@WITH_EACH_CLIENT
def test_ctrl_c_interrupts_a_get_in_the_main_thread(keys: pytest.MonkeyPatch, client: str) -> None:
    code = (
        "import os, signal, threading, time\n"
        "from tracekit import backend_for\n"
        "import sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "backend = backend_for('s3://', endpoint=sys.argv[1], client=sys.argv[2], retries=0)\n"
        "def later():\n"
        "    sys.stdin.readline(); os.kill(os.getpid(), signal.SIGINT)\n"
        "threading.Thread(target=later, daemon=True).start()\n"
        "try:\n    backend.open('s3://bucket/k').get()\n"
        "except KeyboardInterrupt:\n    print('interrupted', flush=True); os._exit(0)\n"
    )
    waiting = threading.Event()

    def script(handler: Handler) -> None:
        waiting.set()
        trickle(handler)

    with serving(script) as (endpoint, _):
        child = subprocess.Popen(
            [sys.executable, "-c", code, endpoint, client],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert waiting.wait(60)
            out, errors = child.communicate("go\n", timeout=60)
        finally:
            child.kill()
            child.wait()
    assert out == "interrupted\n", errors


def certificate(folder: Path) -> Path:
    """Make `ca.pem`, and return a file with a certificate for 127.0.0.1 that it signed and its key."""
    new = ["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    signed = ["-CA", folder / "ca.pem", "-CAkey", folder / "ca.key"]
    for command in (
        [*new, "-x509", "-subj", "/CN=ca", "-keyout", folder / "ca.key", "-out", folder / "ca.pem"],
        [*new, "-x509", *signed, "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
         "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", folder / "key.pem", "-out", folder / "leaf.pem"],
    ):  # fmt: skip
        subprocess.run([str(word) for word in command], check=True, capture_output=True)
    path = folder / "cert.pem"
    path.write_text((folder / "leaf.pem").read_text() + (folder / "key.pem").read_text())
    return path


@WITH_EACH_CLIENT
def test_a_certificate_is_trusted_with_a_ca_bundle_only(
    keys: pytest.MonkeyPatch, client: str, tmp_path: Path
) -> None:
    pem = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with serving(Handler.ranged, context) as (endpoint, _):
        backend = opened(endpoint, client)
        untrusted = failure(lambda: read(backend))
        assert untrusted.error_class == "unreachable"
        if client == "native":
            assert "certificate is not trusted" in str(untrusted)
        trusting = opened(endpoint, client, ca_bundle=str(tmp_path / "ca.pem"))
        assert read(trusting) == BODY[100:150]
        keys.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
        by_environment = opened(endpoint, client)
        assert read(by_environment) == BODY[100:150]
        if client == "native":
            assert trusting.counters["tls_handshakes"] == 1
        for each in (backend, trusting, by_environment):
            each.close()


def test_the_real_cause_of_a_failed_connection_is_named(keys: pytest.MonkeyPatch, tmp_path: Path) -> None:
    dead = f"http://127.0.0.1:{servers.free_port()}"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(tmp_path))

    def ssh() -> None:
        with contextlib.suppress(OSError):
            peer, _ = listener.accept()
            with peer:
                peer.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
                peer.recv(65536)

    with (
        serving(Handler.ranged) as (plain, _),
        serving(Handler.ranged, context),
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        threading.Thread(target=ssh, daemon=True).start()
        other = f"http://127.0.0.1:{listener.getsockname()[1]}"
        told = {
            "does not speak TLS": opened(plain.replace("http:", "https:"), "native"),
            "the answer is not HTTP": opened(other, "native"),
            f"by the proxy {dead}": opened(plain, "native", proxy=dead),
            "connection refused": opened(dead, "native"),
            "cannot be resolved": opened("http://no-such-host.invalid", "native", proxy="none"),
        }
        for words, backend in told.items():
            assert words in str(failure(functools.partial(read, backend)))
            backend.close()


def test_a_proxy_forwards_and_its_environment_can_be_ignored(keys: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "http_proxy"):
        keys.delenv(name, raising=False)
    with serving(Handler.ranged) as (proxy, seen):
        away = opened("http://store.invalid", "native", proxy=proxy)
        assert read(away) == BODY[100:150]
        assert seen == ["GET http://store.invalid/bucket/k"]
        keys.setenv("HTTP_PROXY", proxy)
        by_environment = opened("http://store.invalid", "native")
        assert read(by_environment) == BODY[100:150]
        ignoring = opened("http://store.invalid", "native", proxy="none")
        assert failure(lambda: read(ignoring)).error_class == "unreachable"
        with pytest.raises(UsageError, match="must not carry a password") as raised:
            opened("http://store.invalid", "native", proxy="http://me:hush@proxy:1").open("s3://bucket/k")
        assert "hush" not in str(raised.value)


def test_connections_are_reused_and_counted_and_endpoints_take_turns(keys: pytest.MonkeyPatch) -> None:
    with serving(Handler.ranged) as (one, seen_by_one), serving(Handler.ranged) as (two, seen_by_two):
        backend = opened(f"{one},{two}", "native")
        for _ in range(6):
            assert read(backend) == BODY[100:150]
        assert (len(seen_by_one), len(seen_by_two)) == (3, 3)
        counters = backend.counters
        assert (counters["connections_opened"], counters["connections_reused"]) == (2, 4)
        assert [counters[f"requests {url.removeprefix('http://')}"] for url in (one, two)] == [3, 3]
        backend.close()
        with pytest.raises(UsageError, match="one endpoint"):
            opened(f"{one},{two}", "obstore")


def test_a_wrong_checksum_of_a_whole_object_is_an_error(keys: pytest.MonkeyPatch) -> None:
    import base64
    import zlib

    right = base64.b64encode(zlib.crc32(BODY).to_bytes(4, "big")).decode()
    sums = [right, "AAAAAA=="]
    with serving(lambda handler: handler.reply(200, BODY, x_amz_checksum_crc32=sums.pop(0))) as (endpoint, _):
        backend = opened(endpoint, "native", verify_checksums=True)
        assert bytes(backend.open("s3://bucket/k").get()[0]) == BODY
        wrong = failure(lambda: backend.open("s3://bucket/k").get())
        assert wrong.error_class == "io_error" and "checksum" in str(wrong)
        assert backend.counters["checksums_verified"] == 1
        backend.close()
