"""The event-loop engine: many requests in flight on one thread, for object stores.

One dispatcher waits for the absolute due time of the next op and starts its request then;
no task exists for an op that is not due. The wait uses a kernel timer polled by the loop,
because the loop's own timers have a resolution of a millisecond.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from tracekit.backends.base import NOTHING_MOVED, Backend, Moved
from tracekit.backends.local.descriptors import open_file_budget
from tracekit.errors import BackendError, ErrorClass, TracekitError
from tracekit.gate import Gate
from tracekit.recorder import Recorder
from tracekit.replayer.columns import BUSY, DONE, LATE, LOW, STOP, slot
from tracekit.replayer.engines.changes import Changes
from tracekit.replayer.engines.interpreter import EngineSettings, cpu_wait_ns
from tracekit.replayer.engines.oplog import OpLog, warm_up
from tracekit.replayer.engines.punctual import PunctualLoop
from tracekit.replayer.kinds import READS, code_of
from tracekit.replayer.pacing import Pacer
from tracekit.replayer.plan import NONE, Plan
from tracekit.replayer.ready import NEVER, ReadyOps

__all__ = ["LoopEngine"]

_LEAD_NS = 20_000_000
_WATCH_S = 0.2
_AWAKE_NS = 60_000
"""Before an op is due, the loop stays awake for this long; waking up from sleep took 70 us."""
_SPIN_NS = 15_000
"""For the last part of that it does nothing else."""
_YIELD_EVERY = 8
_KEPT_BYTES = 64 << 20
"""Buffers kept for reuse. Their sizes are powers of two, so that ops of different lengths share them."""
_GRACE_NS = 5_000_000_000
"""How long requests in flight may take after Ctrl-C; a second Ctrl-C cancels them at once."""
_MOST_CHANGES = 64
"""Changes in flight at once: each takes a thread."""
_READ, _GET = code_of("read"), code_of("get")


class LoopEngine:
    """Drives a plan on an event loop with at most `settings.threads` requests at once. One run each."""

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
        self._waiting: ReadyOps | None = getattr(pacer, "ready", None)
        self._gate = gate
        self._recorder = recorder
        self._backend_of = backend_of
        self._settings = settings
        self._changes = Changes(
            plan, backend_of, overwrite=settings.overwrite_objects, write_data=settings.write_data
        )
        self._threads: ThreadPoolExecutor | None = None
        if plan.changes:
            self._threads = ThreadPoolExecutor(_MOST_CHANGES, thread_name_prefix="tracekit-change")
        self._most = min(settings.threads, open_file_budget())  # each request may hold a socket
        self._free: dict[int, list[memoryview]] = {}
        self._kept_bytes = 0
        self._give_up_at: int | None = None
        self._crash: BaseException | None = None
        self._sizes: dict[int, int] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._unfinished: set[int] = set()
        self._start_mono_ns = 0
        self.cpu_ns = 0
        self.cpu_wait_ns = 0

    def run(self, watch: Callable[[], None]) -> bool:
        """Replay to the end; False if Ctrl-C ended it. `watch` is called now and then."""
        warm_up()
        self._start_mono_ns = self._settings.start(_LEAD_NS)
        began, waited = time.thread_time_ns(), cpu_wait_ns()
        with asyncio.Runner(loop_factory=PunctualLoop) as runner:
            runner.run(self._main(watch))
        self.cpu_wait_ns = cpu_wait_ns() - waited
        self.cpu_ns = time.thread_time_ns() - began
        if isinstance(self._crash, TracekitError):
            raise self._crash
        if self._crash is not None:
            raise TracekitError(f"replay failed: {self._crash!r}") from self._crash
        return not self._plan.shared.header[STOP]

    def stop(self) -> None:
        """Start no more requests; when called again, do not wait for those in flight."""
        now = time.monotonic_ns()
        self._give_up_at = now + _GRACE_NS if self._give_up_at is None else now
        self._plan.shared.header[STOP] = 1
        self._pacer.stop()
        self._changed.set()

    async def _main(self, watch: Callable[[], None]) -> None:
        self._changed = asyncio.Event()
        self._log = OpLog(self._recorder, self._plan)
        self._plan.shared.header[slot(0, LOW)] = 1
        if self._waiting is not None:
            self._waiting.on_ready = self._changed.set
        watching = asyncio.create_task(_now_and_then(watch))
        try:
            with _deadlines(self._changed) as wake_at, _interruptible(self.stop):
                await self._dispatch(wake_at)
                await self._drain()
        finally:
            watching.cancel()
            self._log.flush()
            if self._threads is not None:
                self._threads.shutdown()
                self._changes.close()
            for uri in {uri.partition("://")[0]: uri for uri in self._plan.uris}.values():
                backend = self._backend_of(uri)
                await backend.aclose()

    async def _dispatch(self, wake_at: Callable[[int], None]) -> None:
        header = self._plan.shared.header
        for dispatched in itertools.count(1):
            op = await self._taken()
            if op is None:
                return
            self._unfinished.add(op)
            due = self._pacer.due(op)
            backlog = 0
            if due is not None:
                due += self._start_mono_ns
                backlog = max(time.monotonic_ns() - due, 0)
                while (left := due - time.monotonic_ns()) > 0 and not header[STOP]:
                    if left > _AWAKE_NS:
                        wake_at(due - _AWAKE_NS)
                        await self._wait()
                    elif left > _SPIN_NS:
                        await asyncio.sleep(0)
            if header[STOP]:
                return
            with _urgently():
                task = asyncio.create_task(self._op(op, due or 0, backlog))
            self._running.add(task)
            task.add_done_callback(self._ended)
            if backlog or due is None or dispatched % _YIELD_EVERY == 0:
                await asyncio.sleep(0)

    async def _drain(self) -> None:
        """Wait for the requests in flight; after a stop, only for a limited time."""
        while self._running:
            await asyncio.wait(self._running, timeout=_WATCH_S)
            if self._give_up_at is not None and time.monotonic_ns() >= self._give_up_at:
                for task in self._running:
                    task.cancel()

    async def _taken(self) -> int | None:
        """The next op, once one is ready and may run; None if there are no more."""
        while len(self._running) >= self._most:
            await self._wait()
            if self._plan.shared.header[STOP]:
                return None
        if self._waiting is not None:
            while (earliest := self._waiting.earliest()) is None:
                await self._wait()
            if earliest[0] == NEVER:
                return None
        return self._pacer.take()

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._changed.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._crash = self._crash or error
            self.stop()

    async def _op(self, op: int, due_mono_ns: int, backlog_ns: int) -> None:
        plan, gate, now, header = self._plan, self._gate, time.monotonic_ns, self._plan.shared.header
        waits = self._pacer.waits
        dependency = await waits.await_turn(op) if waits is not None and waits.held(op) else 0
        length = await self._length(op)
        body, error = self._body(op)
        waited = await gate.aacquire(length) if gate is not None else 0
        submit = now()
        try:
            if header[STOP]:
                return
            self._pacer.submitted(op)
            moved = NOTHING_MOVED
            if error is None:
                moved, error = await self._outcome(op, length, body)
            end = now()
        finally:
            if gate is not None:
                gate.release(length)
        self._pacer.finished(op, end - self._start_mono_ns)
        self._log.add(
            op,
            submit,
            end - submit,
            moved,
            error,
            gate_wait_ns=waited,
            due_ns=due_mono_ns,
            backlog_ns=backlog_ns,
            dependency_ns=dependency,
        )
        header[slot(0, DONE)] += 1
        header[slot(0, BUSY)] += end - submit
        header[slot(0, LATE)] = submit - due_mono_ns if due_mono_ns else 0
        self._unfinished.discard(op)
        if plan.streamed and not self._log.rows:  # ops end in any order
            header[slot(0, LOW)] = min(self._unfinished, default=op) + 1

    async def _length(self, op: int) -> int:
        """Bytes to request for the op; up to the object's end if the plan has no length."""
        length, kind = int(self._plan.columns["length"][op]), self._plan.columns["kind"][op]
        if kind >= len(READS):
            return self._changes.nbytes(op)
        if length != NONE or kind != _READ:
            return max(length, 0)
        file = int(self._plan.columns["file"][op])
        if file not in self._sizes or file in self._changes.files:
            uri = self._plan.uris[file]
            try:
                self._sizes[file] = (await asyncio.to_thread(self._backend_of(uri).stat, uri)).size
            except BackendError:
                self._sizes[file] = 0  # the request reports the error
        return max(self._sizes[file] - int(self._plan.columns["offset"][op]), 0)

    async def _outcome(
        self, op: int, length: int, body: memoryview | None
    ) -> tuple[Moved, ErrorClass | None]:
        """Make the request; return what it moved, and its error if it failed."""
        try:
            moved = await self._request(op, length, body)
        except BackendError as failed:
            return Moved(0, tries=failed.tries, wait_ns=failed.wait_ns), failed.error_class
        except asyncio.CancelledError:
            return NOTHING_MOVED, ErrorClass.CANCELLED
        if body is not None:
            return moved, None
        recorded = int(self._plan.columns["recorded_bytes"][op])
        short = moved.nbytes < (length if recorded == NONE else min(length, recorded))
        return moved, ErrorClass.SHORT_READ if short else None

    async def _request(self, op: int, length: int, body: memoryview | None) -> Moved:
        columns = self._plan.columns
        uri, kind = self._plan.uris[columns["file"][op]], columns["kind"][op]
        backend = self._backend_of(uri)
        if body is not None:
            changing = asyncio.get_running_loop().run_in_executor(
                self._threads, self._changes.perform, op, body
            )
            return await changing
        handle = backend.open(uri)
        if kind == _GET:
            return (await handle.aget(None if columns["length"][op] == NONE else length))[1]
        buffer = self._buffer(length, backend)
        try:
            return await handle.aread_into(int(columns["offset"][op]), buffer[:length])
        finally:
            if self._kept_bytes + len(buffer) <= _KEPT_BYTES:
                self._kept_bytes += len(buffer)
                self._free.setdefault(len(buffer), []).append(buffer)

    def _body(self, op: int) -> tuple[memoryview | None, ErrorClass | None]:
        """What a change sends, or the error that there is no room for it; nothing for a read."""
        if self._plan.columns["kind"][op] < len(READS):
            return None, None
        try:
            return self._changes.prepare(op), None
        except BackendError as error:
            return None, error.error_class

    def _buffer(self, length: int, backend: Backend) -> memoryview:
        """A buffer of at least `length` bytes, reused if possible."""
        size = 1 << max(length - 1, 0).bit_length()
        free = self._free.get(size)
        if not free:
            return backend.allocate(size)
        self._kept_bytes -= size
        return free.pop()


async def _now_and_then(watch: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(_WATCH_S)
        watch()


@contextlib.contextmanager
def _interruptible(interrupt: Callable[[], None]) -> Iterator[None]:
    """Call `interrupt` on Ctrl-C instead of raising KeyboardInterrupt; an ignored signal stays ignored."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is signal.SIG_IGN:
        yield
        return
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _urgently() -> Iterator[None]:
    """Have what is scheduled meanwhile run before what else is ready."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, PunctualLoop)
    loop.urgent = True
    try:
        yield
    finally:
        loop.urgent = False


@contextlib.contextmanager
def _deadlines(event: asyncio.Event) -> Iterator[Callable[[int], None]]:
    """Yield a function that sets `event` at a monotonic time in ns, by one kernel timer that the loop polls."""
    libc = ctypes.CDLL(None, use_errno=True)
    timer = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
    if timer < 0:
        raise TracekitError(f"timerfd: {os.strerror(ctypes.get_errno())}")
    loop = asyncio.get_running_loop()
    assert isinstance(loop, PunctualLoop)
    value = (ctypes.c_long * 4)()

    def expired() -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(timer, 8)
        with _urgently():
            event.set()

    def wake_at(mono_ns: int) -> None:
        value[2], value[3] = divmod(mono_ns, 1_000_000_000)
        libc.timerfd_settime(timer, 1, value, None)

    loop.add_reader(timer, expired)
    loop.serve_first(timer)
    try:
        yield wake_at
    finally:
        loop.remove_reader(timer)
        os.close(timer)
