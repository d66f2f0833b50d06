"""Hosts that are lost: the ops that they did not issue are named, they are noticed before they connect, and they leave nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from ranked import record_ranks
from test_replay_on_hosts import agents, kill, rows

import tracekit
from tracekit.replayer.missing import Missing, missing_ops
from tracekit.scale import launch
from tracekit.scale.coordinator import Coordinator, Limits
from tracekit.scale.hosting import SCRATCH
from tracekit.scale.links import Links
from tracekit.scale.scratch import LOCK_NAME, scratch_directory
from tracekit.store.reader import open_reader


def test_every_op_without_a_row_is_named_in_the_result_and_in_the_metadata(tmp_path: Path) -> None:
    trace = record_ranks(tmp_path, ops=500, gap_ns=10_000_000)
    struck: list[int] = []

    def strike(done: int, planned: int, note: str) -> None:
        if done > 5 and not struck:
            struck.append(agents()[1])
            kill(struck[0])

    result = tracekit.replay(trace, out=tmp_path / "r", on="local", hosts=3, watch=strike)
    issued = {row["plan_op"] for row in rows(tmp_path / "r")}
    named = [op for first, last in result.not_issued.ranges for op in range(first, last + 1)]
    assert named == [op for op in range(3000) if op not in issued]
    assert len(named) == result.not_issued.ops == 3000 - len(issued)
    assert {op for op in range(3000) if op % 6 in (1, 4)} <= set(named)  # all of the ranks of the lost host
    noted = tracekit.open_trace(tmp_path / "r").info()["not_issued"]
    assert noted == result.to_dict()["not_issued"] == result.not_issued.to_dict()
    assert b"tracekit.not_issued" in pq.read_metadata(tmp_path / "r" / "_trace.parquet").metadata


def test_a_replay_that_ctrl_c_ended_on_one_host_names_them_too(tmp_path: Path) -> None:
    trace = record_ranks(tmp_path, ops=500, gap_ns=10_000_000)
    code = """if True:
        import os, signal, sys, tracekit

        signal.signal(signal.SIGINT, signal.default_int_handler)

        sent = []

        def seen(done, planned, note):
            if done > 5 and not sent:  # a second one would end it at once
                sent.append(done)
                os.kill(os.getpid(), signal.SIGINT)

        result = tracekit.replay(sys.argv[1], engine="interpreter", watch=seen)
        assert result.partial
        print(result.not_issued.ops, result.ops, result.not_issued.ranges[-1][1])
    """
    run = subprocess.run(
        [sys.executable, "-c", code, str(trace)], capture_output=True, text=True, timeout=60, check=True
    )
    missing, issued, last = map(int, run.stdout.split())
    assert (missing + issued, last) == (3000, 2999)


class Files(SimpleHTTPRequestHandler):
    """Serves ranges of files; of `hang.bin` no byte, until `over` is set."""

    over = threading.Event()
    hung = threading.Event()
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.endswith("hang.bin"):
            self.hung.set()
            self.over.wait()
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        data = Path(self.translate_path(self.path)).read_bytes()
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        self.wfile.write(data[first : last + 1])

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("engine", ["loop", "interpreter"])
@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_a_survivor_whose_requests_hang_abandons_them_and_sends_what_it_recorded(
    tmp_path: Path, engine: str, fault: signal.Signals
) -> None:
    trace = record_ranks(tmp_path, ops=500, gap_ns=10_000_000, then="hang.bin")
    Files.over, Files.hung = threading.Event(), threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    struck: list[int] = []

    def strike(done: int, planned: int, note: str) -> None:
        if Files.hung.is_set() and not struck:
            struck.append(agents()[1])
            os.kill(struck[0], fault)

    there = f"file://{tmp_path}=http://127.0.0.1:{server.server_address[1]}"
    try:
        result = tracekit.replay(
            trace, out=tmp_path / "r", on="local", hosts=3, watch=strike, engine=engine, map=there
        )
    finally:
        Files.over.set()
        server.shutdown()
        server.server_close()
    assert [bool(host["failed"]) for host in result.hosts] == [False, True, False], result.hosts
    kept = rows(tmp_path / "r")
    assert {row["rank"] for row in kept if row["error"] is None} == {0, 2, 3, 5}
    assert {row["error"] for row in kept if row["uri"].endswith("hang.bin")} <= {"cancelled"}
    assert result.partial and result.not_issued.ops == 3000 - len(kept)


def test_a_whole_replay_names_no_op(tmp_path: Path) -> None:
    result = tracekit.replay(record_ranks(tmp_path), out=tmp_path / "r", pace="asap", engine="interpreter")
    assert result.to_dict()["not_issued"] == {"ops": 0, "plan_ops": [], "ranges_left_out": 0}
    done = open_reader(tmp_path / "r")
    assert missing_ops(done, 120) == Missing()
    assert missing_ops(done, 123) == Missing(3, ((120, 122),))
    assert missing_ops(done, 123).in_words() == "3 ops: plan_op 120 to 122"
    assert tracekit.open_trace(tmp_path / "r").info()["not_issued"] == {}


def test_long_lists_of_ranges_are_cut_where_that_is_said() -> None:
    many = Missing(10, tuple((2 * n, 2 * n) for n in range(10)))
    assert many.to_dict(3) == {"ops": 10, "plan_ops": [[0, 0], [2, 2], [4, 4]], "ranges_left_out": 7}
    assert many.in_words() == "10 ops: plan_op 0, 2, 4, 6, 8 and more"


def test_an_agent_that_ends_before_it_connects_is_noticed_by_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = launch.command

    def command(address: str, port: int, index: int) -> list[str]:
        words = plain(address, port, index)
        return words if index == 0 else [sys.executable, "-c", "raise SystemExit(3)"]

    monkeypatch.setattr(launch, "command", command)
    with pytest.raises(tracekit.TracekitError, match=r"host 1: its process ended with exit code 3"):
        tracekit.replay(record_ranks(tmp_path), out=tmp_path / "r", on="local", hosts=2)
    assert not (tmp_path / "r").exists()
    assert not agents()


FROZEN = """if True:
    import os, signal, sys
    from tracekit.scale import agent

    pulse = agent.start_pulse

    def freeze(*given):
        pulse(*given)
        os.kill(os.getpid(), signal.SIGSTOP)

    agent.start_pulse = freeze
    agent.main(sys.argv[1:])
"""


def test_an_agent_that_freezes_before_it_connects_is_given_up_for_its_silence(tmp_path: Path) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def begin(index: int, address: str, port: int, token: str) -> None:
        words = [sys.executable, "-c", FROZEN, address, str(port), str(index)]
        started.append(launch.start(words, token))

    coordinator = Coordinator([{}], tmp_path, limits=Limits(waiting_s=0.5))
    try:
        with pytest.raises(tracekit.TracekitError, match=r"host 0 \(.+\): it said nothing for 0.5 s"):
            coordinator.run(begin)
    finally:
        launch.end(started)


def test_a_process_that_is_stopped_before_it_says_anything_is_noticed(tmp_path: Path) -> None:
    with launch.launching("local") as launcher, socket.create_server(("127.0.0.1", 0)) as nobody:
        launcher.launch(0, "127.0.0.1", nobody.getsockname()[1], "")
        assert launcher.lost() == {}
        while not agents():  # it has only just begun
            time.sleep(0.01)
        os.kill(agents()[0], signal.SIGSTOP)
        while not launcher.lost():
            time.sleep(0.01)
        assert launcher.lost() == {0: "its process was stopped"}


def test_an_agent_that_cannot_load_what_it_needs_says_what(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['numpy'] = None; from tracekit.scale import agent; agent.main(sys.argv[1:])"
    )
    started: list[subprocess.Popen[bytes]] = []

    def begin(index: int, address: str, port: int, token: str) -> None:
        words = [sys.executable, "-c", code, address, str(port), str(index)]
        started.append(launch.start(words, token, subprocess.DEVNULL))

    try:
        with pytest.raises(tracekit.TracekitError, match=r"host 0 .*ModuleNotFoundError: .*numpy"):
            Coordinator([{}], tmp_path).run(begin)
    finally:
        launch.end(started)


def test_a_process_that_ray_does_not_start_is_late_once_it_starts_no_other() -> None:
    starts = launch.Starts(100.0)
    assert starts.late(3, [], 119.0) == set()
    assert starts.late(3, [1], 121.0) == set()
    assert starts.late(3, [1], 140.0) == set()
    assert starts.late(3, [0, 1], 141.5) == set()
    assert starts.late(3, [0, 1], 162.0) == {2}
    assert starts.late(3, [0, 1, 2], 163.0) == set()


def test_a_host_that_cannot_be_reached_is_given_up_before_the_limit_for_connecting(tmp_path: Path) -> None:
    coordinator = Coordinator([{}, {}], tmp_path, limits=Limits(connect_s=3600))
    with pytest.raises(tracekit.TracekitError, match="host 1: cut off"):
        coordinator.run(lambda *_: None, lambda: {1: "cut off"})


def test_a_link_says_that_nothing_listens_and_that_a_host_hangs_up_is_no_cut() -> None:
    with socket.create_server(("127.0.0.1", 0)) as there:
        with socket.create_server(("127.0.0.1", 0)) as gone:
            closed = gone.getsockname()
        links = Links([there.getsockname(), closed])
        connection, _ = there.accept()
        connection.close()
        while not links.cut():
            time.sleep(0.01)
        assert list(links.cut()) == [1]
        assert "does not answer: Connection refused" in links.cut()[1]
        links.close()


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of its own for temporary files."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def test_what_a_killed_host_left_is_removed_by_the_next_run(temporary: Path) -> None:
    code = """if True:
        import sys
        from tracekit.scale.scratch import scratch_directory

        with scratch_directory(sys.argv[1]) as folder:
            (folder / "recorded").write_bytes(b"x")
            print(folder, flush=True)
            sys.stdin.read()
    """
    left, living = (
        subprocess.Popen([sys.executable, "-c", code, SCRATCH], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    )  # fmt: skip
    assert left.stdout is not None and living.stdout is not None and living.stdin is not None
    folders = [Path(said.readline().strip()) for said in (left.stdout, living.stdout)]
    left.send_signal(signal.SIGKILL)
    left.wait()
    foreign = temporary / f"{SCRATCH}of-somebody"
    foreign.mkdir()
    assert (folders[0] / "recorded").exists()
    with scratch_directory(SCRATCH):
        assert not folders[0].exists()
        assert (folders[1] / LOCK_NAME).exists()  # its process lives
        assert foreign.exists()  # no lock file: not ours
    living.stdin.close()
    living.wait()
    assert list(temporary.iterdir()) == [foreign]


def test_a_link_of_the_same_name_is_not_followed(temporary: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / LOCK_NAME).touch()
    (temporary / f"{SCRATCH}link").symlink_to(precious)
    with scratch_directory(SCRATCH):
        pass
    assert (precious / LOCK_NAME).exists()


def test_the_command_says_how_many_ops_are_missing_and_the_first_few(tmp_path: Path) -> None:
    trace = record_ranks(tmp_path, ops=500, gap_ns=10_000_000)
    words = [sys.executable, "-c", LOSING, str(trace), str(tmp_path / "r")]
    run = subprocess.run(
        words, capture_output=True, text=True, timeout=60, env={**os.environ, "COLUMNS": "200"}
    )
    assert run.returncode == 1, run.stderr
    assert "not issued: " in run.stdout and "ops: plan_op 1, 4, 7" in run.stdout, run.stdout


LOSING = """if True:
    import os, signal, sys
    from pathlib import Path
    from tracekit.cli import replay as verb
    from tracekit.cli.app import main

    before = verb.replay

    def agent():
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\\0")
                    parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                except OSError:
                    continue
                if b"tracekit.scale.agent" in words and parent == os.getpid() and words[-2] == b"1":
                    return int(entry.name)

    def replay(trace, watch, **options):
        sent = []
        def seen(done, planned, note):
            if done > 5 and not sent:
                sent.append(agent())
                os.kill(sent[0], signal.SIGKILL)
        return before(trace, watch=seen, **options)

    verb.replay = replay
    sys.argv = ["tracekit", "replay", sys.argv[1], "-o", sys.argv[2], "--on", "local", "--hosts", "3"]
    main()
"""
