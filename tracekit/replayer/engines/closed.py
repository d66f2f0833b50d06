"""The compiled closed loop per stream: a heap of ops that may go, as `pacing.ClosedPacer` has it in Python.

Called from `kernel` only. One lock guards the heap and the columns; workers that find no op
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

__all__ = ["finished", "submitted", "take"]

_SPINS = 100
_PAUSE_NS = 10_000
_LONGEST_WAIT_NS = 50_000_000


@compiled
def _lock(control: Any, clock: Any) -> None:
    spins = 0
    while not swap_if(control, w.LOCK, 0, 1):
        spins += 1
        if spins > _SPINS:  # its holder may have lost the CPU
            sleep_until(clock, now(clock) + _PAUSE_NS)


@compiled
def _unlock(control: Any) -> None:
    exchange(control, w.LOCK, 0)


@compiled
def _before(a: Any, b: Any, due: Any) -> Any:
    return due[a] < due[b] or (due[a] == due[b] and a < b)


@compiled
def _push(op: Any, due: Any, heap: Any, control: Any) -> None:
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
        _lock(control, clock)
        op = -1
        if control[w.READY_OPS] > 0:
            op = _pop(due, heap, control)
            control[w.LEFT] -= 1
        _unlock(control)
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
def _unblock(
    op: Any, bit: Any, not_before: Any, due: Any, blocked: Any, heap: Any, control: Any, clock: Any
) -> None:
    _lock(control, clock)
    due[op] = max(due[op], not_before)
    blocked[op] &= ~bit
    ready = blocked[op] == 0
    if ready:
        _push(op, due, heap, control)
    _unlock(control)
    if ready:
        fetch_add(control, w.EVENTS, 1)
        if load(control, w.WAITERS) > 0:
            wake(control, w.EVENTS, 1)


@compiled
def submitted(op: Any, due: Any, successor: Any, blocked: Any, heap: Any, control: Any, clock: Any) -> None:
    """The op is about to go: its successor in the stream need not wait for that any more."""
    if successor[op] >= 0:
        _unblock(successor[op], w.UNSUBMITTED, 0, due, blocked, heap, control, clock)


@compiled
def finished(
    op: Any, at: Any, due: Any, think: Any, first: Any, followers: Any, blocked: Any, heap: Any, control: Any,
    clock: Any,
) -> None:  # fmt: skip
    """The op ended `at` ns after the start: those that wait for it go after their think times."""
    for place in range(first[op], first[op + 1]):
        follower = followers[place]
        _unblock(follower, w.UNFINISHED, at + think[follower], due, blocked, heap, control, clock)
