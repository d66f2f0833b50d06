"""Another kind of server at the endpoint: its successes are no successes of a store."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults import BODY, KEYS, Handler, place, serving

from tracekit import backend_for
from tracekit.backends.objects.store import ObjectStoreBackend
from tracekit.errors import BackendError
from tracekit.store_options import CLIENTS

STORES = [f"{scheme} {client}" for scheme in ("s3", "az", "gs") for client in CLIENTS[scheme]]
PAGES = (
    b"<html><body>please log in<br></body></html>",
    b"\n<!DOCTYPE html>\n<HTML><head><meta charset=x></head></HTML>",
)
HINT = "check the endpoint: another kind of server answers there"


@pytest.fixture
def keys(clean_env: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in KEYS.items():
        clean_env.setenv(name, value)
    return clean_env


def refused(
    answer: Callable[[Handler], None], client: str, request: Callable[[ObjectStoreBackend, str], object]
) -> BackendError:
    scheme, _, library = client.partition(" ")
    with serving(answer) as (endpoint, _):
        uri, options = place(endpoint, scheme)
        backend: Any = backend_for(uri, client=library, retries=2, timeout_s=5, **options)
        with contextlib.closing(backend), pytest.raises(BackendError) as raised:
            request(backend, uri)
    assert "\n" not in str(raised.value) and "log in" not in str(raised.value)
    return raised.value


@pytest.mark.parametrize("client", STORES)
@pytest.mark.parametrize("page", [*PAGES, b"\x00\xff\x01 log in", b"<Other></Other>", b"SSH-2.0"])
def test_what_is_no_listing_of_a_store_is_named(keys: pytest.MonkeyPatch, client: str, page: bytes) -> None:
    def answer(handler: Handler) -> None:
        handler.reply(200, page, Content_Type="text/html")

    error = refused(
        answer, client, lambda backend, uri: list(backend.list(f"{uri.partition(':')[0]}://bucket"))
    )
    assert (error.error_class, error.tries) == ("io_error", 1)
    assert (error.message.rpartition(": ")[2], error.hint) == ("the answer is not a listing", HINT)


def put(backend: ObjectStoreBackend, uri: str) -> None:
    backend.put(uri, b"x", overwrite=True)


@pytest.mark.parametrize("client", STORES)
@pytest.mark.parametrize("status", [200, 201, 202])
@pytest.mark.parametrize("body", [*PAGES, b"log in", b'{"login": true}', b"\x00\xff"])
def test_a_put_has_succeeded_only_if_the_answer_is_that_of_a_store(
    keys: pytest.MonkeyPatch, client: str, status: int, body: bytes
) -> None:
    def answer(handler: Handler) -> None:
        handler.reply(status, body)  # with an ETag, as web servers send one too

    error = refused(answer, client, put)
    assert (error.error_class, error.tries, error.hint) == ("io_error", 1, HINT)


@pytest.mark.parametrize("client", STORES)
def test_a_put_whose_answer_has_no_body_has_succeeded(keys: pytest.MonkeyPatch, client: str) -> None:
    scheme, _, library = client.partition(" ")
    body = b'{"kind": "storage#object"}' if scheme == "gs" else b""

    def answer(handler: Handler) -> None:
        handler.send_response(201 if scheme == "az" else 200)
        handler.send_header("Content-Type", "text/html")  # moto says so
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    with serving(answer) as (endpoint, seen):
        uri, options = place(endpoint, scheme)
        backend: Any = backend_for(uri, client=library, retries=0, **options)
        put(backend, uri)
        backend.close()
        assert len(seen) == 1


@pytest.mark.parametrize("client", CLIENTS["s3"])
def test_an_error_in_the_body_of_a_success_is_the_outcome_of_a_put(
    keys: pytest.MonkeyPatch, client: str
) -> None:
    body = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>later</Message></Error>'
    with serving(lambda handler: handler.reply(200, body)) as (endpoint, seen):
        uri, options = place(endpoint, "s3")
        backend: Any = backend_for(uri, client=client, retries=1, **options)
        with contextlib.closing(backend), pytest.raises(BackendError) as raised:
            put(backend, uri)
        assert (raised.value.error_class, len(seen)) == ("throttled", 2)


@pytest.mark.parametrize("scheme", ["s3", "az", "gs"])
@pytest.mark.parametrize("page", PAGES)
def test_a_web_page_is_not_taken_for_a_change_that_succeeded(
    keys: pytest.MonkeyPatch, scheme: str, page: bytes
) -> None:
    requests: list[Callable[[ObjectStoreBackend, str], object]] = [
        lambda backend, uri: backend.changer.delete(uri),
        lambda backend, uri: backend.changer.copy(uri, f"{uri}2"),
        lambda backend, uri: backend.changer.upload(uri).part(1, 0, memoryview(b"x")),
    ]
    for request in requests:
        error = refused(lambda handler: handler.reply(200, page), f"{scheme} native", request)
        assert (error.error_class, error.tries, error.hint) == ("io_error", 1, HINT)


@pytest.mark.parametrize("status", [201, 206])
def test_the_parser_of_botocore_shows_nothing_of_a_body(keys: pytest.MonkeyPatch, status: int) -> None:
    error = refused(
        lambda handler: handler.reply(status, PAGES[0]),
        "s3 aiobotocore",
        lambda backend, uri: list(backend.list("s3://bucket")),
    )
    assert (error.error_class, error.hint) == ("io_error", HINT)


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (b"<CopyObjectResult/>", "done"),
        (b"<Error><Code>SlowDown</Code></Error>", "throttled"),
        (b"<Error><Code>InternalError</Code></Error>", "server_error"),
        (b"<Error><Code>AccessDenied</Code></Error>", "permission"),
        (b"  \n", "server_error"),
        (b"<Other/>", "io_error"),
    ],
)
def test_a_copy_has_succeeded_only_if_the_body_says_so(
    keys: pytest.MonkeyPatch, body: bytes, outcome: str
) -> None:
    with serving(lambda handler: handler.reply(200, body)) as (endpoint, seen):
        uri, options = place(endpoint, "s3")
        backend: Any = backend_for(uri, retries=1, **options)
        told = "done"
        try:
            backend.changer.copy(uri, f"{uri}2")
        except BackendError as error:
            told = str(error.error_class)
        again = outcome in ("throttled", "server_error")
        assert (told, len(seen)) == (outcome, 1 + again)
        assert backend.counters["throttles"] == 2 * (outcome == "throttled")
        backend.close()


@pytest.mark.parametrize("client", [*STORES, "http native"])
def test_an_object_may_be_a_web_page(keys: pytest.MonkeyPatch, client: str) -> None:
    scheme, _, library = client.partition(" ")
    page = PAGES[0]

    def answer(handler: Handler) -> None:
        told = handler.headers.get("Range") or handler.headers.get("x-ms-range")
        named = {"Content_Range": f"bytes 0-{len(page) - 1}/{len(page)}"} if told else {}
        handler.reply(206 if told else 200, page, **named)

    with serving(answer) as (endpoint, _):
        uri, options = place(endpoint, scheme)
        backend: Any = backend_for(uri, client=library, **options)
        assert bytes(backend.open(uri).get()[0]) == page
        backend.close()


@pytest.mark.parametrize("client", [*STORES, "http native"])
@pytest.mark.parametrize("bundle", ["missing.pem", "garbage.pem"])
def test_certificates_are_not_looked_at_where_there_is_no_tls(
    keys: pytest.MonkeyPatch, tmp_path: Path, client: str, bundle: str
) -> None:
    (tmp_path / "garbage.pem").write_text("no certificate")
    scheme, _, library = client.partition(" ")
    keys.setenv("AWS_CA_BUNDLE", str(tmp_path / bundle))
    with serving(Handler.ranged) as (endpoint, _):
        uri, options = place(endpoint, scheme)
        backend: Any = backend_for(uri, client=library, ca_bundle=str(tmp_path / bundle), **options)
        buffer = backend.allocate(50)
        assert backend.open(uri).read_into(100, buffer).nbytes == 50
        assert bytes(buffer) == BODY[100:150]
        backend.close()


@pytest.mark.parametrize("client", [name for name in [*STORES, "http native"] if "obstore" not in name])
@pytest.mark.parametrize(("status", "secure"), [(407, False), (407, True), (403, True)])
def test_a_proxy_that_refuses_is_named(
    keys: pytest.MonkeyPatch, client: str, status: int, secure: bool
) -> None:
    scheme, _, library = client.partition(" ")
    with serving(lambda handler: handler.reply(status)) as (proxy, seen):
        uri, options = place(f"{'https' if secure else 'http'}://store.invalid", scheme)
        backend: Any = backend_for(uri, client=library, retries=2, proxy=proxy, **options)
        with contextlib.closing(backend), pytest.raises(BackendError) as raised:
            backend.open(uri).read_into(0, backend.allocate(10))
        told = f"the proxy {proxy}" if secure else "the proxy"
        error = raised.value
        if status == 407:
            assert f"{told} wants a login: HTTP 407" in error.message and "HTTPS_PROXY" in error.hint
        else:
            assert f"{told} refused to connect: HTTP 403" in error.message
        assert (error.error_class, len(seen)) == ("permission" if status == 407 else "unreachable", 1)
