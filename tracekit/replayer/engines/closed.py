"""The compiled closed loop per stream: a heap of ops that may go, as `pacing.ClosedPacer` has it in Python.

Called from `kernel`, `rule` and `turns` only. One lock guards the heap and the columns; workers that find no op
sleep until one is added.
"""

from __future__ import annotations

from typing import Any

from tracekit.replayer.engines import words as w
from tracekit.replayer.engines.native import (
    compiled,
    exchange,
    fetch_add,
    load,
    now,
    sleep_until,
    swap_if,
    wait_while,
    wake,
)

__all__ = ["announce", "finished", "lock", "push", "submitted", "take", "unblock", "unlock"]

_SPINS = 100
_PAUSE_NS = 10_000
_LONGEST_WAIT_NS = 50_000_000


@compiled
def lock(control: Any, clock: Any) -> None:
    """Take the lock of the heap."""
    spins = 0
    while not swap_if(control, w.LOCK, 0, 1):
        spins += 1
        if spins > _SPINS:  # its holder may have lost the CPU
            sleep_until(clock, now(clock) + _PAUSE_NS)


@compiled
def unlock(control: Any) -> None:
    """Give it back."""
    exchange(control, w.LOCK, 0)


@compiled
def _before(a: Any, b: Any, due: Any) -> Any:
    return due[a] < due[b] or (due[a] == due[b] and a < b)


@compiled
def push(op: Any, due: Any, heap: Any, control: Any) -> None:
    """Add an op that may go. The caller holds the lock."""
    at = control[w.READY_OPS]
    control[w.READY_OPS] = at + 1
    while at > 0 and _before(op, heap[(at - 1) // 2], due):
        heap[at] = heap[(at - 1) // 2]
        at = (at - 1) // 2
    heap[at] = op


@compiled
def _pop(due: Any, heap: Any, control: Any) -> Any:
    first = heap[0]
    size = control[w.READY_OPS] - 1
    control[w.READY_OPS] = size
    last, at = heap[size], 0
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and _before(heap[child + 1], heap[child], due):
            child += 1
        if not _before(heap[child], last, due):
            break
        heap[at] = heap[child]
        at = child
    heap[at] = last
    return first


@compiled
def take(header: Any, due: Any, heap: Any, control: Any, state: Any, clock: Any) -> Any:
    """The op with the earliest due time, waiting for one; -1 when all have been taken or the replay stops."""
    while load(header, w.STOP) == 0 and load(control, w.LEFT) > 0:
        seen = load(control, w.EVENTS)
        lock(control, clock)
        op = -1
        if control[w.READY_OPS] > 0:
            op = _pop(due, heap, control)
            control[w.LEFT] -= 1
        unlock(control)
        if op >= 0:
            fetch_add(control, w.NEXT, 1)
            if load(control, w.LEFT) == 0:
                fetch_add(control, w.EVENTS, 1)
                wake(control, w.EVENTS, 1 << 20)
            return op
        exchange(state, w.IDLE, 1)
        fetch_add(control, w.WAITERS, 1)
        wait_while(control, w.EVENTS, seen, clock, _LONGEST_WAIT_NS)
        fetch_add(control, w.WAITERS, -1)
        exchange(state, w.IDLE, 0)
    return -1


@compiled
def announce(control: Any, ops: Any) -> None:
    """Tell workers that wait for an op that there are some more."""
    fetch_add(control, w.EVENTS, 1)
    if load(control, w.WAITERS) > 0:
        wake(control, w.EVENTS, ops)


@compiled
def unblock(op: Any, bit: Any, not_before: Any, due: Any, closed: Any, control: Any, clock: Any) -> None:
    """Take one reason away why the op cannot go; it may go from `not_before` on when none is left."""
    lock(control, clock)
    due[op] = max(due[op], not_before)
    closed.blocked[op] &= ~bit
    ready = closed.blocked[op] == 0
    if ready:
        push(op, due, closed.heap, control)
    unlock(control)
    if ready:
        announce(control, 1)


@compiled
def submitted(op: Any, due: Any, closed: Any, control: Any, clock: Any) -> None:
    """The op is about to go: its successor in the stream need not wait for that any more."""
    if closed.successor[op] >= 0:
        unblock(closed.successor[op], w.UNSUBMITTED, 0, due, closed, control, clock)


@compiled
def finished(op: Any, at: Any, due: Any, closed: Any, control: Any, clock: Any) -> None:
    """The op ended `at` ns after the start: those that wait for it go after their think times."""
    for place in range(closed.first[op], closed.first[op + 1]):
        follower = closed.followers[place]
        unblock(follower, w.UNFINISHED, at + closed.think[follower], due, closed, control, clock)
