"""Replays on a Ray cluster of three hosts: network namespaces with clocks 1,000 s and 5,000 s ahead. Needs root and Ray."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from ranked import record_ranks

import tracekit

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]
pytest.importorskip("ray", reason="Ray is not installed (pip install 'tracekit[scale]')")
RAY = (sys.executable, "-m", "ray.scripts.scripts")
ENVIRONMENT = {**os.environ, "RAY_AUTH_MODE": "disabled"}
"""The networks of these clusters exist on this machine only; a token that another cluster left would be used otherwise."""
AHEAD_S = (0, 1000, 5000)
ROUNDS = int(os.environ.get("TRACEKIT_SOAK_ROUNDS", "2"))
"""How often each fault strikes."""
STARTS = int(os.environ.get("TRACEKIT_SOAK_STARTS", "10"))
"""How many replays the clocks and the starts are judged by."""
DISK = "/tmp/tk-disk"
"""Where each host has a file system of its own for temporary files: in its own mount namespace."""
NETWORK = "10.77.0"


def run(*words: object) -> None:
    subprocess.run([str(word) for word in words], check=True, capture_output=True)


@dataclass
class Host:
    """One host: a network, time, process and mount namespace, in which a Ray node runs."""

    number: int
    outer: subprocess.Popen[bytes]

    @property
    def init(self) -> int:
        return int(Path(f"/proc/{self.outer.pid}/task/{self.outer.pid}/children").read_text().split()[0])

    @property
    def disk(self) -> Path:
        """The file system for temporary files of the host, as seen from outside."""
        return Path(f"/proc/{self.init}/root{DISK}")

    def kill(self) -> None:
        os.kill(self.init, signal.SIGKILL)


def start(number: int, folder: Path) -> Host:
    address = f"{NETWORK}.1{number}"
    place = (
        ["--head", "--port", "6379", "--include-dashboard", "false"]
        if number == 0
        else ["--address", f"{NETWORK}.10:6379"]
    )
    node = [*RAY, "start", *place, "--node-ip-address", address, "--num-cpus", "1", "--object-store-memory", "80000000",
            "--temp-dir", folder / f"ray{number}", "--disable-usage-stats", "--block"]  # fmt: skip
    shell = (
        f"hostname h{number}; mount -t tmpfs -o size=256m tmpfs /dev/shm; mkdir -p {DISK}; "
        f'mount -t tmpfs -o size=16m tmpfs {DISK}; export TMPDIR={DISK}; exec "$@"'
    )
    words = ["ip", "netns", "exec", f"tk{number}", "unshare", "--time", "--monotonic", AHEAD_S[number], "--boottime",
             AHEAD_S[number], "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc",
             "bash", "-c", shell, "_", *node]  # fmt: skip
    return Host(number, subprocess.Popen([str(word) for word in words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                         start_new_session=True, env=ENVIRONMENT))  # fmt: skip


@pytest.fixture(scope="module")
def network() -> Iterator[None]:
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("needs root and ip")
    names = ["tksw", *(f"tk{i}" for i in range(3))]
    for name in names:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        run("ip", "netns", "add", name)
    run("ip", "-n", "tksw", "link", "add", "br0", "type", "bridge")
    run("ip", "-n", "tksw", "link", "set", "br0", "up")
    for i in range(3):
        run(
            "ip",
            "link",
            "add",
            "e0",
            "netns",
            f"tk{i}",
            "type",
            "veth",
            "peer",
            "name",
            f"p{i}",
            "netns",
            "tksw",
        )
        run("ip", "-n", "tksw", "link", "set", f"p{i}", "master", "br0", "up")
        run("ip", "-n", f"tk{i}", "addr", "add", f"{NETWORK}.1{i}/24", "dev", "e0")
        run("ip", "-n", f"tk{i}", "link", "set", "lo", "up")
        run("ip", "-n", f"tk{i}", "link", "set", "e0", "up")
    yield
    for name in names:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@contextmanager
def running() -> Iterator[list[Host]]:
    """Run a cluster of three hosts."""
    folder = Path("/tmp") / f"tk-ray-{os.getpid()}"  # paths of Ray's sockets are limited in length
    folder.mkdir()
    hosts = [start(0, folder)]
    try:
        wait_for(hosts, 1)
        hosts += [start(number, folder) for number in (1, 2)]
        wait_for(hosts, 3)
        yield hosts
    finally:
        for host in hosts:
            os.killpg(host.outer.pid, signal.SIGKILL)
            host.outer.wait()
        run("ip", "-n", "tksw", "link", "set", "p1", "up")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def cluster(network: None) -> Iterator[list[Host]]:
    with running() as hosts:
        yield hosts


def inside(host: Host, *words: str) -> list[str]:
    """The command line that runs `words` on a host."""
    return ["nsenter", "-t", str(host.init), "--mount", "--pid", "--uts", "--ipc", "--net", "--time", *words]


def wait_for(hosts: list[Host], nodes: int) -> None:
    """Wait until the cluster has that many nodes."""
    code = f"""if True:
        import ray
        ray.init(address="{NETWORK}.10:6379", log_to_driver=False, logging_level="ERROR")
        raise SystemExit(sum(node["Alive"] for node in ray.nodes()) != {nodes})
    """
    for _ in range(12):
        while not Path(f"/proc/{hosts[0].outer.pid}/task/{hosts[0].outer.pid}/children").read_text():
            time.sleep(0.1)
        if not subprocess.run(
            inside(hosts[0], sys.executable, "-c", code), capture_output=True, check=False, env=ENVIRONMENT
        ).returncode:
            return
        time.sleep(1)
    raise AssertionError(f"the cluster never had {nodes} nodes")


def replaying(hosts: list[Host], trace: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    words = [
        sys.executable,
        "-m",
        "tracekit",
        "replay",
        str(trace),
        "--on",
        f"ray://{NETWORK}.10:6379",
        "-o",
        str(out),
        "--json",
        *more,
    ]
    return subprocess.Popen(
        inside(hosts[0], *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )


def replayed(hosts: list[Host], trace: Path, out: Path, *more: str) -> dict[str, Any]:
    """The result of a replay from the cluster."""
    out_text, err = replaying(hosts, trace, out, *more).communicate(timeout=300)
    assert out_text.startswith("{"), (out_text[:2000], err)
    said: dict[str, Any] = json.loads(out_text)
    assert "parity" in said, (said, err)
    return said


def true_start_skew_ns(out: Path, hosts: list[dict[str, Any]]) -> int:
    """How far apart the hosts began: each one's least lateness among its first ops, by the clocks as they really are."""
    began = []
    for host, ahead in zip(hosts, AHEAD_S, strict=True):
        ranks = ", ".join(map(str, host["ranks"]))
        sql = f"SELECT min(t_submit - t_due) AS late FROM (FROM ops WHERE rank IN ({ranks}) ORDER BY plan_op LIMIT 5)"
        (row,) = tracekit.open_trace(out).query(sql).to_pylist()
        began.append(row["late"] - (host["clock_offset_ns"] + ahead * 10**9))
    return max(began) - min(began)


@pytest.mark.timeout(60 * 60)
def test_three_hosts_with_clocks_far_apart_replay_every_op_once_and_start_together(
    cluster: list[Host], tmp_path: Path
) -> None:
    trace = record_ranks(tmp_path, ops=200)
    wrong, stated, skews, parities = [], [], [], []
    for number in range(STARTS):
        said = replayed(cluster, trace, tmp_path / f"r{number}", "--tolerance", "0.02")
        rows = {row["metric"]: row for row in said["parity"]["metrics"]}
        for metric in ("completeness", "identity", "ops", "due_times", "early_ops"):
            assert rows[metric]["ok"], metric
        assert [host["name"] for host in said["hosts"]] == ["h0", "h1", "h2"]
        for host, ahead in zip(said["hosts"], AHEAD_S, strict=True):
            wrong.append(abs(host["clock_offset_ns"] + ahead * 10**9))
            stated.append(host["clock_error_ns"])
            assert wrong[-1] <= stated[-1]
        skews.append(true_start_skew_ns(tmp_path / f"r{number}", said["hosts"]))
        parities.append(said["ok"])
        print(wrong[-3:], stated[-3:], skews[-1], said["ok"], os.getloadavg()[0], flush=True)
    print("load", os.getloadavg())
    print("clock wrong by, ns: median", median(wrong), "worst", max(wrong), "stated at most", max(stated))
    print("start skew, ns: median", median(skews), "worst", max(skews), sorted(skews))
    print("parity held in", sum(parities), "of", len(parities))
    assert max(wrong) <= 1_000_000


def test_the_rows_are_the_same_from_one_two_and_three_hosts(cluster: list[Host], tmp_path: Path) -> None:
    trace = record_ranks(tmp_path, ops=50)
    columns = "plan_op, uri, op, ops.offset, len, bytes, sample_id, step, rank, worker, t_due, error"
    found = []
    for hosts in (1, 2, 3):
        replayed(cluster, trace, tmp_path / f"r{hosts}", "--hosts", str(hosts))
        there = tracekit.open_trace(tmp_path / f"r{hosts}")
        due = "t_due - min(t_due) OVER ()"
        sql = f"SELECT {columns.replace('t_due', due + ' AS due')} FROM ops ORDER BY plan_op"
        found.append(there.query(sql).to_pylist())
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 300


def cut(hosts: list[Host]) -> None:
    run("ip", "-n", "tksw", "link", "set", "p1", "down")


def kill(hosts: list[Host]) -> None:
    hosts[1].kill()


def freeze(hosts: list[Host]) -> None:
    """Stop every process of the host; its kernel still answers."""
    run(*inside(hosts[1], "bash", "-c", "kill -STOP -1"))


def fill_disk(hosts: list[Host]) -> None:
    with suppress(OSError), (hosts[1].disk / "full").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@pytest.mark.timeout(60 * 60)
@pytest.mark.parametrize("fault", [cut, kill, freeze, fill_disk])
def test_a_lost_host_ends_the_replay_with_a_partial_result(
    network: None, tmp_path: Path, fault: Callable[[list[Host]], None]
) -> None:
    trace = record_ranks(tmp_path, ops=5000)  # a minute
    after = []
    for number in range(ROUNDS):
        with running() as hosts:
            out = tmp_path / f"r{number}"
            run_ = replaying(hosts, trace, out)
            while not list(hosts[1].disk.glob("tracekit-host-*/replay.trace/.*.journal")):
                assert run_.poll() is None
                time.sleep(0.1)
            time.sleep(2)
            fault(hosts)
            struck = time.monotonic()
            out_text, err = run_.communicate(timeout=120)
            after.append(round(time.monotonic() - struck, 2))
        assert run_.returncode == 1, err
        assert out_text.startswith("{"), (out_text[:2000], err)
        said = json.loads(out_text)
        assert [bool(host["failed"]) for host in said["hosts"]] == [False, True, False]
        issued = {
            row["plan_op"] for row in tracekit.open_trace(out).query("SELECT plan_op FROM ops").to_pylist()
        }
        named = {op for first, last in said["not_issued"]["plan_ops"] for op in range(first, last + 1)}
        assert named == set(range(30_000)) - issued
        assert {op for op in range(30_000) if op % 6 in (1, 4)} <= named
        print(fault.__name__, number, "ended after", after[-1], "s, load", os.getloadavg()[0], flush=True)
    print(
        fault.__name__,
        "ended after, s: median",
        median(after),
        "worst",
        max(after),
        sorted(after),
        flush=True,
    )


def test_a_node_that_is_cut_off_before_its_agent_connects_is_noticed_in_seconds(
    cluster: list[Host], tmp_path: Path
) -> None:
    trace = record_ranks(tmp_path, ops=50)
    replayed(cluster, trace, tmp_path / "whole")
    cut(cluster)
    began = time.monotonic()
    out, err = replaying(cluster, trace, tmp_path / "r").communicate(timeout=120)
    print(
        "noticed after",
        time.monotonic() - began,
        "s, with the start of the command and of Ray's driver",
        out,
        err,
    )
    assert "host 1" in out + err
    assert not (tmp_path / "r").exists()


def test_the_metrics_from_the_nodes_of_a_cluster_are_those_of_one_process(
    cluster: list[Host], tmp_path: Path
) -> None:
    trace = record_ranks(tmp_path, ops=500)
    words = [sys.executable, "-m", "tracekit", "stats", str(trace), "--json"]
    alone = subprocess.run(words, capture_output=True, text=True, check=True)
    words += ["--on", f"ray://{NETWORK}.10:6379"]
    spread = subprocess.run(
        inside(cluster[0], *words), capture_output=True, text=True, env=ENVIRONMENT, check=True
    )
    assert json.loads(spread.stdout) == json.loads(alone.stdout)


def test_two_runs_measured_on_the_nodes_of_a_cluster_compare_as_here(
    cluster: list[Host], tmp_path: Path
) -> None:
    trace = record_ranks(tmp_path, ops=100)
    words = [
        sys.executable,
        "-m",
        "tracekit",
        "compare",
        str(trace),
        str(trace),
        "--judge",
        "ops>0",
        "--json",
    ]
    alone = subprocess.run(words, capture_output=True, text=True, check=True)
    words += ["--on", f"ray://{NETWORK}.10:6379"]
    spread = subprocess.run(
        inside(cluster[0], *words), capture_output=True, text=True, env=ENVIRONMENT, check=True
    )
    assert json.loads(spread.stdout) == json.loads(alone.stdout)


def test_what_an_idle_cluster_costs_in_lateness(network: None, tmp_path: Path) -> None:
    trace = record_ranks(tmp_path, ops=200)
    words = [sys.executable, "-m", "tracekit", "replay", str(trace), "--json"]

    def lateness() -> list[int]:
        runs = [subprocess.run(words, capture_output=True, text=True, check=False) for _ in range(3)]
        return [json.loads(run.stdout)["timing"]["lateness_p99_ns"] for run in runs]

    without, idle = [], []
    for _ in range(ROUNDS):
        without += lateness()
        with running():
            idle += lateness()
    print(
        "load",
        os.getloadavg(),
        "lateness p99, ns: without Ray",
        sorted(without),
        "beside an idle cluster",
        sorted(idle),
    )
    print("medians", median(without), median(idle), flush=True)
    assert len(without) == len(idle) == 3 * ROUNDS
