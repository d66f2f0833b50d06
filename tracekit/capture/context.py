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
from collections.abc import Iterator, Sequence
from itertools import chain, compress, filterfalse
from operator import index as as_index
from time import time_ns
from types import FrameType, TracebackType
from typing import Any

from tracekit.job import rank_and_world_size

__all__ = [
    "BATCH_FIELDS",
    "LONGEST_WAIT_NS",
    "SCOPE_FIELDS",
    "Batch",
    "enter",
    "enter_batch",
    "leave",
    "leave_batch",
    "log_scopes",
    "sample",
    "sample_number",
    "scope",
    "set_worker",
    "step",
    "where",
    "worker",
]

SCOPE_FIELDS = ("thread", "begin", "end", "sample_id", "step", "worker", "rank")
BATCH_FIELDS = (*SCOPE_FIELDS, "ended", "took", "picked_up", "samples")
"""What comes before the times and the sample_ids of a batch, which is written in parts if it takes long."""
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
            if at and (now := time_ns()) - self._logged_ns > LONGEST_WAIT_NS and _scope_log is not None:
                self.write(now)
                self._logged_ns = now
            yield compress(indices[at : at + _SAMPLES_AT_ONCE], clock)
        self._times.append(time_ns())

    def write(self, now: int, took: int = -1, picked_up: int = -1, *, ended: int = 0) -> None:
        """Write what has not been written to the log of scopes, which is open."""
        sample_ids, times = self._sample_ids[self._written :], self._times[:]
        self._times.clear()
        samples = min(len(times), len(sample_ids))
        self._written += samples
        if samples == len(times):
            times.append(now)  # when the last sample ended
        head = (
            _thread.number or _number_thread(),
            self.begin,
            now,
            -1,
            -1 if self._number is None else self._number,
            -1 if _worker is None else _worker,
            _rank(now),
            ended,
            took,
            picked_up,
            samples,
        )
        try:
            packed = array("q", (*head, *times, *sample_ids[:samples]))
        except (TypeError, OverflowError):  # keys that are no numbers, or that no trace can hold
            packed = array("q", (*head, *times, *map(_storable, sample_ids[:samples])))
        _append(b"batch," + hexlify(packed))


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
_writing = threading.RLock()
"""Reentrant: the garbage collector may close a generator, and end its scope, while scopes are written."""
_written_ns = 0
LONGEST_WAIT_NS = 250_000_000
"""What a hook notes in memory waits no longer than this to be written or counted."""
_SAMPLES_AT_ONCE = 8
"""After so many samples of a batch, it is looked whether they have waited for that long."""


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
    logged = _open.pop(id(batch), None) is not None and _scope_log is not None
    if logged:
        now = time_ns()
        batch.write(now, took, picked_up, ended=1)
        if _unwritten and not _open:
            _write_scopes(now)
    _end(batch)
    return logged


def leave(scope: _Given) -> None:
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
        if not _open or now - _written_ns > LONGEST_WAIT_NS:
            _write_scopes(now)
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
    """Append every scope that ends from now on to the file `path`; None stops the log.

    A line holds one or more scopes of `SCOPE_FIELDS` each, as the hexadecimal digits of an array of native 64-bit integers;
    times are ns since the Unix epoch, -1 stands for unknown. `batch,` is followed by such an array of `BATCH_FIELDS`, the times at
    which the samples begin and the last of them ends, and their sample_ids. The line `joined,PID,RANK` says that the hooks of a process
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
    if _known_rank is None or now - _asked_ns > LONGEST_WAIT_NS:
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
        count = len(_unwritten)
        scopes = _unwritten[:count]
        del _unwritten[:count]
        if _scope_log is not None and (packed := _packed(scopes)):
            _append(hexlify(packed))


def _packed(scopes: list[int]) -> bytes:
    try:
        return array("q", scopes).tobytes()
    except OverflowError:  # a number that no sample or step can have in a trace
        many = len(SCOPE_FIELDS)
        if len(scopes) == many:
            return b""
        return b"".join(_packed(scopes[at : at + many]) for at in range(0, len(scopes), many))


def sample_number(key: Any) -> int | None:
    """A key as a sample_id; None if it is no integer."""
    try:
        return as_index(key)
    except TypeError:
        return None


def _storable(key: Any) -> int:
    number = sample_number(key)
    return -1 if number is None or not 0 <= number < 1 << 63 else number


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


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_end_scopes)
