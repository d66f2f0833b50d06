"""Which sample, step and worker an op serves: known above, needed below.

Those who drive a loader say it (`sample`, `step`, the torch hook); every hook that records
an op asks `where`. Context variables carry it through tasks; an op made by a thread that
has none of its own (a reader's pool in C++, say) gets what the scopes open in its process
agree on. When asked to, it also logs when which thread was in which scope, for ops that are
seen from outside the process. This module records no op and imports nothing of tracekit.
"""

from __future__ import annotations

import contextvars
import os
import threading
import time
from types import TracebackType

__all__ = ["log_scopes", "sample", "scope", "set_worker", "step", "where", "worker"]

Where = tuple[int | None, int | None]
"""(sample_id, step)"""


class _Scope:
    """A context manager that says where; each use takes a new one."""

    __slots__ = ("_begin", "_said", "_token", "_where")

    def __init__(self, sample_id: int | None, number: int | None) -> None:
        self._said: Where = (sample_id, number)

    def __enter__(self) -> None:
        outer = _here.get()
        sample_id, number = self._said
        if outer is None:
            self._where: Where = (sample_id, number)
        else:
            before = outer._where
            self._where = (
                before[0] if sample_id is None else sample_id,
                before[1] if number is None else number,
            )
        _open[id(self)] = (self._where, id(outer))
        self._token = _here.set(self)
        if _scope_log is not None:
            self._begin = time.time_ns()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if _scope_log is not None and _open.pop(id(self), None) is not None:
            _log_scope(_scope_log, self)
        _open.pop(id(self), None)
        try:
            _here.reset(self._token)
        except ValueError:  # left in another context than it was entered in: a generator's end
            _here.set(None)


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
