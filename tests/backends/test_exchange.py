"""The exchange in C beside the same in Python: every answer, however it is cut, has the same outcome."""

from __future__ import annotations

import math
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from tracekit.backends.objects.native.blocking import BlockingPool
from tracekit.backends.objects.native.checks import RangeCheck, succeeded
from tracekit.backends.objects.native.endpoint import Broken, Endpoint, Limits
from tracekit.backends.objects.native.exchange import compiled_exchange
from tracekit.backends.objects.native.wire import Refused
from tracekit.backends.objects.ranges import OtherBytes

pytestmark = pytest.mark.skipif(
    compiled_exchange() is None, reason="the exchange is not compiled: no C compiler was found"
)
OFFSET, WANTED, TOTAL = 100, 20, 4096
BODY = bytes(range(WANTED))
RIGHT = (
    b"HTTP/1.1 206 Partial Content\r\nServer: x\r\nContent-Length: 20\r\nContent-Range: bytes 100-119/4096\r\n"
    b"ETag: \"e\"\r\nConnection: keep-alive\r\n\r\n" + BODY
)  # fmt: skip
HEAD = b"GET /k HTTP/1.1\r\nhost: x\r\nrange: bytes=100-119\r\n\r\n"


@dataclass
class Store:
    """Answers each request with the same pieces, and then does what `then` says."""

    pieces: Sequence[bytes] = ()
    then: str = "keep"
    """`keep` the connection, `close` it, `reset` it, or stay `silent` until the client hangs up."""
    requests: int = 0
    sent: int = 0
    """Answers that were sent whole."""
    ended: int = 0
    """Connections that were closed here."""
    port: int = 0
    threads: list[threading.Thread] = field(default_factory=list)

    def accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.threads.append(threading.Thread(target=self.serve, args=(connection,)))
            self.threads[-1].start()

    def serve(self, connection: socket.socket) -> None:
        with connection:
            self.answer(connection)
        self.ended += 1

    def answer(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while self.asked(connection):
                self.requests += 1
                for piece in self.pieces:
                    connection.sendall(piece)
                    time.sleep(0.001 if len(self.pieces) > 1 else 0)
                self.sent += 1
                if self.then == "reset":
                    time.sleep(0.01)  # what was sent has arrived
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                if self.then in ("close", "reset"):
                    return
        except OSError:
            return  # the client hung up

    def asked(self, connection: socket.socket) -> bool:
        got = b""
        while not got.endswith(b"\r\n\r\n"):
            part = connection.recv(65536)
            if not part:
                return False
            got += part
        return True


@contextmanager
def listening() -> Iterator[Store]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        store = Store(port=listener.getsockname()[1])
        thread = threading.Thread(target=store.accept, args=(listener,))
        thread.start()
        try:
            yield store
        finally:
            listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    for each in store.threads:
        each.join()


@pytest.fixture
def store() -> Iterator[Store]:
    with listening() as listener:
        yield listener


class Path:
    """One of the two ways to read a range, on connections of its own."""

    def __init__(self, store: Store, compiled: bool, byte_s: float = 10) -> None:
        self.counters: Counter[str] = Counter()
        endpoint = Endpoint("http", "127.0.0.1", store.port, "", None, None)
        self.pool = BlockingPool(endpoint, Limits(5, byte_s, math.inf, 8), self.count)
        self.compiled = compiled
        self.filled = 0

    def count(self, name: str) -> None:
        self.counters[name] += 1

    def read(self, head: bytes = HEAD, wanted: int = WANTED) -> tuple[object, ...]:
        """Read the range: the outcome, and the bytes."""
        buffer = memoryview(bytearray(wanted))
        check = RangeCheck(OFFSET, buffer)
        began = time.monotonic_ns()
        try:
            if self.compiled:
                first = self.pool.read(head, check)
            else:
                first = self.pool.exchange(head, b"", check.reception)
            self.filled += check.filled
            if not check.filled:
                succeeded(check.reception, first)
            count = check.count()
        except (Broken, Refused, OtherBytes) as error:
            kind = error.failure.error_class if isinstance(error, Broken) else type(error)
            return kind, str(error)
        assert began <= first <= time.monotonic_ns()
        return count, bytes(buffer[:count])


@pytest.fixture
def both(store: Store) -> Iterator[tuple[Path, Path]]:
    """The way in C and the way in Python."""
    pair = Path(store, True), Path(store, False)
    yield pair
    for path in pair:
        path.pool.close()


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def same(both: tuple[Path, Path]) -> tuple[object, ...]:
    compiled, plain = (path.read() for path in both)
    assert compiled == plain
    return compiled


def test_the_usual_answer_is_received_in_c_on_a_reused_connection(
    store: Store, both: tuple[Path, Path]
) -> None:
    store.pieces, store.then = [RIGHT], "keep"
    for _ in range(3):
        assert same(both) == (WANTED, BODY)
    compiled, plain = both
    assert (compiled.filled, plain.filled) == (3, 0)
    assert compiled.counters == plain.counters == {"connections_opened": 1, "connections_reused": 2}


def test_a_large_body_arrives_whole_in_one_call(store: Store, both: tuple[Path, Path]) -> None:
    body = random.Random(3).randbytes(3 << 20)
    told = f"Content-Length: {len(body)}\r\nContent-Range: bytes {OFFSET}-{OFFSET + len(body) - 1}/99999999"
    head = f"HTTP/1.1 206 Partial Content\r\n{told}\r\n\r\n".encode()
    store.pieces, store.then = [head + body[:1000], body[1000 : 1 << 20], body[1 << 20 :]], "keep"
    for path in both:
        assert path.read(wanted=len(body)) == (len(body), body)
    assert both[0].filled == 1


def test_an_answer_is_the_same_wherever_it_is_cut(store: Store, both: tuple[Path, Path]) -> None:
    store.then = "keep"
    for at in range(1, len(RIGHT)):
        store.pieces = [RIGHT[:at], RIGHT[at:]]
        assert same(both) == (WANTED, BODY)
    assert both[0].counters == both[1].counters


@pytest.mark.parametrize("then", ["close", "reset"])
def test_an_answer_that_ends_early_has_the_same_outcome_wherever_it_ends(
    store: Store, both: tuple[Path, Path], then: str
) -> None:
    for at in range(0, len(RIGHT), 3):
        store.pieces, store.then = [RIGHT[:at]] if at else [], then
        assert same(both) == ("unreachable", "the connection broke off")
    assert both[0].counters["connections_reused"] == 0


@pytest.mark.parametrize("at", [0, 10, len(RIGHT) - WANTED - 1, len(RIGHT) - WANTED, len(RIGHT) - 1])
def test_silence_is_a_timeout_wherever_the_answer_stops(store: Store, at: int) -> None:
    store.pieces, store.then = [RIGHT[:at]] if at else [], "silent"
    for compiled in (True, False):
        path = Path(store, compiled, byte_s=0.1)
        assert path.read() == ("timeout", "timed out")


def test_random_answers_have_the_same_outcome(store: Store, both: tuple[Path, Path]) -> None:
    rng = random.Random(12)
    outcomes: Counter[object] = Counter()
    store.then = "close"
    for _ in range(250):
        answer = random_answer(rng)
        cut = rng.randrange(1, len(answer))
        store.pieces = [answer] if rng.random() < 0.5 else [answer[:cut], answer[cut:]]
        compiled, plain = (path.read() for path in both)
        for path in both:
            path.pool.close()  # the store closes its end, now or later
        # The words of a failure may depend on how much of the answer was there at a time; its class does not.
        assert compiled[0] == plain[0], store.pieces
        assert compiled == plain or compiled[0] != WANTED, store.pieces
        outcomes[compiled[0]] += 1
    assert outcomes[WANTED] > 30 < sum(outcomes.values()) - outcomes[WANTED]
    assert both[0].filled > 10


def random_answer(rng: random.Random) -> bytes:
    """An answer that is right, or wrong in one or two places."""
    wrong = rng.sample(range(7), rng.choice([0, 1, 1, 2]))
    range_line, length_line = b"bytes 100-119/4096", b"20"
    places: list[tuple[Any, list[Any]]] = [
        (b"HTTP/1.1 206 Partial Content", [
            b"HTTP/1.1 206", b"HTTP/1.0 206 x", b"http/1.1 206 x", b"HTTP/1.1 200 OK", b"HTTP/1.1 404 x", b"HTTP/1.1 503 x",
            b"HTTP/1.1 204 x", b"HTTP/1.1 2060 x", b"HTTP/1.1  206 x", b"HTTP/1.1 206 a\rb", b"HTTP/2 206 x",
        ]),
        ([length_line], [
            [], [b"20", b"20"], [b"20", b"21"], [b"19"], [b"21"], [b"020"], [b"+20"], [b"2 0"], [b"20\t"], [b""], [b"9" * 18],
            [b"9" * 30],
        ]),
        ([range_line], [
            [], [b"BYTES 100-119/4096"], [b"bytes 100-119/*"], [b"bytes 100-119/120"], [b"bytes 100-119/119"],
            [b"bytes 0-19/4096"], [b"bytes 100-118/4096"], [b"bytes  100-119/4096"], [b"bytes 100-119/4096 "],
            [b"bytes 100-119/4096x"], [b"bytes 100-119/"], [b"bytes 100-119"], [b"bytes"], [range_line, range_line],
            [range_line, b"bytes 0-1/2"], [b"bytes 100-119/" + b"9" * 19], [b"bytes 18446744073709551716-119/4096"],
        ]),
        (b"Content-Length", [b"content-length", b"CONTENT-LENGTH", b"Content-Length ", b" Content-Length", b"Content-Lengt"]),
        ([b"x: y"], [
            [b"Connection: close"], [b"Connection: keep-alive"], [b"Connection: Keep-Alive, x"],
            [b"Transfer-Encoding: chunked"], [b"Transfer-Encoding: identity"], [b"no colon"], [b": no name"],
            [b"\nContent-Length: 5"], [b" folded: x"], [b"x: \xe9\x00"], [b"x: " + b"y" * 9000],
        ]),
        (b"\r\n\r\n", [b"\n\n", b"\r\n \r\n"]),
        (BODY, [BODY[:-1], BODY + b"x", b"", b"14\r\n" + BODY + b"\r\n0\r\n\r\n"]),
    ]  # fmt: skip
    chosen = [rng.choice(odd) if at in wrong else right for at, (right, odd) in enumerate(places)]
    status, lengths, told, name, more, end, body = chosen
    fields = [name + rng.choice([b": ", b":", b":   "]) + length for length in lengths]
    fields += [rng.choice([b"Content-Range: ", b"content-range:"]) + each for each in told]
    fields += more
    rng.shuffle(fields)
    return b"\r\n".join([status, *fields]) + end + body


def test_bytes_that_nobody_asked_for_end_a_connection(store: Store, both: tuple[Path, Path]) -> None:
    store.pieces, store.then = [RIGHT + b"x"], "keep"
    assert same(both) == (WANTED, BODY)
    store.pieces = [RIGHT, b"x"]
    assert same(both) == (WANTED, BODY)
    until(lambda: store.sent == store.requests)  # the byte that came too late is there
    store.pieces = [RIGHT]
    assert same(both) == (WANTED, BODY)
    assert both[0].counters == both[1].counters
    assert both[0].counters["connections_reused"] == 0


def test_a_connection_that_the_store_closed_is_not_used_again(store: Store, both: tuple[Path, Path]) -> None:
    store.pieces, store.then = [RIGHT], "close"
    for path in both:
        before = store.requests
        assert path.read() == (WANTED, BODY)
        until(lambda: store.ended == store.requests)
        assert path.read() == (WANTED, BODY)
        until(lambda: store.ended == store.requests)
        assert store.requests == before + 2
        assert path.counters == {"connections_opened": 2}


def test_a_buffer_that_c_cannot_fill_is_filled_in_python(store: Store) -> None:
    store.pieces, store.then = [RIGHT], "keep"
    path = Path(store, True)
    spread = memoryview(bytearray(2 * WANTED))[::2]
    check = RangeCheck(OFFSET, spread)
    path.pool.read(HEAD, check)
    assert (check.filled, check.count(), bytes(spread)) == (False, WANTED, BODY)
    path.pool.close()
