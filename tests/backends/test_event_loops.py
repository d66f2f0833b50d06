"""The native client on event loops, asyncio's own and uvloop's: the same bytes, faults, time-outs and connections."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from faults import BODY, EXPECTED, FAULTS, KEYS, Handler, place, serving
from test_odd_stores import certificate

from tracekit import BackendError, backend_for

LENGTH = 50
WAITING = {"silence", "silence in the body", "a byte now and then", "a header byte now and then"}
Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest, clean_env: pytest.MonkeyPatch) -> Run:
    for name, value in KEYS.items():
        clean_env.setenv(name, value)
    if request.param == "asyncio":
        return asyncio.run
    uvloop = pytest.importorskip("uvloop", reason="uvloop is not installed")
    return uvloop.run  # type: ignore[no-any-return]


@contextlib.asynccontextmanager
async def opened(endpoint: str, scheme: str = "s3", **options: Any) -> Any:
    uri, where = place(endpoint, scheme)
    backend = backend_for(uri, **where, **options)
    try:
        yield backend, uri
    finally:
        await backend.aclose()
        backend.close()


async def attempt(backend: Any, uri: str) -> tuple[str, int]:
    """Read a range: the error class or ok, and how often the request was sent."""
    buffer = backend.allocate(LENGTH)
    try:
        moved = await backend.open(uri).aread_into(100, buffer)
    except BackendError as error:
        return str(error.error_class), error.tries or 0
    assert (moved.nbytes, bytes(buffer)) == (LENGTH, BODY[100 : 100 + LENGTH])
    return "ok", moved.tries or 0


@pytest.mark.parametrize("scheme", ["s3", "az", "gs", "http"])
def test_ranges_and_whole_objects_are_read_at_the_same_time_on_reused_connections(
    run: Run, scheme: str
) -> None:
    async def reads(endpoint: str) -> dict[str, int]:
        async with opened(endpoint, scheme) as (backend, uri):
            for _ in range(3):
                done = await asyncio.gather(*(attempt(backend, uri) for _ in range(8)))
                assert done == [("ok", 1)] * 8
            data, _ = await backend.open(uri).aget()
            assert bytes(data) == BODY
            return dict(backend.counters)

    with serving(Handler.ranged if scheme == "s3" else whole_or_range) as (endpoint, seen):
        counters = run(reads(endpoint))
    assert len(seen) == 25
    assert counters["connections_opened"] <= 8
    assert counters["connections_opened"] + counters["connections_reused"] == 25


def whole_or_range(handler: Handler) -> None:
    if handler.headers.get("Range") or handler.headers.get("x-ms-range"):
        handler.ranged()
    else:
        handler.reply(200, BODY)


def test_every_fault_has_the_same_class_and_tries_on_an_event_loop(run: Run) -> None:
    async def one(fault: str, stack: contextlib.ExitStack) -> tuple[str, int]:
        endpoint, _ = stack.enter_context(serving(FAULTS[fault]))
        async with opened(endpoint, retries=1) as (backend, uri):
            return await attempt(backend, uri)

    async def all_of(faults: list[str], stack: contextlib.ExitStack) -> dict[str, tuple[str, int]]:
        found = await asyncio.gather(*(one(fault, stack) for fault in faults))
        return dict(zip(faults, found, strict=True))

    faults = [fault for fault in FAULTS if fault not in WAITING]
    with contextlib.ExitStack() as stack:
        found = run(all_of(faults, stack))
    assert found == {fault: EXPECTED[fault] for fault in faults}


@pytest.mark.parametrize("fault", ["silence", "silence in the body"])
def test_a_store_that_falls_silent_is_a_timeout_on_an_event_loop(run: Run, fault: str) -> None:
    async def read(endpoint: str) -> tuple[str, int]:
        async with opened(endpoint, retries=0, timeout_s=0.3) as (backend, uri):
            return await attempt(backend, uri)

    with serving(FAULTS[fault]) as (endpoint, _):
        assert run(read(endpoint)) == ("timeout", 1)


def test_a_cancelled_read_leaves_its_buffer_alone_and_the_next_read_is_right(run: Run) -> None:
    async def reads(endpoint: str) -> None:
        async with opened(endpoint) as (backend, uri):
            buffer = backend.allocate(LENGTH)
            task = asyncio.create_task(backend.open(uri).aread_into(100, buffer))
            while not seen:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await attempt(backend, uri) == ("ok", 1)
            assert bytes(buffer) == bytes(LENGTH)
            assert backend.counters["connections_opened"] == 2

    def first_late(handler: Handler) -> None:
        if len(seen) == 1:
            handler.pause(0.5)
        handler.ranged()

    with serving(first_late) as (endpoint, seen):
        run(reads(endpoint))


def test_tls_is_spoken_on_an_event_loop(run: Run, tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(tmp_path))

    async def reads(endpoint: str) -> dict[str, int]:
        async with opened(endpoint, ca_bundle=str(tmp_path / "ca.pem")) as (backend, uri):
            for _ in range(3):
                assert await attempt(backend, uri) == ("ok", 1)
            return dict(backend.counters)

    with serving(Handler.ranged, context) as (endpoint, _):
        counters = run(reads(endpoint))
    assert (counters["tls_handshakes"], counters["connections_reused"]) == (1, 2)
