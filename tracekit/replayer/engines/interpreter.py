"""The thread engine: workers that each wait for their own op and make its request.

A worker takes the next op, opens its file, sleeps until the op is due, passes the gate,
reads into its own buffer, and records seven integers. There is no dispatcher and no queue:
the thread that wakes up is the thread that reads.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tracekit.backends.base import Backend
from tracekit.backends.local.descriptors import open_file_budget
from tracekit.errors import UsageError
from tracekit.gate import Gate
from tracekit.recorder import Recorder
from tracekit.replayer.columns import BUSY, DONE, LATE, LOW, STOP, slot
from tracekit.replayer.engines.changes import Changes
from tracekit.replayer.engines.crew import Crew, raise_file_limit
from tracekit.replayer.engines.files import OPEN_FILES, Worker
from tracekit.replayer.engines.oplog import OpLog, warm_up
from tracekit.replayer.pacing import Pacer, RecordedPacer
from tracekit.replayer.plan import Plan

__all__ = ["EngineSettings", "ThreadEngine", "cpu_wait_ns", "keep_times", "lead", "wait_until"]

_PR_SET_TIMERSLACK = 29
_NAP_NS = 200_000_000
_LEAD_NS = 20_000_000


def lead(least_ns: int) -> int:
    """Start `least_ns` from now."""
    return time.monotonic_ns() + least_ns


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How an engine runs a plan: `threads` workers at the start, at most `max_threads`."""

    threads: int
    max_threads: int
    page_cache_mode: str = "default"
    overwrite_objects: bool = False
    write_data: str = "random"
    realtime: bool = False
    start: Callable[[int], int] = lead
    """Returns when the replay starts (monotonic, ns), at least that many ns from now. May wait."""


class ThreadEngine:
    """Drives a plan with threads that block in requests. One run each.

    `backend_of` gives the backend of a URI. A failed op is a row with an error, and the
    replay goes on.
    """

    def __init__(
        self,
        plan: Plan,
        pacer: Pacer,
        gate: Gate | None,
        recorder: Recorder,
        *,
        backend_of: Callable[[str], Backend],
        settings: EngineSettings,
    ) -> None:
        self._plan = plan
        self._pacer = pacer
        self._gate = gate
        self._recorder = recorder
        self._backend_of = backend_of
        self._settings = settings
        self._file_limit = raise_file_limit(settings.max_threads + OPEN_FILES)
        budget = open_file_budget()
        self._open_files = min(OPEN_FILES, -(-budget // 2))
        first = min(settings.threads, self._open_files)  # each keeps a file open
        most = max(first, min(settings.max_threads, budget - self._open_files))
        self._changes = Changes(
            plan, backend_of, overwrite=settings.overwrite_objects, write_data=settings.write_data
        )
        self._crashes: list[BaseException] = []
        self._start_mono_ns = 0
        self._cpu: list[tuple[int, int]] = []
        self.crew = Crew(self._guarded, first=first, most=most)

    def run(self, watch: Callable[[], None]) -> bool:
        """Replay to the end; False if Ctrl-C ended it. `watch` is called now and then.

        Garbage collection is off meanwhile, and threads switch more often than by default:
        both showed up as lateness.
        """
        collecting, interval = gc.isenabled(), sys.getswitchinterval()
        gc.disable()
        sys.setswitchinterval(0.0001)
        warm_up()
        for index in range(self._settings.threads):  # keeps the plan's rows until every worker has begun
            self._plan.shared.header[slot(index, LOW)] = 1
        self._start_mono_ns = self._settings.start(_LEAD_NS)
        try:
            self.crew.run(watch, self.stop)
        finally:
            self._changes.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, self._file_limit)
            sys.setswitchinterval(interval)
            if collecting:
                gc.enable()
        if self._crashes:
            raise self._crashes[0]
        return not self._plan.shared.header[STOP]

    @property
    def cpu_ns(self) -> int:
        """CPU time that the workers used."""
        return sum(used for used, _ in self._cpu)

    @property
    def cpu_wait_ns(self) -> int:
        """How long workers were ready to run without a CPU."""
        return sum(waited for _, waited in self._cpu)

    def stop(self) -> None:
        """Let workers finish their current op and start no other."""
        self._plan.shared.header[STOP] = 1
        self._pacer.stop()

    def _guarded(self, index: int) -> None:
        began, waited = time.thread_time_ns(), cpu_wait_ns()
        worker: Worker | None = None
        try:
            keep_times(realtime=self._settings.realtime)
            log = OpLog(self._recorder, self._plan, index)
            worker = Worker(
                self._plan,
                log,
                self._backend_of,
                page_cache_mode=self._settings.page_cache_mode,
                most_open=lambda: self._open_files // self.crew.size,
                changes=self._changes,
            )
            self._plan.shared.header[slot(index, LOW)] = 1
            self._work(log, worker, index)
            self._plan.shared.header[slot(index, LOW)] = 0
        except BaseException as error:  # noqa: BLE001 - raised again where `run` is called
            self._crashes.append(error)
            self.stop()
        finally:
            if worker is not None:
                worker.close()
        self._cpu.append((time.thread_time_ns() - began, cpu_wait_ns() - waited))

    def _work(self, log: OpLog, worker: Worker, number: int) -> None:
        plan, pacer, gate, start = self._plan, self._pacer, self._gate, self._start_mono_ns
        now, header = time.monotonic_ns, plan.shared.header
        low, done, late, busy = (slot(number, counter) for counter in (LOW, DONE, LATE, BUSY))

        def starved(op: int) -> None:
            """Let go of the rows before `op`, for which the plan waits."""
            log.flush()
            header[low] = op + 1

        take = partial(pacer.take, starved) if isinstance(pacer, RecordedPacer) else pacer.take
        while (op := take()) is not None:
            ready = worker.prepare(op)
            nbytes = ready.nbytes
            due = pacer.due(op)
            backlog = 0
            if due is not None:
                due += start
                backlog = wait_until(due, header, log)
            dependency = self._turn(op)
            if header[STOP]:
                break
            if ready.late:
                ready = worker.open(op, ready)
                nbytes = ready.nbytes
            waited = gate.acquire(nbytes) if gate is not None else 0
            self.crew.begin()
            submit = now()
            pacer.submitted(op)
            try:
                moved, error = worker.perform(op, ready)
                end = now() if moved.hint is None else moved.hint.t_submit  # a hint's time is not the read's
            finally:  # otherwise a defect in one worker would leave the others at the gate for ever
                self.crew.end()
                if gate is not None:
                    gate.release(nbytes)
            pacer.finished(op, end - start)
            log.add(
                op,
                submit,
                end - submit,
                moved,
                error,
                gate_wait_ns=waited,
                due_ns=due or 0,
                backlog_ns=backlog,
                dependency_ns=dependency,
            )
            header[done] += 1
            header[busy] += end - submit
            header[late] = submit - due if due else 0
            if not log.rows:
                header[low] = op + 1
        log.flush()

    def _turn(self, op: int) -> int:
        """Wait for the ops that this one depends on; return the ns waited."""
        waits = self._pacer.waits
        if waits is None or not waits.held(op):
            return 0
        self.crew.begin()  # as in a request: another worker has to be free for the next op
        try:
            return waits.wait(op)
        finally:
            self.crew.end()


def wait_until(due_mono_ns: int, header: memoryview, log: OpLog) -> int:
    """Sleep until an absolute time, or until the replay stops; return by how many ns it had already passed.

    Long sleeps are cut into short ones, so that a stop is noticed.
    """
    now, sleep = time.monotonic_ns, time.sleep
    wait = due_mono_ns - now()
    if wait <= 0:
        return -wait
    while wait > 0 and not header[STOP]:
        if wait > _NAP_NS:
            log.flush()
            sleep(_NAP_NS / 2e9)
        elif log.rows and log.has_slack(wait, due_mono_ns - wait):
            log.flush()
        else:
            sleep(wait / 1e9)
        wait = due_mono_ns - now()
    return 0


def cpu_wait_ns() -> int:
    """How long the calling thread was ready to run without a CPU, ns; 0 where the kernel does not count it."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError):
        return 0


def keep_times(*, realtime: bool) -> None:
    """Let the calling thread sleep to the microsecond, and with `realtime` run under SCHED_FIFO, as threads that it starts do.

    Raises UsageError if realtime is not permitted.
    """
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    if not realtime:
        return
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        raise UsageError(
            "realtime=True is not permitted", "run as root or with CAP_SYS_NICE, or leave it out"
        ) from None
