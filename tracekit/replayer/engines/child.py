"""A child process of a replay: drives its share of the shared plan. Started by `processes`.

It is a fresh interpreter, so that it inherits no threads or locks. It reads an `Order` from
stdin, writes `ready`, waits for the common start time, and writes a report to stdout. It
ends when the parent dies.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import signal
import sys
import time
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from tracekit.errors import TracekitError
from tracekit.recorder import Recorder
from tracekit.replayer.backends import Backends
from tracekit.replayer.columns import STOP, SharedColumns
from tracekit.replayer.engines.interpreter import EngineSettings, ThreadEngine, be_realtime
from tracekit.replayer.engines.oplog import warm_up
from tracekit.replayer.pacing import make_pacer
from tracekit.replayer.plan import COLUMNS, Plan

__all__ = ["Order", "Usage", "main"]

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Order:
    """The work of a child; `plan_fd` is the inherited descriptor of the shared plan."""

    plan_fd: int
    room: int
    uris: tuple[str, ...]
    streamed: bool
    rounds: int
    max_gap_ns: int | None
    out: Path
    noted: dict[str, Any]
    pace: str
    speed: float
    part: int
    parts: int
    settings: EngineSettings
    store_options: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Usage:
    """What a child used: CPU time and time ready without a CPU (ns), workers, and whether no more could start."""

    cpu_ns: int = 0
    cpu_wait_ns: int = 0
    workers: int = 0
    at_limit: bool = False


def main() -> None:
    """Carry out the order on stdin. The report is an error or None, and a `Usage`."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent stops us through the plan
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(BrokenPipeError, EOFError, pickle.UnpicklingError):  # the parent has died
        _serve(pickle.load(sys.stdin.buffer))


def _serve(order: Order) -> None:
    began_cpu = time.process_time_ns()
    error: TracekitError | None = None
    usage = Usage()
    try:
        usage = _drive(order)
    except BrokenPipeError:
        raise
    except TracekitError as raised:
        error = raised
    except Exception as raised:
        if os.environ.get("TRACEKIT_DEBUG"):
            raise
        error = TracekitError(
            f"internal error: {type(raised).__name__}: {raised}", "a defect: please report it"
        )
    _say_ready()  # after an early error: the parent waits for it before it reads the report
    usage = replace(usage, cpu_ns=time.process_time_ns() - began_cpu)
    pickle.dump((error, usage), sys.stdout.buffer)
    sys.stdout.buffer.flush()


def _drive(order: Order) -> Usage:
    """Replay this process's share of the plan."""
    if order.settings.realtime:
        be_realtime()
    plan = Plan(
        SharedColumns(COLUMNS, order.room, order.plan_fd), order.uris, order.uris,
        streamed=order.streamed, rounds=order.rounds, max_gap_ns=order.max_gap_ns,
    )  # fmt: skip
    pacer = make_pacer(order.pace, plan, speed=order.speed, part=order.part, parts=order.parts)
    with (
        closing(Backends(order.store_options)) as backends,
        Recorder(order.out, source="replay", options=order.noted) as recorder,
    ):
        engine = ThreadEngine(plan, pacer, None, recorder, backend_of=backends.of, settings=order.settings)
        warm_up()
        _say_ready()
        start = int(sys.stdin.buffer.readline())
        engine.run(lambda: None, start_mono_ns=start)
        recorder.set_counters({**backends.counters(), "replay_processes": 1})
        if order.part == 0:
            recorder.count("replay_planned_ops", plan.ops)
        if plan.shared.header[STOP]:
            recorder.count("replay_interrupted")
    return Usage(0, engine.cpu_wait_ns, engine.crew.size, engine.crew.at_limit)


@cache
def _say_ready() -> None:
    sys.stdout.buffer.write(b"ready\n")
    sys.stdout.buffer.flush()
