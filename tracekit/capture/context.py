"""Tracks which sample, step and worker an op serves.

Code that drives a loader declares scopes (`sample`, `step`, the torch hook), and each hook
that records an op calls `where`. Context variables carry the scopes through tasks. A thread
without scopes of its own, such as one of a C++ reader pool, gets the values on which the open
scopes of its process agree. `log_scopes` also writes the scopes of each thread to a file
(`scope_log.py`), for ops that are recorded from outside the process. This module records nothing
itself and imports no library.
"""

from __future__ import annotations

import atexit
import contextvars
import inspect
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import chain, compress, filterfalse
from time import time_ns
from types import FrameType, TracebackType
from typing import Any

from tracekit.capture.scope_log import LONGEST_WAIT_NS, ScopeLog, sample_number

__all__ = [
    "Batch",
    "enter",
    "enter_batch",
    "leave",
    "leave_batch",
    "log_scopes",
    "sample",
    "scope",
    "set_worker",
    "step",
    "where",
    "worker",
]

Where = tuple[int | None, int | None]
"""(sample_id, step)"""


class _Scope:
    """What applies between `enter` and `leave`.

    The scopes of generators that run in turn do not nest: one may end before another that
    began later, and each applies to the ops of its own generator only (see `_live`).
    """

    __slots__ = ("begin", "ended", "generator", "outer")
    begin: int
    ended: bool
    generator: FrameType | None
    outer: _Scope | None

    @property
    def where(self) -> Where:
        raise NotImplementedError


class _Given(_Scope):
    """A scope whose sample and step do not change."""

    __slots__ = ("where",)
    where: Where


class Batch(_Scope):
    """The scope of a step in which samples are fetched one after the other: each from when it is asked for until the next one is.

    A loader's loop asks for a sample by taking its index from `served`. The times are noted by iterators of the interpreter:
    a function of Python takes several times as long between two samples, which leave nothing of it in the caches.
    """

    __slots__ = ("_around", "_logged_ns", "_number", "_sample_ids", "_times", "_written")

    _around: int | None
    _number: int | None
    _sample_ids: Sequence[Any]
    _times: list[int]
    _written: int
    """How many samples are in the log."""

    @property
    def where(self) -> Where:
        at = self._written + len(self._times) - 1
        if 0 <= at < len(self._sample_ids):
            return (sample_number(self._sample_ids[at]), self._number)
        return (self._around, self._number)

    def served(self, indices: Sequence[Any]) -> Iterator[Any]:
        """Yield `indices`, one for each of the samples, and note when each is asked for."""
        return chain.from_iterable(self._parts(indices))

    def one(self) -> None:
        """The only sample is asked for."""
        self._times.append(time_ns())

    def _parts(self, indices: Sequence[Any]) -> Iterator[Iterator[Any]]:
        clock = filterfalse(self._times.append, iter(time_ns, None))  # appends the time, and yields it
        self._logged_ns = self.begin
        for at in range(0, len(indices), _SAMPLES_AT_ONCE):
            if at and (now := time_ns()) - self._logged_ns > LONGEST_WAIT_NS and _log.file is not None:
                self.write(now)
                self._logged_ns = now
            yield compress(indices[at : at + _SAMPLES_AT_ONCE], clock)
        self._times.append(time_ns())

    def write(self, now: int, took: int = -1, picked_up: int = -1, *, ended: bool = False) -> None:
        """Write what has not been written to the log of scopes."""
        sample_ids, times = self._sample_ids[self._written :], self._times[:]
        self._times.clear()
        samples = min(len(times), len(sample_ids))
        self._written += samples
        if samples == len(times):
            times.append(now)  # when the last sample ended
        _log.add_batch(
            self.begin,
            now,
            self._number,
            _worker,
            times,
            sample_ids[:samples],
            ended=ended,
            took=took,
            picked_up=picked_up,
        )


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
_log = ScopeLog()
_SAMPLES_AT_ONCE = 8
"""After so many samples of a batch, it is looked whether they have waited for that long."""


def sample(sample_id: int) -> _Scoped:
    """Attribute the ops inside `with tracekit.sample(id):` to this sample of the dataset."""
    return _Scoped(int(sample_id), None)


def step(number: int) -> _Scoped:
    """Attribute the ops inside `with tracekit.step(n):` to this batch."""
    return _Scoped(None, int(number))


def scope(sample_id: int | None = None, number: int | None = None) -> _Scoped:
    """Set the sample, the step, or both; None leaves a value as it is."""
    return _Scoped(sample_id, number)


def enter(sample_id: int | None = None, number: int | None = None) -> _Given:
    """Open a scope, for a function that calls `leave` before it returns, and that is not a generator.

    This takes a third of the time of `with scope(...)`.
    """
    scope = _Given()
    around = _inherited(scope)
    scope.where = (around[0] if sample_id is None else sample_id, around[1] if number is None else number)
    _begin(scope)
    return scope


def enter_batch(number: int | None, sample_ids: Sequence[Any]) -> Batch:
    """Open the scope of a step that fetches these samples one after the other. Keys that are no numbers stand for no sample_id.

    It is for a function that calls `leave_batch` before it returns.
    """
    batch = Batch()
    around = _inherited(batch)
    batch._around, batch._number = around[0], around[1] if number is None else number
    batch._sample_ids, batch._times, batch._written = sample_ids, [], 0
    _begin(batch)
    return batch


def _inherited(scope: _Scope) -> Where:
    """Put `scope` into the one in whose context it begins; return what applies there, which it inherits."""
    scope.outer = outer = _here_now()
    if outer is not None and (outer.ended or outer.generator is not None):
        outer = _live(outer)
    return (None, None) if outer is None else outer.where


def _begin(scope: _Scope) -> None:
    scope.ended = False
    scope.generator = None
    _open[id(scope)] = scope
    _set_here(scope)
    scope.begin = time_ns()


def leave_batch(batch: Batch, took: int = -1, picked_up: int = -1) -> bool:
    """End the scope of a batch; return whether it is in the log of scopes, and with it what a loader's worker counts of it.

    A worker took `took` ns for it, and began `picked_up` ns after it could; -1 for unknown.
    """
    logged = _open.pop(id(batch), None) is not None and _log.file is not None
    if logged:
        now = time_ns()
        batch.write(now, took, picked_up, ended=True)
        if _log.unwritten and not _open:
            _log.write(now)
    _end(batch)
    return logged


def leave(scope: _Given) -> None:
    """End a scope."""
    ours = _open.pop(id(scope), None) is not None  # not in a child that was forked inside
    if ours and _log.file is not None:
        _log.add(scope.begin, time_ns(), *scope.where, _worker, last=not _open)
    _end(scope)


def _end(scope: _Scope) -> None:
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


def log_scopes(path: str | None) -> None:
    """Write every scope that ends from now on to the file `path`; None ends the log."""
    _log.close()
    if path:
        _log.open(path)


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
    _log.forked()
    _open.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_log.end)
