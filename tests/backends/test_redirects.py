"""Redirects: no client follows one, wherever it leads and whenever it begins, and each is counted as what was sent."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from faults import BODY, KEYS, Handler, place, serving

from tracekit import backend_for
from tracekit.errors import BackendError
from tracekit.store_options import CLIENTS

STORES = [f"{scheme} {client}" for scheme in ("s3", "az", "gs", "http") for client in CLIENTS[scheme]]
GOOD = 3
"""How many reads the store answers before it redirects."""


@pytest.fixture
def keys(clean_env: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in KEYS.items():
        clean_env.setenv(name, value)
    clean_env.setenv("AWS_SESSION_TOKEN", "tok3n")
    return clean_env


def range_get(backend: Any, uri: str) -> None:
    buffer = backend.allocate(50)
    assert bytes(buffer[: backend.open(uri).read_into(100, buffer).nbytes]) == BODY[100:150]


def range_get_on_a_loop(backend: Any, uri: str) -> None:
    async def read() -> None:
        try:
            buffer = backend.allocate(50)
            await backend.open(uri).aread_into(100, buffer)
        finally:
            await backend.aclose()

    asyncio.run(read())


def whole_get_on_a_loop(backend: Any, uri: str) -> None:
    async def get() -> None:
        try:
            await backend.open(uri).aget()
        finally:
            await backend.aclose()

    asyncio.run(get())


@dataclass(frozen=True)
class Request:
    """A request, and the counter that counts it."""

    send: Callable[[Any, str], object]
    counter: str


REQUESTS = {
    "range GET": Request(range_get, "range_gets"),
    "range GET, asyncio": Request(range_get_on_a_loop, "range_gets"),
    "GET": Request(lambda backend, uri: backend.open(uri).get(), "whole_gets"),
    "GET, asyncio": Request(whole_get_on_a_loop, "whole_gets"),
    "HEAD": Request(lambda backend, uri: backend.stat(uri), "heads"),
    "list": Request(lambda backend, uri: list(backend.list(f"{uri.partition(':')[0]}://bucket")), "lists"),
    "put": Request(lambda backend, uri: backend.put(uri, b"x" * 100, overwrite=True), "puts"),
    "delete": Request(lambda backend, uri: backend.changer.delete(uri), "deletes"),
}
READ_ONLY = ("put", "delete", "list")
"""What web servers are not asked for; a listing is a HEAD there."""


@pytest.mark.parametrize(
    ("place_of_it", "status"),
    [
        ("another path", 307),
        ("another host", 307),
        ("the same host at another port", 307),
        ("another path", 301),
        ("another path", 302),
        ("another path", 303),
        ("another path", 308),
    ],
)
@pytest.mark.parametrize("client", STORES)
def test_no_redirect_is_followed_however_late_it_begins(
    keys: pytest.MonkeyPatch, client: str, place_of_it: str, status: int
) -> None:
    scheme, _, library = client.partition(" ")
    good = [GOOD]
    with serving(Handler.ranged) as (other, reached):
        target = {
            "another path": "/elsewhere",
            "another host": f"{other.replace('127.0.0.1', 'localhost')}/elsewhere",
            "the same host at another port": f"{other}/elsewhere",
        }[place_of_it]

        def script(handler: Handler) -> None:
            if good[0] > 0:
                good[0] -= 1
                handler.ranged()
            elif "elsewhere" in handler.path:
                handler.ranged()
            else:
                handler.reply(status, b"" if handler.command == "HEAD" else b"moved", Location=target)

        with serving(script) as (endpoint, seen):
            uri, options = place(endpoint, scheme)
            backend = backend_for(uri, client=library, retries=2, timeout_s=5, **options)
            with contextlib.closing(backend):
                for _ in range(GOOD):
                    range_get(backend, uri)
                for name, request in REQUESTS.items():
                    if scheme == "http" and name in READ_ONLY:
                        continue
                    before, counted = len(seen), dict(backend.counters)
                    with pytest.raises(BackendError) as raised:
                        request.send(backend, uri)
                    error = raised.value
                    assert (error.error_class, error.tries) == ("wrong_region", 1), (name, str(error))
                    assert "\n" not in str(error) and "tok3n" not in str(error) and "%zz" not in str(error)
                    assert len(seen) - before == 1, (name, seen[before:])
                    added = {
                        name: number - counted.get(name, 0)
                        for name, number in backend.counters.items()
                        if number != counted.get(name, 0) and "_" not in name.removesuffix("_gets")
                    }
                    assert added == {request.counter: 1}, name
                    assert backend.counters["retries"] == 0
        assert reached == []
        assert not [line for line in seen if "elsewhere" in line]


@pytest.mark.parametrize("client", STORES)
def test_a_redirect_in_the_middle_of_other_reads_of_many_threads_is_not_followed(
    keys: pytest.MonkeyPatch, client: str
) -> None:
    scheme, _, library = client.partition(" ")

    def script(handler: Handler) -> None:
        first, _ = handler.asked
        if first == 100:
            handler.reply(307, Location="/elsewhere")
        else:
            handler.ranged()

    with serving(script) as (endpoint, seen):
        uri, options = place(endpoint, scheme)
        backend = backend_for(uri, client=library, retries=0, timeout_s=5, **options)
        outcomes: list[str] = []

        def reads() -> None:
            for offset in (0, 100, 200):
                buffer = backend.allocate(50)
                try:
                    backend.open(uri).read_into(offset, buffer)
                    outcomes.append(f"{offset} {bytes(buffer) == BODY[offset : offset + 50]}")
                except BackendError as error:
                    outcomes.append(f"{offset} {error.error_class}")

        threads = [threading.Thread(target=reads) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        backend.close()
        assert sorted(outcomes) == ["0 True"] * 4 + ["100 wrong_region"] * 4 + ["200 True"] * 4
        assert len(seen) == 12 and not [line for line in seen if "elsewhere" in line]


@pytest.mark.parametrize("client", CLIENTS["s3"])
def test_a_session_token_is_sent_and_signed_by_every_client_and_no_user_name_is(
    keys: pytest.MonkeyPatch, client: str
) -> None:
    came: list[http.server.BaseHTTPRequestHandler] = []

    def script(handler: Handler) -> None:
        came.append(handler)
        handler.ranged()

    with serving(script) as (endpoint, _):
        backend = backend_for("s3://bucket/k", client=client, endpoint=endpoint)
        range_get(backend, "s3://bucket/k")
        backend.close()
        headers = came[0].headers
        assert headers["x-amz-security-token"] == "tok3n"
        assert "x-amz-security-token" in headers["authorization"]
        assert headers["host"] == endpoint.removeprefix("http://")
        assert headers["authorization"].startswith("AWS4-HMAC-SHA256 ") and "referer" not in headers
