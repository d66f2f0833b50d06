"""Tracks which sample, step and worker an op serves.

Code that drives a loader declares scopes (`sample`, `step`, the torch hook), and each hook
that records an op calls `where`. Context variables carry the scopes through tasks. A thread
without scopes of its own, such as one of a C++ reader pool, gets the values on which the open
scopes of its process agree. `log_scopes` also writes the scopes of each thread to a file, for
ops that are recorded from outside the process. This module records nothing itself and imports
no library.
"""

from __future__ import annotations

import atexit
import contextvars
import inspect
import os
import sys
import threading
from array import array
from binascii import hexlify
from collections.abc import Mapping
from time import time_ns
from types import FrameType, TracebackType

from tracekit.job import rank_and_world_size

__all__ = [
    "SCOPE_FIELDS",
    "counted_with_scopes",
    "enter",
    "leave",
    "log_scopes",
    "sample",
    "scope",
    "set_worker",
    "step",
    "where",
    "worker",
]

SCOPE_FIELDS = ("thread", "begin", "end", "sample_id", "step", "worker", "rank")
Where = tuple[int | None, int | None]
"""(sample_id, step)"""


class _Scope:
    """What applies between `enter` and `leave`.

    The scopes of generators that run in turn do not nest: one may end before another that
    began later, and each applies to the ops of its own generator only (see `_live`).
    """

    __slots__ = ("begin", "ended", "generator", "outer", "where")
    begin: int
    ended: bool
    generator: FrameType | None
    outer: _Scope | None
    where: Where


class _Scoped:
    """A context manager that sets the sample, the step, or both. Not reusable."""

    __slots__ = ("_given", "_scope")

    def __init__(self, sample_id: int | None, number: int | None) -> None:
        self._given: Where = (sample_id, number)

    def __enter__(self) -> None:
        self._scope = enter(*self._given)
        entered_from = sys._getframe(1)
        code = entered_from.f_code
        if code.co_flags & _GENERATORS or code.co_name in _ENTERING:
            self._scope.generator = _iterating(entered_from)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        leave(self._scope)


_GENERATORS = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
_ENTERING = frozenset(("__enter__", "__aenter__", "enter_context", "enter_async_context"))
_here: contextvars.ContextVar[_Scope | None] = contextvars.ContextVar("tracekit_where", default=None)
_here_now, _set_here = _here.get, _here.set
_open: dict[int, _Scope] = {}
"""Every open scope of this process, by id."""
_worker: int | None = None
_scope_log: int | None = None
_unwritten: list[int] = []
"""The `SCOPE_FIELDS` of the scopes that have ended since the log was written last, at `_written_ns`."""
_note = _unwritten.extend
_uncounted: list[Mapping[str, int]] = []
_writing = threading.RLock()
"""Reentrant: the garbage collector may close a generator, and end its scope, while scopes are written."""
_written_ns = 0
_LONGEST_WAIT_NS = 250_000_000


class _Thread(threading.local):
    """The kernel's number of this thread, which takes a system call to learn; 0 if it has not been asked for."""

    number = 0


_thread = _Thread()
_known_rank: int | None = None
"""The rank as of the time `_asked_ns`; None if this process has not asked for it yet."""
_asked_ns = 0


def sample(sample_id: int) -> _Scoped:
    """Attribute the ops inside `with tracekit.sample(id):` to this sample of the dataset."""
    return _Scoped(int(sample_id), None)


def step(number: int) -> _Scoped:
    """Attribute the ops inside `with tracekit.step(n):` to this batch."""
    return _Scoped(None, int(number))


def scope(sample_id: int | None = None, number: int | None = None) -> _Scoped:
    """Set the sample, the step, or both; None leaves a value as it is."""
    return _Scoped(sample_id, number)


def enter(sample_id: int | None = None, number: int | None = None) -> _Scope:
    """Open a scope, for a function that calls `leave` before it returns, and that is not a generator.

    This takes a third of the time of `with scope(...)`.
    """
    scope = _Scope()
    scope.outer = outer = _here_now()
    scope.ended = False
    scope.generator = None
    if outer is not None and (outer.ended or outer.generator is not None):
        outer = _live(outer)
    if outer is not None:
        around = outer.where
        if sample_id is None:
            sample_id = around[0]
        if number is None:
            number = around[1]
    scope.where = (sample_id, number)
    _open[id(scope)] = scope
    _set_here(scope)
    scope.begin = time_ns()
    return scope


def leave(scope: _Scope) -> None:
    """End a scope."""
    ours = _open.pop(id(scope), None) is not None  # not in a child that was forked inside
    if ours and _scope_log is not None:
        now = time_ns()
        sample_id, number = scope.where
        _note(
            (
                _thread.number or _number_thread(),
                scope.begin,
                now,
                -1 if sample_id is None else sample_id,
                -1 if number is None else number,
                -1 if _worker is None else _worker,
                _rank(now) if _known_rank is None else _known_rank,
            )
        )
        # While others are open, as a step is around its samples, it waits for up to a quarter of a second.
        if not _open or now - _written_ns > _LONGEST_WAIT_NS:
            _write_scopes(now)
    scope.ended = True
    scope.generator = None
    if _here_now() is scope:  # otherwise it ends in another context, or before a scope that began later
        outer = scope.outer
        _set_here(outer if outer is None or not outer.ended else _not_ended(outer))


def where() -> Where:
    """The (sample_id, step) of an op made in the current context; None where unknown."""
    scope = _here_now()
    if scope is not None and (scope.ended or scope.generator is not None):
        scope = _live(scope)
    if scope is not None:
        return scope.where
    return _common() if _open else (None, None)


def worker() -> int | None:
    """The worker number of this process within its rank, if set."""
    return _worker


def set_worker(number: int | None) -> None:
    """Set the worker number of this process within its rank."""
    global _worker
    _worker = number


def counted_with_scopes(numbers: Mapping[str, int]) -> bool:
    """Count `numbers` in the log of scopes, with the scopes that are written next; return False if there is no log.

    A process that notes its scopes needs no other file, and no other write, for what it counts once a step.
    """
    if _scope_log is None:
        return False
    _uncounted.append(numbers)
    return True


def log_scopes(path: str | None) -> None:
    """Append every scope that ends from now on to the file `path`; None stops the log.

    A line holds one or more scopes of `SCOPE_FIELDS` each, as the hexadecimal digits of an array of native 64-bit integers;
    times are ns since the Unix epoch, -1 stands for unknown. `counted,NAME=NUMBER,...` adds to counters. The line `joined,PID,RANK` says that the hooks of a process
    have started, or that it has learnt another rank before its end.
    """
    global _scope_log
    if _scope_log is not None:
        _end_scopes()
        os.close(_scope_log)
        _scope_log = None
    if path:
        _scope_log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        _append(_joined(time_ns()))


def _joined(now: int) -> bytes:
    return f"joined,{os.getpid()},{_rank(now)}".encode()


def _rank(now: int) -> int:
    """The rank of this process, which it may set while it runs; -1 if unknown. The environment is looked at every quarter of
    a second, because that takes as long as a sample's scope."""
    global _known_rank, _asked_ns
    if _known_rank is None or now - _asked_ns > _LONGEST_WAIT_NS:
        rank = rank_and_world_size()[0]
        _known_rank, _asked_ns = -1 if rank is None else rank, now
    return _known_rank


def _live(scope: _Scope | None) -> _Scope | None:
    """The scope that applies here: the innermost one that does not belong to a suspended generator."""
    scope = innermost = _not_ended(scope)
    first: _Scope | None = None
    while scope is not None:
        if scope.generator is None:
            first = first or scope
        elif _running(scope.generator):
            return first or scope
        scope = _not_ended(scope.outer)
    return innermost


def _not_ended(scope: _Scope | None) -> _Scope | None:
    while scope is not None and scope.ended:
        scope = scope.outer
    return scope


def _iterating(entered_from: FrameType) -> FrameType | None:
    """The generator that entered a scope and yields items inside it, or None.

    A generator that implements a context manager counts as the code that entered it.
    """
    frame: FrameType | None = entered_from
    while frame is not None:
        caller = frame.f_back
        if frame.f_code.co_name not in _ENTERING:
            if not frame.f_code.co_flags & _GENERATORS:
                return None
            if caller is None or caller.f_code.co_name not in _ENTERING:
                return frame
        frame = caller
    return None


def _running(generator: FrameType) -> bool:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame is not generator:
        frame = frame.f_back
    return frame is not None


def _number_thread() -> int:
    _thread.number = threading.get_native_id()
    return _thread.number


def _write_scopes(now: int) -> None:
    """Write the scopes that have ended."""
    global _written_ns
    _written_ns = now
    _rank(now)
    with _writing:
        count, counts = len(_unwritten), len(_uncounted)
        scopes, numbers = _unwritten[:count], _uncounted[:counts]
        del _unwritten[:count], _uncounted[:counts]
        if _scope_log is not None:
            lines = [hexlify(packed)] if (packed := _packed(scopes)) else []
            for each in numbers:
                pairs = [f"{name}={number}" for name, number in each.items()]
                lines.append(",".join(("counted", *pairs)).encode())
            if lines:
                _append(b"\n".join(lines))


def _packed(scopes: list[int]) -> bytes:
    try:
        return array("q", scopes).tobytes()
    except OverflowError:  # a number that no sample or step can have in a trace
        many = len(SCOPE_FIELDS)
        if len(scopes) == many:
            return b""
        return b"".join(_packed(scopes[at : at + many]) for at in range(0, len(scopes), many))


def _append(line: bytes) -> None:
    global _scope_log
    assert _scope_log is not None
    try:
        os.write(_scope_log, line + b"\n")
    except OSError:  # a full disk; the ops themselves are recorded elsewhere
        os.close(_scope_log)
        _scope_log = None


def _end_scopes() -> None:
    """Write what is left, and the rank if it has changed meanwhile."""
    global _known_rank
    now = time_ns()
    before, _known_rank = _known_rank, None
    _write_scopes(now)
    if _scope_log is not None and before not in (None, _rank(now)):
        _append(_joined(now))


def _common() -> Where:
    """The values that the innermost open scopes of this process share."""
    scopes = list(_open.values())
    around = {id(scope.outer) for scope in scopes}
    innermost = {scope.where for scope in scopes if id(scope) not in around}
    samples = {sample_id for sample_id, _ in innermost}
    steps = {number for _, number in innermost}
    return (
        samples.pop() if len(samples) == 1 else None,
        steps.pop() if len(steps) == 1 else None,
    )


def _after_fork_in_child() -> None:
    global _known_rank, _writing
    _known_rank = None
    _writing = threading.RLock()
    _thread.number = 0
    _open.clear()
    _unwritten.clear()
    _uncounted.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_end_scopes)
