"""The compiled engine: drives plans of local reads with workers that never hold the interpreter lock.

Workers run `kernel.work`, compiled by numba. Each writes its rows into a ring of its own; this
thread turns them into batches for the recorder while workers run, starts further workers
before ops become late, and handles interrupts. Without numba, `available` is false and the
interpreter engine drives the plan.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import logging
import os
import resource
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from tracekit.backends.base import Hint
from tracekit.backends.local.files import aligned_buffer
from tracekit.cache import cache_directory
from tracekit.errors import ErrorClass, TracekitError
from tracekit.gate import Gate
from tracekit.recorder import Recorder
from tracekit.replayer.columns import BUSY, DONE, LATE, LOW, STOP, slot
from tracekit.replayer.engines.interpreter import EngineSettings, be_realtime, cpu_wait_ns
from tracekit.replayer.engines.oplog import hint_rows, op_rows, warm_up
from tracekit.replayer.pacing import AsapPacer, Pacer
from tracekit.replayer.plan import KINDS, NONE, Plan
from tracekit.uri import scheme_of, to_path

__all__ = ["CompiledEngine", "available", "drives"]

_log = logging.getLogger("tracekit")

_PR_SET_TIMERSLACK = 29
_LEAD_NS = 20_000_000
_ROWS = 4096
_ROWS_ASAP = 1 << 22
"""Rows of all rings together where ops have no due times: they are converted when the CPU is free again."""
_FLUSH_NS = 500_000_000
_TURN_S = 0.005
_WATCH_NS = 200_000_000
_ROOM_BYTES = 1 << 20
_RESERVED_FILES = 64
_MOST_FILES = 512
_OUT_OF_MEMORY = 1 << 21
_ADVICE = {"fadvise_sequential": os.POSIX_FADV_SEQUENTIAL, "fadvise_random": os.POSIX_FADV_RANDOM}
_ADVICE_NAMES = {
    os.POSIX_FADV_SEQUENTIAL: "sequential",
    os.POSIX_FADV_RANDOM: "random",
    os.POSIX_FADV_DONTNEED: "dontneed",
}
_MODES = ("default", "dontneed", *_ADVICE)


@cache
def available() -> bool:
    """Whether numba is installed, so that the engine can run."""
    return importlib.util.find_spec("numba") is not None


def drives(plan: Plan, pace: str, page_cache_mode: str) -> bool:
    """Whether this engine can drive the plan: reads of `file://` at recorded times or as fast as possible."""
    writes = not plan.streamed and bool((plan.column("kind") == KINDS.index("put")).any())
    return (
        available()
        and pace in ("recorded", "asap")
        and not writes
        and page_cache_mode in _MODES
        and all(scheme_of(uri) == "file" for uri in plan.uris)
    )


@dataclass(slots=True)
class _Worker:
    """One worker's thread and the memory that it shares with this module."""

    number: int
    ring: np.ndarray
    state: np.ndarray
    files: np.ndarray
    room: memoryview
    clock: np.ndarray = field(default_factory=lambda: np.zeros(8, np.int64))
    thread: threading.Thread | None = None
    flushed_ns: int = 0
    ops: int = 0


class CompiledEngine:
    """Drives a plan once. A failed op is a row with an error, and the replay goes on.

    `settings.threads` workers begin; further ones start when all are busy, up to
    `settings.max_threads`.
    `cpu_ns` is the CPU time of the workers, `cpu_wait_ns` how long they were ready without a CPU.
    """

    def __init__(
        self,
        plan: Plan,
        pacer: Pacer,
        gate: Gate | None,
        recorder: Recorder,
        *,
        settings: EngineSettings,
    ) -> None:
        self._plan = plan
        self._pacer = pacer
        self._recorder = recorder
        self._settings = settings
        self._kernel: Any = _load_kernel()
        self._header = np.frombuffer(plan.shared.header, np.int64)
        self._workers: list[_Worker] = []
        self._crashes: list[BaseException] = []
        self._timed = not isinstance(pacer, AsapPacer)
        self._rows = _ROWS if self._timed else max(_ROWS_ASAP // settings.threads, _ROWS)
        self._max_workers = max(settings.max_threads, settings.threads)
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _RESERVED_FILES
        self._files_a_worker = max(1, min(limit // self._max_workers, _MOST_FILES))
        self._control = self._make_control(gate)
        self._paths, self._path_at = _packed_paths(plan.uris)
        self._start_mono_ns = 0
        self.counters = {"hints_applied": 0}
        """What rows cannot show, as backends count it."""
        self.cpu_ns = 0
        self.cpu_wait_ns = 0

    @property
    def workers(self) -> int:
        """How many workers have run."""
        return len(self._workers)

    @property
    def at_limit(self) -> bool:
        """Whether no further worker could start."""
        return len(self._workers) >= self._max_workers

    def run(self, watch: Callable[[], None], *, start_mono_ns: int | None = None) -> bool:
        """Replay to the end; False if interrupted by Ctrl-C. `watch` is called a few times a second."""
        warm_up()
        self._start_mono_ns = start_mono_ns or time.monotonic_ns() + _LEAD_NS
        self._control[self._kernel.START] = self._start_mono_ns
        whole = True
        try:
            for _ in range(self._settings.threads):
                self._start_worker()
            self._attend(watch)
        except KeyboardInterrupt:
            whole = False
            self.stop()
            self._join()
        except BaseException:
            self.stop()
            self._join()
            raise
        self._flush(everything=True)
        if self._crashes:
            raise self._crashes[0]
        return whole and not self._header[STOP]

    def stop(self) -> None:
        """Let workers finish the op at hand, and no more."""
        self._plan.shared.header[STOP] = 1
        self._pacer.stop()

    def _attend(self, watch: Callable[[], None]) -> None:
        """Flush rows, start workers before ops are late, and report progress, until all workers have ended."""
        watched = time.monotonic_ns()
        while any(worker.thread is not None and worker.thread.is_alive() for worker in self._workers):
            time.sleep(_TURN_S)
            self._flush()
            if self._timed:
                self._grow()
            now = time.monotonic_ns()
            if now - watched >= _WATCH_NS:
                watched = now
                watch()

    def _grow(self) -> None:
        """Start half as many workers again if none waits for a due time, so that the next op finds one."""
        kernel, count = self._kernel, len(self._workers)
        if count >= self._max_workers or self._header[STOP]:
            return
        if any(worker.state[kernel.IDLE] for worker in self._workers):
            return
        if self._control[kernel.NEXT] >= self._header[0]:  # every op has been taken
            return
        for _ in range(min(max(count // 2, 1), self._max_workers - count)):
            self._start_worker()

    def _start_worker(self) -> None:
        number = len(self._workers)
        worker = _Worker(
            number,
            np.zeros((self._rows, self._kernel.ROW_WIDTH), np.int64),
            np.zeros(self._kernel.STATE_WIDTH, np.int64),
            np.zeros((self._files_a_worker, 2), np.int64),
            aligned_buffer(_ROOM_BYTES),
            flushed_ns=time.monotonic_ns(),
        )
        worker.state[self._kernel.CURRENT] = -1
        self._plan.shared.header[slot(self._settings.first_slot + number, LOW)] = 1
        worker.thread = threading.Thread(
            target=self._guarded, args=(worker,), name=f"tracekit-replay-{number}", daemon=True
        )
        try:
            worker.thread.start()
        except RuntimeError as error:
            self._plan.shared.header[slot(self._settings.first_slot + number, LOW)] = 0
            if self._workers:  # fewer workers than wanted: lateness shows it
                self._max_workers = len(self._workers)
                return
            raise TracekitError("no thread could be started", "raise the limit of processes") from error
        self._workers.append(worker)

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
        for fd in worker.files[worker.files[:, 0] != 0, 1].tolist():
            os.close(fd)
        self.cpu_ns += time.thread_time_ns() - began
        self.cpu_wait_ns += cpu_wait_ns() - waited

    def _drive(self, worker: _Worker) -> None:
        kernel, columns = self._kernel, self._plan.shared.columns
        names = ("due_ns", "file", "offset", "length", "recorded_bytes")
        plan = [columns[name] for name in names]
        resumed = -1
        while True:
            reason, resumed = kernel.work(
                resumed, self._header, *plan, self._paths, self._path_at, self._control, worker.state,
                worker.ring, worker.files, _address(worker.room), len(worker.room), worker.clock,
            )  # fmt: skip
            if reason != kernel.NEED_ROOM:
                return
            try:
                worker.room = aligned_buffer(self._needed(int(resumed)))
            except MemoryError:  # a length that only a damaged or foreign trace has
                self._fail(worker, int(resumed))
                resumed = -1

    def _needed(self, op: int) -> int:
        """The buffer that an op needs, in bytes; of unknown length, to the end of its file."""
        length = int(self._plan.shared.columns["length"][op])
        if length != NONE:
            return length
        path = to_path(self._plan.uris[int(self._plan.shared.columns["file"][op])])
        return max(path.stat().st_size - int(self._plan.shared.columns["offset"][op]), 1)

    def _fail(self, worker: _Worker, op: int) -> None:
        """Write the row of an op for which there is no memory. Runs in the worker's thread."""
        kernel, now = self._kernel, time.monotonic_ns()
        head = int(worker.state[kernel.HEAD])
        while head - int(worker.state[kernel.TAIL]) >= self._rows:
            time.sleep(_TURN_S)
        due = int(self._plan.shared.columns["due_ns"][op]) + self._start_mono_ns if self._timed else 0
        worker.ring[head % self._rows] = (
            op,
            now,
            0,
            0,
            0,
            due,
            max(now - due, 0) if due else 0,
            _OUT_OF_MEMORY,
        )
        worker.state[kernel.HEAD] = head + 1

    def _flush(self, *, everything: bool = False) -> None:
        now = time.monotonic_ns()
        for worker in self._workers:
            # The op at hand is read before the rows: an op that ends in between is then counted twice, never missed.
            current = int(worker.state[self._kernel.CURRENT])
            head, tail = (int(worker.state[index]) for index in (self._kernel.HEAD, self._kernel.TAIL))
            ended = worker.thread is None or not worker.thread.is_alive()
            old = self._timed and now - worker.flushed_ns >= _FLUSH_NS
            if head > tail and (head - tail >= self._rows // 2 or old or ended or everything):
                rows = worker.ring[np.arange(tail, head) % self._rows]
                self._record(rows)
                worker.state[self._kernel.TAIL] = tail = head
                worker.flushed_ns = now
            self._publish(worker, current, tail, head, ended)

    def _record(self, rows: np.ndarray) -> None:
        kernel = self._kernel
        hints = rows[rows[:, kernel.OP] < 0]
        if len(hints):
            self.counters["hints_applied"] += len(hints)
            self._recorder.record_batch(hint_rows([self._hint(row) for row in hints.tolist()]))
        ops = rows[rows[:, kernel.OP] >= 0]
        if len(ops):
            failed = ops[:, kernel.ERROR]
            errors = {
                row: _error_class(int(failed[row]), kernel.SHORT) for row in np.flatnonzero(failed).tolist()
            }
            kept = np.ascontiguousarray(ops[:, : kernel.ERROR].T)
            self._recorder.record_batch(op_rows(self._plan, kept, errors, {}))

    def _hint(self, row: list[int]) -> tuple[str, Hint]:
        file, submit, latency, offset, length, advice = -row[0] - 1, *row[1:6]
        return self._plan.uris[file], Hint(_ADVICE_NAMES[advice], offset, length, submit, latency)

    def _publish(self, worker: _Worker, current: int, tail: int, head: int, ended: bool) -> None:
        """Tell the plan which rows the worker still needs, and `watch` how far it is."""
        header, number = self._plan.shared.header, self._settings.first_slot + worker.number
        low = current
        if head > tail:
            low = min(low, self._first_op(worker, tail, head))
        header[slot(number, LOW)] = 0 if ended and head == tail else max(low, 0) + 1
        header[slot(number, DONE)] = head
        header[slot(number, BUSY)] = int(worker.state[self._kernel.BUSY_NS])
        header[slot(number, LATE)] = int(worker.state[self._kernel.LATE])

    def _first_op(self, worker: _Worker, tail: int, head: int) -> int:
        """The first op of the rows that have not been flushed."""
        for row in range(tail, head):
            op = int(worker.ring[row % self._rows, self._kernel.OP])
            if op >= 0:
                return op
        return int(worker.state[self._kernel.CURRENT])

    def _join(self) -> None:
        for worker in self._workers:
            while worker.thread is not None and worker.thread.is_alive():
                worker.thread.join(_TURN_S)
                self._flush()

    def _make_control(self, gate: Gate | None) -> np.ndarray:
        kernel, mode = self._kernel, self._settings.page_cache_mode
        control = np.zeros(16, np.int64)
        control[kernel.TIMED] = int(self._timed)
        if gate is not None:
            control[kernel.MAX_BYTES] = gate.max_bytes or 0
            control[kernel.MAX_OPS] = gate.max_ops or 0
        control[kernel.OPEN_FLAGS] = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        control[kernel.OPEN_ADVICE] = _ADVICE.get(mode, -1)
        control[kernel.DROP] = int(mode == "dontneed")
        return control


def _load_kernel() -> ModuleType:
    """The compiled loop. Its machine code is cached for the user, never beside the source."""
    import numba

    folder = cache_directory(f"engine-numba-{numba.__version__}")
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(folder)
    try:
        kernel = importlib.import_module("tracekit.replayer.engines.kernel")
    finally:
        numba.config.CACHE_DIR = before
    if not any(folder.rglob("*.nbc")):
        _log.info("compiling the replay engine; this happens once and takes some seconds")
    return kernel


def _packed_paths(uris: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The paths as NUL-terminated bytes in one array, and where each begins."""
    names = [os.fsencode(to_path(uri)) + b"\0" for uri in uris]
    starts = np.concatenate([[0], np.cumsum([len(name) for name in names])])[:-1].astype(np.int64)
    return np.frombuffer(b"".join(names) or b"\0", np.uint8), starts


def _error_class(code: int, short: int) -> ErrorClass:
    if code == short:
        return ErrorClass.SHORT_READ
    return ErrorClass.OUT_OF_MEMORY if code == _OUT_OF_MEMORY else ErrorClass.from_errno(code)


def _address(buffer: memoryview) -> int:
    return np.frombuffer(buffer, np.uint8).ctypes.data
