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
import time
from collections import deque
from contextlib import suppress
from types import FrameType, TracebackType

from tracekit.job import rank_and_world_size

__all__ = ["log_scopes", "sample", "scope", "set_worker", "step", "where", "worker"]

Where = tuple[int | None, int | None]
"""(sample_id, step)"""


class _Scope:
    """A context manager that sets the sample, the step, or both. Not reusable.

    The scopes of generators that run in turn do not nest: one may end before another that
    began later, and each applies to the ops of its own generator only (see `_live`).
    """

    __slots__ = ("_begin", "_ended", "_generator", "_given", "_outer", "_where")

    def __init__(self, sample_id: int | None, number: int | None) -> None:
        self._given: Where = (sample_id, number)

    def __enter__(self) -> None:
        self._outer = outer = _here.get()
        self._ended = False
        self._generator = _iterating(sys._getframe(1))
        sample_id, number = self._given
        live = outer if outer is None or _applies(outer) else _live(outer)
        if live is None:
            self._where: Where = (sample_id, number)
        else:
            around = live._where
            self._where = (
                around[0] if sample_id is None else sample_id,
                around[1] if number is None else number,
            )
        _open[id(self)] = (self._where, id(outer))
        _here.set(self)
        if _scope_log is not None:
            self._begin = time.time_ns()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ours = _open.pop(id(self), None) is not None  # not in a child that was forked inside
        if ours and _scope_log is not None:
            _log_scope(self)
        self._ended = True
        self._generator = None
        if _here.get() is self:  # otherwise it ends in another context, or before a scope that began later
            _here.set(_not_ended(self._outer))


_GENERATORS = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
_ENTERING = frozenset(("__enter__", "__aenter__", "enter_context", "enter_async_context"))
_here: contextvars.ContextVar[_Scope | None] = contextvars.ContextVar("tracekit_where", default=None)
_open: dict[int, tuple[Where, int]] = {}
"""Every open scope of this process, by id: its values, and the id of the enclosing scope."""
_worker: int | None = None
_scope_log: int | None = None
_unwritten: deque[tuple[int, int, int, int, int, int]] = deque()
"""Scopes that have ended since the log was written last, at `_written_ns`."""
_written_ns = 0
_LONGEST_WAIT_NS = 250_000_000


def sample(sample_id: int) -> _Scope:
    """Attribute the ops inside `with tracekit.sample(id):` to this sample of the dataset."""
    return _Scope(int(sample_id), None)


def step(number: int) -> _Scope:
    """Attribute the ops inside `with tracekit.step(n):` to this batch."""
    return _Scope(None, int(number))


def scope(sample_id: int | None = None, number: int | None = None) -> _Scope:
    """Set the sample, the step, or both; None leaves a value as it is."""
    return _Scope(sample_id, number)


def where() -> Where:
    """The (sample_id, step) of an op made in the current context; None where unknown."""
    scope = _here.get()
    if scope is not None and not _applies(scope):
        scope = _live(scope)
    if scope is not None:
        return scope._where
    return _common() if _open else (None, None)


def worker() -> int | None:
    """The worker number of this process within its rank, if set."""
    return _worker


def set_worker(number: int | None) -> None:
    """Set the worker number of this process within its rank."""
    global _worker
    _worker = number


def log_scopes(path: str | None) -> None:
    """Append every scope that ends from now on to the file `path`; None stops the log.

    One line a scope: thread, begin and end (ns since the Unix epoch), sample_id, step, worker,
    rank; -1 for unknown. The first line of a process, `joined,PID,RANK`, says that its hooks have started.
    """
    global _scope_log
    if _scope_log is not None:
        _write_scopes()
        os.close(_scope_log)
        _scope_log = None
    if path:
        _scope_log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.write(_scope_log, f"joined,{os.getpid()},{_rank()}\n".encode())


def _rank() -> int:
    """The rank of this process; -1 if unknown."""
    rank = rank_and_world_size()[0]
    return -1 if rank is None else rank


def _applies(scope: _Scope) -> bool:
    """Whether the scope is the one that applies, without a look at those around it."""
    return not scope._ended and scope._generator is None


def _live(scope: _Scope | None) -> _Scope | None:
    """The scope that applies here: the innermost one that does not belong to a suspended generator."""
    scope = innermost = _not_ended(scope)
    first: _Scope | None = None
    while scope is not None:
        if scope._generator is None:
            first = first or scope
        elif _running(scope._generator):
            return first or scope
        scope = _not_ended(scope._outer)
    return innermost


def _not_ended(scope: _Scope | None) -> _Scope | None:
    while scope is not None and scope._ended:
        scope = scope._outer
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


def _log_scope(scope: _Scope) -> None:
    """Note a scope that has ended. While others are open, as a step is around its samples, it waits for up to a quarter of a second."""
    now = time.time_ns()
    sample_id, number = scope._where
    _unwritten.append(
        (
            threading.get_native_id(),
            scope._begin,
            now,
            -1 if sample_id is None else sample_id,
            -1 if number is None else number,
            -1 if _worker is None else _worker,
        )
    )
    if not _open or now - _written_ns > _LONGEST_WAIT_NS:
        _write_scopes()


def _write_scopes() -> None:
    """Write the scopes that have ended."""
    global _written_ns
    _written_ns = time.time_ns()
    scopes = []
    with suppress(IndexError):  # another thread may write some of them
        while True:
            scopes.append(_unwritten.popleft())
    if _scope_log is None or not scopes:
        return
    line = f"%d,%d,%d,%d,%d,%d,{_rank()}\n"
    try:
        os.write(_scope_log, "".join([line % scope for scope in scopes]).encode())
    except OSError:  # a full disk; the ops themselves are recorded elsewhere
        log_scopes(None)


def _common() -> Where:
    """The values that the innermost open scopes of this process share."""
    scopes = dict(_open)
    around = {outer for _, outer in scopes.values()}
    innermost = {values for scope, (values, _) in scopes.items() if scope not in around}
    samples = {sample_id for sample_id, _ in innermost}
    steps = {number for _, number in innermost}
    return (
        samples.pop() if len(samples) == 1 else None,
        steps.pop() if len(steps) == 1 else None,
    )


def _after_fork_in_child() -> None:
    _open.clear()
    _unwritten.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_write_scopes)
