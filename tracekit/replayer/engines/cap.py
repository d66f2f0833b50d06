"""The compiled in-flight cap, first come first served, as `gate.Gate` is in Python. Called from `kernel` only."""

from __future__ import annotations

from typing import Any

from tracekit.replayer.engines import words as w
from tracekit.replayer.engines.native import (
    compiled,
    exchange,
    fetch_add,
    load,
    now,
    swap_if,
    wait_while,
    wake,
)

__all__ = ["admit", "enter", "release"]

_SPINS = 200
_LONGEST_WAIT_NS = 50_000_000
"""A wait for another worker ends after this at the latest, and the condition is looked at again."""


@compiled
def enter(control: Any, nbytes: Any) -> Any:
    """Add an op to what is in flight if the caps permit it; whether they do. One larger than the cap goes alone."""
    while True:
        before = load(control, w.IN_FLIGHT)
        if before != 0:
            if control[w.MAX_OPS] > 0 and before // w.ONE_OP >= control[w.MAX_OPS]:
                return False
            if control[w.MAX_BYTES] > 0 and before % w.ONE_OP + nbytes > control[w.MAX_BYTES]:
                return False
        if swap_if(control, w.IN_FLIGHT, before, before + w.ONE_OP + nbytes):
            return True


@compiled
def admit(control: Any, turns: Any, nbytes: Any, clock: Any) -> Any:
    """Wait for admission, first come first served; ns waited. Without a queue, an op that fits does not queue."""
    if load(control, w.SERVING) == load(control, w.TICKETS) and enter(control, nbytes):
        return 0
    began = now(clock)
    ticket = fetch_add(control, w.TICKETS, 1)
    mine, spins = ticket % turns.shape[0], 0
    while load(control, w.SERVING) != ticket:
        spins += 1
        seen = load(turns, mine)
        if spins > _SPINS and load(control, w.SERVING) != ticket:
            wait_while(turns, mine, seen, clock, _LONGEST_WAIT_NS)
    spins = 0
    while not enter(control, nbytes):
        spins += 1
        if spins > _SPINS:
            seen = load(control, w.RELEASES)
            exchange(control, w.HEAD_WAITS, 1)
            entered = enter(control, nbytes)
            if not entered:
                wait_while(control, w.RELEASES, seen, clock, _LONGEST_WAIT_NS)
            exchange(control, w.HEAD_WAITS, 0)
            if entered:
                break
    fetch_add(control, w.SERVING, 1)
    if load(control, w.TICKETS) > ticket + 1:
        following = (ticket + 1) % turns.shape[0]
        fetch_add(turns, following, 1)
        wake(turns, following, 1)
    return now(clock) - began


@compiled
def release(control: Any, nbytes: Any) -> None:
    """Tell the gate that an op has ended."""
    fetch_add(control, w.IN_FLIGHT, -w.ONE_OP - nbytes)
    if load(control, w.SERVING) != load(control, w.TICKETS):
        fetch_add(control, w.RELEASES, 1)
        if load(control, w.HEAD_WAITS):
            wake(control, w.RELEASES, 1)
