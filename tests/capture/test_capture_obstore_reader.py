"""Rows of obstore's buffered reader equal the requests that a real HTTP server received."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracekit import capture
from tracekit.store.reader import open_reader

obstore = pytest.importorskip("obstore", reason="obstore is not installed")

BODY = b"".join(b"%07d\n" % line for line in range(1250))
SIZE = len(BODY)


class Server(ThreadingHTTPServer):
    served: list[tuple[int, int]]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        self._reply(200, {"Content-Length": SIZE})

    def do_GET(self) -> None:
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        body = BODY[first : last + 1]
        self.server.served.append((first, len(body)))
        span = f"bytes {first}-{first + len(body) - 1}/{SIZE}"
        self._reply(206, {"Content-Length": len(body), "Content-Range": span}, body)

    def _reply(self, status: int, headers: dict[str, object], body: bytes = b"") -> None:
        self.send_response(status)
        dated = {"ETag": '"e"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
        for name, value in {**headers, **dated}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as listening:
        listening.served = []
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield listening
        listening.shutdown()


@pytest.fixture(scope="module")
def store(server: Server) -> object:
    from obstore.store import S3Store

    return S3Store(
        "bucket",
        endpoint=f"http://127.0.0.1:{server.server_port}",
        client_options={"allow_http": True},
        skip_signature=True,
        region="us-east-1",
    )


STEPS = st.one_of(
    st.tuples(st.just("read"), st.integers(1, 3000)),
    st.tuples(st.just("seek"), st.integers(0, SIZE)),
    st.tuples(st.sampled_from(["tell", "readline"])),
)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(STEPS, max_size=12), st.integers(1, 4000))
def test_each_fetch_of_a_buffered_reader_is_a_row_of_the_bytes_fetched(
    server: Server, store: object, tmp_path_factory: pytest.TempPathFactory, steps: list, capacity: int
) -> None:
    trace: Path = tmp_path_factory.mktemp("reader") / "run.trace"
    server.served.clear()
    plain = obstore.open_reader(store, "key", buffer_size=capacity)
    expected = [getattr(plain, name)(*more) for name, *more in steps]
    without_hook = list(server.served)
    server.served.clear()
    with capture.start(trace, hooks=["obstore"]):
        reader = obstore.open_reader(store, "key", buffer_size=capacity)
        results = [getattr(reader, name)(*more) for name, *more in steps]
        session = capture.active()
        assert session is not None
        session.count("calls")
    assert [r if isinstance(r, int) else bytes(r) for r in results] == [
        e if isinstance(e, int) else bytes(e) for e in expected
    ]
    assert server.served == without_hook, "the hook changed the program's requests"
    rows = open_reader(trace).query('SELECT "offset", len, bytes FROM ops ORDER BY t_submit').to_pylist()
    recorded = [(row["offset"], row["len"]) for row in rows]
    assert _joined(recorded) == _joined(server.served)
    assert all(row["bytes"] == row["len"] for row in rows)


def test_reading_to_the_end_is_one_row_of_all_the_bytes_fetched(
    server: Server, store: object, tmp_path: Path
) -> None:
    server.served.clear()
    with capture.start(tmp_path / "run.trace", hooks=["obstore"]):
        reader = obstore.open_reader(store, "key", buffer_size=1000)
        reader.read(10)
        assert bytes(reader.readall()) == BODY[10:]
    rows = (
        open_reader(tmp_path / "run.trace")
        .query('SELECT "offset", len FROM ops ORDER BY t_submit')
        .to_pylist()
    )
    assert [(row["offset"], row["len"]) for row in rows] == [(0, 1000), (1000, SIZE - 1000)]
    assert sum(length for _, length in server.served) == SIZE


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Adjacent ranges joined: one call may fetch several buffers, which its row sums up."""
    joined: list[tuple[int, int]] = []
    for start, length in ranges:
        if joined and sum(joined[-1]) == start:
            joined[-1] = (joined[-1][0], joined[-1][1] + length)
        else:
            joined.append((start, length))
    return joined
