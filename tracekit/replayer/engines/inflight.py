"""The compiled loop of reads past the page cache as fast as possible: one thread keeps many requests in flight.

A thread for each request would have to be woken up for each, which on few processors costs more than the
request. The rows are those of `kernel.work`, in the order of submission: a row is taken when its op begins, and rows are
handed over up to the first that is in flight. Called by `compiled`.
"""

from __future__ import annotations

from typing import Any

from tracekit.replayer.engines import words as w
from tracekit.replayer.engines.cap import enter, release
from tracekit.replayer.engines.local import has_open, prepare_read
from tracekit.replayer.engines.native import compiled, errno, exchange, load, now, ring_enter, sleep_until

__all__ = ["keep_in_flight"]

_READ = 22
"""IORING_OP_READ."""
_LONGEST = 0x7FFFF000
"""The most bytes that Linux reads at once."""
_AT_ONCE = 2
"""Requests submitted together: the disk begins the first while the next are prepared."""
_SPIN_NS = 200_000
"""How long to look for a completion before going to sleep: a processor that has slept wakes up late."""
_EINTR, _EAGAIN, _EBUSY = 4, 11, 16
_NAP_NS = 200_000
_IN_FLIGHT = -1
"""The latency of a row whose op has not ended."""


@compiled
def _submit(ring: Any, worker: Any, wait: Any) -> Any:
    """Submit what is queued, and `wait` for a completion: 0, or an errno value. The time of submission goes into the rows."""
    queue, rows, left = ring.queue, worker.ring, ring.queue[w.QUEUED]
    if left > 0:
        at, tail = now(worker.clock), ring.shared[queue[w.SQ_TAIL]]
        for back in range(1, left + 1):
            row = ring.requests[ring.entries[(tail - back) & queue[w.SQ_MASK], 4], w.ROW]
            if rows[row, w.SUBMIT] == 0:
                rows[row, w.SUBMIT] = at
        queue[w.QUEUED] = 0
    until, least = now(worker.clock) + _SPIN_NS if wait else 0, 0
    while True:
        done = ring_enter(queue[w.RING_FD], left, least, wait)
        failed = errno() if done < 0 else 0
        if failed in (_EAGAIN, _EBUSY):  # the kernel is short of memory for requests
            sleep_until(worker.clock, now(worker.clock) + _NAP_NS)
        elif failed not in (0, _EINTR):
            return failed
        left -= max(done, 0)
        if left <= 0:
            if not wait:
                return 0
            if ring.shared[queue[w.CQ_HEAD]] != ring.shared[queue[w.CQ_TAIL]]:
                worker.state[w.SPUN_NS] += _SPIN_NS - max(until - now(worker.clock), 0)
                return 0
            least = 1 if now(worker.clock) >= until else 0


@compiled
def _queue_read(request: Any, fd: Any, plan: Any, ring: Any, worker: Any) -> None:
    """Queue the read of the whole blocks around what an op lacks."""
    mine, queue = ring.requests[request], ring.queue
    row = mine[w.ROW]
    done, block = worker.ring[row, w.BYTES], mine[w.REQUEST_BLOCK]
    first = plan.offset[worker.ring[row, w.OP]] + done
    ahead = first % block
    tail = ring.shared[queue[w.SQ_TAIL]]
    entry = ring.entries[tail & queue[w.SQ_MASK]]
    entry[0], entry[1], entry[2] = _READ | fd << 32, first - ahead, mine[w.REQUEST_ROOM]
    entry[3] = min(-(-(ahead + mine[w.ASKED] - done) // block) * block, _LONGEST)
    entry[4] = request
    ring.shared[queue[w.SQ_TAIL]] = tail + 1
    queue[w.QUEUED] += 1


@compiled
def _finish(
    request: Any, failed: Any, at: Any, gated: Any, plan: Any, control: Any, ring: Any, worker: Any
) -> None:
    """Write the row of an op that has ended `at` a time, and free its request."""
    mine, queue, state = ring.requests[request], ring.queue, worker.state
    row = worker.ring[mine[w.ROW]]
    if failed == 0:
        asked, recorded = mine[w.ASKED], plan.recorded[row[w.OP]]
        least = asked if recorded == w.NO_LENGTH else min(asked, recorded)
        failed = w.SHORT if row[w.BYTES] < least else 0
    else:
        row[w.BYTES] = 0
    row[w.LATENCY], row[w.ERROR] = at - row[w.SUBMIT], failed
    state[w.BUSY_NS] += row[w.LATENCY]
    state[w.OPS] += 1
    if gated:
        release(control, mine[w.COUNTED])
    ring.free[queue[w.FREE]] = request
    queue[w.FREE] += 1


@compiled
def _prepare(
    op: Any, request: Any, plan: Any, files: Any, control: Any, ring: Any, worker: Any, ask: Any
) -> Any:
    """Open the file of an op and have room for its request: the error of the ring, that of the op, its file's entry, its length.

    What is queued is submitted before a file is opened, which may close another one.
    """
    mine, state, broken = ring.requests[request], worker.state, 0
    if ring.queue[w.QUEUED] > 0 and not has_open(plan.file[op], control, worker.files):
        broken = _submit(ring, worker, False)
    state[w.REQUEST] = request
    state[w.ROOM], state[w.ROOM_BYTES] = mine[w.REQUEST_ROOM], mine[w.REQUEST_ROOM_BYTES]
    failed, slot, asked = prepare_read(op, False, plan, files, control, worker, ask)
    mine[w.REQUEST_ROOM], mine[w.REQUEST_ROOM_BYTES] = state[w.ROOM], state[w.ROOM_BYTES]
    return broken, failed, slot, asked


@compiled
def _begin(
    header: Any, gated: Any, plan: Any, files: Any, control: Any, ring: Any, worker: Any, ask: Any
) -> Any:
    """Begin the next op: 1 if it has begun, 0 if none can now, or an error of the ring below 0."""
    queue, rows, op = ring.queue, worker.ring, control[w.NEXT]
    if queue[w.FREE] == 0 or queue[w.BEGUN] - load(worker.state, w.TAIL) >= rows.shape[0]:
        return 0
    if load(header, w.STOP) != 0 or op >= load(header, w.READY):
        return 0
    request = ring.free[queue[w.FREE] - 1]
    broken, failed, slot, asked = _prepare(op, request, plan, files, control, ring, worker, ask)
    if broken != 0:
        return -broken
    counted, waited = min(asked, control[w.MAX_BYTES] + 1), 0
    if gated:
        if not enter(control, counted):
            if queue[w.WAITS_SINCE] == 0:
                queue[w.WAITS_SINCE] = now(worker.clock)
            return 0
        if queue[w.WAITS_SINCE] != 0:
            waited = now(worker.clock) - queue[w.WAITS_SINCE]
            queue[w.WAITS_SINCE] = 0
    control[w.NEXT] = op + 1
    queue[w.FREE] -= 1
    mine, number = ring.requests[request], queue[w.BEGUN] % rows.shape[0]
    mine[w.ROW], mine[w.ASKED], mine[w.COUNTED] = number, asked, counted
    row = rows[number]
    row[:] = 0
    row[w.OP], row[w.LATENCY], row[w.GATE_WAIT] = op, _IN_FLIGHT, waited
    queue[w.BEGUN] += 1
    if failed == 0:
        worker.state[w.DIRECT_READS] += 1
    if failed != 0 or asked == 0:
        row[w.SUBMIT] = now(worker.clock)
        _finish(request, failed, row[w.SUBMIT], gated, plan, control, ring, worker)
        return 1
    mine[w.REQUEST_BLOCK] = worker.files[slot, w.BLOCK]
    _queue_read(request, worker.files[slot, w.FD], plan, ring, worker)
    if queue[w.QUEUED] >= _AT_ONCE:
        broken = _submit(ring, worker, False)
        if broken != 0:
            return -broken
    return 1


@compiled
def _ended(
    request: Any,
    result: Any,
    at: Any,
    gated: Any,
    plan: Any,
    files: Any,
    control: Any,
    ring: Any,
    worker: Any,
    ask: Any,
) -> Any:
    """A request has ended with so many bytes, or -errno: finish its op, or read on. Returns an error of the ring."""
    mine = ring.requests[request]
    row, block = worker.ring[mine[w.ROW]], mine[w.REQUEST_BLOCK]
    op = row[w.OP]
    if result < 0:
        _finish(request, -result, at, gated, plan, control, ring, worker)
        return 0
    ahead = (plan.offset[op] + row[w.BYTES]) % block
    moved = max(min(result - ahead, mine[w.ASKED] - row[w.BYTES]), 0)
    worker.state[w.ALIGNMENT_BYTES] += result - moved
    row[w.BYTES] += moved
    # whole blocks but at the end of the file
    if moved == 0 or row[w.BYTES] >= mine[w.ASKED] or (plan.offset[op] + row[w.BYTES]) % block != 0:
        _finish(request, 0, at, gated, plan, control, ring, worker)
        return 0
    broken, failed, slot, _asked = _prepare(op, request, plan, files, control, ring, worker, ask)
    if failed != 0:
        _finish(request, failed, at, gated, plan, control, ring, worker)
    else:
        _queue_read(request, worker.files[slot, w.FD], plan, ring, worker)
    return broken


@compiled
def _hand_over(control: Any, ring: Any, worker: Any) -> None:
    """Hand over the rows before the first op in flight, and tell which op that is."""
    state, rows = worker.state, worker.ring
    head, begun = state[w.HEAD], ring.queue[w.BEGUN]
    while head < begun and rows[head % rows.shape[0], w.LATENCY] != _IN_FLIGHT:
        head += 1
    exchange(state, w.HEAD, head)
    exchange(state, w.CURRENT, rows[head % rows.shape[0], w.OP] if head < begun else control[w.NEXT])


@compiled
def keep_in_flight(header: Any, plan: Any, files: Any, control: Any, ring: Any, worker: Any, ask: Any) -> Any:
    """Drive ops until there are none, or until the replay stops: 0, or the errno value for which the ring is unusable."""
    queue, shared, clock = ring.queue, ring.shared, worker.clock
    gated = control[w.MAX_BYTES] > 0 or control[w.MAX_OPS] > 0
    while True:
        begun = 1
        while begun > 0:
            begun = _begin(header, gated, plan, files, control, ring, worker, ask)
        if begun < 0:
            return -begun
        _hand_over(control, ring, worker)
        if queue[w.FREE] == ring.requests.shape[0]:  # nothing is in flight
            complete = load(header, w.COMPLETE) != 0
            if load(header, w.STOP) != 0 or (complete and control[w.NEXT] >= load(header, w.READY)):
                return 0
            sleep_until(clock, now(clock) + _NAP_NS)
            continue
        broken = _submit(ring, worker, True)
        at, head = now(clock), shared[queue[w.CQ_HEAD]]
        while broken == 0 and head != shared[queue[w.CQ_TAIL]]:
            completion = ring.completions[head & queue[w.CQ_MASK]]
            request, result = completion[0], completion[2]
            head = (head + 1) & 0xFFFFFFFF
            shared[queue[w.CQ_HEAD]] = head
            broken = _ended(request, result, at, gated, plan, files, control, ring, worker, ask)
        if broken != 0:
            return broken
