"""The thread engine: leader/follower workers that each wait for their own op.

A worker takes the next op, opens its file, sleeps until the op is due, passes the gate,
reads into its own buffer, and notes seven integers. No queue, no dispatcher, no hand-over:
the thread that wakes is the one that reads.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tracekit.backends.base import Backend
from tracekit.backends.local.descriptors import open_file_budget
from tracekit.errors import TracekitError, UsageError
from tracekit.gate import Gate
from tracekit.recorder import Recorder
from tracekit.replayer.columns import BUSY, DONE, LATE, LOW, STOP, slot
from tracekit.replayer.engines.fast import is_fast, run_fast
from tracekit.replayer.engines.files import OPEN_FILES, Worker
from tracekit.replayer.engines.oplog import OpLog, warm_up
from tracekit.replayer.pacing import Pacer
from tracekit.replayer.plan import Plan

__all__ = ["EngineSettings", "ThreadEngine", "be_realtime", "cpu_wait_ns", "wait_until"]

_PR_SET_TIMERSLACK = 29
_NAP_NS = 200_000_000
_LEAD_NS = 20_000_000


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How an engine runs a plan; `first_slot` is where its workers' counters begin."""

    threads: int
    page_cache_mode: str = "default"
    overwrite_objects: bool = False
    realtime: bool = False
    first_slot: int = 0


class ThreadEngine:
    """Drives a plan with threads that block in reads. One run each.

    `backend_of` gives the backend of a URI. A failed op is a row with an error, and the
    replay goes on. `cpu_ns` is what the workers' threads used, `cpu_wait_ns` how long they
    could have run and had no CPU.
    """

    def __init__(
        self, plan: Plan, pacer: Pacer, gate: Gate | None, recorder: Recorder, *,
        backend_of: Callable[[str], Backend], settings: EngineSettings,
    ) -> None:  # fmt: skip
        self._plan = plan
        self._pacer = pacer
        self._gate = gate
        self._recorder = recorder
        self._backend_of = backend_of
        self._settings = settings
        self._budget = min(OPEN_FILES, open_file_budget())
        self._threads = min(settings.threads, self._budget)  # each keeps a file open
        self._fast = gate is None and is_fast(plan, pacer, settings.page_cache_mode)
        self._crashes: list[BaseException] = []
        self._start_mono_ns = 0
        self.cpu_ns = 0
        self.cpu_wait_ns = 0

    def run(self, watch: Callable[[], None], *, start_mono_ns: int | None = None) -> bool:
        """Replay to the end; False if interrupted by Ctrl-C. `watch` is called now and then.

        Collection of garbage is off meanwhile and threads take turns more often than by
        default: both showed as lateness.
        """
        collecting, interval = gc.isenabled(), sys.getswitchinterval()
        gc.disable()
        sys.setswitchinterval(0.0001)
        warm_up()
        for index in range(self._settings.threads):  # nothing is given back before all have begun
            low = slot(self._settings.first_slot + index, LOW)
            self._plan.shared.header[low] = 1 if index < self._threads else 0
        self._start_mono_ns = start_mono_ns or time.monotonic_ns() + _LEAD_NS
        workers = [
            threading.Thread(
                target=self._guarded, args=(index,), name=f"tracekit-replay-{index}", daemon=True
            )
            for index in range(self._threads)
        ]
        try:
            whole = self._join(workers, watch)
        finally:
            sys.setswitchinterval(interval)
            if collecting:
                gc.enable()
        if self._crashes:
            raise self._crashes[0]
        return whole

    def _join(self, workers: list[threading.Thread], watch: Callable[[], None]) -> bool:
        whole = True
        try:
            self._begin(workers)
            for worker in workers:
                while worker.is_alive():
                    worker.join(_NAP_NS / 1e9)
                    watch()
        except KeyboardInterrupt:
            whole = False
            self.stop()
            for worker in workers:
                if worker.ident is not None:
                    worker.join()
        return whole and not self._plan.shared.header[STOP]

    def _begin(self, workers: list[threading.Thread]) -> None:
        for number, worker in enumerate(workers):
            try:
                worker.start()
            except RuntimeError as error:
                self.stop()
                for begun in workers[:number]:
                    begun.join()
                raise TracekitError(
                    f"only {number} of {len(workers)} threads could be started", "give fewer --threads"
                ) from error

    def stop(self) -> None:
        """Let workers finish the op that they are at, and no more."""
        self._plan.shared.header[STOP] = 1
        self._pacer.stop()

    def _guarded(self, index: int) -> None:
        began, waited = time.thread_time_ns(), cpu_wait_ns()
        worker: Worker | None = None
        try:
            ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
            if self._settings.realtime:
                be_realtime()
            log = OpLog(self._recorder, self._plan, self._start_mono_ns, index)
            worker = Worker(
                self._plan, log, self._backend_of, page_cache_mode=self._settings.page_cache_mode,
                most_open=self._budget // self._threads, overwrite=self._settings.overwrite_objects,
            )  # fmt: skip
            number = self._settings.first_slot + index
            if self._fast:
                run_fast(self._plan, self._pacer, log, worker, self._start_mono_ns, number)
            else:
                self._work(log, worker, number)
            self._plan.shared.header[slot(number, LOW)] = 0
        except BaseException as error:  # noqa: BLE001 - raised again where `run` is called
            self._crashes.append(error)
            self.stop()
        finally:
            if worker is not None:
                worker.close()
        self.cpu_ns += time.thread_time_ns() - began
        self.cpu_wait_ns += cpu_wait_ns() - waited

    def _work(self, log: OpLog, worker: Worker, number: int) -> None:
        plan, pacer, gate, start = self._plan, self._pacer, self._gate, self._start_mono_ns
        now, header = time.monotonic_ns, plan.shared.header
        low, done, late, busy = (slot(number, counter) for counter in (LOW, DONE, LATE, BUSY))
        while (op := pacer.take()) is not None:
            ready = worker.prepare(op)
            nbytes = ready.nbytes
            due = pacer.due(op)
            backlog = 0
            if due is not None:
                due += start
                backlog = wait_until(due, header, log)
            if header[STOP]:
                break
            waited = gate.acquire(nbytes) if gate is not None else 0
            submit = now()
            pacer.submitted(op)
            try:
                moved, error = worker.perform(op, ready)
                end = now() if moved.hint is None else moved.hint.t_submit  # a hint's time is not the read's
            finally:  # else a defect in one worker leaves the others before the gate for ever
                if gate is not None:
                    gate.release(nbytes)
            pacer.finished(op, end - start)
            log.add(
                op, submit, end - submit, moved, error,
                gate_wait_ns=waited, due_ns=due or 0, backlog_ns=backlog,
            )  # fmt: skip
            header[done] += 1
            header[busy] += end - submit
            header[late] = submit - due if due else 0
            if not log.rows:
                header[low] = op + 1
        log.flush()


def wait_until(due_mono_ns: int, header: memoryview, log: OpLog) -> int:
    """Sleep until then, or until all should stop; how long it was past already, ns.

    Sleeps are to the absolute deadline, cut into naps so that a stop is heard.
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
    """How long the calling thread has been ready to run without a CPU; 0 where the kernel does not tell."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError):
        return 0


def be_realtime() -> None:
    """Run the calling thread, and those that it starts, under SCHED_FIFO. Raises UsageError if not allowed."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        raise UsageError(
            "--realtime is not allowed here", "run as root or with CAP_SYS_NICE, or leave it out"
        ) from None
