"""The compiled loop of a replay worker: takes ops, waits, makes requests, and writes rows. No interpreter lock.

`words` and `arrays` have the layout of the arrays that it shares with `compiled`. What needs Python, such as
giving a file another name, it asks for through the function at the address `ask`. The module is
imported by `jit` only, with numba's cache directory already set.
"""

from __future__ import annotations

from typing import Any

from tracekit.replayer.engines import closed as closed_loop
from tracekit.replayer.engines import rule as by_rule
from tracekit.replayer.engines import words as w
from tracekit.replayer.engines.cap import admit, release
from tracekit.replayer.engines.local import (
    drop_pages,
    fill,
    make_room,
    next_row,
    prepare_read,
    read,
    sync,
    truncate,
    write,
    writer,
)
from tracekit.replayer.engines.native import call, compiled, exchange, fetch_add, load, now, sleep_until
from tracekit.replayer.engines.standby import stand_by
from tracekit.replayer.engines.turns import finish, wait_turn
from tracekit.replayer.kinds import READS, code_of

__all__ = ["work"]

_NAP_NS = 200_000_000
_SPIN_NS = 5_000
"""What going to sleep and waking up takes of a processor; a shorter wait does not sleep."""
_READS = len(READS)
_WRITE, _PUT, _PART, _SYNC, _TRUNCATE = map(code_of, ("write", "put", "part", "sync", "truncate"))


@compiled
def _wait_for_due(at: Any, header: Any, control: Any, state: Any, clock: Any) -> Any:
    """Wait until `at`, or until the replay stops; by how many ns it had already passed."""
    wait = at - now(clock)
    if wait <= 0:
        return -wait
    exchange(state, w.IDLE, 1)
    fetch_add(control, w.AWAITING, 1)
    while wait > 0 and load(header, w.STOP) == 0:
        if wait > _SPIN_NS:
            sleep_until(clock, at if wait < _NAP_NS else now(clock) + _NAP_NS)
        wait = at - now(clock)
    fetch_add(control, w.AWAITING, -1)
    exchange(state, w.IDLE, 0)
    return 0


@compiled
def _take(header: Any, plan: Any, closed: Any, control: Any, worker: Any) -> Any:
    """The next op, once it exists; -1 when there are no more or the replay stops."""
    state, clock = worker.state, worker.clock
    if control[w.CLOSED] != 0:
        op = closed_loop.take(header, plan.due, closed.heap, control, state, clock)
        if op < 0:
            return -1
    else:
        if control[w.TIMED] != 0:
            stand_by(header, plan.due, control, state, clock)
        op = fetch_add(control, w.NEXT, 1)
    exchange(state, w.CURRENT, op)  # first: while it waits for the op to exist, it needs none before
    while op >= load(header, w.READY):
        if load(header, w.STOP) != 0 or (load(header, w.COMPLETE) != 0 and op >= load(header, w.READY)):
            return -1
        sleep_until(clock, now(clock) + 500_000)
    return op


@compiled
def _prepare_change(op: Any, kind: Any, plan: Any, control: Any, seeds: Any, worker: Any, ask: Any) -> Any:
    """Have the bytes that a change sends in the worker's buffer: its error (0: none), and how many they are."""
    if kind != _WRITE and kind != _PUT and kind != _PART:
        return 0, 0
    asked = max(plan.length[op], 0)
    if plan.recorded[op] != w.NO_LENGTH:  # a short write is as short again
        asked = min(asked, plan.recorded[op])
    if asked >= 1 << 60:
        return w.OUT_OF_MEMORY, asked
    failed = make_room(op, asked + 8, worker, ask)
    if failed == 0:
        fill(worker.state[w.ROOM], asked, op, seeds, control[w.KEEP_ZEROS])
    return failed, asked


@compiled
def _change(
    op: Any, kind: Any, slot: Any, asked: Any, plan: Any, files: Any, control: Any, worker: Any, ask: Any
) -> Any:
    """Make the request of a change: its bytes, or an error below 0."""
    number = plan.file[op]
    if kind == _WRITE:
        moved = write(slot, asked, plan.offset[op], worker)
    elif kind == _SYNC:
        moved = sync(op, number, files, ask)
    elif kind == _TRUNCATE:
        moved = truncate(op, plan, files, control, worker, ask)
    else:
        moved = call(ask, w.PERFORM, op, asked)
    if moved >= 0:
        files.made[number] = 1
    return moved


@compiled
def _write_row(
    op: Any, began: Any, ended: Any, moved: Any, waits: Any, at: Any, failed: Any, worker: Any
) -> None:
    """Write the row of an op; `waits` are those for the gate, of the backlog, and for other ops."""
    state, ring = worker.state, worker.ring
    row = next_row(worker)
    ring[row, w.OP], ring[row, w.SUBMIT], ring[row, w.LATENCY] = op, began, ended - began
    ring[row, w.BYTES], ring[row, w.DUE], ring[row, w.ERROR] = moved, at, failed
    ring[row, w.GATE_WAIT], ring[row, w.BACKLOG], ring[row, w.DEPENDENCY] = waits
    state[w.BUSY_NS] += ended - began
    state[w.LATE] = began - at if at > 0 else 0
    state[w.OPS] += 1
    exchange(state, w.HEAD, state[w.HEAD] + 1)


@compiled
def work(
    header: Any,
    plan: Any,
    files: Any,
    closed: Any,
    rule: Any,
    order: Any,
    control: Any,
    turns: Any,
    seeds: Any,
    worker: Any,
    ask: Any,
) -> Any:
    """Drive ops until there are none, or until the replay stops. Returns 0."""
    ordered, timed = control[w.ORDERED] != 0, control[w.TIMED] != 0
    gated = control[w.MAX_BYTES] > 0 or control[w.MAX_OPS] > 0
    state, clock = worker.state, worker.clock
    while True:
        op = _take(header, plan, closed, control, worker)
        if op < 0:
            return 0
        number, kind = plan.file[op], plan.kind[op]
        reads, changed = kind < _READS, files.changed[number] != 0
        failed, slot, asked = 0, 0, max(plan.length[op], 0)
        if not reads:
            failed, asked = _prepare_change(op, kind, plan, control, seeds, worker, ask)
        elif not changed:
            failed, slot, asked = prepare_read(op, False, plan, files, control, worker, ask)
        at = plan.due[op] + control[w.START] if timed else 0
        backlog = _wait_for_due(at, header, control, state, clock) if timed else 0
        held = wait_turn(op, order, header, control, clock) if ordered else 0
        if load(header, w.STOP) != 0:
            return 0
        if reads and changed:  # by ops that have ended now
            failed, slot, asked = prepare_read(op, True, plan, files, control, worker, ask)
        elif failed == 0 and kind == _WRITE:
            failed, slot = writer(op, number, files, control, worker, ask)
        elif failed == 0 and kind == _PART:
            failed = call(ask, w.BEGIN_PART, op, 0)
        counted = min(asked, control[w.MAX_BYTES] + 1)  # larger than the cap is larger than the cap
        waited = admit(control, turns, counted, clock) if gated else 0
        began = now(clock)
        if control[w.CLOSED] == 1:
            closed_loop.submitted(op, plan.due, closed, control, clock)
        moved = 0
        if failed == 0 and reads:
            moved = read(slot, asked, plan.offset[op], worker)
        elif failed == 0:
            moved = _change(op, kind, slot, asked, plan, files, control, worker, ask)
        ended = now(clock)
        if moved < 0:
            failed, moved = -moved, 0
        if control[w.DROP] != 0 and reads and moved > 0 and worker.files[slot, w.BLOCK] == 0:
            ended = drop_pages(slot, number, plan.offset[op], moved, worker)
        if gated:
            release(control, counted)
        if control[w.CLOSED] == 1:
            closed_loop.finished(op, ended - control[w.START], plan.due, closed, control, clock)
        elif control[w.CLOSED] == 2:
            by_rule.finished(op, ended - control[w.START], plan.due, rule, closed.heap, control, clock)
        if ordered:
            finish(op, ended - control[w.START], order, plan.due, closed, control, clock)
        least = asked if plan.recorded[op] == w.NO_LENGTH else min(asked, plan.recorded[op])
        if failed == 0 and reads and moved < least:
            failed = w.SHORT
        _write_row(op, began, ended, moved, (waited, backlog, held), at, failed, worker)
