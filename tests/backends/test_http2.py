"""HTTP/2 as the native client speaks it: the same checks, errors and counters, with real servers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import pytest
import servers
from faults import BODY, KEYS, place
from test_odd_stores import certificate

from tracekit import backend_for
from tracekit.errors import BackendError, UsageError
from tracekit.store_options import CLIENTS

Headers = list[tuple[str, str]]
SCHEMES = ["s3", "az", "gs", "https"]


@pytest.fixture
def keys(clean_env: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in KEYS.items():
        clean_env.setenv(name, value)
    return clean_env


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificate(tmp_path_factory.mktemp("tls"))


@dataclass
class Asked:
    """One request that came."""

    headers: dict[str, str]
    body: bytearray = field(default_factory=bytearray)

    @property
    def range(self) -> tuple[int, int]:
        told = self.headers.get("range") or f"bytes=0-{len(BODY) - 1}"
        first, _, last = told.removeprefix("bytes=").partition("-")
        return int(first), min(int(last), len(BODY) - 1)


Script = Callable[["Peer", int, Asked], None]


class Peer:
    """The server's side of one connection."""

    def __init__(self, secured: ssl.SSLSocket, script: Script, window: int, seen: list[Asked]) -> None:
        self.secured, self.script, self.seen = secured, script, seen
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        )
        self.h2.local_settings = h2.settings.Settings(
            client=False, initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window}
        )
        self.h2.initiate_connection()
        self.asked: dict[int, Asked] = {}
        self.open = True

    def serve(self) -> None:
        with contextlib.suppress(OSError, h2.exceptions.ProtocolError), self.secured:
            self.flush()
            while self.open and (data := self.secured.recv(65536)):
                for event in self.h2.receive_data(data):
                    self.take(event)
                self.flush()

    def take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            self.asked[event.stream_id] = Asked({str(name): str(value) for name, value in event.headers})
        elif isinstance(event, h2.events.DataReceived):
            self.asked[event.stream_id].body += event.data
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            asked = self.asked.pop(event.stream_id)
            self.seen.append(asked)
            self.script(self, event.stream_id, asked)

    def flush(self) -> None:
        self.secured.sendall(self.h2.data_to_send())

    def answer(self, stream: int, status: int, body: bytes = b"", *more: tuple[str, str]) -> None:
        self.head(stream, status, ("content-length", str(len(body))), *more)
        self.h2.send_data(stream, body, end_stream=True)

    def head(self, stream: int, status: int, *more: tuple[str, str]) -> None:
        self.h2.send_headers(stream, [(":status", str(status)), ("etag", '"e"'), *more])


def ranged(peer: Peer, stream: int, asked: Asked) -> None:
    first, last = asked.range
    told = ("content-range", f"bytes {first}-{last}/{len(BODY)}")
    peer.answer(stream, 206, BODY[first : last + 1], told)


@contextlib.contextmanager
def serving(
    script: Script, pem: Path, window: int = 65535, kind: type[Peer] = Peer
) -> Iterator[tuple[str, list[Asked]]]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    context.set_alpn_protocols(["h2"])
    seen: list[Asked] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    secured = context.wrap_socket(connection, server_side=True)
                    threading.Thread(target=kind(secured, script, window, seen).serve, daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}", seen
        listener.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def opened(endpoint: str, pem: Path, scheme: str = "s3", **options: Any) -> Iterator[tuple[Any, str]]:
    uri, where = place(endpoint, "http" if scheme == "https" else scheme)
    usual = {"ca_bundle": str(pem.parent / "ca.pem"), "retries": 0, "timeout_s": 5, "http2": True}
    with contextlib.closing(backend_for(uri, **{**usual, **where, **options})) as backend:
        yield backend, uri


def read(backend: Any, uri: str, offset: int = 100, length: int = 50) -> bytes:
    buffer = backend.allocate(length)
    return bytes(buffer[: backend.open(uri).read_into(offset, buffer).nbytes])


def read_on_a_loop(backend: Any, uri: str, times: int = 1) -> list[bytes]:
    async def reads() -> list[bytes]:
        found = []
        for _ in range(times):
            buffer = backend.allocate(50)
            moved = await backend.open(uri).aread_into(100, buffer)
            found.append(bytes(buffer[: moved.nbytes]))
        await backend.aclose()
        return found

    return asyncio.run(reads())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_reads_come_over_one_connection_by_http2(keys: pytest.MonkeyPatch, pem: Path, scheme: str) -> None:
    with serving(ranged, pem) as (endpoint, seen), opened(endpoint, pem, scheme) as (backend, uri):
        assert [read(backend, uri) for _ in range(3)] == [BODY[100:150]] * 3
        assert bytes(backend.open(uri).get()[0]) == BODY
        assert read_on_a_loop(backend, uri, 3) == [BODY[100:150]] * 3
        counters = backend.counters
        assert len(seen) == counters["range_gets"] + counters["whole_gets"] == 7
        assert counters["connections_opened"] == counters["tls_handshakes"] == 2
        assert counters["connections_reused"] == 5
        assert {asked.headers[":authority"] for asked in seen} == {endpoint.removeprefix("https://")}


def test_an_answer_without_a_length_and_one_of_many_frames_are_whole(
    keys: pytest.MonkeyPatch, pem: Path
) -> None:
    def script(peer: Peer, stream: int, asked: Asked) -> None:
        first, last = asked.range
        peer.head(stream, 206, ("content-range", f"bytes {first}-{last}/{len(BODY)}"))
        for at in range(first, last + 1, 7):
            peer.h2.send_data(stream, BODY[at : min(at + 7, last + 1)], pad_length=5)
        peer.h2.send_data(stream, b"")
        peer.h2.send_headers(stream, [("x-trailer", "t")], end_stream=True)

    with serving(script, pem) as (endpoint, _), opened(endpoint, pem) as (backend, uri):
        assert read(backend, uri, 100, 3000) == BODY[100:3100]
        assert bytes(backend.open(uri).get()[0]) == BODY
        assert read_on_a_loop(backend, uri) == [BODY[100:150]]


@pytest.mark.parametrize("window", [100, 65535])
def test_a_put_waits_until_the_store_has_room(keys: pytest.MonkeyPatch, pem: Path, window: int) -> None:
    data = BODY * 40

    def script(peer: Peer, stream: int, asked: Asked) -> None:
        peer.answer(stream, 200)

    with serving(script, pem, window) as (endpoint, seen), opened(endpoint, pem) as (backend, uri):
        for size in (0, 1, 50, len(data)):
            backend.put(uri, data[:size], overwrite=True)
        assert [bytes(asked.body) for asked in seen] == [b"", data[:1], data[:50], data]
        assert backend.counters["connections_opened"] == 1


def refused(call: Callable[[], object]) -> BackendError:
    with pytest.raises(BackendError) as raised:
        call()
    assert "\n" not in str(raised.value)
    return raised.value


def moved(peer: Peer, stream: int, asked: Asked) -> None:
    first, last = asked.range
    told = ("content-range", f"bytes {first + 1}-{last + 1}/{len(BODY)}")
    peer.answer(stream, 206, BODY[first + 1 : last + 2], told)


def cut(peer: Peer, stream: int, asked: Asked) -> None:
    first, last = asked.range
    length = ("content-length", str(last - first + 1))
    peer.head(stream, 206, length, ("content-range", f"bytes {first}-{last}/{len(BODY)}"))
    peer.h2.send_data(stream, BODY[first:last])
    peer.flush()
    peer.h2.reset_stream(stream)


def gone(peer: Peer, stream: int, asked: Asked) -> None:
    peer.open = False


def away(peer: Peer, stream: int, asked: Asked) -> None:
    peer.h2.close_connection(last_stream_id=0)


def broken(peer: Peer, stream: int, asked: Asked) -> None:
    peer.secured.sendall(b"\x00\x00\x04\x00\x00\x00\x00\x00\x00data")  # DATA of no stream


FAULTS: dict[str, tuple[Script, str]] = {
    "404": (lambda peer, stream, _: peer.answer(stream, 404), "not_found"),
    "503": (lambda peer, stream, _: peer.answer(stream, 503), "throttled"),
    "307": (
        lambda peer, stream, _: peer.answer(stream, 307, b"", ("location", "/elsewhere")),
        "wrong_region",
    ),
    "a range that is moved": (moved, "io_error"),
    "a body that is cut": (cut, "unreachable"),
    "a connection that is closed": (gone, "unreachable"),
    "a connection that is ended": (away, "unreachable"),
    "a frame of no stream": (broken, "io_error"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("way", [read, read_on_a_loop])
def test_a_fault_has_its_class_and_is_sent_once(
    keys: pytest.MonkeyPatch, pem: Path, fault: str, way: Callable[[Any, str], object]
) -> None:
    script, kind = FAULTS[fault]
    now = [script]
    with (
        serving(lambda peer, stream, asked: now[0](peer, stream, asked), pem) as (endpoint, seen),
        opened(endpoint, pem) as (backend, uri),
    ):
        assert refused(lambda: way(backend, uri)).error_class == kind
        assert [asked.headers[":path"] for asked in seen] == ["/bucket/k"]
        now[0] = ranged
        assert way(backend, uri) in (BODY[100:150], [BODY[100:150]])


def test_a_store_that_says_nothing_times_out(keys: pytest.MonkeyPatch, pem: Path) -> None:
    with (
        serving(lambda *_: None, pem) as (endpoint, _),
        opened(endpoint, pem, timeout_s=0.3) as (backend, uri),
    ):
        assert refused(lambda: read(backend, uri)).error_class == "timeout"
        assert refused(lambda: read_on_a_loop(backend, uri)).error_class == "timeout"


class Hasty(Peer):
    """Answers before it has the body of a request."""

    def take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            self.answer(event.stream_id, 403, b"<Error><Code>AccessDenied</Code></Error>")


def test_a_put_that_is_refused_before_its_end_has_the_reason(keys: pytest.MonkeyPatch, pem: Path) -> None:
    with serving(ranged, pem, kind=Hasty) as (endpoint, _), opened(endpoint, pem) as (backend, uri):
        error = refused(lambda: backend.put(uri, BODY * 100, overwrite=True))
        assert error.error_class == "permission" and "AccessDenied" in str(error)


def test_a_connection_that_the_store_ended_in_between_is_not_used_again(
    keys: pytest.MonkeyPatch, pem: Path
) -> None:
    def once(peer: Peer, stream: int, asked: Asked) -> None:
        ranged(peer, stream, asked)
        peer.h2.close_connection()  # in one record with the answer, so that no request crosses it

    with serving(once, pem) as (endpoint, seen), opened(endpoint, pem) as (backend, uri):
        assert [read(backend, uri) for _ in range(3)] == [BODY[100:150]] * 3
        assert len(seen) == 3 and backend.counters["retries"] == 0


def test_a_request_that_crosses_the_end_of_its_connection_is_sent_again(
    keys: pytest.MonkeyPatch, pem: Path
) -> None:
    def once(peer: Peer, stream: int, asked: Asked) -> None:
        ranged(peer, stream, asked)
        peer.flush()
        peer.h2.close_connection()

    with serving(once, pem) as (endpoint, seen), opened(endpoint, pem, retries=3) as (backend, uri):
        assert [read(backend, uri) for _ in range(3)] == [BODY[100:150]] * 3
        assert len(seen) == 3
    with serving(once, pem) as (endpoint, seen), opened(endpoint, pem, retries=3) as (backend, uri):
        assert read_on_a_loop(backend, uri, 3) == [BODY[100:150]] * 3
        assert len(seen) == 3


def test_a_store_without_http2_is_spoken_to_by_http1(keys: pytest.MonkeyPatch, pem: Path) -> None:
    import faults

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with (
        faults.serving(faults.Handler.ranged, context) as (endpoint, _),
        opened(endpoint, pem) as (backend, uri),
    ):
        assert read(backend, uri) == BODY[100:150]
        assert read_on_a_loop(backend, uri) == [BODY[100:150]]


@pytest.mark.server
def test_nginx_chooses_http2_if_it_is_offered(keys: pytest.MonkeyPatch, pem: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "k").write_bytes(BODY * 1000)
    try:
        with servers.nginx_bucket(folder, tmp_path / "nginx", certificate=pem) as server:
            for http2 in (False, True):
                with opened(server.endpoint, pem, http2=http2) as (backend, uri):
                    assert read(backend, uri) == BODY[100:150]
                    assert bytes(backend.open(uri).get()[0]) == BODY * 1000
                    assert backend.stat(uri).size == len(BODY) * 1000
                    assert read_on_a_loop(backend, uri) == [BODY[100:150]]
                    assert refused(lambda: read(backend, f"{uri}-missing")).error_class == "not_found"
    except servers.Unavailable as missing:
        pytest.skip(str(missing))
    spoken = (tmp_path / "nginx" / "protocols").read_text().split()  # nginx writes a line after the answer
    assert spoken == ["HTTP/1.1"] * 5 + ["HTTP/2.0"] * 5


@pytest.mark.parametrize(
    ("scheme", "client"),
    [(scheme, client) for scheme in ("s3", "az") for client in CLIENTS[scheme] if client != "native"],
)
def test_the_other_clients_refuse_http2(keys: pytest.MonkeyPatch, scheme: str, client: str) -> None:
    with pytest.raises(UsageError, match="does not take http2="):
        backend_for(f"{scheme}://bucket", client=client, http2=True)


def test_a_missing_package_for_http2_is_named(keys: pytest.MonkeyPatch) -> None:
    keys.setitem(__import__("sys").modules, "h2.connection", None)
    with pytest.raises(UsageError, match=r"pip install 'tracekit\[http2\]'"):
        backend = backend_for("https://127.0.0.1:1/k", http2=True)
        backend.open("https://127.0.0.1:1/k")
