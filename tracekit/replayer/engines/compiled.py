"""The compiled engine: drives plans of local files with workers that do not hold the interpreter lock.

Workers run `kernel.work`, compiled by numba; changes other than range writes they have Python perform
(`hand`). Where a plan only reads past the page cache, as fast as possible, and the kernel has io_uring, one worker keeps
as many requests in flight as there would be workers (`inflight`). Each writes its rows into a ring of its own; this thread turns them into batches for the recorder
(`rings`) while workers run, starts further workers before ops become late, and handles interrupts.
"""

from __future__ import annotations

import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from tracekit.backends.base import Backend
from tracekit.backends.local.descriptors import open_file_budget
from tracekit.errors import TracekitError
from tracekit.gate import Gate
from tracekit.recorder import Recorder
from tracekit.replayer.columns import LOW, SLOTS, STOP, slot
from tracekit.replayer.engines import words
from tracekit.replayer.engines.arrays import (
    WorkerArrays,
    file_arrays,
    order_arrays,
    plan_arrays,
)
from tracekit.replayer.engines.changes import Changes
from tracekit.replayer.engines.crew import raise_file_limit
from tracekit.replayer.engines.hand import Hand
from tracekit.replayer.engines.interpreter import EngineSettings, cpu_wait_ns, keep_times
from tracekit.replayer.engines.interrupt import ending_on_interrupt
from tracekit.replayer.engines.jit import call, lacking
from tracekit.replayer.engines.oplog import warm_up
from tracekit.replayer.engines.rings import ADVICE, Rings
from tracekit.replayer.engines.uring import Uring, refusal
from tracekit.replayer.pacing import AsapPacer, Pacer
from tracekit.replayer.plan import Plan
from tracekit.uri import FILE_SCHEMES, scheme_of

__all__ = ["CompiledEngine", "unfit"]

_LEAVE_S = 5.0
_LEAD_NS = 20_000_000
_ROWS = 4096
_ROWS_STREAMED = 8192
_ROWS_STREAMED_RING = 1 << 17
_ROWS_ASAP = 1 << 21
"""Rows of all rings together where ops have no due times: they are converted when the CPU is free again."""
_TURN_S = 0.005
_WATCH_NS = 200_000_000
_OPEN_FILES = 8192
_DESCRIPTORS = 6
"""What a worker of a plan with changes holds open at once, at least: a file to read, one to write twice, and folders."""


def unfit(plan: Plan) -> str | None:
    """Why this engine cannot drive the plan; None if it can."""
    if not all(scheme_of(uri) in FILE_SCHEMES for uri in plan.uris):
        return "it is for local files"
    return lacking()


@dataclass(slots=True)
class _Worker:
    """One worker's thread, the memory that it shares with this module, and what serves it."""

    number: int
    arrays: WorkerArrays
    hand: Hand
    thread: threading.Thread | None = None

    @property
    def ended(self) -> bool:
        return self.thread is None or not self.thread.is_alive()


class CompiledEngine:
    """Drives a plan once. A failed op is a row with an error, and the replay goes on.

    `settings.threads` workers begin; further ones start when all are busy, up to
    `settings.max_threads`, and not more than may have a file open.
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
        self._backend_of = backend_of
        self._settings = settings
        self._header = np.frombuffer(plan.shared.header, np.int64)
        self._workers: list[_Worker] = []
        self._crashes: list[BaseException] = []
        self._timed = not isinstance(pacer, AsapPacer)
        self._changes = Changes(
            plan, backend_of, overwrite=settings.overwrite_objects, write_data=settings.write_data
        )
        self._files = file_arrays(plan.uris, self._changes, direct=settings.page_cache_mode == "direct_io")
        self._depth = settings.threads if self._ring_fits() else 0
        self._threads = 1 if self._depth else settings.threads
        # A streamed plan goes on when the rows of what was done are recorded.
        self._rings = Rings(plan, recorder, prompt=self._timed or plan.streamed)
        self._rows = self._rows_of_a_worker()
        self._open_files = 1
        self._max_workers = 1 if self._depth else max(settings.threads, settings.max_threads)
        self._control = self._make_control(gate)
        self._seeds, keep_zeros = self._changes.seeds
        self._control[words.KEEP_ZEROS] = int(keep_zeros)
        self._arrays, self._closed, self._rule = plan_arrays(plan, pacer, self._control)
        self._order = order_arrays(plan.order, self._control)
        self._turns = np.zeros(SLOTS, np.int64)
        self._start_mono_ns = 0
        self._cpu: list[tuple[int, int]] = []

    @property
    def workers(self) -> int:
        """How many workers have run; with io_uring, how many requests could be in flight."""
        return self._depth or len(self._workers)

    @property
    def uses_ring(self) -> bool:
        """Whether one worker made all requests through io_uring."""
        return self._depth > 0

    @property
    def at_limit(self) -> bool:
        """Whether no further worker could start."""
        return len(self._workers) >= self._max_workers

    @property
    def cpu_ns(self) -> int:
        """CPU time that the workers used."""
        return sum(used for used, _ in self._cpu)

    @property
    def spun_ns(self) -> int:
        """How much of that they spent looking for completions, where they could have slept."""
        return sum(int(worker.arrays.state[words.SPUN_NS]) for worker in self._workers)

    @property
    def cpu_wait_ns(self) -> int:
        """How long workers were ready to run without a CPU."""
        return sum(waited for _, waited in self._cpu)

    @property
    def counters(self) -> dict[str, int]:
        """What rows cannot show, as backends count it."""
        direct, padding, buffered = (
            sum(int(worker.arrays.state[word]) for worker in self._workers)
            for word in (words.DIRECT_READS, words.ALIGNMENT_BYTES, words.BUFFERED_BYTES)
        )
        counted = {"hints_applied": self._rings.hints, "direct_reads": direct, "alignment_bytes": padding}
        return counted | ({"buffered_write_bytes": buffered} if buffered else {})

    def run(self, watch: Callable[[], None]) -> bool:
        """Replay to the end; False if interrupted by Ctrl-C. `watch` is called a few times a second."""
        limit, interval = raise_file_limit(self._max_workers + _OPEN_FILES), sys.getswitchinterval()
        if self._plan.changes:  # Python performs some of them
            sys.setswitchinterval(0.0001)
        try:
            first = self._size()
            warm_up()
            with ending_on_interrupt(self.stop):  # an exception inside the compiler would be its failure
                self._compile()
            self._run(first, watch)
        finally:
            self._changes.close()
            sys.setswitchinterval(interval)
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        if self._crashes:
            raise self._crashes[0]
        return not self._header[STOP]

    def stop(self) -> None:
        """Let workers finish the op at hand, and no more."""
        self._plan.shared.header[STOP] = 1
        self._pacer.stop()

    def _size(self) -> int:
        """Share the descriptors that may be open between workers and files; return how many workers begin."""
        budget, each = open_file_budget(), _DESCRIPTORS if self._plan.changes else 1
        self._open_files = max(min(_OPEN_FILES, budget // 2), 1)
        first = min(self._threads, max(self._open_files // each, 1))
        self._max_workers = max(min(self._max_workers, (budget - self._open_files) // each), first)
        return first

    def _run(self, first: int, watch: Callable[[], None]) -> None:
        self._start_mono_ns = self._settings.start(_LEAD_NS)
        self._control[words.START] = self._start_mono_ns
        try:
            for _ in range(first):
                self._start_worker()
            with ending_on_interrupt(self.stop):
                self._attend(watch)
            self._join()
        except BaseException:
            self.stop()
            try:
                self._join()
            finally:  # rows that can no longer be recorded end `_join` at once; a thread left at exit is not quiet
                for worker in self._workers:
                    if worker.thread is not None:
                        worker.thread.join(_LEAVE_S)
            raise

    def _attend(self, watch: Callable[[], None]) -> None:
        """Flush rows, start workers before ops are late, and report progress, until all rows are flushed."""
        watched = time.monotonic_ns()
        while self._flush():
            if self._timed:
                self._grow()
            now = time.monotonic_ns()
            if now - watched >= _WATCH_NS:
                watched = now
                watch()
            time.sleep(_TURN_S)

    def _join(self) -> None:
        """Wait until all workers have ended and their rows are flushed."""
        while self._flush():
            time.sleep(_TURN_S)

    def _grow(self) -> None:
        """Start half as many workers again if none waits for a due time, so that the next op finds one."""
        count = len(self._workers)
        if count >= self._max_workers or self._header[STOP]:
            return
        if any(worker.arrays.state[words.IDLE] for worker in self._workers):
            return
        if self._control[words.NEXT] >= self._plan.ops:  # every op has been taken
            return
        for _ in range(min(max(count // 2, 1), self._max_workers - count)):
            self._start_worker()

    def _start_worker(self) -> None:
        number = len(self._workers)
        each = 3 if self._plan.changes else 1  # a file that is written may have two descriptors
        self._control[words.MOST_OPEN] = max(self._open_files // (each * (number + 1)), 1)
        worker = self._new_worker(number)
        self._plan.shared.header[slot(number, LOW)] = 1
        worker.thread = threading.Thread(
            target=self._guarded, args=(worker,), name=f"tracekit-replay-{number}", daemon=True
        )
        try:
            worker.thread.start()
        except RuntimeError as error:
            self._plan.shared.header[slot(number, LOW)] = 0
            if self._workers:  # fewer workers than wanted: lateness shows it
                self._max_workers = len(self._workers)
                return
            raise TracekitError("no thread could be started", "raise the limit of processes") from error
        self._workers.append(worker)

    def _new_worker(self, number: int) -> _Worker:
        arrays = WorkerArrays.of(self._rows)
        return _Worker(
            number, arrays, Hand(self._plan, self._changes, self._backend_of, arrays, self._crashed)
        )

    def _crashed(self, error: BaseException) -> None:
        """End the replay because of a defect; the error is raised again where `run` is called."""
        self._crashes.append(error)
        self.stop()

    def _guarded(self, worker: _Worker) -> None:
        began, waited = time.thread_time_ns(), cpu_wait_ns()
        try:
            keep_times(realtime=self._settings.realtime)
            self._drive(worker, self._plan.shared.header)
        except BaseException as error:  # noqa: BLE001 - raised again where `run` is called
            self._crashed(error)
        files = worker.arrays.files
        for fd in files[files[:, words.FILE] != 0, words.FD].tolist():
            os.close(fd)
        worker.hand.close()
        self._cpu.append((time.thread_time_ns() - began, cpu_wait_ns() - waited))

    def _drive(self, worker: _Worker, header: memoryview | np.ndarray) -> None:
        if not self._depth:
            self._work(worker, header)
            return
        with closing(Uring(self._depth)) as ring:  # made by the thread that submits to it
            failed = call(
                "inflight.keep_in_flight",
                np.frombuffer(header, np.int64),
                self._arrays,
                self._files,
                self._control,
                ring.arrays,
                worker.arrays,
                worker.hand.address,
            )
        if failed:
            raise TracekitError(f"io_uring failed: {os.strerror(failed)}", "see the log of the kernel")

    def _work(self, worker: _Worker, header: memoryview | np.ndarray) -> None:
        call(
            "kernel.work",
            np.frombuffer(header, np.int64),
            self._arrays,
            self._files,
            self._closed,
            self._rule,
            self._order,
            self._control,
            self._turns,
            self._seeds,
            worker.arrays,
            worker.hand.address,
        )

    def _compile(self) -> None:
        """Compile the loop before any op is due: run it where it has to stop at once."""
        header = np.zeros_like(self._header)
        header[STOP] = 1
        self._drive(self._new_worker(0), header)
        self._control[words.NEXT] = 0

    def _flush(self) -> bool:
        """Record what workers have written; whether there is more, or will be."""
        now, more = time.monotonic_ns(), False
        for worker in self._workers:
            ended = worker.ended
            state, ring = worker.arrays.state, worker.arrays.ring
            more |= self._rings.flush(worker.number, state, ring, ended=ended, now_ns=now)
        return more

    def _ring_fits(self) -> bool:
        """Whether one thread can make all requests through io_uring, and the kernel permits it."""
        plan = self._plan
        if self._timed or plan.changes or plan.order is not None or not self._files.direct.all():
            return False
        return refusal(self._settings.threads) is None

    def _rows_of_a_worker(self) -> int:
        """How many rows a worker's ring has."""
        if self._timed:
            return _ROWS
        if self._depth:  # a request that takes long holds up the rows of later ones
            return max(_ROWS_STREAMED_RING if self._plan.streamed else _ROWS_ASAP, 2 * self._depth)
        return max(_ROWS_STREAMED if self._plan.streamed else _ROWS_ASAP // self._threads, _ROWS)

    def _make_control(self, gate: Gate | None) -> np.ndarray:
        mode = self._settings.page_cache_mode
        control = np.zeros(words.CONTROL_WIDTH, np.int64)
        control[words.TIMED] = int(self._timed)
        if gate is not None:
            control[words.MAX_BYTES] = min(gate.max_bytes or 0, words.MOST_BYTES)
            control[words.MAX_OPS] = gate.max_ops or 0
        control[words.OPEN_FLAGS] = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        control[words.OPEN_ADVICE] = ADVICE.get(mode, -1)
        control[words.DROP] = int(mode == "dontneed")
        control[words.MOST_OPEN] = 1
        return control
