"""The coordinator against many hosts that speak its protocol and replay nothing."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tracekit.errors import TracekitError
from tracekit.scale.coordinator import Coordinator, HostState, Limits
from tracekit.scale.pulse import SENDING, Signs
from tracekit.scale.wire import Channel, Message, ProtocolError, packed, receive

QUICK = Limits(
    connect_s=20,
    prepare_s=20,
    waiting_s=1.0,
    silence_s=1.0,
    stopping_s=0.5,
    failing_s=0.3,
    sending_s=0.5,
    lead_s=0.05,
)
PLAN = {"ops": 0, "skipped": {}, "assumed_offsets": 0, "assumed_lengths": 0}
Behaviour = Callable[["FakeHost"], Awaitable[None]]


class FakeHost:
    """One host: says hello, and then what its behaviour says."""

    def __init__(self, index: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.index, self.reader, self.writer = index, reader, writer
        self.heard: list[Message] = []
        self.lives = True

    async def beat(self) -> None:
        """Speak until it is told to start."""
        while self.lives:
            self.say("alive", done=0)
            await asyncio.sleep(0.2)

    def say(self, kind: str, data: bytes = b"", **values: Any) -> None:
        self.writer.write(packed(kind, data, **values))

    async def hear(self, *kinds: str) -> Message:
        while True:
            self.heard.append(await receive(self.reader))
            if self.heard[-1].kind in kinds:
                return self.heard[-1]

    async def start(self) -> Message:
        await self.hear("task")
        self.say("ready", offset_ns=self.index, error_ns=10)
        heard = await self.hear("start", "stop")
        self.lives = False
        return heard

    def done(self, *, whole: bool = True, entries: Sequence[dict[str, Any]] = ()) -> None:
        self.say(
            "done",
            whole=whole,
            entries=list(entries),
            client={},
            wrong=[],
            plan=PLAN,
            offset_ns=0,
            error_ns=10,
            late_ns=0,
            planned=1,
        )


class Cluster:
    """Fake hosts in an event loop of their own."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.hosts: dict[int, FakeHost] = {}
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def launch(self, index: int, address: str, port: int, token: str) -> None:
        asyncio.run_coroutine_threadsafe(self.live(index, address, port, token), self.loop)

    async def live(self, index: int, address: str, port: int, token: str) -> None:
        reader, writer = await asyncio.open_connection(address, port)
        host = self.hosts[index] = FakeHost(index, reader, writer)
        host.say("hello", token=token, index=index, host=f"h{index}", pid=1)
        beating = asyncio.ensure_future(host.beat())
        try:
            await self.behaviour(host)
            await host.hear("bye")
        except (OSError, EOFError):
            pass  # the coordinator has ended
        finally:
            beating.cancel()
            writer.close()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self.leave(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    async def leave(self) -> None:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


@pytest.fixture
def many_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < 4096:
        pytest.skip(f"the limit of open files is {before[1]}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], 4096), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def run(
    behaviour: Behaviour, hosts: int, folder: Path, **options: Any
) -> tuple[Coordinator, list[HostState], Cluster]:
    coordinator = Coordinator([{"index": i} for i in range(hosts)], folder, limits=QUICK, **options)
    cluster = Cluster(behaviour)
    try:
        return coordinator, coordinator.run(cluster.launch), cluster
    finally:
        cluster.close()


def test_a_thousand_hosts_get_one_start_and_are_all_heard(tmp_path: Path, many_files: None) -> None:
    async def behave(host: FakeHost) -> None:
        assert (await host.start()).kind == "start"
        host.say("alive", done=host.index)
        host.done()

    seen: list[int] = []
    coordinator, hosts, cluster = run(behave, 1000, tmp_path, progress=seen.append)
    assert [host.state for host in hosts] == ["done"] * 1000
    assert {host.heard[1]["at_ns"] for host in cluster.hosts.values()} == {coordinator.start_ns}
    assert [host.offset_ns for host in hosts] == list(range(1000))
    assert seen[-1] == sum(range(1000))


def test_one_of_a_thousand_that_dies_stops_the_others_and_is_named(tmp_path: Path, many_files: None) -> None:
    async def behave(host: FakeHost) -> None:
        await host.start()
        host.say("alive", done=5)
        if host.index == 700:
            host.writer.close()
            return
        await host.hear("stop")
        host.done(whole=False)

    _, hosts, _ = run(behave, 1000, tmp_path)
    assert [host.index for host in hosts if host.state == "failed"] == [700]
    assert "connection" in hosts[700].failed
    assert hosts[700].done_ops == 5
    assert not any(host.report["whole"] for host in hosts if host.index != 700)


def test_hosts_have_time_to_connect_while_others_do(tmp_path: Path) -> None:
    async def behave(host: FakeHost) -> None:
        await host.start()
        host.done()

    class Slow(Cluster):
        async def live(self, index: int, address: str, port: int, token: str) -> None:
            await asyncio.sleep(0.35 * index)
            if index < 8:
                await super().live(index, address, port, token)

    limits = replace(QUICK, connect_s=2.0)
    for hosts, wrong in ((8, ""), (9, "host 8: it did not connect for 2 s")):
        cluster = Slow(behave)
        coordinator = Coordinator([{} for _ in range(hosts)], tmp_path, limits=limits)
        try:
            with pytest.raises(TracekitError, match=wrong) if wrong else nullcontext():
                found = coordinator.run(cluster.launch)
                assert [host.state for host in found] == ["done"] * 8
        finally:
            cluster.close()


def test_a_silent_host_and_one_that_does_not_stop_are_given_up(tmp_path: Path) -> None:
    async def behave(host: FakeHost) -> None:
        await host.start()
        while host.index != 0:  # host 0 says nothing more, and its connection stays
            host.say("alive", done=1)
            await asyncio.sleep(0.1)
        await host.hear("bye")

    _, hosts, _ = run(behave, 3, tmp_path)
    assert "said nothing for 1 s" in hosts[0].failed
    assert all("did not end its requests within 0.3 s" in host.failed for host in hosts[1:])


def test_a_host_that_lives_and_does_not_send_what_it_recorded_is_given_up(tmp_path: Path) -> None:
    async def behave(host: FakeHost) -> None:
        await host.start()
        moved = 0
        while host.index == 1 or moved < 10:  # host 0 gets on, for longer than a host may do nothing
            moved += host.index == 0
            host.say("alive", done=1, moved=moved, phase=SENDING)
            await asyncio.sleep(0.1)
        host.done()

    _, hosts, _ = run(behave, 2, tmp_path)
    assert [host.state for host in hosts] == ["done", "failed"]
    assert "did nothing for 0.5 s to send its rows" in hosts[1].failed


def test_a_host_that_freezes_before_the_start_is_given_up_too(tmp_path: Path) -> None:
    async def behave(host: FakeHost) -> None:
        await host.hear("task")
        host.lives = host.index != 1
        await host.hear("stop")

    with pytest.raises(TracekitError, match=r"host 1 \(h1\): it said nothing for 1 s"):
        run(behave, 2, tmp_path)


def test_a_host_that_takes_its_trace_slowly_is_not_silent(tmp_path: Path) -> None:
    trace = tmp_path / "large"
    trace.write_bytes(bytes(16 << 20))  # more than the buffers of a connection

    async def behave(host: FakeHost) -> None:
        await host.hear("task")
        host.say("lacking")
        await asyncio.sleep(1.5 * QUICK.silence_s)
        await host.hear("sent")
        host.say("ready", offset_ns=0, error_ns=1)
        await host.hear("start")
        host.done()

    _, hosts, cluster = run(behave, 1, tmp_path, sent=[trace])
    assert [host.state for host in hosts] == ["done"]
    assert sum(len(message.data) for message in cluster.hosts[0].heard) == 16 << 20


def test_hosts_are_not_silent_while_the_coordinator_did_not_listen(tmp_path: Path) -> None:
    async def behave(host: FakeHost) -> None:
        await host.start()
        while not held:
            host.say("alive", done=1)
            await asyncio.sleep(0.05)
        host.done()

    held: list[int] = []

    def hold(done: int) -> None:
        if done and not held:
            time.sleep(1.5 * QUICK.silence_s)
            held.append(done)

    _, hosts, _ = run(behave, 3, tmp_path, progress=hold)
    assert held and [host.state for host in hosts] == ["done"] * 3


def test_a_process_lives_while_it_beats_or_works_and_not_when_it_is_stopped() -> None:
    signs = Signs(0.0)
    assert signs.alive(0.0, 1, "S", 100) and signs.works
    assert signs.alive(0.2, 2, "S", 100) and not signs.works
    assert not signs.alive(0.5, 2, "S", 101)  # no beat, and no more work than the heartbeat is
    assert signs.alive(0.7, 2, "S", 103) and signs.works
    assert signs.alive(1.0, 2, "D", 103) and not signs.works
    assert signs.alive(1.2, 2, "R", 103) and signs.works
    assert not signs.alive(70.0, 2, "R", 900)  # work without a beat, for more than a minute
    assert signs.alive(70.2, 3, "S", 900)
    assert not signs.alive(70.5, 4, "T", 900)


def test_a_host_that_fails_before_the_start_ends_it_all_with_its_reason(tmp_path: Path) -> None:
    async def behave(host: FakeHost) -> None:
        await host.hear("task")
        if host.index == 1:
            host.say("failed", message="no such file", hint="make it")
        else:
            host.say("ready", offset_ns=0, error_ns=1)
            assert (await host.hear("stop", "start")).kind == "stop"

    with pytest.raises(TracekitError, match=r"host 1 \(h1\): no such file \(make it\)"):
        run(behave, 3, tmp_path)


def test_ctrl_c_reaches_every_host_and_they_keep_what_they_have(tmp_path: Path) -> None:
    async def behave(host: FakeHost) -> None:
        await host.start()
        if host.index == 0:
            os.kill(os.getpid(), signal.SIGINT)
        await host.hear("stop")
        host.done(whole=False)

    coordinator, hosts, _ = run(behave, 4, tmp_path)
    assert coordinator.interrupted
    assert [(host.state, host.report["whole"]) for host in hosts] == [("done", False)] * 4


def test_strangers_and_garbage_are_turned_away(tmp_path: Path) -> None:
    async def behave(host: FakeHost) -> None:
        port = host.writer.get_extra_info("peername")[1]
        if host.index == 0:
            for said in (
                packed("hello", token="wrong", index=1),
                b"GET / HTTP/1.1\r\n\r\n" * 10,
                packed("hello", token=None),
            ):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(said)
                assert await reader.read() == b""
                writer.close()
        await host.start()
        host.done()

    _, hosts, _ = run(behave, 2, tmp_path)
    assert [host.state for host in hosts] == ["done", "done"]


def test_a_segment_that_does_not_arrive_whole_is_a_failure(tmp_path: Path) -> None:
    async def behave(host: FakeHost) -> None:
        await host.start()
        host.say("file", b"half", name="../seg-h00000-00000.parquet")
        entry = {
            "name": "seg-h00000-00000.parquet",
            "rows": 1,
            "bytes": 9,
            "digest": "0" * 64,
            "writer": "",
            "lost": "",
        }
        host.done(entries=[entry])

    _, hosts, _ = run(behave, 1, tmp_path)
    assert "did not arrive as it was sent" in hosts[0].failed
    assert [entry.name for entry in tmp_path.iterdir()] == ["seg-h00000-00000.parquet"]


def test_a_channel_refuses_what_is_no_message() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        channel = Channel(listener.getsockname(), 5)
        connection, _ = listener.accept()
        with connection:
            connection.sendall(packed("x", b"abc", n=1))
            message = channel.receive()
            assert (message.kind, message["n"], message.data) == ("x", 1, b"abc")
            connection.sendall(b"\xff" * 8)
            with pytest.raises(ProtocolError):
                channel.receive()
        channel.close()
