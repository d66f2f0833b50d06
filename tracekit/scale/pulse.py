"""The heartbeat of a host: a small process beside the agent, which tells the coordinator that the agent lives and how far it is.

It is forked before the agent loads anything. So a library that keeps the interpreter busy for long does not make the host look
dead, and a process that was stopped does not look alive.
"""

from __future__ import annotations

import mmap
import os
import signal
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tracekit.scale.wire import Channel

__all__ = [
    "CHECKING",
    "DRIVING",
    "PREPARING",
    "SENDING",
    "STORING",
    "Signs",
    "Vitals",
    "is_stopped",
    "start_pulse",
]

PREPARING, DRIVING, CHECKING, SENDING, STORING = range(5)
"""What an agent is at: its plan; the replay; asking the target what it holds then; closing and sending what it recorded; or
putting that on an object store, which has time-outs of its own."""
_HEARTBEAT_S = 0.25
_CONNECT_S = 30.0
_BUSY_S = 60.0
"""How long work or a wait for a disk passes for life while the agent's own thread has not run."""
_WORKING_TICKS = 2
"""Ticks of CPU time (10 ms) that are work: heartbeats alone need more than half a minute for them."""


class Vitals:
    """Numbers that the agent notes and its pulse reads, in memory that both share.

    `beats` shows that the agent runs, `moved` that it gets on with what is no op; `done` counts ops.
    """

    def __init__(self) -> None:
        self._numbers = memoryview(mmap.mmap(-1, 4 * 8)).cast("q")

    @property
    def beats(self) -> int:
        return self._numbers[0]

    @property
    def done(self) -> int:
        return self._numbers[1]

    @done.setter
    def done(self, ops: int) -> None:
        self._numbers[1] = ops

    @property
    def moved(self) -> int:
        return self._numbers[2]

    @property
    def phase(self) -> int:
        return self._numbers[3]

    @phase.setter
    def phase(self, phase: int) -> None:
        self._numbers[3] = phase

    def move(self) -> None:
        """Note that the work gets on."""
        self._numbers[2] += 1

    def beat(self) -> None:
        """Note from now on, in a thread, that this process runs."""
        threading.Thread(target=self._beat, name="tracekit-beat", daemon=True).start()

    def _beat(self) -> None:
        while True:
            self._numbers[0] += 1
            time.sleep(_HEARTBEAT_S)


def start_pulse(address: tuple[str, int], index: int, token: str, vitals: Vitals) -> None:
    """Fork the heartbeat of this process, the agent of host `index`. This process must not have any thread yet."""
    agent = os.getpid()
    if os.fork():
        return
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _tell(address, index, token, vitals, agent)
    finally:
        os._exit(0)


def _tell(address: tuple[str, int], index: int, token: str, vitals: Vitals, agent: int) -> None:
    with suppress(OSError):  # the coordinator has gone
        channel = Channel(address, _CONNECT_S)
        channel.send("pulse", token=token, index=index, host=socket.gethostname())
        signs, worked = Signs(time.monotonic()), 0
        while os.getppid() == agent:
            if signs.alive(time.monotonic(), vitals.beats, *_state(agent)):
                worked += (
                    signs.works and vitals.phase != DRIVING
                )  # engines wait in loops: that is no progress
                channel.send("alive", done=vitals.done, moved=vitals.moved + worked, phase=vitals.phase)
            time.sleep(_HEARTBEAT_S)


@dataclass(slots=True)
class Signs:
    """What a process shows of itself, look by look. `now` is a time in s; the first look is at `began`."""

    began: float
    beats: int = -1
    ticks: int = 0
    works: bool = False
    """Whether it was seen to use the CPU."""
    beaten: float = field(init=False)

    def __post_init__(self) -> None:
        self.beaten = self.began

    def alive(self, now: float, beats: int, state: str, ticks: int) -> bool:
        """Return whether the process lives, by its own count of beats or, for a while, by what the kernel says of it."""
        self.works = state == "R" or ticks - self.ticks >= _WORKING_TICKS
        if self.works:
            self.ticks = ticks
        if state in "TtZX":
            return False
        if beats != self.beats:
            self.beats, self.beaten = beats, now
            return True
        return (self.works or state == "D") and now - self.beaten < _BUSY_S


def _state(pid: int) -> tuple[str, int]:
    """Return the state of a process as the kernel writes it (`X` if it has gone), and the ticks of CPU time that it has used."""
    try:
        words = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return "X", 0
    return words[0].decode(), int(words[11]) + int(words[12])


def is_stopped(pid: int) -> bool:
    """Return whether a process was stopped, as by SIGSTOP."""
    return _state(pid)[0] in "Tt"
