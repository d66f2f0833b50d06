"""Brings the hosts of a replay to one start, watches them, and collects what they recorded.

It speaks to agents over TCP and does not know how they were started, nor what they replay. A host whose pulse is silent for
its limit, whose connection ends, or that does not get on, has failed; the others then stop. Nothing waits without a limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from tracekit.errors import TracekitError
from tracekit.scale.clock import ClockServer
from tracekit.scale.links import keep_alive
from tracekit.scale.pulse import DRIVING, PREPARING, SENDING, STORING
from tracekit.scale.wire import CHUNK, Message, ProtocolError, packed, receive
from tracekit.store.index import Entry, entry_of

__all__ = ["Coordinator", "HostState", "Launch", "Limits", "Lost", "Progress"]

Launch = Callable[[int, str, int, str], None]
"""Starts the agent of a host: its number, the coordinator's address and port, and the secret."""
Lost = Callable[[], Mapping[int, str]]
"""Returns why hosts that have not connected will not, by their number."""
Progress = Callable[[int], None]
"""Called with the ops that all hosts have done."""


_ASK_EACH_S = 0.5
_LOOK_EACH_S = 0.1
_LEAVE_S = 1.0
_GRACE_SHARE = 1 / 3
"""The share of the time to stop that requests under way may take; then they are abandoned, and what was recorded is sent."""
_LOOK = "look for its process, and at the network between the hosts"


@dataclass(frozen=True, slots=True)
class Limits:
    """How long the coordinator waits, in seconds.

    `connect_s` for the first word of a host, from when the last one began. From then on from one word to the next: `waiting_s` before
    the start, when hosts are busy with their plans, and `silence_s` after it. `prepare_s` for a host that lives and does nothing for
    its plan; `stopping_s` for one that was told to stop by Ctrl-C and whose requests do not end, and `failing_s` if another host has
    failed; `sending_s` for one whose requests have ended and that does nothing to send its rows. `lead_s` is from the last host's ready
    to the start.
    """

    connect_s: float = 30.0
    waiting_s: float = 4.0
    silence_s: float = 2.0
    prepare_s: float = 60.0
    stopping_s: float = 10.0
    failing_s: float = 1.75
    sending_s: float = 4.0
    lead_s: float = 0.25


@dataclass(slots=True)
class HostState:
    """What the coordinator knows of one host. `failed` says why it has failed; empty if it has not.

    `heard` is when it last said anything, `moved` when it last got on with what is no op.
    """

    index: int
    task: dict[str, Any]
    name: str = ""
    done_ops: int = 0
    state: str = "starting"
    failed: str = ""
    hint: str = ""
    heard: float = field(default_factory=time.monotonic)
    moved: float = field(default_factory=time.monotonic)
    moves: int = 0
    phase: int = PREPARING
    offset_ns: int = 0
    error_ns: int | None = None
    entries: list[Entry] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)
    writer: asyncio.StreamWriter | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more is to come of this host."""
        return self.state in ("done", "failed")

    def fail(self, why: str, hint: str = "") -> None:
        """Give the host up, unless it has ended."""
        if not self.ended:
            self.state, self.failed, self.hint = "failed", why, hint

    def send(self, kind: str, data: bytes = b"", **values: Any) -> None:
        """Send a message, if there is a connection."""
        if self.writer is not None and not self.writer.is_closing():
            self.writer.write(packed(kind, data, **values))

    async def leave(self) -> None:
        """Say good-bye, and close the connection."""
        self.send("bye")
        if self.writer is not None:
            with contextlib.suppress(
                OSError
            ):  # a TimeoutError is one: what is cut off takes nothing any more
                await asyncio.wait_for(self.writer.drain(), _LEAVE_S)
            self.writer.close()

    def lost(self, limits: Limits, begun: float) -> None:
        """Give the host up if it has been silent for too long, or has not got on with what it is at.

        `begun` is when the last host began: while others do, there are too many for all to begin at once.
        """
        now = time.monotonic()
        starting = self.state == "starting"
        before = limits.connect_s if starting else limits.waiting_s
        silence_s = limits.silence_s if self.state == "running" else before
        if now - (max(self.heard, begun) if starting else self.heard) > silence_s:
            what = "did not connect" if starting else "said nothing"
            self.fail(f"it {what} for {silence_s:g} s", _LOOK)
        if self.state == "preparing" and now - self.moved > limits.prepare_s:
            self.fail(f"it did nothing for {limits.prepare_s:g} s while it made its plan", _LOOK)
        if self.phase == SENDING and now - self.moved > limits.sending_s:
            self.fail(
                f"its requests had ended, and it did nothing for {limits.sending_s:g} s to send its rows",
                _LOOK,
            )

    def told(self, message: Message) -> None:
        """Take note of a heartbeat."""
        self.done_ops = int(message["done"])
        moves, phase = int(message.get("moved", 0)), int(message.get("phase", DRIVING))
        if (moves, phase) != (self.moves, self.phase):
            self.moves, self.phase, self.moved = moves, phase, self.heard


class Coordinator:
    """Runs one replay on several hosts. `folder` receives their segments, unless each has put its own on an object store.

    `tasks` has what each agent is told; `sent` are the files of the trace, for hosts that cannot open it.
    """

    def __init__(
        self,
        tasks: Sequence[dict[str, Any]],
        folder: Path | None,
        *,
        address: str = "127.0.0.1",
        sent: Iterable[Path] = (),
        limits: Limits | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.hosts = [HostState(index, task) for index, task in enumerate(tasks)]
        self.interrupted = False
        self.start_ns: int | None = None
        """The agreed start on this host's monotonic clock; None while there is none."""
        self._folder = folder
        self._address = address
        self._sent = list(sent)
        self._limits = limits or Limits()
        self._progress = progress
        self._token = secrets.token_hex(32)
        self._changed = asyncio.Event()
        self._stopping: float | None = None
        self._stop_s = float("inf")
        self._begun = time.monotonic()
        self._ask_at = 0.0
        self._looked = time.monotonic()
        self._missed: set[int] = set()
        self._files: dict[tuple[int, str], BinaryIO] = {}
        self._sending: set[asyncio.Task[None]] = set()

    def run(self, launch: Launch, lost: Lost = dict) -> list[HostState]:
        """Replay on all hosts, and return what became of each. Ctrl-C stops all, and they keep what they recorded.

        `lost` is asked until all hosts have connected. Raises the error of `launch`, and TracekitError if a host fails before the replay began.
        """
        try:
            return asyncio.run(self._run(launch, lost))
        except asyncio.CancelledError:  # a second Ctrl-C
            raise KeyboardInterrupt from None

    async def _run(self, launch: Launch, lost: Lost) -> list[HostState]:
        server = await asyncio.start_server(self._serve, self._address, 0, backlog=4096)
        port = server.sockets[0].getsockname()[1]
        try:
            self._looked = time.monotonic()
            with ClockServer(self._address) as clock, self._interruptible():
                for host in self.hosts:
                    host.task["clock_port"] = clock.address[1]
                    launch(host.index, self._address, port, self._token)
                await self._until_ready(lost)
                if self._stopping is None:
                    self._begin()
                await self._until_ended()
        finally:
            server.close()
            for task in self._sending:
                task.cancel()
            await asyncio.gather(*(host.leave() for host in self.hosts))
            for file in self._files.values():
                file.close()
        return self.hosts

    async def _until_ready(self, lost: Lost) -> None:
        """Wait until every host is ready. Raises TracekitError if one fails before."""
        while any(host.state != "ready" for host in self.hosts) and self._stopping is None:
            await self._wait()
            self._ask(lost)
            for host in self.hosts:
                host.lost(self._limits, self._begun)
                if host.failed:
                    self._stop(self._limits.failing_s)
                    where = f"host {host.index}{f' ({host.name})' if host.name else ''}"
                    raise TracekitError(f"{where}: {host.failed}", host.hint)

    def _ask(self, lost: Lost) -> None:
        """Give up the hosts that will not connect. One that has just gone may have said why: that is heard first."""
        now = time.monotonic()
        if now < self._ask_at or all(host.state != "starting" for host in self.hosts):
            return
        self._ask_at = now + _ASK_EACH_S
        found = lost()
        for host in self.hosts:
            if host.state == "starting" and host.index in self._missed & found.keys():
                host.fail(found[host.index], _LOOK)
        self._missed = set(found)

    def _begin(self) -> None:
        """Tell all hosts when to start."""
        self.start_ns = time.monotonic_ns() + int(self._limits.lead_s * 1e9)
        now = time.monotonic()
        for host in self.hosts:
            host.state, host.heard = "running", now
            host.send("start", at_ns=self.start_ns)

    async def _until_ended(self) -> None:
        """Wait until every host has sent what it recorded or has failed; one failure stops the others."""
        limit = self._limits
        while not all(host.ended for host in self.hosts):
            await self._wait()
            for host in self.hosts:
                host.lost(limit, self._begun)
                if self._stopping is not None and host.phase not in (SENDING, STORING):
                    since = time.monotonic() - max(self._stopping, host.moved)
                    if since > self._stop_s:
                        host.fail(f"it did not end its requests within {self._stop_s:g} s of being told to")
            if any(host.failed for host in self.hosts):
                self._stop(limit.failing_s)
            if self._progress is not None:
                self._progress(sum(host.done_ops for host in self.hosts))

    def _stop(self, within_s: float) -> None:
        """Tell all hosts to stop; once, unless they have less time now."""
        if within_s < self._stop_s:
            self._stopping, self._stop_s = time.monotonic(), within_s
            for host in self.hosts:
                self._tell_to_stop(host)

    def _tell_to_stop(self, host: HostState) -> None:
        host.send("stop", grace_s=self._stop_s * _GRACE_SHARE)

    async def _wait(self) -> None:
        """Wait for news, or until it is time to look at the clock again. While we did not listen, nobody was silent."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), _LOOK_EACH_S)
        self._changed.clear()
        before, self._looked = self._looked, time.monotonic()
        late = self._looked - before - _LOOK_EACH_S
        if late > _LOOK_EACH_S:
            for host in self.hosts:
                host.heard, host.moved = host.heard + late, host.moved + late

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Let Ctrl-C stop the hosts; a second one ends the coordinator at once."""
        loop, before = asyncio.get_running_loop(), signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread() or before in (signal.SIG_IGN, None):
            yield
            return
        task = asyncio.current_task()

        def interrupt() -> None:
            if self.interrupted and task is not None:
                task.cancel()
            self.interrupted = True
            self._stop(self._limits.stopping_s)
            self._changed.set()

        loop.add_signal_handler(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            signal.signal(signal.SIGINT, before)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Listen to one connection until it ends: that of an agent, or of its pulse."""
        host: HostState | None = None
        try:
            hello = await asyncio.wait_for(receive(reader), self._limits.connect_s)
            known = self._named(hello)
            if known is not None and hello.kind == "pulse":
                await self._listen(known, reader)
            elif known is not None and known.writer is None:
                host = known
                self._admit(host, writer)
                await self._listen(host, reader)
        except (OSError, EOFError, TimeoutError) as error:
            if host is not None:
                host.fail(f"the connection to it ended ({type(error).__name__})", "look for its process")
        except asyncio.CancelledError:  # the coordinator ends
            pass
        finally:
            self._changed.set()
            if host is None:
                writer.close()

    async def _listen(self, host: HostState, reader: asyncio.StreamReader) -> None:
        while True:
            self._heard(host, await receive(reader))

    def _named(self, hello: Message) -> HostState | None:
        """The host that speaks, with the right secret; None for anybody else."""
        index = hello.get("index")
        if hello.kind not in ("hello", "pulse") or not hmac.compare_digest(
            str(hello.get("token")), self._token
        ):
            return None
        if not isinstance(index, int) or not 0 <= index < len(self.hosts):
            return None
        host = self.hosts[index]
        host.name, host.heard = str(hello.get("host", "")), time.monotonic()
        if host.state == "starting":
            host.state, host.moved, self._begun = "preparing", host.heard, host.heard
        return host

    def _admit(self, host: HostState, writer: asyncio.StreamWriter) -> None:
        """Give a host that has connected its task."""
        host.writer = writer
        keep_alive(writer.get_extra_info("socket"))
        if self._stopping is not None:
            self._tell_to_stop(host)
        host.send("task", **host.task)

    def _heard(self, host: HostState, message: Message) -> None:
        """Take note of what a host says."""
        host.heard = time.monotonic()
        if message.kind == "alive":
            host.told(message)
            return
        host.moved = host.heard
        if message.kind == "lacking":
            sending = asyncio.get_running_loop().create_task(self._send_trace(host))
            self._sending.add(sending)
            sending.add_done_callback(self._sending.discard)
        elif message.kind == "ready":
            host.state, host.offset_ns, host.error_ns = "ready", message["offset_ns"], message["error_ns"]
        elif message.kind == "file":
            self._receive_file(host, message)
        elif message.kind == "done":
            self._finish(host, message)
        elif message.kind == "failed":
            host.fail(str(message["message"]), str(message["hint"]))
        self._changed.set()

    async def _send_trace(self, host: HostState) -> None:
        """Send the files of the trace. A connection that ends is noticed by whoever listens to it."""
        for file in self._sent:
            with file.open("rb") as opened:
                while chunk := opened.read(CHUNK):
                    host.send("file", chunk, name=file.name)
                    if host.writer is not None:
                        await host.writer.drain()
        host.send("sent")

    def _receive_file(self, host: HostState, message: Message) -> None:
        if self._folder is None:
            raise ProtocolError("a file came that was to be stored elsewhere")
        name = Path(str(message["name"])).name
        key = (host.index, name)
        if key not in self._files:
            self._files[key] = (self._folder / name).open("xb")
        self._files[key].write(message.data)

    def _finish(self, host: HostState, message: Message) -> None:
        """Check what a host has sent against the digests that it states."""
        for stated in message["entries"]:
            entry = Entry(**stated)
            file = self._files.pop((host.index, entry.name), None)
            if file is not None:
                file.close()
            path = None if self._folder is None else self._folder / Path(entry.name).name
            if path is not None and not (path.exists() and entry_of(path, entry.rows).digest == entry.digest):
                host.fail(f"its segment {entry.name} did not arrive as it was sent", "replay again")
                return
            host.entries.append(entry)
        host.report = dict(message)
        host.error_ns, host.state = message["error_ns"], "done"
