"""Starts the agents of a replay: as processes of this machine, or by Ray on the nodes of a cluster.

What follows is the coordinator's business. Ray places and starts processes; ops, clocks and results do not pass through it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from typing import IO, Any, Protocol

from tracekit.extras import require
from tracekit.redaction import redact
from tracekit.scale.agent import environment
from tracekit.scale.links import Links
from tracekit.scale.pulse import is_stopped
from tracekit.spread import connect_ray, is_ray_client, place_of

__all__ = ["Launcher", "Starts", "command", "launching"]

_LEAVE_S = 1.0
_LOOK_EACH_S = 1.0
_START_S = 20.0
"""How long Ray may start no process at all."""
_SAID_BYTES = 1000
_STOPPED = "its process was stopped"


class Launcher(Protocol):
    """A place where agents run. `address` is one of this machine that they can reach; `most` how many hosts there are."""

    address: str
    most: int | None

    def launch(self, index: int, address: str, port: int, token: str) -> None: ...

    def lost(self) -> dict[int, str]:
        """Return why the agents that have ended or cannot be reached will not connect, by the number of their host."""
        ...

    def close(self) -> None: ...


def command(address: str, port: int, index: int) -> list[str]:
    """Return the command line of an agent."""
    return [sys.executable, "-m", "tracekit.scale.agent", address, str(port), str(index)]


@contextmanager
def launching(on: str) -> Iterator[Launcher]:
    """Yield the launcher that `on` names: `local`, `ray`, or `ray://HOST:PORT`. Ends the agents that are left.

    Raises UsageError for another word, without Ray, or if the cluster cannot be reached.
    """
    scheme, where = place_of(on)
    with ExitStack() as stack:
        if scheme == "local":
            launcher: Launcher = _Local()
        else:
            # Ray prints what it notices of its nodes on standard output, which may be our JSON.
            stack.enter_context(redirect_stdout(sys.stderr))
            launcher = _Ray(where)
        stack.callback(launcher.close)
        yield launcher


class _Local:
    """Agents as processes of this machine, each in a session of its own, so that Ctrl-C reaches only us."""

    address = "127.0.0.1"
    most: int | None = None

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []

    def launch(self, index: int, address: str, port: int, token: str) -> None:
        self._processes.append(start(command(address, port, index), token))

    def lost(self) -> dict[int, str]:
        ended = {index: process.poll() for index, process in enumerate(self._processes)}
        found = {index: _ended(code) for index, code in ended.items() if code is not None}
        stopped = [index for index, process in enumerate(self._processes) if is_stopped(process.pid)]
        return {**found, **dict.fromkeys(stopped, _STOPPED)}

    def close(self) -> None:
        end(self._processes)


def start(words: Sequence[str], token: str, errors: IO[bytes] | int | None = None) -> subprocess.Popen[bytes]:
    """Start an agent in a session of its own. `errors`, as `Popen` takes it, gets what it writes to standard error."""
    return subprocess.Popen(
        words,
        env=environment(token),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        start_new_session=True,
    )


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait for agents to leave, which they do when the coordinator says so; kill those that do not, or were stopped."""
    deadline = time.monotonic() + _LEAVE_S
    for process in processes:
        left_s = 0 if is_stopped(process.pid) else max(deadline - time.monotonic(), 0)
        try:
            process.wait(left_s)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):  # a request that the kernel does not let go of
                process.wait(_LEAVE_S)


def _ended(code: int, said: str = "") -> str:
    """What became of a process, and the last line that it wrote."""
    last = said.strip().rpartition("\n")[2]
    return f"its process ended with exit code {code}" + (f": {redact(last)}" if last else "")


def _waited(agent: subprocess.Popen[bytes]) -> int | None:
    """Wait until an agent has ended, and return its exit code; None if it was stopped, and still is at the next look."""
    stopped = False
    while True:
        with suppress(subprocess.TimeoutExpired):
            return agent.wait(_LOOK_EACH_S)
        before, stopped = stopped, is_stopped(agent.pid)
        if before and stopped:
            return None


class _Host:
    """The actor on a node: runs the agent there, which leaves by itself."""

    def begin(self) -> None:
        """Show that Ray has started this process."""

    def run(self, address: str, port: int, index: int, token: str) -> str:
        """Return what became of the agent, when it has ended."""
        with tempfile.TemporaryFile() as errors:
            agent = start(command(address, port, index), token, errors)
            code = _waited(agent)
            if code is None:
                end([agent])
                return _STOPPED
            errors.seek(max(os.fstat(errors.fileno()).st_size - _SAID_BYTES, 0))
            return _ended(code, errors.read().decode(errors="replace"))


class Starts:
    """Finds the processes that Ray does not start. While it starts others, there are too many for all to start at once."""

    def __init__(self, now: float) -> None:
        self._last = now
        self._begun: set[int] = set()

    def late(self, wanted: int, begun: Collection[int], now: float) -> set[int]:
        """Return which of the `wanted` processes are not among those that have `begun`, if none has for long; `now` in s."""
        if not self._begun.issuperset(begun):
            self._begun.update(begun)
            self._last = now
        return set(range(wanted)) - self._begun if now - self._last > _START_S else set()


class _Ray:
    """Agents on the nodes of a Ray cluster, one a node."""

    def __init__(self, where: str) -> None:
        self._ray, self._began = connect_ray(where)
        self._placing = require("ray.util.scheduling_strategies", extra="scale")
        self._nodes = sorted(
            (node for node in self._ray.nodes() if node["Alive"]),
            key=lambda node: (node["NodeManagerAddress"], node["NodeID"]),
        )
        self.most: int | None = len(self._nodes)
        self.address = _own_address(self._nodes[0]["NodeManagerAddress"])
        self._actors: list[Any] = []
        self._begins: list[Any] = []
        self._ends: list[Any] = []
        self._starts = Starts(time.monotonic())
        # A driver inside the cluster reaches the port of each node; a client from elsewhere need not.
        reached = [] if is_ray_client(where) else self._nodes
        self._links = Links([(node["NodeManagerAddress"], node["NodeManagerPort"]) for node in reached])

    def launch(self, index: int, address: str, port: int, token: str) -> None:
        node = self._nodes[index % len(self._nodes)]["NodeID"]
        placed = self._placing.NodeAffinitySchedulingStrategy(node, soft=False)
        actor = (
            self._ray.remote(_Host).options(num_cpus=0, scheduling_strategy=placed, max_restarts=0).remote()
        )
        self._actors.append(actor)
        self._begins.append(actor.begin.remote())
        self._ends.append(actor.run.remote(address, port, index, token))

    def lost(self) -> dict[int, str]:
        ended = {index: self._why(self._ends[index]) for index in self._ready(self._ends)}
        late = self._starts.late(len(self._begins), self._ready(self._begins), time.monotonic())
        return {**{index: self._not_started(index) for index in late}, **self._links.cut(), **ended}

    def _ready(self, calls: list[Any]) -> list[int]:
        """The numbers of the calls that have ended."""
        found, _ = self._ray.wait(calls, num_returns=len(calls), timeout=0)
        ready = set(found)
        return [index for index, call in enumerate(calls) if call in ready]

    def _not_started(self, index: int) -> str:
        address = self._nodes[index % len(self._nodes)]["NodeManagerAddress"]
        return (
            f"Ray has started no process on its node {address} for {_START_S:g} s; see the logs of Ray there"
        )

    def _why(self, end: Any) -> str:
        try:
            return str(self._ray.get(end))
        except self._ray.exceptions.RayError as error:
            return f"Ray lost its node or its process: {str(error).splitlines()[0]}"

    def close(self) -> None:
        """Let the actors go; their agents leave when the coordinator does. A node that is lost can hold this up."""
        self._links.close()
        leaving = threading.Thread(target=self._leave, name="tracekit-ray", daemon=True)
        leaving.start()
        leaving.join(_LEAVE_S)

    def _leave(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor)
        if self._began:
            self._ray.shutdown()


def _own_address(other: str) -> str:
    """Return the address of this machine from which `other` is reached."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((other, 9))  # sends nothing
        return str(probe.getsockname()[0])
