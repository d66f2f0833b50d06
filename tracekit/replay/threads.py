"""The thread engine: leader/follower workers that each wait for their own op.

A worker takes the next op, opens its file, sleeps until the op is due, passes the gate,
reads into its own buffer, and notes four integers. No queue, no dispatcher, no hand-over:
the thread that wakes is the one that reads.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from tracekit.backends.base import Backend, Handle
from tracekit.errors import BackendError
from tracekit.gate import Gate
from tracekit.recorder import Recorder
from tracekit.replay.oplog import OpLog
from tracekit.replay.pacer import Pacer
from tracekit.replay.plan import NONE, Plan

__all__ = ["Progress", "ThreadEngine"]

_PR_SET_TIMERSLACK = 29
_NAP_S = 0.2
_OPEN_FILES = 512
_LEAD_NS = 20_000_000


@dataclass(slots=True)
class Progress:
    """Where a running replay is; plain counters, written by workers without locks."""

    done: int = 0
    late_ns: int = 0
    failures: list[str] = field(default_factory=list)


class ThreadEngine:
    """Drives a plan with threads that block in reads. One run each.

    `backend_of` gives the backend of a URI. A failed op is a row with an error, and the
    replay goes on.
    """

    def __init__(
        self, plan: Plan, pacer: Pacer, gate: Gate | None, recorder: Recorder, *,
        backend_of: Callable[[str], Backend], threads: int, cache_policy: str,
    ) -> None:  # fmt: skip
        self._plan = plan
        self._pacer = pacer
        self._gate = gate
        self._recorder = recorder
        self._backend_of = backend_of
        self._threads = threads
        self._cache_policy = cache_policy
        self._stopping = False
        self._crashes: list[BaseException] = []
        self.progress = [Progress() for _ in range(threads)]
        self.start_mono_ns = 0

    def run(self, watch: Callable[[], None], *, start_mono_ns: int | None = None) -> bool:
        """Replay to the end; False if interrupted by Ctrl-C. `watch` is called now and then.

        Collection of garbage is off meanwhile and threads take turns more often than by
        default: both showed as lateness.
        """
        collecting, interval = gc.isenabled(), sys.getswitchinterval()
        gc.disable()
        sys.setswitchinterval(0.0005)
        self.start_mono_ns = start_mono_ns or time.monotonic_ns() + _LEAD_NS
        workers = [
            threading.Thread(
                target=self._guarded, args=(index,), name=f"tracekit-replay-{index}", daemon=True
            )
            for index in range(self._threads)
        ]
        whole = True
        try:
            for worker in workers:
                worker.start()
            for worker in workers:
                while worker.is_alive():
                    worker.join(_NAP_S)
                    watch()
        except KeyboardInterrupt:
            whole = False
            self.stop()
            for worker in workers:
                worker.join()
        finally:
            sys.setswitchinterval(interval)
            if collecting:
                gc.enable()
        if self._crashes:
            raise self._crashes[0]
        return whole

    def stop(self) -> None:
        """Let workers finish the op that they are at, and no more."""
        self._stopping = True
        self._pacer.stop()

    def _guarded(self, index: int) -> None:
        try:
            self._work(index)
        except BaseException as error:  # noqa: BLE001 - raised again where `run` is called
            self._crashes.append(error)
            self.stop()

    def _work(self, index: int) -> None:
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
        plan, pacer, gate, start = self._plan, self._pacer, self._gate, self.start_mono_ns
        progress, now, sleep = self.progress[index], time.monotonic_ns, time.sleep
        log = OpLog(self._recorder, plan, start, timed=True)
        files = _OpenFiles(
            plan.uris, self._backend_of, self._cache_policy, max(4, _OPEN_FILES // self._threads)
        )
        file_of, offset_of, length_of = plan.view("file"), plan.view("offset"), plan.view("length")
        while (op := pacer.take()) is not None:
            handle, buffer, error = files.ready(file_of[op], offset_of[op], length_of[op])
            due = pacer.due(op)
            if due is not None:
                due += start
                while (wait := due - now()) > 0 and not self._stopping:
                    if wait > _NAP_S * 1e9:
                        log.flush()
                        sleep(min(wait / 1e9 - _NAP_S / 2, _NAP_S))
                    else:
                        sleep(wait / 1e9)
            if self._stopping:
                break
            nbytes = len(buffer)
            waited = gate.acquire(nbytes) if gate is not None else 0
            submit = now()
            pacer.submitted(op)
            got = 0
            if handle is None:
                log.fail(error)
                progress.failures.append(error)
            else:
                try:
                    got, ttfb = handle.read_into(offset_of[op], buffer)
                    if ttfb is not None:
                        log.first_byte(ttfb)
                    if got < nbytes:
                        log.fail("short_read")
                        progress.failures.append("short_read")
                except BackendError as failed:
                    log.fail(failed.error_class)
                    progress.failures.append(failed.error_class)
            end = now()
            if gate is not None:
                gate.release(nbytes)
            pacer.finished(op, end - start)
            log.add(op, submit, end - submit, got, waited, due or 0)
            progress.done += 1
            progress.late_ns = submit - due if due else 0
        log.flush()
        files.close()


class _OpenFiles:
    """A worker's open files, the least recently used closed first, and its buffer."""

    def __init__(
        self, uris: tuple[str, ...], backend_of: Callable[[str], Backend], cache_policy: str, most: int
    ) -> None:
        self._uris = uris
        self._backend_of = backend_of
        self._cache_policy = cache_policy
        self._most = most
        self._handles: OrderedDict[int, Handle] = OrderedDict()
        self._room = memoryview(b"")
        self._slice = memoryview(b"")

    def ready(self, file: int, offset: int, length: int) -> tuple[Handle | None, memoryview, str]:
        """The open handle, a buffer of the op's length, and the error class if it cannot be opened.

        `length` NONE asks for all from `offset` to the end.
        """
        handle = self._handles.get(file)
        if handle is None:
            try:
                handle = self._open(file)
            except BackendError as error:
                return None, self._buffer(None, max(length, 0)), error.error_class
        elif len(self._handles) > 1:
            self._handles.move_to_end(file)
        if length == NONE:
            length = max(handle.size - offset, 0)
        return handle, self._slice if len(self._slice) == length else self._buffer(file, length), ""

    def close(self) -> None:
        for handle in self._handles.values():
            handle.close()
        self._handles.clear()

    def _open(self, file: int) -> Handle:
        uri = self._uris[file]
        handle = self._backend_of(uri).open(uri, cache_policy=self._cache_policy)
        self._handles[file] = handle
        if len(self._handles) > self._most:
            self._handles.popitem(last=False)[1].close()
        return handle

    def _buffer(self, file: int | None, length: int) -> memoryview:
        if len(self._room) < length:
            self._room = (
                self._backend_of(self._uris[file]).allocate(length)
                if file is not None
                else memoryview(bytearray(length))
            )
        self._slice = self._room[:length]
        return self._slice
