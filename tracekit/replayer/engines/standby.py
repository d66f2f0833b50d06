"""Standby: where ops are due close to each other, one worker keeps the times and the others stay out of its way.

Waking up takes some 5 us of a processor. At 200,000 ops/s, workers that take turns spend two processors on that, and
everything else, such as writing rows, makes them late. A worker on standby looks now and then whether the others keep up. When
they do not, because requests take long, all take turns for a while, and for longer each time that this was too short.
Called from `kernel` only.
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
    swap_if,
    wait_while,
    wake,
)

__all__ = ["stand_by"]

_CLOSE_NS = 12_000
"""How far off the next op is at most for a worker to stand by."""
_LOOK_NS = 50_000
"""How often one of those on standby looks whether the others keep up."""
_LATE_NS = 20_000
"""From which lateness of the next op on the others do not keep up."""
_SHORTEST_NS, _LONGEST_NS = 1_000_000, 1_000_000_000
"""How long workers take turns after an op was late."""


@compiled
def _early(before: Any, header: Any, due: Any, control: Any, clock: Any) -> Any:
    """In how many ns the next op is due, or the one `before` it; a very long time if it does not exist."""
    op = load(control, w.NEXT) - before
    if op < 0 or op >= load(header, w.READY):
        return 1 << 60
    return due[op] + control[w.START] - now(clock)


@compiled
def _take_turns(control: Any, clock: Any) -> None:
    """Have all workers take turns again."""
    at, until = now(clock), load(control, w.TURNS_UNTIL)
    if at < until:  # another worker saw it too
        return
    lasts = control[w.TURNS_NS]
    lasts = min(2 * lasts, _LONGEST_NS) if at - until < lasts else _SHORTEST_NS
    if swap_if(control, w.TURNS_UNTIL, until, at + lasts):
        control[w.TURNS_NS] = lasts
        fetch_add(control, w.CALLS, 1)
        wake(control, w.CALLS, 1 << 20)


@compiled
def stand_by(header: Any, due: Any, control: Any, state: Any, clock: Any) -> None:
    """Return when this worker should take the next op: at once, unless another one waits for its own just before it."""
    if load(control, w.AWAITING) == 0 or _early(0, header, due, control, clock) > _CLOSE_NS:
        return
    if _early(1, header, due, control, clock) < 0:  # who waits for it is late
        return
    if now(clock) < load(control, w.TURNS_UNTIL):
        return
    exchange(state, w.IDLE, 1)
    fetch_add(control, w.STANDING_BY, 1)
    while load(header, w.STOP) == 0:
        calls = load(control, w.CALLS)
        exchange(state, w.CURRENT, load(control, w.NEXT))  # it needs none before
        wait_while(control, w.CALLS, calls, clock, _LOOK_NS * load(control, w.STANDING_BY))
        early = _early(0, header, due, control, clock)
        if early < -_LATE_NS:
            if load(control, w.AWAITING) == 0:  # they are in requests; else they wait for a processor
                _take_turns(control, clock)
            break
        if early > _CLOSE_NS or now(clock) < load(control, w.TURNS_UNTIL):
            break
    fetch_add(control, w.STANDING_BY, -1)
    exchange(state, w.IDLE, 0)
