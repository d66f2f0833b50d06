"""Which sample, step and worker an op serves: known above, needed below.

Those who drive a loader say it (`sample`, `step`, the torch hook); every hook that records
an op asks `where`. Context variables carry it through tasks; an op made by a thread that
has none of its own (a reader's pool in C++, say) gets what the scopes open in its process
agree on. When asked to, it also logs when which thread was in which scope, for ops that are
seen from outside the process. This module records no op and imports nothing of tracekit.
"""

from __future__ import annotations

import contextvars
import inspect
import os
import sys
import threading
import time
from types import FrameType, TracebackType

__all__ = ["log_scopes", "sample", "scope", "set_worker", "step", "where", "worker"]

Where = tuple[int | None, int | None]
"""(sample_id, step)"""


class _Scope:
    """A context manager that says where; each use takes a new one.

    Scopes of generators that take turns do not nest: one may end before another that began
    later, and each is meant for what its own generator does (see `_live`).
    """

    __slots__ = ("_begin", "_generator", "_outer", "_over", "_said", "_where")

    def __init__(self, sample_id: int | None, number: int | None) -> None:
        self._said: Where = (sample_id, number)

    def __enter__(self) -> None:
        self._outer = outer = _here.get()
        self._over = False
        self._generator = _iterating(sys._getframe(1))
        sample_id, number = self._said
        live = _live(outer)
        if live is None:
            self._where: Where = (sample_id, number)
        else:
            before = live._where
            self._where = (
                before[0] if sample_id is None else sample_id,
                before[1] if number is None else number,
            )
        _open[id(self)] = (self._where, id(outer))
        _here.set(self)
        if _scope_log is not None:
            self._begin = time.time_ns()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if _scope_log is not None and _open.pop(id(self), None) is not None:
            _log_scope(_scope_log, self)
        _open.pop(id(self), None)
        self._over = True
        self._generator = None
        if _here.get() is self:  # else it is left in another context, or before one that began later
            _here.set(_not_over(self._outer))


_GENERATORS = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
_ENTERING = frozenset(("__enter__", "__aenter__", "enter_context", "enter_async_context"))
_here: contextvars.ContextVar[_Scope | None] = contextvars.ContextVar("tracekit_where", default=None)
_open: dict[int, tuple[Where, int]] = {}
"""Every scope open in this process, by id: what it says, and the id of the scope around it."""
_worker: int | None = None
_scope_log: int | None = None


def sample(sample_id: int) -> _Scope:
    """`with tracekit.sample(id):` ops made inside serve this sample of the dataset."""
    return _Scope(int(sample_id), None)


def step(number: int) -> _Scope:
    """`with tracekit.step(n):` ops made inside serve this batch."""
    return _Scope(None, int(number))


def scope(sample_id: int | None = None, number: int | None = None) -> _Scope:
    """Both at once, each where it is known."""
    return _Scope(sample_id, number)


def where() -> Where:
    """(sample_id, step) of an op made here and now; None where it is not known."""
    scope = _here.get()
    if scope is not None and (scope._over or scope._generator is not None):
        scope = _live(scope)
    if scope is not None:
        return scope._where
    return _agreed() if _open else (None, None)


def worker() -> int | None:
    """Which worker of its rank this process is, if someone has said so."""
    return _worker


def set_worker(number: int | None) -> None:
    """Say which worker of its rank this process is."""
    global _worker
    _worker = number


def log_scopes(path: str | None) -> None:
    """Append every scope that ends from now on to the file `path` (None: no longer), a line each:
    thread, begin and end (ns since the Unix epoch), sample_id, step, worker, rank; -1 for unknown."""
    global _scope_log
    if _scope_log is not None:
        os.close(_scope_log)
        _scope_log = None
    if path:
        _scope_log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _live(scope: _Scope | None) -> _Scope | None:
    """The scope that holds here: the innermost, but for those of generators that wait while another runs."""
    scope = innermost = _not_over(scope)
    first: _Scope | None = None
    while scope is not None:
        if scope._generator is None:
            first = first or scope
        elif _running(scope._generator):
            return first or scope
        scope = _not_over(scope._outer)
    return innermost


def _not_over(scope: _Scope | None) -> _Scope | None:
    while scope is not None and scope._over:
        scope = scope._outer
    return scope


def _iterating(entered_from: FrameType) -> FrameType | None:
    """The generator that entered a scope and hands out items inside it; None for anything else.

    A generator that is a context manager's body stands for whoever entered that.
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


def _log_scope(log: int, scope: _Scope) -> None:
    sample_id, number = scope._where
    known = (-1 if value is None else value for value in (sample_id, number, _worker))
    rank = os.environ.get("RANK", "0")
    thread = threading.get_native_id()
    line = f"{thread},{scope._begin},{time.time_ns()},{','.join(map(str, known))},{rank}\n"
    try:
        os.write(log, line.encode())
    except OSError:  # a full disk: the ops themselves are recorded elsewhere
        log_scopes(None)


def _agreed() -> Where:
    """What the innermost open scopes of this process have in common."""
    scopes = dict(_open)
    around = {outer for _, outer in scopes.values()}
    innermost = {said for scope, (said, _) in scopes.items() if scope not in around}
    samples = {sample_id for sample_id, _ in innermost}
    steps = {number for _, number in innermost}
    return (
        samples.pop() if len(samples) == 1 else None,
        steps.pop() if len(steps) == 1 else None,
    )


os.register_at_fork(after_in_child=_open.clear)
