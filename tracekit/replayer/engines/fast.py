"""The thread engine's loop for local files, with as few interpreter steps for each op as possible.

It drives plans of plain reads over `file://` without a gate. It calls `preadv` on the
descriptor, with buffers made beforehand, and writes its rows straight into the log's
columns: half the time of the general loop. It does what the general loop does.
"""

from __future__ import annotations

import os
import time

from tracekit.backends.local.files import aligned_buffer
from tracekit.errors import BackendError
from tracekit.replayer.columns import BUSY, DONE, LATE, LOW, READY, STOP, slot
from tracekit.replayer.engines.crew import Crew
from tracekit.replayer.engines.files import Worker
from tracekit.replayer.engines.oplog import ROWS, OpLog
from tracekit.replayer.pacing import AsapPacer, Pacer, RecordedPacer
from tracekit.replayer.plan import KINDS, Plan
from tracekit.uri import scheme_of

__all__ = ["FAST_MODES", "is_fast", "run_fast"]

FAST_MODES = ("default", "fadvise_sequential", "fadvise_random")
_NAP_NS = 200_000_000
_TELL_OPS = 16
"""Ops after which a worker that never waits says how far it is."""


def is_fast(plan: Plan, pacer: Pacer, page_cache_mode: str) -> bool:
    """Whether this loop may run the plan."""
    writes = not plan.streamed and bool((plan.column("kind") == KINDS.index("put")).any())
    return (
        isinstance(pacer, RecordedPacer)
        and not writes
        and page_cache_mode in FAST_MODES
        and all(scheme_of(uri) == "file" for uri in plan.uris)
    )


def run_fast(
    plan: Plan, pacer: Pacer, log: OpLog, worker: Worker, crew: Crew, start_mono_ns: int, number: int
) -> None:
    """Drive the worker's share of the plan."""
    assert isinstance(pacer, RecordedPacer)
    buffers = _Buffers()
    if isinstance(pacer, AsapPacer):
        _asap(plan, pacer, log, worker, buffers, number)
    else:
        _recorded(plan, pacer, log, worker, buffers, crew, start_mono_ns, number)


def _recorded(
    plan: Plan,
    pacer: RecordedPacer,
    log: OpLog,
    worker: Worker,
    buffers: _Buffers,
    crew: Crew,
    start: int,
    number: int,
) -> None:
    take, now, sleep, preadv = pacer.next, time.monotonic_ns, time.sleep, os.preadv
    header, dues, files = plan.shared.header, plan.view("due_ns"), plan.view("file")
    offsets, lengths = plan.view("offset"), plan.view("length")
    ops, submits, latencies, moved, backlogs = log.op, log.submit, log.latency, log.bytes, log.backlog
    low, done, late = slot(number, LOW), slot(number, DONE), slot(number, LATE)
    ready, finished = header[READY], 0
    descriptors = worker.descriptors
    free, busy, idle = crew.free, crew.free.pop, crew.free.append
    row = 0
    while True:
        op = take()
        if op >= ready:
            row = _flush(log, row, header, low, op)
            if not plan.wait_for(op):
                break
            ready = header[READY]
        descriptor = descriptors.get(files[op])
        if descriptor is None:
            descriptor = worker.descriptor(files[op])
        length = lengths[op]
        buffer = buffers.get(length) or buffers.make(length)
        due = dues[op] + start
        wait = due - now()
        if wait > 0:
            header[done] = finished  # for `watch`, where it costs no op its time
            backlog = 0
            while wait > _NAP_NS and not header[STOP]:
                row = _flush(log, row, header, low, op)
                sleep(_NAP_NS / 2e9)
                wait = due - now()
            if row and log.has_slack(wait, due - wait):
                row = _flush(log, row, header, low, op)
                wait = due - now()
            if wait > 0:
                sleep(wait / 1e9)
        else:
            backlog = -wait
        if header[STOP]:
            break
        busy()
        if len(free) < crew.spare:
            crew.short()
        submit = now()
        try:
            got = preadv(descriptor, buffer, offsets[op])
            end = now()
            if got != length:
                got, end = _rest(worker, log, row, op, submit)
        except OSError:
            got, end = _rest(worker, log, row, op, submit)
        idle(None)
        ops[row] = op
        submits[row] = submit
        latencies[row] = end - submit
        moved[row] = got
        backlogs[row] = backlog
        row += 1
        finished += 1
        if not finished % _TELL_OPS:
            header[done], header[late] = finished, submit - due
        if row == ROWS or submit >= log.flush_at:
            header[done], header[late] = finished, submit - due
            row = _flush(log, row, header, low, op + 1)
    _flush(log, row, header, low, header[READY])
    header[done] = finished


def _asap(
    plan: Plan, pacer: RecordedPacer, log: OpLog, worker: Worker, buffers: _Buffers, number: int
) -> None:
    now, preadv = time.monotonic_ns, os.preadv
    header, columns = plan.shared.header, plan.shared.columns
    ops, submits, latencies, moved = log.op, log.submit, log.latency, log.bytes
    low, done = slot(number, LOW), slot(number, DONE)
    descriptors = worker.descriptors
    row = finished = 0
    while not header[STOP]:
        first, last = pacer.next_run()
        if last > header[READY]:
            row = _flush(log, row, header, low, first, timed=False)
            plan.wait_for(last - 1)
            last = min(last, header[READY])
        if first >= last:
            break
        run = slice(first, last)
        for op, file, offset, length in zip(
            range(first, last), columns["file"][run].tolist(), columns["offset"][run].tolist(),
            columns["length"][run].tolist(), strict=True,
        ):  # fmt: skip
            descriptor = descriptors.get(file)
            if descriptor is None:
                descriptor = worker.descriptor(file)
            buffer = buffers.get(length) or buffers.make(length)
            submit = now()
            try:
                got = preadv(descriptor, buffer, offset)
                end = now()
                if got != length:
                    got, end = _rest(worker, log, row, op, submit)
            except OSError:
                got, end = _rest(worker, log, row, op, submit)
            ops[row] = op
            submits[row] = submit
            latencies[row] = end - submit
            moved[row] = got
            row += 1
            if row == ROWS:
                row = _flush(log, row, header, low, op + 1, timed=False)
        finished += last - first
        header[done] = finished
        if row and now() >= log.flush_at:
            row = _flush(log, row, header, low, last, timed=False)
    _flush(log, row, header, low, header[READY], timed=False)


class _Buffers(dict[int, tuple[memoryview]]):
    """Buffers by length, in the form that `preadv` takes: slices of one aligned buffer."""

    def __init__(self) -> None:
        super().__init__()
        self._room = memoryview(bytearray())

    def make(self, length: int) -> tuple[memoryview]:
        """A buffer of `length` bytes; an empty one for an unknown length, whose read the general way handles."""
        length = max(length, 0)
        if length > len(self._room):
            try:
                room = aligned_buffer(length)
            except BackendError:  # the general way records it as the error of the op
                return (memoryview(bytearray()),)
            self.clear()
            self._room = room
        self[length] = (self._room[:length],)
        return self[length]


def _rest(worker: Worker, log: OpLog, row: int, op: int, submit_ns: int) -> tuple[int, int]:
    """Repeat the general way what one `preadv` did not do: short reads, failures, missing files."""
    moved, error = worker.perform(op, worker.prepare(op))
    end = time.monotonic_ns()
    log.note(row, op, moved, error)
    return moved.nbytes, end


def _flush(log: OpLog, row: int, header: memoryview, low: int, needed: int, *, timed: bool = True) -> int:
    header[low + BUSY - LOW] += log.busy_ns(row)
    log.rows = row
    log.flush(due_of_plan=timed)
    header[low] = needed + 1
    return 0
