"""Starts the agents of a replay: as processes of this machine, or by Ray on the nodes of a cluster.

What follows is the coordinator's business. Ray places and starts processes; ops, clocks and results do not pass through it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from typing import Any, Protocol

from tracekit.errors import UsageError
from tracekit.extras import require
from tracekit.scale.agent import environment

__all__ = ["Launcher", "command", "launching"]

_RAY_CLIENT_PORT = "10001"
_LEAVE_S = 1.0


class Launcher(Protocol):
    """A place where agents run. `address` is one of this machine that they can reach; `most` how many hosts there are."""

    address: str
    most: int | None

    def launch(self, index: int, address: str, port: int, token: str) -> None: ...

    def close(self) -> None: ...


def command(address: str, port: int, index: int) -> list[str]:
    """Return the command line of an agent."""
    return [sys.executable, "-m", "tracekit.scale.agent", address, str(port), str(index)]


@contextmanager
def launching(on: str) -> Iterator[Launcher]:
    """Yield the launcher that `on` names: `local`, `ray`, or `ray://HOST:PORT`. Ends the agents that are left.

    Raises UsageError for another word, without Ray, or if the cluster cannot be reached.
    """
    scheme, _, where = on.partition("://")
    if scheme not in ("local", "ray") or (where and scheme == "local"):
        raise UsageError(f"on={on!r} is no place to replay", "give local, ray, or ray://HOST:PORT")
    # Ray prints what it notices of its nodes on standard output, which may be our JSON.
    with redirect_stdout(sys.stderr) if scheme == "ray" else nullcontext():
        launcher: Launcher = _Local() if scheme == "local" else _Ray(where)
        try:
            yield launcher
        finally:
            launcher.close()


class _Local:
    """Agents as processes of this machine, each in a session of its own, so that Ctrl-C reaches only us."""

    address = "127.0.0.1"
    most: int | None = None

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []

    def launch(self, index: int, address: str, port: int, token: str) -> None:
        self._processes.append(start(command(address, port, index), token))

    def close(self) -> None:
        end(self._processes)


def start(words: Sequence[str], token: str) -> subprocess.Popen[bytes]:
    """Start an agent in a session of its own."""
    return subprocess.Popen(
        words,
        env=environment(token),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait for agents to leave, which they do when the coordinator says so; kill those that do not."""
    deadline = time.monotonic() + _LEAVE_S
    for process in processes:
        try:
            process.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class _Host:
    """The actor on a node: starts the agent there, which leaves by itself."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []

    def launch(self, address: str, port: int, index: int, token: str) -> int:
        process = start(command(address, port, index), token)
        self._processes.append(process)
        return process.pid


class _Ray:
    """Agents on the nodes of a Ray cluster, one a node."""

    def __init__(self, where: str) -> None:
        ray = self._ray = require("ray", extra="scale")
        self._placing = require("ray.util.scheduling_strategies", extra="scale")
        self._began = not ray.is_initialized()
        if self._began:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a replay reports to nobody
            try:
                ray.init(address=_ray_address(where), log_to_driver=False, logging_level="ERROR")
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise UsageError(
                    f"on='ray://{where}': no cluster answers: {str(error).splitlines()[0]}",
                    "start one with `ray start --head`",
                ) from error
        self._nodes = sorted(
            (node for node in ray.nodes() if node["Alive"]),
            key=lambda node: (node["NodeManagerAddress"], node["NodeID"]),
        )
        self.most: int | None = len(self._nodes)
        self.address = _own_address(self._nodes[0]["NodeManagerAddress"])
        self._actors: list[Any] = []

    def launch(self, index: int, address: str, port: int, token: str) -> None:
        node = self._nodes[index % len(self._nodes)]["NodeID"]
        placed = self._placing.NodeAffinitySchedulingStrategy(node, soft=False)
        actor = (
            self._ray.remote(_Host).options(num_cpus=0, scheduling_strategy=placed, max_restarts=0).remote()
        )
        self._actors.append(actor)
        actor.launch.remote(address, port, index, token)

    def close(self) -> None:
        """Let the actors go; their agents leave when the coordinator does. A node that is lost can hold this up."""
        leaving = threading.Thread(target=self._leave, name="tracekit-ray", daemon=True)
        leaving.start()
        leaving.join(_LEAVE_S)

    def _leave(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor)
        if self._began:
            self._ray.shutdown()


def _ray_address(where: str) -> str | None:
    """Return what `ray.init` takes: None for the cluster of the environment or this machine, else a new one."""
    return f"ray://{where}" if where.rpartition(":")[2] == _RAY_CLIENT_PORT else where or None


def _own_address(other: str) -> str:
    """Return the address of this machine from which `other` is reached."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((other, 9))  # sends nothing
        return str(probe.getsockname()[0])
