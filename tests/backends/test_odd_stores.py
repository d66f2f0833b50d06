"""Stores that answer oddly: redirects, other bytes, waiting, wrong regions, broken TLS, dead proxies."""

from __future__ import annotations

import asyncio
import functools
import json
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import servers
from faults import BODY, KEYS, Handler, Script, place, serving

from tracekit import backend_for, replay
from tracekit.backends.base import Backend
from tracekit.backends.objects import s3
from tracekit.backends.objects.failures import retry_after
from tracekit.backends.objects.store import ObjectStoreBackend
from tracekit.errors import BackendError, UsageError
from tracekit.store.reader import open_reader
from tracekit.store_options import CLIENTS

WITH_EACH_CLIENT = pytest.mark.parametrize("client", CLIENTS["s3"])
WITH_EVERY_CLIENT = pytest.mark.parametrize(
    "client", [f"{scheme} {client}" for scheme in ("s3", "az", "gs", "http") for client in CLIENTS[scheme]]
)


@pytest.fixture
def keys(clean_env: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in KEYS.items():
        clean_env.setenv(name, value)
    return clean_env


def opened(endpoint: str, client: str, **options: object) -> ObjectStoreBackend:
    return s3.backend(**{"endpoint": endpoint, "client": client, "retries": 0, "timeout_s": 5, **options})


def read(backend: Backend, offset: int = 100, length: int = 50, uri: str = "s3://bucket/k") -> bytes:
    buffer = backend.allocate(length)
    return bytes(buffer[: backend.open(uri).read_into(offset, buffer).nbytes])


def failure(call: Callable[[], object]) -> BackendError:
    with pytest.raises(BackendError) as raised:
        call()
    assert "\n" not in str(raised.value)
    return raised.value


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


@pytest.mark.parametrize("client", ["native", "aiobotocore"])
@pytest.mark.parametrize("status", [301, 307])
def test_the_region_that_a_redirect_names_is_used_without_following_it(
    keys: pytest.MonkeyPatch, client: str, status: int
) -> None:
    with serving(Handler.ranged) as (other, elsewhere):

        def script(handler: Handler) -> None:
            if "/eu-west-1/s3/" in handler.headers.get("Authorization", ""):
                handler.ranged()
            else:
                handler.reply(status, x_amz_bucket_region="eu-west-1", Location=other + handler.path)

        with serving(script) as (endpoint, seen):
            backend = opened(endpoint, client)
            assert [read(backend), read(backend)] == [BODY[100:150]] * 2
            assert (len(seen), elsewhere) == (3, [])
            backend.close()


@WITH_EACH_CLIENT
@pytest.mark.parametrize("body", [b"<html>please log in</html>", b"x", b"<Other></Other>"])
def test_what_is_no_listing_is_an_error_and_not_an_empty_one(
    keys: pytest.MonkeyPatch, client: str, body: bytes
) -> None:
    with serving(lambda handler: handler.reply(200, body)) as (endpoint, _):
        backend = opened(endpoint, client)
        error = failure(lambda: list(backend.list("s3://bucket")))
        assert (error.error_class, error.tries) == ("io_error", 1)
        assert "the answer is not a listing (check the endpoint" in str(error)
        backend.close()


@pytest.mark.parametrize("client", ["s3 obstore", "az obstore"])
def test_a_part_of_an_object_without_a_range_is_not_taken_for_all_of_it(
    keys: pytest.MonkeyPatch, client: str
) -> None:
    def script(handler: Handler) -> None:
        if "Range" in handler.headers:
            handler.reply(200, BODY)
        else:
            handler.reply(206, BODY[:1000], Content_Range=f"bytes 0-999/{len(BODY)}")

    scheme, _, library = client.partition(" ")
    with serving(script) as (endpoint, _):
        uri, options = place(endpoint, scheme)
        backend = backend_for(uri, client=library, retries=0, **options)
        assert failure(backend.open(uri).get).error_class == "io_error"
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
    handler.head(206, Content_Length="1000", Content_Range="bytes 0-999/1000")
    for _ in range(1000):
        handler.wfile.write(b"x")
        handler.pause(0.1)


def trickle_of_headers(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for _ in range(1000):
        handler.wfile.write(b"x: y\r\n")
        handler.pause(0.1)


@WITH_EVERY_CLIENT
@pytest.mark.parametrize("script", [trickle, trickle_of_headers])
def test_a_trickle_ends_with_the_total_timeout_and_is_not_asked_again(
    keys: pytest.MonkeyPatch, client: str, script: Script
) -> None:
    scheme, _, library = client.partition(" ")
    with serving(script) as (endpoint, seen):
        uri, options = place(endpoint, scheme)
        backend = backend_for(uri, client=library, total_timeout_s=1.0, retries=2, **options)

        async def on_a_loop() -> None:
            try:
                await backend.open(uri).aget()
            finally:
                await backend.aclose()

        calls: list[Callable[[], object]] = [lambda: backend.open(uri).get()]
        if script is trickle_of_headers:
            calls += [lambda: read(backend, uri=uri), lambda: backend.stat(uri)]
            calls += [] if scheme == "http" else [lambda: list(backend.list(uri)), lambda: put(backend, uri)]
        failure(calls[0])  # the first one makes the client, which may take longer than the timeout
        for together in (calls, [lambda: asyncio.run(on_a_loop())]):
            before = len(seen)
            with ThreadPoolExecutor(len(together)) as pool:
                classes = [error.error_class for error in pool.map(failure, together)]
            assert classes == ["timeout"] * len(together)
            # Each was sent once at most: on a busy machine the time may end before the store hears of a request.
            assert len(seen) <= before + len(together)
        backend.close()


def put(backend: Backend, uri: str) -> None:
    backend.put(uri, b"x", overwrite=True)


@WITH_EVERY_CLIENT
@pytest.mark.parametrize("call", ["get()", "read_into(0, backend.allocate(100))", "size"])
def test_ctrl_c_interrupts_a_request_in_the_main_thread(
    keys: pytest.MonkeyPatch, client: str, call: str
) -> None:
    code = (
        "import json, os, signal, sys, threading\n"
        "from tracekit import backend_for\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "uri, client, options, call = sys.argv[1:]\n"
        "backend = backend_for(uri, client=client, retries=0, **json.loads(options))\n"
        "def later():\n"
        "    sys.stdin.readline(); os.kill(os.getpid(), signal.SIGINT)\n"
        "threading.Thread(target=later, daemon=True).start()\n"
        "try:\n    eval('backend.open(uri).' + call)\n"
        "except KeyboardInterrupt:\n    print('interrupted', flush=True); os._exit(0)\n"
    )
    waiting = threading.Event()
    scheme, _, library = client.partition(" ")

    def script(handler: Handler) -> None:
        waiting.set()
        trickle_of_headers(handler)

    with serving(script) as (endpoint, _):
        uri, options = place(endpoint, scheme)
        child = subprocess.Popen(
            [sys.executable, "-c", code, uri, library, json.dumps(options), call],
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


@WITH_EACH_CLIENT
def test_the_real_cause_of_a_failed_connection_is_named(
    keys: pytest.MonkeyPatch, tmp_path: Path, client: str
) -> None:
    dead = f"http://127.0.0.1:{servers.free_port()}"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(tmp_path))
    with serving(Handler.ranged) as (plain, _), serving(Handler.ranged, context) as (secured, _):
        told = {
            "does not speak TLS": opened(plain.replace("http:", "https:"), client),
            "certificate is not trusted": opened(secured, client),
            "connection refused": opened(dead, client),
            "cannot be resolved": opened("http://no-such-host.invalid", client, proxy="none"),
        }
        if client == "native":
            told[f"by the proxy {dead}"] = opened(plain, client, proxy=dead)
        for words, backend in told.items():
            error = failure(functools.partial(read, backend))
            assert (error.error_class, words in str(error)) == ("unreachable", True), (words, str(error))
            backend.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 44\r\n\r\nYou're speaking plain HTTP to an SSL-enabled",
    ],
)
def test_a_port_that_expects_tls_is_named(keys: pytest.MonkeyPatch, answer: bytes) -> None:
    def script(handler: Handler) -> None:
        handler.wfile.write(answer)
        handler.drop()

    with serving(script) as (endpoint, seen):
        backend = opened(endpoint, "native", retries=3)
        error = failure(lambda: read(backend))
        assert (error.error_class, "speaks TLS (use https://)" in str(error)) == ("unreachable", True)
        assert len(seen) == 1
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


def listing(keys: str, token: str) -> bytes:
    entries = "".join(f"<Contents><Key>{key}</Key><Size>1</Size></Contents>" for key in keys)
    more = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    told = f"<IsTruncated>{str(bool(token)).lower()}</IsTruncated>"
    return f"<ListBucketResult>{told}{more}{entries}</ListBucketResult>".encode()


@WITH_EACH_CLIENT
def test_no_key_is_listed_twice_where_a_page_begins_with_the_last_key(
    keys: pytest.MonkeyPatch, client: str
) -> None:
    pages = {"": ("ab", "1"), "1": ("bc", "2"), "2": ("bc", "3"), "3": ("d", "")}

    def script(handler: Handler) -> None:
        handler.reply(200, listing(*pages[asked_token(handler)]), Content_Type="application/xml")

    with serving(script) as (endpoint, _):
        backend = opened(endpoint, client)
        assert [info.uri[-1] for info in backend.list("s3://bucket")] == list("abcd")
        assert backend.counters["lists"] == 4
        backend.close()


@WITH_EACH_CLIENT
def test_a_listing_that_repeats_a_page_without_end_is_an_error(keys: pytest.MonkeyPatch, client: str) -> None:
    with serving(lambda handler: handler.reply(200, listing("ab", str(time.monotonic_ns())))) as (
        endpoint,
        _,
    ):
        backend = opened(endpoint, client)
        assert "repeats a page" in str(failure(lambda: list(backend.list("s3://bucket"))))
        backend.close()


@WITH_EACH_CLIENT
@pytest.mark.parametrize(
    ("pages", "words"),
    [
        ({"": ("ab", "1"), "1": ("cd", "1")}, "does not say where it goes on"),
        ({"": ("ab", "1"), "1": ("cd", "2"), "2": ("ab", "1")}, "repeats a page"),
        ({"": ("", "1"), "1": ("", "1")}, "does not say where it goes on"),
        ({"": ("", "1"), "1": ("", "2"), "2": ("", "1")}, "empty pages in a row"),
    ],
)
def test_a_listing_that_makes_no_progress_is_an_error(
    keys: pytest.MonkeyPatch, client: str, pages: dict[str, tuple[str, str]], words: str
) -> None:
    keys.setattr("tracekit.backends.objects.listing._EMPTY_PAGES", 20)
    with serving(lambda handler: handler.reply(200, listing(*pages[asked_token(handler)]))) as (endpoint, _):
        backend = opened(endpoint, client)
        error = failure(lambda: list(backend.list("s3://bucket")))
        assert (error.error_class, words in str(error)) == ("io_error", True), str(error)
        backend.close()


@WITH_EACH_CLIENT
def test_keys_that_a_store_repeats_anywhere_are_listed_once_and_empty_pages_are_no_end(
    keys: pytest.MonkeyPatch, client: str
) -> None:
    pages = {"": ("abc", "1"), "1": ("", "2"), "2": ("adbb", "3"), "3": ("", "4"), "4": ("ec", "")}
    with serving(lambda handler: handler.reply(200, listing(*pages[asked_token(handler)]))) as (endpoint, _):
        backend = opened(endpoint, client)
        assert [info.uri[-1] for info in backend.list("s3://bucket")] == list("abcde")
        assert backend.counters["lists"] == 5
        backend.close()


def asked_token(handler: Handler) -> str:
    return parse_qs(urlsplit(handler.path).query).get("continuation-token", [""])[0]


def test_a_listing_without_its_end_is_an_error(keys: pytest.MonkeyPatch) -> None:
    cut = listing("ab", "").removesuffix(b"</ListBucketResult>")
    with serving(lambda handler: handler.reply(200, cut)) as (endpoint, _):
        backend = opened(endpoint, "native")
        assert "breaks off" in str(failure(lambda: list(backend.list("s3://bucket"))))
        backend.close()


@WITH_EACH_CLIENT
def test_a_part_of_an_object_is_not_taken_for_all_of_it(keys: pytest.MonkeyPatch, client: str) -> None:
    def part(handler: Handler) -> None:
        handler.reply(206, BODY[:1000], Content_Range=f"bytes 0-999/{len(BODY)}")

    def empty(handler: Handler) -> None:
        handler.head(204)

    for script in (part, empty):
        with serving(script) as (endpoint, _):
            backend = opened(endpoint, client)
            assert failure(backend.open("s3://bucket/k").get).error_class == "io_error"
            backend.close()


@WITH_EACH_CLIENT
def test_an_empty_object_is_read_as_a_whole(keys: pytest.MonkeyPatch, client: str) -> None:
    def script(handler: Handler) -> None:
        if "Range" in handler.headers:
            handler.reply(416, b"<Error><Code>InvalidRange</Code></Error>", Content_Range="bytes */0")
        else:
            handler.reply(200)

    with serving(script) as (endpoint, seen):
        backend = opened(endpoint, client)
        assert bytes(backend.open("s3://bucket/k").get()[0]) == b""
        assert read(backend) == b""
        assert len(seen) == 2
        backend.close()


@pytest.mark.parametrize("told", ["bytes 0-0/4096", "bytes 0-0/*"])
def test_the_size_of_a_url_is_that_of_the_object_not_of_the_answer(told: str) -> None:
    def script(handler: Handler) -> None:
        if handler.command == "HEAD":
            handler.reply(200, BODY)
        else:
            handler.reply(200, b"x", Content_Range=told)

    with serving(script) as (endpoint, _):
        backend = backend_for(f"{endpoint}/k", retries=0)
        assert backend.stat(f"{endpoint}/k").size == 4096
        backend.close()


@WITH_EACH_CLIENT
def test_a_store_that_refuses_the_condition_of_a_create_only_put_is_asked_first(
    keys: pytest.MonkeyPatch, client: str
) -> None:
    stored: dict[str, bytes] = {}

    def script(handler: Handler) -> None:
        if handler.command == "HEAD":
            handler.reply(200, stored[handler.path]) if handler.path in stored else handler.reply(404)
        elif handler.headers.get("If-None-Match"):
            handler.reply(501, b"<Error><Code>NotImplemented</Code></Error>")
        else:
            stored[handler.path] = b"x"
            handler.reply(200)

    with serving(script) as (endpoint, seen):
        backend = opened(endpoint, client)
        backend.put("s3://bucket/a", b"x")
        backend.put("s3://bucket/b", b"x")
        assert failure(lambda: backend.put("s3://bucket/a", b"y")).error_class == "exists"
        assert [line.split()[0] for line in seen] == ["HEAD", "PUT", "PUT", "HEAD", "PUT", "HEAD"]
        assert backend.counters["puts"] == 3
        backend.close()


@WITH_EACH_CLIENT
def test_connections_are_counted_by_every_client_that_tells(
    keys: pytest.MonkeyPatch, client: str, tmp_path: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(tmp_path))
    with serving(Handler.ranged, context) as (endpoint, _):
        backend = opened(endpoint, client, ca_bundle=str(tmp_path / "ca.pem"))
        for _ in range(3):
            assert read(backend) == BODY[100:150]
        counters = backend.counters
        backend.close()
    names = ("connections_opened", "connections_reused", "tls_handshakes")
    told = [counters.get(name) for name in names]
    assert told == ([None] * 3 if client == "obstore" else [1, 2, 1])


@WITH_EACH_CLIENT
def test_variables_outside_the_contract_change_nothing(
    keys: pytest.MonkeyPatch, client: str, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text(
        "[default]\nregion = eu-west-3\ns3 =\n  use_accelerate_endpoint = true\n"
    )
    keys.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    for name in (
        "USE_DUALSTACK_ENDPOINT",
        "USE_FIPS_ENDPOINT",
        "S3_EXPRESS",
        "REQUEST_PAYER",
        "UNSIGNED_PAYLOAD",
    ):
        keys.setenv(f"AWS_{name}", "true")
    for name in ("AWS_ENDPOINT", "AWS_PROXY_URL", "AWS_S3_ENDPOINT"):
        keys.setenv(name, "http://127.0.0.2:9")
    for name in ("MAX_ATTEMPTS", "CHECKSUM_ALGORITHM", "TIMEOUT", "AUTH_SCHEME_PREFERENCE", "RETRY_MODE", "DEFAULTS_MODE",
                 "STS_REGIONAL_ENDPOINTS", "S3_US_EAST_1_REGIONAL_ENDPOINT", "REQUEST_MIN_COMPRESSION_SIZE_BYTES",
                 "ACCOUNT_ID_ENDPOINT_MODE", "S3_DISABLE_EXPRESS_SESSION_AUTH", "CSM_PORT"):  # fmt: skip
        keys.setenv(f"AWS_{name}", "7x")
    keys.setenv("AWS_CSM_ENABLED", "true")
    (tmp_path / "endpoints.json").write_text("{}")
    keys.setenv("AWS_DATA_PATH", str(tmp_path))
    keys.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "missing.pem"))
    keys.setenv("AWS_REGION", "eu-west-1")
    sent: list[str] = []

    def script(handler: Handler) -> None:
        sent.append(handler.headers["Authorization"])
        handler.ranged()

    with serving(script) as (endpoint, seen):
        backend = opened(endpoint, client)
        assert read(backend) == BODY[100:150]
        assert [line.partition("?")[0] for line in seen] == ["GET /bucket/k"]
        backend.close()
        (tmp_path / "config").write_text("[default]\nregion = eu-west-3\ns3 = no section\n")
        backend = opened(endpoint, client)
        assert read(backend) == BODY[100:150]
        backend.close()
    assert "/eu-west-1/s3/" in sent[0]  # the environment before the profile


@pytest.mark.parametrize("ahead_s", [-7200, 0, 7200])
@pytest.mark.parametrize("client", ["s3 native", "s3 aiobotocore", "az native", "az azure-sdk", "gs native"])
def test_a_date_in_retry_after_is_held_against_the_clock_of_the_store(
    keys: pytest.MonkeyPatch, client: str, ahead_s: int
) -> None:
    waits: list[float] = []
    keys.setattr("tracekit.backends.objects.retrying.time.sleep", waits.append)

    def busy(handler: Handler) -> None:
        if len(handler.seen) > 1:
            handler.ranged()
            return
        now = time.time() + ahead_s
        handler.send_response_only(503)
        handler.send_header("Date", formatdate(now, usegmt=True))
        handler.send_header("Retry-After", formatdate(now + 20, usegmt=True))
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    scheme, _, library = client.partition(" ")
    with serving(busy) as (endpoint, _):
        uri, options = place(endpoint, scheme)
        backend = backend_for(uri, client=library, retries=1, **options)
        assert read(backend, uri=uri) == BODY[100:150]
        backend.close()
    assert [wait for wait in waits if wait >= 1] == [20.0]


def test_what_is_no_wait_is_none_and_a_long_one_is_bounded() -> None:
    for told in ("", "soon", "nan", "-5", "Mon, 01 Jan 2001 00:00:00 GMT", "Mon, 99 Foo 2001"):
        assert retry_after({"retry-after": told}) == 0.0
    for told in ("61", "1e9", "inf", "Fri, 01 Jan 2100 00:00:00 GMT"):
        assert retry_after({"retry-after": told}) == 60.0
    assert retry_after({"retry-after": "1.5"}) == 1.5
    assert retry_after({"retry-after": "9", "x-ms-retry-after-ms": "700"}) == 0.7


def test_a_wait_in_milliseconds_is_obeyed(keys: pytest.MonkeyPatch) -> None:
    came: list[int] = []

    def busy(handler: Handler) -> None:
        came.append(time.monotonic_ns())
        handler.ranged() if len(came) > 1 else handler.reply(503, x_ms_retry_after_ms="700")

    with serving(busy) as (endpoint, _):
        uri, options = place(endpoint, "az")
        backend = backend_for(uri, retries=1, **options)
        assert read(backend, uri=uri) == BODY[100:150]
        backend.close()
    assert came[1] - came[0] >= 700_000_000


@WITH_EACH_CLIENT
def test_a_put_that_the_store_refuses_without_its_body_ends(keys: pytest.MonkeyPatch, client: str) -> None:
    def hasty(handler: Handler) -> None:
        handler.reply(403, b"<Error><Code>AccessDenied</Code></Error>", Connection="close")
        handler.drop()

    with serving(hasty) as (endpoint, seen):
        backend = opened(endpoint, client)
        assert (
            failure(lambda: backend.put("s3://bucket/k", bytes(1000), overwrite=True)).error_class
            == "permission"
        )
        assert len(seen) == 1
        backend.close()


@pytest.mark.parametrize("size", ["", "-5", "9" * 20])
@pytest.mark.parametrize(
    "client", [f"{scheme} {client}" for scheme in ("s3", "az") for client in CLIENTS[scheme]]
)
def test_an_entry_that_no_object_can_have_is_an_error_of_the_listing(
    keys: pytest.MonkeyPatch, client: str, size: str
) -> None:
    scheme, _, library = client.partition(" ")
    entry = {
        "s3": f"<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>k</Key>{size and f'<Size>{size}</Size>'}"
        "</Contents></ListBucketResult>",
        "az": "<EnumerationResults><Blobs><Blob><Name>k</Name><Properties>"
        f"{size and f'<Content-Length>{size}</Content-Length>'}<BlobType>BlockBlob</BlobType></Properties></Blob></Blobs>"
        "<NextMarker/></EnumerationResults>",
    }
    with serving(lambda handler: handler.reply(200, entry[scheme].encode())) as (endpoint, _):
        uri, options = place(endpoint, scheme)
        backend = backend_for(uri, client=library, retries=0, **options)
        error = failure(lambda: list(backend.list(f"{scheme}://bucket")))
        assert error.error_class == "io_error", str(error)
        backend.close()
