"""An open loop stays open: workers are started as the target slows down, and the verdict blames the right one."""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tracekit.recorder import Recorder
from tracekit.replayer.engines.crew import Crew, raise_file_limit
from tracekit.replayer.run import ReplayOptions, replay
from tracekit.replayer.verdict import ClientFacts, judge
from tracekit.store.reader import TraceReader, open_reader

SIZE = 1 << 20
OPS = 120


def test_workers_are_started_until_one_is_free() -> None:
    together = threading.Barrier(20, timeout=20)

    def work(index: int) -> None:
        crew.begin()
        together.wait()  # ends only when 20 workers are in their requests at once
        crew.end()

    crew = Crew(work, first=2, most=100)
    crew.run(lambda: None, together.abort)
    assert crew.size >= 20
    assert not together.broken


def test_no_more_workers_are_started_than_allowed() -> None:
    busy = threading.Semaphore(0)

    def work(index: int) -> None:
        crew.begin()
        if index == 4:  # the last one
            busy.release(5)
        assert busy.acquire(timeout=20)
        crew.end()

    crew = Crew(work, first=2, most=5)
    crew.run(lambda: None, lambda: None)
    assert (crew.size, crew.at_limit) == (5, True)


def test_workers_that_are_free_again_start_none() -> None:
    def work(index: int) -> None:
        for _ in range(2000):
            crew.begin()
            crew.end()

    crew = Crew(work, first=4, most=100)
    crew.run(lambda: None, lambda: None)
    assert crew.size <= 100
    assert len(crew.free) == crew.size


def test_the_limit_of_open_files_is_raised_and_can_be_restored() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, before[1]))
        assert raise_file_limit(400) == (200, before[1])
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= 400
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_table_of_descriptors_has_its_size_before_any_op_is_due() -> None:
    """The kernel lets all threads that open files wait while the table of a process with threads grows."""
    program = """if True:
        import resource
        from pathlib import Path
        from tracekit.replayer.engines.crew import raise_file_limit

        def slots():
            return int(Path("/proc/self/status").read_text().split("FDSize:")[1].split()[0])

        resource.setrlimit(resource.RLIMIT_NOFILE, (2048, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        before = len(list(Path("/proc/self/fd").iterdir()))
        raise_file_limit(1500)
        raise_file_limit(1500)
        assert slots() >= 1500, slots()
        assert len(list(Path("/proc/self/fd").iterdir())) == before
        """
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


class _Slow(BaseHTTPRequestHandler):
    """An object store that holds every GET until enough have come, or for a second."""

    protocol_version = "HTTP/1.1"
    gate = threading.Condition()
    in_flight = most = 0
    hold = 1
    patience_s = 0.3

    def log_message(self, *_: object) -> None: ...

    def do_HEAD(self) -> None:
        self._reply(200, SIZE)

    def do_GET(self) -> None:
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        with _Slow.gate:
            _Slow.in_flight += 1
            _Slow.most = max(_Slow.most, _Slow.in_flight)
            _Slow.gate.notify_all()
            _Slow.gate.wait_for(lambda: _Slow.most >= _Slow.hold, timeout=_Slow.patience_s)
            _Slow.in_flight -= 1
        self._reply(206, last + 1 - first, f"bytes {first}-{last}/{SIZE}", bytes(last + 1 - first))

    def _reply(self, status: int, size: int, span: str = "", body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(size))
        self.send_header("ETag", '"e"')
        self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        if span:
            self.send_header("Content-Range", span)
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def store(hold: int) -> Iterator[str]:
    """The address of a store that answers no GET before `hold` are in flight, for 0.3 s."""
    _Slow.in_flight = _Slow.most = 0
    _Slow.hold = hold
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Slow)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def recorded(tmp_path: Path) -> TraceReader:
    """One read every 3 ms, recorded from a store that took 0.1 ms for each."""
    with Recorder(tmp_path / "run.trace", source="import:test") as recorder:
        for i in range(OPS):
            recorder.record("s3://bucket/f", i * 4096, 4096, recorder.epoch_mono_ns + i * 3_000_000, 100_000, bytes=4096, sample_id=i)  # fmt: skip
    return open_reader(tmp_path / "run.trace")


@pytest.mark.parametrize("engine", ["interpreter", "loop"])
def test_a_slow_store_sees_as_many_requests_as_were_due(recorded: TraceReader, engine: str) -> None:
    with store(hold=30) as endpoint:
        result = replay(recorded, engine=engine, endpoint=endpoint, anonymous=True)
    assert _Slow.most >= 30
    assert result.failed_ops == 0
    assert result.verdict.limit in ("none", "client")  # never the storage: everything was submitted


def test_a_limit_on_workers_is_reported_with_the_number_that_was_needed(
    recorded: TraceReader, tmp_path: Path
) -> None:
    with store(hold=1000) as endpoint:
        options = ReplayOptions(threads=4, engine="interpreter", endpoint=endpoint, anonymous=True)
        result = replay(recorded, options, out=tmp_path / "few.trace")
    verdict = f"{result.verdict.limit}: {result.verdict.reason}"
    assert verdict.startswith("workers: ")
    assert "4 workers spent" in verdict
    assert "would have been needed" in verdict
    assert _Slow.most == 4


def facts(**changed: object) -> ClientFacts:
    given = {
        "engine": "interpreter",
        "workers": 4,
        "cpu_ns": 0,
        "cpu_wait_ns": 0,
        "wall_ns": 10**9,
    }
    return ClientFacts(**{**given, **changed})  # type: ignore[arg-type]


def test_ops_that_were_never_submitted_are_not_blamed_on_the_storage() -> None:
    timing = {
        "ops": 100, "lateness_p99_ns": 10**8, "backlog_sum_ns": 10**9, "wake_sum_ns": 0, "gate_sum_ns": 0,
        "service_sum_ns": 4 * 10**9,
    }  # fmt: skip
    assert judge(timing, facts(at_limit=True), 80).limit == "workers"
    assert "80 would have been needed" in judge(timing, facts(at_limit=True), 80).reason
    assert judge(timing, facts(at_limit=False)).limit == "client"
    assert judge(timing, facts(at_limit=True, cpu_ns=10**9)).limit == "client"
