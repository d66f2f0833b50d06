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
from dataclasses import dataclass
from pathlib import Path

import pytest
from ranked import record_ranks

import tracekit

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]
pytest.importorskip("ray", reason="Ray is not installed (pip install 'tracekit[scale]')")
RAY = (sys.executable, "-m", "ray.scripts.scripts")
ENVIRONMENT = {**os.environ, "RAY_AUTH_MODE": "disabled"}
"""The networks of these clusters exist on this machine only; a token that another cluster left would be used otherwise."""
AHEAD_S = (0, 1000, 5000)
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
    shell = f'hostname h{number}; mount -t tmpfs -o size=256m tmpfs /dev/shm; exec "$@"'
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


@pytest.fixture
def cluster(network: None, tmp_path: Path) -> Iterator[list[Host]]:
    folder = Path("/tmp") / f"tk-ray-{os.getpid()}"  # paths of Ray's sockets are limited in length
    folder.mkdir()
    hosts = [start(0, folder)]
    wait_for(hosts, 1)
    hosts += [start(number, folder) for number in (1, 2)]
    wait_for(hosts, 3)
    yield hosts
    for host in hosts:
        os.killpg(host.outer.pid, signal.SIGKILL)
        host.outer.wait()
    run("ip", "-n", "tksw", "link", "set", "p1", "up")
    shutil.rmtree(folder, ignore_errors=True)


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


def replaying(hosts: list[Host], trace: Path, out: Path) -> subprocess.Popen[str]:
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
    ]
    return subprocess.Popen(
        inside(hosts[0], *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )


def test_three_hosts_with_clocks_far_apart_replay_every_op_once(cluster: list[Host], tmp_path: Path) -> None:
    run_ = replaying(cluster, record_ranks(tmp_path, ops=200), tmp_path / "r")
    out, err = run_.communicate(timeout=300)
    said = json.loads(out)
    assert "parity" in said, (said, err)
    rows = {row["metric"]: row for row in said["parity"]["metrics"]}
    print(
        {name: rows[name]["b"] for name in ("start_skew_ns", "clock_error_ns", "lateness_p99_ns")},
        said["hosts"],
    )
    for metric in ("completeness", "identity", "ops", "due_times", "early_ops"):
        assert rows[metric]["ok"], (metric, err)
    assert [host["name"] for host in said["hosts"]] == ["h0", "h1", "h2"]
    for host, ahead in zip(said["hosts"], AHEAD_S, strict=True):
        assert abs(host["clock_offset_ns"] + ahead * 10**9) <= host["clock_error_ns"]


JOURNALS = "tracekit-host-*/replay.trace/.*.journal"
"""What the agents of a replay that has begun are writing."""


def cut(hosts: list[Host]) -> None:
    run("ip", "-n", "tksw", "link", "set", "p1", "down")


def kill(hosts: list[Host]) -> None:
    hosts[1].kill()


@pytest.mark.parametrize("fault", [cut, kill])
def test_a_lost_host_ends_the_replay_with_a_partial_result(
    cluster: list[Host], tmp_path: Path, fault: Callable[[list[Host]], None]
) -> None:
    before = set(Path("/tmp").glob(JOURNALS))
    run_ = replaying(cluster, record_ranks(tmp_path, ops=5000), tmp_path / "r")  # a minute
    while not set(Path("/tmp").glob(JOURNALS)) - before:
        assert run_.poll() is None
        time.sleep(0.1)
    time.sleep(3)
    fault(cluster)
    struck = time.monotonic()
    out, err = run_.communicate(timeout=120)
    print(fault.__name__, "ended after", time.monotonic() - struck, "s")
    assert run_.returncode == 1, err
    assert out.startswith("{"), (out[:2000], err)
    said = json.loads(out)
    assert [bool(host["failed"]) for host in said["hosts"]] == [False, True, False]
    assert {
        row["rank"]
        for row in tracekit.open_trace(tmp_path / "r").query("SELECT DISTINCT rank FROM ops").to_pylist()
    } == {0, 2, 3, 5}
