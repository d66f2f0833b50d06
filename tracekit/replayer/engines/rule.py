"""The compiled closed loop by a loader's rule, as `modelled.ModelPacer` has it in Python.

Called from `kernel` only. The lock and the heap are those of `closed`; words of `RuleArrays` are by name
those of `modelled.RuleColumns`.
"""

from __future__ import annotations

from typing import Any

from tracekit.replayer.engines.closed import announce, lock, push, unlock
from tracekit.replayer.engines.native import compiled
from tracekit.replayer.modelled import (
    AHEAD,
    ANY_ORDER,
    ASKED_NS,
    BETWEEN_NS,
    BYTES_AHEAD,
    CAP_BYTES,
    COUNT,
    FILLING,
    FIRST_STEP,
    FIRST_TASK,
    HANDED,
    ON_HANDOVER,
    STEPS_PER_EPOCH,
    SUBMITTED,
    TASKS,
    THOUGHTS,
)

__all__ = ["finished"]


@compiled
def finished(op: Any, now: Any, due: Any, rule: Any, heap: Any, control: Any, clock: Any) -> None:
    """Continue the op's task, or have its worker take the next one. `now` is ns since the start."""
    lock(control, clock)
    issued = 0
    following = rule.next_op[op]
    if following >= 0:
        issued += _issue(following, now, due, rule, heap, control)
    else:
        task = rule.task_of[op]
        server, consumer = rule.server_of[task], rule.consumer_of[task]
        rule.free[server] += 1
        if consumer >= 0:
            issued += _task_ended(consumer, task, now, due, rule, heap, control)
        issued += _begin(server, now, due, rule, heap, control)
    unlock(control)
    if issued > 0:
        announce(control, issued)


@compiled
def _issue(op: Any, now: Any, due: Any, rule: Any, heap: Any, control: Any) -> Any:
    due[op] = now + rule.gap[op]
    push(op, due, heap, control)
    return 1


@compiled
def _begin(server: Any, now: Any, due: Any, rule: Any, heap: Any, control: Any) -> Any:
    """Let free workers begin the tasks that wait for them; how many ops were issued."""
    issued = 0
    while rule.free[server] > 0 and rule.head[server] >= 0:
        task = rule.head[server]
        rule.head[server] = rule.link[task]
        rule.free[server] -= 1
        issued += _issue(rule.first_op[task], max(now, rule.from_ns[task]), due, rule, heap, control)
    return issued


@compiled
def _release(task: Any, from_ns: Any, now: Any, due: Any, rule: Any, heap: Any, control: Any) -> Any:
    """Put a task at the end of its workers' queue."""
    server = rule.server_of[task]
    rule.from_ns[task], rule.link[task] = from_ns, -1
    if rule.head[server] < 0:
        rule.head[server] = task
    else:
        rule.link[rule.tail[server]] = task
    rule.tail[server] = task
    return _begin(server, now, due, rule, heap, control)


@compiled
def _task_ended(consumer: Any, task: Any, now: Any, due: Any, rule: Any, heap: Any, control: Any) -> Any:
    """Release what may be read because a task has ended; how many ops were issued."""
    mine, settings = rule.consumers[consumer], rule.settings
    steps = mine[FIRST_STEP]
    step = mine[FILLING] if settings[ANY_ORDER] != 0 else rule.step_of[task]
    rule.left[steps + step] -= 1
    if rule.left[steps + step] > 0:
        return 0
    rule.ready_ns[steps + step] = now
    if settings[ANY_ORDER] != 0:
        mine[FILLING] += 1
    issued = 0
    while mine[HANDED] < mine[COUNT] and rule.ready_ns[steps + mine[HANDED]] >= 0:
        handed_ns = max(mine[ASKED_NS], rule.ready_ns[steps + mine[HANDED]])
        mine[BYTES_AHEAD] -= rule.bytes_of[steps + mine[HANDED]]
        mine[HANDED] += 1
        issued += _submit(mine, mine[HANDED], handed_ns, now, due, rule, heap, control)
        mine[ASKED_NS] = handed_ns + rule.think_ns[mine[THOUGHTS] % rule.think_ns.shape[0]]
        mine[THOUGHTS] += 1
        if settings[STEPS_PER_EPOCH] > 0 and mine[HANDED] % settings[STEPS_PER_EPOCH] == 0:
            mine[ASKED_NS] += settings[BETWEEN_NS]
        issued += _submit(mine, mine[HANDED] + 1, mine[ASKED_NS], now, due, rule, heap, control)
    return issued


@compiled
def _submit(
    mine: Any, asked: Any, from_ns: Any, now: Any, due: Any, rule: Any, heap: Any, control: Any
) -> Any:
    """Release what the window and the cap permit once `asked` batches have been asked for."""
    settings, issued = rule.settings, 0
    window = asked + settings[AHEAD]
    if settings[ON_HANDOVER] != 0:
        window = mine[HANDED] + max(settings[AHEAD], 1)
    if settings[STEPS_PER_EPOCH] > 0:
        window = min(window, ((asked - 1) // settings[STEPS_PER_EPOCH] + 1) * settings[STEPS_PER_EPOCH])
    while mine[SUBMITTED] < mine[TASKS]:
        task = rule.tasks[mine[FIRST_TASK] + mine[SUBMITTED]]
        step = rule.step_of[task]
        if step >= window:
            break
        over = settings[CAP_BYTES] >= 0 and mine[BYTES_AHEAD] + rule.nbytes[task] > settings[CAP_BYTES]
        if over and step >= asked:
            break
        mine[BYTES_AHEAD] += rule.nbytes[task]
        mine[SUBMITTED] += 1
        issued += _release(task, from_ns, now, due, rule, heap, control)
    return issued
