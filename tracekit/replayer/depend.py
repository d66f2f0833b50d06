"""Which ops of a plan wait for which, because they use the same object.

An op that began after a change of the same range or object had ended in the recording waits for
that change in the replay, in every pacing mode. So reads find what was written, and changes keep
their order. Changes of a whole object also wait for earlier reads of it, which would fail without it.
An object of a store is there when all of its writes have been made: what uses it next waits for them all,
whichever range it uses. This module knows a plan and threads, no storage.
"""

from __future__ import annotations

import asyncio
import heapq
import threading
import time
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from tracekit.replayer.kinds import KINDS, READS, TWO_OBJECTS, WHOLE_CHANGES
from tracekit.replayer.uploads import Uploads
from tracekit.uri import FILE_SCHEMES, scheme_of

__all__ = ["Dependencies", "Families", "Waits", "dependencies_of"]

_END = 1 << 62
_MANY = 64
"""An op that would wait for more ops waits for a join of them, which later ops share."""
_WHOLE = frozenset(WHOLE_CHANGES)
_TWO = frozenset(TWO_OBJECTS)


class PlanOfChanges(Protocol):
    """What this module needs of a plan."""

    uris: tuple[str, ...]
    sources: tuple[str, ...]
    rounds: int

    @property
    def ops(self) -> int: ...

    def column(self, name: str) -> np.ndarray: ...


@dataclass(slots=True)
class Dependencies:
    """For each op that waits, the ops that it waits for.

    Numbers from `ops` on are joins: they stand for several ops and have ended when all of these have.
    """

    ops: int
    waits_for: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def before(self, op: int) -> set[int]:
        """The ops that `op` waits for, joins resolved."""
        found: set[int] = set()
        for other in self.waits_for.get(op, ()):
            found |= self.before(other) if other >= self.ops else {other}
        return found


def dependencies_of(plan: PlanOfChanges) -> Dependencies | None:
    """Find the dependencies of a plan that is whole in memory; None if there are none."""
    found = Dependencies(plan.ops)
    builder = _Builder(plan, found)
    for op in builder.rows():
        builder.add(op)
    return found if found.waits_for else None


@dataclass(slots=True)
class _Object:
    """What happened to one object so far.

    `starts`, `ends` and `writers` describe disjoint ranges, ascending: which changes a reader of the range waits
    for. `pending` holds changes that have not ended yet; `readers` and `parts`, by upload, ops that later changes
    wait for; `copies`, those of the readers that writes wait for, too. On a store, `series` holds the writes since
    the last other use, and `made` what stands for those before.
    """

    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    writers: list[tuple[int, ...]] = field(default_factory=list)
    pending: list[tuple[int, int, int, int]] = field(default_factory=list)
    readers: list[int] = field(default_factory=list)
    copies: list[int] = field(default_factory=list)
    parts: dict[int, list[int]] = field(default_factory=dict)
    series: list[int] = field(default_factory=list)
    made: set[int] = field(default_factory=set)

    def overlapping(self, first: int, last: int) -> slice:
        """The ranges that overlap [first, last)."""
        low = bisect_right(self.ends, first)
        return slice(low, max(bisect_left(self.starts, last), low))

    def cover(self, first: int, last: int, writers: tuple[int, ...]) -> None:
        """Let readers of [first, last) wait for `writers`."""
        if last <= first:
            return
        cut = self.overlapping(first, last)
        starts, ends, found = [first], [last], [writers]
        if cut.start < cut.stop:
            if self.starts[cut.start] < first:
                starts.insert(0, self.starts[cut.start])
                ends.insert(0, first)
                found.insert(0, self.writers[cut.start])
            if self.ends[cut.stop - 1] > last:
                starts.append(last)
                ends.append(self.ends[cut.stop - 1])
                found.append(self.writers[cut.stop - 1])
        self.starts[cut], self.ends[cut], self.writers[cut] = starts, ends, found


class _Builder:
    """Goes through the ops of a plan that use changed objects, in the order of their submits."""

    def __init__(self, plan: PlanOfChanges, found: Dependencies) -> None:
        self._found = found
        self._kind = plan.column("kind")
        self._file, self._to = plan.column("file"), plan.column("to_file")
        self._first = plan.column("offset")
        length = plan.column("length")
        self._last = np.where(length < 0, _END, self._first + length)
        start = plan.column("recorded_ns").astype(np.int64)
        end = start + np.maximum(plan.column("recorded_latency"), 0)  # unknown counts as ended at once
        round_ = np.arange(plan.ops) // max(plan.ops // plan.rounds, 1)
        span = int(end.max() - start.min()) + 1 if plan.ops else 0
        self._start, self._ended = start + round_ * span, end + round_ * span
        self._end_of_join: dict[int, int] = {}
        self._objects: defaultdict[int, _Object] = defaultdict(_Object)
        self._families = Families(plan.sources)
        self._stored = [scheme_of(uri) not in FILE_SCHEMES for uri in plan.uris]
        self._uploads = Uploads()
        self._uploads.add(plan, slice(0, plan.ops))

    def rows(self) -> list[int]:
        """The ops that use an object which some op changes."""
        changing = self._kind >= len(READS)
        two = changing & (self._to >= 0)
        touched = set(np.unique(self._file[changing]).tolist()) | set(np.unique(self._to[two]).tolist())
        for file in np.unique(np.concatenate([self._file[two], self._to[two]])).tolist():
            touched.update(self._families.below(file))
        used = np.fromiter(touched, np.int64, len(touched))
        found: list[int] = np.flatnonzero(
            np.isin(self._file, used) | (two & np.isin(self._to, used))
        ).tolist()
        return found

    def add(self, op: int) -> None:
        """Find what `op` waits for, and note what it changes."""
        kind = KINDS[self._kind[op]]
        file, to = int(self._file[op]), int(self._to[op])
        needed: set[int] = set()
        if kind == "copy":
            needed |= self._read(op, file, 0, _END)
            needed |= self._replace(op, to) if to >= 0 else set()
            self._objects[file].copies.append(op)
        elif kind in _WHOLE:
            for each in [file, to] if kind in _TWO and to >= 0 else [file]:
                for member in (each, *(self._families.below(each) if kind in ("rename", "delete") else ())):
                    needed |= self._replace(op, member)
        elif kind == "write":
            first, last = int(self._first[op]), int(self._last[op])
            needed |= self._written(op, file, first, last) | self._copied(op, file)
            self._change(op, file, first, last)
            if self._stored[file]:
                self._objects[file].series.append(op)
        elif kind in ("part", "abort"):
            needed |= self._of_upload(op, file, ends=kind == "abort")
        elif kind == "sync":
            for member in (file, *self._families.below(file)):  # a directory is synced with its entries
                needed |= self._read(op, member, 0, _END)
        else:
            first, last = (0, _END) if kind == "get" else (int(self._first[op]), int(self._last[op]))
            needed |= self._read(op, file, first, last)
        needed.discard(op)
        if needed:
            self._found.waits_for[op] = tuple(sorted(needed))

    def _read(self, op: int, file: int, first: int, last: int) -> set[int]:
        known = self._objects[file]
        needed = self._written(op, file, first, last)
        if KINDS[self._kind[op]] == "sync":
            sent = (part for parts in known.parts.values() for part in parts)
            needed |= {part for part in sent if self._ended[part] <= self._start[op]}
        else:
            needed |= self._made(known)
        known.readers.append(op)
        return needed

    def _replace(self, op: int, file: int) -> set[int]:
        known, start = self._objects[file], self._start[op]
        needed = self._written(op, file, 0, _END) | self._made(known)
        needed |= {reader for reader in known.readers if self._ended[reader] <= start}
        if KINDS[self._kind[op]] == "complete":
            needed |= self._of_upload(op, file, ends=True)
        self._change(op, file, 0, _END)
        return needed

    def _of_upload(self, op: int, file: int, *, ends: bool) -> set[int]:
        """The parts that the end of an upload waits for, or that `op` sends again; notes `op` if it is a part."""
        parts, upload = self._objects[file].parts, self._uploads.of[op]
        replaced: set[int] = set()
        if ends:
            before = parts.pop(upload, [])
        else:  # a store may drop the parts that it has when the object is replaced
            replaced = self._written(op, file, 0, _END)
            number = self._uploads.part[op]
            before = [part for part in parts.get(upload, ()) if self._uploads.part[part] == number]
            parts.setdefault(upload, []).append(op)
        return replaced | {part for part in before if self._ended[part] <= self._start[op]}

    def _written(self, op: int, file: int, first: int, last: int) -> set[int]:
        """The changes of a range that had ended when `op` began."""
        known = self._objects[file]
        self._settle(known, int(self._start[op]))
        cut = known.overlapping(first, last)
        found = {writer for writers in known.writers[cut] for writer in writers}
        if len(found) <= _MANY:
            return found
        join = self._join(found)
        known.cover(min(first, known.starts[cut.start]), max(last, known.ends[cut.stop - 1]), (join,))
        return {join}

    def _copied(self, op: int, file: int) -> set[int]:
        """The copies of an object that had ended when a write of it began: they must not hold what is written."""
        known = self._objects[file]
        found = {copy for copy in known.copies if self._end_of(copy) <= self._start[op]}
        if len(found) <= _MANY:
            return found
        join = self._join(found)
        known.copies = [join, *(copy for copy in known.copies if copy not in found)]
        return {join}

    def _made(self, known: _Object) -> set[int]:
        """What stands for the writes that together made the object on a store."""
        if known.series:
            known.made = {self._join(known.series)}
            known.series = []
        return known.made

    def _join(self, ops: Collection[int]) -> int:
        join = self._found.ops + len(self._end_of_join)
        self._end_of_join[join] = max(map(self._end_of, ops))
        self._found.waits_for[join] = tuple(sorted(ops))
        return join

    def _change(self, op: int, file: int, first: int, last: int) -> None:
        heapq.heappush(self._objects[file].pending, (int(self._ended[op]), op, first, last))

    def _settle(self, known: _Object, now: int) -> None:
        """Apply the changes that had ended by `now`."""
        while known.pending and known.pending[0][0] <= now:
            _, op, first, last = heapq.heappop(known.pending)
            began = self._start[op]
            cut = known.overlapping(first, last)
            beside = {w for writers in known.writers[cut] for w in writers if self._end_of(w) > began}
            known.cover(first, last, (op, *sorted(beside)))
            if KINDS[self._kind[op]] in _WHOLE:
                known.readers = [reader for reader in known.readers if self._ended[reader] > began]
                known.copies = [copy for copy in known.copies if self._end_of(copy) > began]

    def _end_of(self, op: int) -> int:
        return self._end_of_join[op] if op >= self._found.ops else int(self._ended[op])


class Families:
    """Which objects lie below a name, for renamed and deleted directories."""

    def __init__(self, uris: tuple[str, ...]) -> None:
        self._uris = uris
        self._order: list[int] | None = None
        self._sorted: list[str] = []

    def below(self, file: int) -> Iterator[int]:
        """The numbers of the objects below the object `file`."""
        if self._order is None:
            self._order = sorted(range(len(self._uris)), key=self._uris.__getitem__)
            self._sorted = [self._uris[index] for index in self._order]
        root = self._uris[file].rstrip("/") + "/"
        at = bisect_left(self._sorted, root)
        while at < len(self._sorted) and self._sorted[at].startswith(root):
            yield self._order[at]
            at += 1


class Waits:
    """Lets ops wait for others while a plan is replayed, from threads and from an event loop."""

    def __init__(self, order: Dependencies) -> None:
        self._ops = order.ops
        self._left = {op: len(needed) for op, needed in order.waits_for.items()}
        self._followers: defaultdict[int, list[int]] = defaultdict(list)
        for op, needed in order.waits_for.items():
            for other in needed:
                self._followers[other].append(op)
        self._lock = threading.Lock()
        self._wake: dict[int, Callable[[], object]] = {}

    def held(self, op: int) -> bool:
        """Whether `op` has to wait."""
        return op in self._left

    def finish(self, op: int) -> list[int]:
        """Say that `op` has ended; return the ops that now wait for nothing."""
        with self._lock:
            freed: list[int] = []
            self._free(op, freed)
            woken = [wake for each in freed if (wake := self._wake.pop(each, None)) is not None]
        for wake in woken:
            wake()
        return freed

    def wait(self, op: int) -> int:
        """Block until `op` may go, or until `stop`; return the ns waited."""
        turn = threading.Event()
        if not self._enter(op, turn.set):
            return 0
        began = time.monotonic_ns()
        turn.wait()
        return time.monotonic_ns() - began

    async def await_turn(self, op: int) -> int:
        """Do as `wait` in a coroutine."""
        loop = asyncio.get_running_loop()
        turn = asyncio.Event()
        if not self._enter(op, lambda: loop.call_soon_threadsafe(turn.set)):
            return 0
        began = time.monotonic_ns()
        await turn.wait()
        return time.monotonic_ns() - began

    def stop(self) -> None:
        """Let every op go."""
        with self._lock:
            self._left.clear()
            woken: Iterable[Callable[[], object]] = list(self._wake.values())
            self._wake.clear()
        for wake in woken:
            wake()

    def _enter(self, op: int, wake: Callable[[], object]) -> bool:
        if op not in self._left:
            return False
        with self._lock:
            if op not in self._left:
                return False
            self._wake[op] = wake
        return True

    def _free(self, op: int, freed: list[int]) -> None:
        for follower in self._followers.pop(op, ()):
            left = self._left.get(follower)
            if left is None:
                continue
            if left > 1:
                self._left[follower] = left - 1
                continue
            del self._left[follower]
            if follower >= self._ops:
                self._free(follower, freed)
            else:
                freed.append(follower)
