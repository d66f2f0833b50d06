"""Replay with several processes over one shared plan, for rates that one interpreter cannot sustain.

Each process takes every n-th op (in closed pacing, every n-th stream); all count from one
start time. The parent only watches and says when to stop.
"""

from __future__ import annotations

import contextlib
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, cast

from tracekit.errors import TracekitError
from tracekit.replayer.columns import LOW, STOP, slot
from tracekit.replayer.engines.child import Order, Usage
from tracekit.replayer.engines.interpreter import EngineSettings
from tracekit.replayer.options import ReplayOptions
from tracekit.replayer.plan import Plan

__all__ = ["run_processes"]

_PROGRAM = "from tracekit.replayer.engines.child import main; main()"
_LEAD_NS = 50_000_000
_WATCH_S = 0.2


def run_processes(
    plan: Plan, options: ReplayOptions, *, out: Path, noted: dict[str, Any], parts: int,
    settings: EngineSettings, watch: Callable[[], None],
) -> tuple[bool, list[Usage]]:  # fmt: skip
    """Replay to the end; return whether it was whole (False: Ctrl-C), and what each child used.

    Raises what a child raised, or TracekitError if one died.
    """
    order = Order(
        plan.shared.fd, plan.room, plan.uris, plan.streamed, plan.rounds, plan.max_gap_ns, out, noted, options.pace, options.speed,
        0, parts, settings, options.store_options,
    )  # fmt: skip
    for part in range(parts):  # keeps the plan's rows until every worker has begun
        for worker in range(settings.threads):
            plan.shared.header[slot(part * settings.max_threads + worker, LOW)] = 1
    children: list[subprocess.Popen[bytes]] = []
    whole, begun = True, False
    try:
        try:
            for part in range(parts):
                first = part * settings.max_threads
                children.append(
                    _begin(replace(order, part=part, settings=replace(settings, first_slot=first)))
                )
            for child in children:
                _expect_ready(child)
            begun = True
            _start(children)
            _watch_until_done(children, plan, watch)
        except KeyboardInterrupt:
            if not begun:
                raise
            whole = False
            plan.shared.header[STOP] = 1
            _start(children)
        reports = [_report(child) for child in children]
    finally:
        plan.shared.header[STOP] = 1
        for child in children:
            if child.poll() is None:
                child.kill()
            child.wait()
    return whole, reports


def _begin(order: Order) -> subprocess.Popen[bytes]:
    child = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        pass_fds=(order.plan_fd,), process_group=0,
    )  # fmt: skip
    stdin = cast(IO[bytes], child.stdin)
    with contextlib.suppress(BrokenPipeError):  # the child died: noticed when it does not report ready
        pickle.dump(order, stdin)
        stdin.flush()
    return child


def _expect_ready(child: subprocess.Popen[bytes]) -> None:
    if cast(IO[bytes], child.stdout).readline() != b"ready\n":
        raise TracekitError("a replay process died before it began", "run with processes=1 to see why")


def _start(children: list[subprocess.Popen[bytes]]) -> None:
    start = time.monotonic_ns() + _LEAD_NS
    for child in children:
        stdin = cast(IO[bytes], child.stdin)
        with contextlib.suppress(
            BrokenPipeError, ValueError
        ):  # the child has ended, or has been started before
            stdin.write(b"%d\n" % start)
            stdin.close()


def _watch_until_done(children: list[subprocess.Popen[bytes]], plan: Plan, watch: Callable[[], None]) -> None:
    """Wait until all have ended. When one has died, stop the others."""
    running = list(children)
    while running:
        try:
            running[0].wait(_WATCH_S)
        except subprocess.TimeoutExpired:
            watch()
        running = [child for child in running if child.poll() is None]
        if any(child.returncode for child in children):
            plan.shared.header[STOP] = 1


def _report(child: subprocess.Popen[bytes]) -> Usage:
    """Read a child's report. Raises what the child raised."""
    try:
        error, usage = pickle.loads(cast(IO[bytes], child.stdout).read().removeprefix(b"ready\n"))
    except (EOFError, pickle.UnpicklingError):
        raise TracekitError(
            "a replay process died, and the others were stopped",
            "the trace holds the ops that they had recorded",
        ) from None
    if error is not None:
        raise error
    assert isinstance(usage, Usage)
    return usage
