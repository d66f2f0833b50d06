"""One of several processes of a replay: its share of the one shared plan. Run by `processes`.

Started as a fresh interpreter, so that nothing of the parent's threads or locks comes
along. It is told what to do on stdin, says `ready`, waits for the common start, and
reports on stdout. The parent's death is its end.
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
from dataclasses import dataclass
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

__all__ = ["Order", "main"]

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Order:
    """What a child is to do; `plan_fd` is the shared plan, inherited."""

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


def main() -> None:
    """Obey the order on stdin; the report is None or an error, the CPU time used, the time waited for a CPU."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    for wish in (signal.SIGINT, signal.SIGTERM):  # the parent says when to stop, through the plan
        signal.signal(wish, signal.SIG_IGN)
    gone = (BrokenPipeError, EOFError, pickle.UnpicklingError)
    with contextlib.suppress(*gone):  # the parent is: nobody is left to tell
        _serve(pickle.load(sys.stdin.buffer))


def _serve(order: Order) -> None:
    began_cpu = time.process_time_ns()
    error: TracekitError | None = None
    waited_ns = 0
    try:
        waited_ns = _obey(order)
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
    _say_ready()  # if it had not: the parent is waiting, and reads the report next
    pickle.dump((error, time.process_time_ns() - began_cpu, waited_ns), sys.stdout.buffer)
    sys.stdout.buffer.flush()


def _obey(order: Order) -> int:
    """Replay this share; how long its workers waited for a CPU, ns."""
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
    return engine.cpu_wait_ns


@cache
def _say_ready() -> None:
    sys.stdout.buffer.write(b"ready\n")
    sys.stdout.buffer.flush()
