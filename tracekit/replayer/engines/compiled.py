"""The compiled engine: drives plans of local reads with workers that never hold the interpreter lock.

Workers run `kernel.work`, compiled by numba. Each writes its rows into a ring of its own; this
thread turns them into batches for the recorder while workers run, starts further workers
before ops become late, and handles interrupts.
"""

from __future__ import annotations

import ctypes
import os
import resource
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from tracekit.backends.base import Hint
from tracekit.backends.local.descriptors import open_file_budget
from tracekit.backends.local.files import aligned_buffer
from tracekit.errors import BackendError, ErrorClass, TracekitError
from tracekit.gate import Gate
from tracekit.recorder import Recorder
from tracekit.replayer.columns import BUSY, DONE, LATE, LOW, SLOTS, STOP, slot
from tracekit.replayer.engines import words
from tracekit.replayer.engines.arrays import closed_arrays, packed_files
from tracekit.replayer.engines.crew import raise_file_limit
from tracekit.replayer.engines.interpreter import EngineSettings, be_realtime, cpu_wait_ns
from tracekit.replayer.engines.jit import lacking, load_kernel
from tracekit.replayer.engines.oplog import hint_rows, op_rows, warm_up
from tracekit.replayer.pacing import AsapPacer, ClosedPacer, Pacer
from tracekit.replayer.plan import NONE, Plan
from tracekit.uri import FILE_SCHEMES, scheme_of

__all__ = ["CompiledEngine", "unfit"]

_PR_SET_TIMERSLACK = 29
_LEAVE_S = 5.0
_LEAD_NS = 20_000_000
_ROWS = 4096
_ROWS_STREAMED = 16_384
_ROWS_ASAP = 1 << 21
"""Rows of all rings together where ops have no due times: they are converted when the CPU is free again."""
_FLUSH_ROWS = 1 << 16
"""Rows converted at once, so that progress is reported in between."""
_FLUSH_NS = 500_000_000
_TURN_S = 0.005
_WATCH_NS = 200_000_000
_ROOM_BYTES = 1 << 20
_LARGEST_BLOCK = 1 << 16
_OPEN_FILES = 8192
_MOST_FILES = 512
_ADVICE = {
    "fadvise_sequential": os.POSIX_FADV_SEQUENTIAL,
    "fadvise_random": os.POSIX_FADV_RANDOM,
    "dontneed": os.POSIX_FADV_DONTNEED,
}
_ADVICE_NAMES = {advice: mode.removeprefix("fadvise_") for mode, advice in _ADVICE.items()}
_OWN_ERRORS = {
    words.SHORT: ErrorClass.SHORT_READ,
    words.OUT_OF_MEMORY: ErrorClass.OUT_OF_MEMORY,
    words.UNSUPPORTED: ErrorClass.UNSUPPORTED,
}


def unfit(plan: Plan, *, modelled: bool) -> str | None:
    """Why this engine cannot drive the plan; None if it can."""
    if not all(scheme_of(uri) in FILE_SCHEMES for uri in plan.uris):
        return "it is for local files"
    if modelled:
        return "closed pacing follows the loader's rule"
    if plan.changes:
        return "the plan writes"
    return lacking()


@dataclass(slots=True)
class _Worker:
    """One worker's thread and the memory that it shares with this module."""

    number: int
    ring: np.ndarray
    files: np.ndarray
    room: memoryview = field(default_factory=lambda: aligned_buffer(_ROOM_BYTES))
    state: np.ndarray = field(default_factory=lambda: np.zeros(words.STATE_WIDTH, np.int64))
    clock: np.ndarray = field(default_factory=lambda: np.zeros(4, np.int64))
    status: np.ndarray = field(default_factory=lambda: np.zeros(64, np.uint32))
    thread: threading.Thread | None = None
    flushed_ns: int = field(default_factory=time.monotonic_ns)

    @property
    def ended(self) -> bool:
        return self.thread is None or not self.thread.is_alive()


class CompiledEngine:
    """Drives a plan once. A failed op is a row with an error, and the replay goes on.

    `settings.threads` workers begin; further ones start when all are busy, up to
    `settings.max_threads`, and not more than may have a file open.
    """

    def __init__(
        self, plan: Plan, pacer: Pacer, gate: Gate | None, recorder: Recorder, *, settings: EngineSettings
    ) -> None:
        self._plan = plan
        self._pacer = pacer
        self._recorder = recorder
        self._settings = settings
        self._header = np.frombuffer(plan.shared.header, np.int64)
        self._workers: list[_Worker] = []
        self._crashes: list[BaseException] = []
        self._timed = not isinstance(pacer, AsapPacer)
        # A streamed plan goes on when the rows of what was done are recorded.
        self._prompt = self._timed or plan.streamed
        asap = _ROWS_STREAMED if plan.streamed else _ROWS_ASAP // settings.threads
        self._rows = _ROWS if self._timed else max(asap, _ROWS)
        self._open_files = 1
        self._max_workers = max(settings.threads, settings.max_threads)
        self._control = self._make_control(gate)
        closed = pacer.columns if isinstance(pacer, ClosedPacer) else None
        self._due = plan.shared.columns["due_ns"] if closed is None else closed.due
        self._closed = closed_arrays(closed, self._control)
        self._turns = np.zeros(SLOTS, np.int64)
        self._files = packed_files(plan.uris, direct=settings.page_cache_mode == "direct_io")
        self._start_mono_ns = 0
        self._hints = 0
        self._cpu: list[tuple[int, int]] = []

    @property
    def workers(self) -> int:
        """How many workers have run."""
        return len(self._workers)

    @property
    def at_limit(self) -> bool:
        """Whether no further worker could start."""
        return len(self._workers) >= self._max_workers

    @property
    def cpu_ns(self) -> int:
        """CPU time that the workers used."""
        return sum(used for used, _ in self._cpu)

    @property
    def cpu_wait_ns(self) -> int:
        """How long workers were ready to run without a CPU."""
        return sum(waited for _, waited in self._cpu)

    @property
    def counters(self) -> dict[str, int]:
        """What rows cannot show, as backends count it."""
        direct, padding = (
            sum(int(worker.state[word]) for worker in self._workers)
            for word in (words.DIRECT_READS, words.ALIGNMENT_BYTES)
        )
        return {"hints_applied": self._hints, "direct_reads": direct, "alignment_bytes": padding}

    def run(self, watch: Callable[[], None]) -> bool:
        """Replay to the end; False if interrupted by Ctrl-C. `watch` is called a few times a second."""
        limit = raise_file_limit(self._max_workers + _OPEN_FILES)
        try:
            first = self._size()
            warm_up()
            self._compile()
            whole = self._run(first, watch)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        if self._crashes:
            raise self._crashes[0]
        return whole and not self._header[STOP]

    def stop(self) -> None:
        """Let workers finish the op at hand, and no more."""
        self._plan.shared.header[STOP] = 1
        self._pacer.stop()

    def _size(self) -> int:
        """Share the descriptors that may be open between workers and files; return how many workers begin."""
        budget = open_file_budget()
        self._open_files = max(min(_OPEN_FILES, budget // 2), 1)
        first = min(self._settings.threads, self._open_files)
        self._max_workers = max(min(self._max_workers, budget - self._open_files), first)
        return first

    def _run(self, first: int, watch: Callable[[], None]) -> bool:
        self._start_mono_ns = time.monotonic_ns() + _LEAD_NS
        self._control[words.START] = self._start_mono_ns
        try:
            for _ in range(first):
                self._start_worker()
            self._attend(watch)
        except KeyboardInterrupt:
            self.stop()
            self._join()
            return False
        except BaseException:
            self.stop()
            try:
                self._join()
            finally:  # rows that can no longer be recorded end `_join` at once; a thread left at exit is not quiet
                for worker in self._workers:
                    if worker.thread is not None:
                        worker.thread.join(_LEAVE_S)
            raise
        return True

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
        if any(worker.state[words.IDLE] for worker in self._workers):
            return
        if self._control[words.NEXT] >= self._plan.ops:  # every op has been taken
            return
        for _ in range(min(max(count // 2, 1), self._max_workers - count)):
            self._start_worker()

    def _start_worker(self) -> None:
        number = len(self._workers)
        self._control[words.MOST_OPEN] = max(self._open_files // (number + 1), 1)
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
        ring = np.zeros((self._rows, words.ROW_WIDTH), np.int64)
        worker = _Worker(number, ring, np.zeros((_MOST_FILES, words.FILE_WIDTH), np.int64))
        worker.state[words.CURRENT] = -1
        return worker

    def _guarded(self, worker: _Worker) -> None:
        began, waited = time.thread_time_ns(), cpu_wait_ns()
        try:
            ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
            if self._settings.realtime:
                be_realtime()
            self._drive(worker)
        except BaseException as error:  # noqa: BLE001 - raised again where `run` is called
            self._crashes.append(error)
            self.stop()
        for fd in worker.files[worker.files[:, words.FILE] != 0, words.FD].tolist():
            os.close(fd)
        self._cpu.append((time.thread_time_ns() - began, cpu_wait_ns() - waited))

    def _drive(self, worker: _Worker) -> None:
        resumed, refused = -1, False
        while True:
            reason, resumed = self._work(worker, self._header, resumed, refused)
            if reason != words.NEED_ROOM:
                return
            try:
                worker.room, refused = aligned_buffer(self._needed(worker, resumed)), False
            except BackendError:  # a length that only a damaged or foreign trace has
                refused = True

    def _work(
        self, worker: _Worker, header: np.ndarray, resumed: int = -1, refused: bool = False
    ) -> tuple[int, int]:
        columns = self._plan.shared.columns
        plan = [columns[name] for name in ("file", "offset", "length", "recorded_bytes")]
        reason, op = load_kernel().work(
            resumed, refused, header, self._due, *plan, *self._files, *self._closed, self._control, self._turns,
            worker.state, worker.ring, worker.files, _address(worker.room), len(worker.room), worker.clock, worker.status,
        )  # fmt: skip
        return int(reason), int(op)

    def _compile(self) -> None:
        """Compile the loop before any op is due: run it where it has to stop at once."""
        header = np.zeros_like(self._header)
        header[STOP] = 1
        self._work(self._new_worker(0), header)
        self._control[words.NEXT] = 0

    def _needed(self, worker: _Worker, op: int) -> int:
        """The buffer that an op needs, in bytes; of unknown length, to the end of its file, which is open."""
        columns = self._plan.shared.columns
        length = int(columns["length"][op])
        if length == NONE:
            entry = int(columns["file"][op]) % int(worker.state[words.SLOTS])
            size = os.lseek(int(worker.files[entry, words.FD]), 0, os.SEEK_END)
            length = max(size - int(columns["offset"][op]), 1)
        return length + 2 * _LARGEST_BLOCK

    def _flush(self) -> bool:
        """Record rows that have waited long enough, or fill half a ring; whether there are, or will be, more."""
        now, more = time.monotonic_ns(), False
        for worker in self._workers:
            # Read in this order: what happens in between is then seen twice, never missed.
            ended = worker.ended
            current = int(worker.state[words.CURRENT])
            head, tail = int(worker.state[words.HEAD]), int(worker.state[words.TAIL])
            old = self._prompt and now - worker.flushed_ns >= _FLUSH_NS
            if head > tail and (ended or old or head - tail >= self._rows // 2):
                upto = min(head, tail + _FLUSH_ROWS)
                self._record(worker.ring[np.arange(tail, upto) % self._rows])
                worker.state[words.TAIL] = tail = upto
                worker.flushed_ns = now
            self._publish(worker, current, tail, head, ended)
            more = more or not ended or tail < head
        return more

    def _record(self, rows: np.ndarray) -> None:
        hints = rows[rows[:, words.OP] < 0]
        if len(hints):
            self._hints += len(hints)
            self._recorder.record_batch(hint_rows([self._hint(row) for row in hints.tolist()]))
        ops = rows[rows[:, words.OP] >= 0]
        if len(ops):
            failed = ops[:, words.ERROR]
            errors = {row: _error_class(int(failed[row])) for row in np.flatnonzero(failed).tolist()}
            kept = np.ascontiguousarray(ops[:, : words.ERROR].T)
            self._recorder.record_batch(op_rows(self._plan, kept, errors, {}))

    def _hint(self, row: list[int]) -> tuple[str, Hint]:
        file, submit, latency, offset, length, advice = -row[0] - 1, *row[1:6]
        return self._plan.uris[file], Hint(_ADVICE_NAMES[advice], offset, length, submit, latency)

    def _publish(self, worker: _Worker, current: int, tail: int, head: int, ended: bool) -> None:
        """Tell the plan which rows the worker still needs, and `watch` how far it is."""
        header, number = self._plan.shared.header, worker.number
        low = current
        if head > tail:
            low = min(low, self._first_op(worker, tail, head))
        header[slot(number, LOW)] = 0 if ended and head == tail else max(low, 0) + 1
        for counter, word in ((DONE, words.OPS), (BUSY, words.BUSY_NS), (LATE, words.LATE)):
            header[slot(number, counter)] = int(worker.state[word])

    def _first_op(self, worker: _Worker, tail: int, head: int) -> int:
        """The first op of the rows that have not been flushed."""
        for row in range(tail, head):
            op = int(worker.ring[row % self._rows, words.OP])
            if op >= 0:
                return op
        return int(worker.state[words.CURRENT])

    def _make_control(self, gate: Gate | None) -> np.ndarray:
        mode = self._settings.page_cache_mode
        control = np.zeros(words.CONTROL_WIDTH, np.int64)
        control[words.TIMED] = int(self._timed)
        if gate is not None:
            control[words.MAX_BYTES] = min(gate.max_bytes or 0, words.MOST_BYTES)
            control[words.MAX_OPS] = gate.max_ops or 0
        control[words.OPEN_FLAGS] = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        control[words.OPEN_ADVICE] = _ADVICE.get(mode, -1)
        control[words.DROP] = int(mode == "dontneed")
        control[words.MOST_OPEN] = 1
        return control


def _error_class(code: int) -> ErrorClass:
    return _OWN_ERRORS.get(code) or ErrorClass.from_errno(code)


def _address(buffer: memoryview) -> int:
    return np.frombuffer(buffer, np.uint8).ctypes.data
