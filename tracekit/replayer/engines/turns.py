"""The compiled waits of ops for others, as `depend.Waits` has them in Python. Called from `kernel` only."""

from __future__ import annotations

from typing import Any

from tracekit.replayer.engines import closed as closed_loop
from tracekit.replayer.engines import words as w
from tracekit.replayer.engines.native import compiled, fetch_add, load, now, wait_while, wake

__all__ = ["finish", "wait_turn"]

_LONGEST_WAIT_NS = 50_000_000


@compiled
def wait_turn(op: Any, order: Any, header: Any, control: Any, clock: Any) -> Any:
    """Wait until the ops that this one depends on have ended, or the replay stops; ns waited."""
    left = load(order.left, op)
    if left <= 0:
        return 0
    began = now(clock)
    fetch_add(control, w.HELD, 1)
    left = load(order.left, op)  # again: who frees the op from here on sees that it is waited for
    while left > 0 and load(header, w.STOP) == 0:
        wait_while(order.left, op, left, clock, _LONGEST_WAIT_NS)
        left = load(order.left, op)
    fetch_add(control, w.HELD, -1)
    return now(clock) - began


@compiled
def finish(op: Any, at: Any, order: Any, due: Any, closed: Any, control: Any, clock: Any) -> None:
    """The op ended `at` ns after the start: let the ops go that waited for it alone.

    A join that has ended is linked to those still to be looked at; each ends once.
    """
    ops = order.left.shape[0] - order.link.shape[0]
    each, following = op, -1
    while each >= 0:
        for place in range(order.first[each], order.first[each + 1]):
            follower = order.followers[place]
            if fetch_add(order.left, follower, -1) != 1:
                continue
            if follower >= ops:
                order.link[follower - ops] = following
                following = follower
            elif control[w.CLOSED] != 0:
                closed_loop.unblock(follower, w.DEPENDENT, at, due, closed, control, clock)
            elif load(control, w.HELD) > 0:
                wake(order.left, follower, 1 << 20)
        each = following
        if following >= 0:
            following = order.link[following - ops]
