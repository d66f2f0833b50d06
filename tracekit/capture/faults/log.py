"""Follows the page faults of a command, and keeps those on mapped files in a log that becomes rows."""

from __future__ import annotations

import json
import mmap
import os
import resource
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tracekit.capture.faults.maps import Maps
from tracekit.capture.faults.perf import (
    EXITED,
    FORKED,
    LOST,
    MAPPED,
    Change,
    Events,
    Samples,
    mappings_of,
    no_samples,
)
from tracekit.processes import clock_offset_ns

__all__ = ["FOLDER", "FaultLog", "Follower", "of_calls"]

FOLDER = "touched"
"""The directory of a capture that a `Follower` writes to."""

_FAULT = np.dtype(
    [
        ("time", "<i8"),
        ("took", "<i8"),
        ("address", "<i8"),
        ("offset", "<i8"),
        ("length", "<i8"),
        ("pid", "<i4"),
        ("tid", "<i4"),
        ("file", "<i4"),
        ("major", "<i4"),
    ]
)
_RECORDS, _NAMES, _COUNTS, _CLOCK = "faults", "names", "counts", "clock"
_ASK = "ask"  # engine.c knows this name, and the answers
_YES, _NO = "yes", "no"
_NO_FILES = ("//anon", "/memfd:", "/SYSV", "/anon_hugepage", "/dev/zero")
_POLL_MS = 200
_JOINED_NS = 1_000_000
"""Faults of one thread on neighbouring pages, each at most this long after the end of the last, are one row."""
_AROUND = 16
"""Pages, aligned, of which the kernel maps all that are in the page cache at the first fault on one of them."""
_AT_ONCE = 262_144

Faults = npt.NDArray[np.void]
Durations = npt.NDArray[np.int64]


class Follower:
    """Reads the events of a command into the directory `folder` while it runs, in a thread of its own.

    Make it in the thread that starts the command. `admits` says which URIs are kept. With `on_demand`, the engine asks
    about each file that a process maps, and the process is followed from its first file that is kept; otherwise the
    command is followed from its start. Raises OSError if the kernel does not allow the events.
    """

    def __init__(self, folder: Path, admits: Callable[[str], bool], *, on_demand: bool = False) -> None:
        self._events = Events()
        folder.mkdir(exist_ok=True)
        self._asked = -1
        if on_demand:
            os.mkfifo(folder / _ASK)
            self._asked = os.open(folder / _ASK, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        else:
            self._events.follow(0)
        (folder / _CLOCK).write_text(str(clock_offset_ns()))
        self._folder, self._admits = folder, admits
        self._maps = Maps()
        self._numbers: dict[str, int] = {}
        self._files = 0
        self._early: tuple[Samples, list[Change]] = (no_samples(), [])
        self._programs: set[int] = set()
        self._followed: set[int] = set()
        self._question = b""
        self._lost = self._ambiguous = 0
        self._refused: list[str] = []
        self._limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="tracekit-faults", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take what is still in the rings, and stop."""
        self._ending.set()
        self._thread.join()
        self._events.close()
        if self._asked >= 0:
            os.close(self._asked)
        if resource.getrlimit(resource.RLIMIT_NOFILE) != self._limits:
            resource.setrlimit(resource.RLIMIT_NOFILE, self._limits)

    def _follow(self) -> None:
        poll = select.poll()
        for file in self._events.files:
            poll.register(file, select.POLLIN)
        if self._asked >= 0:
            poll.register(self._asked, select.POLLIN)
        with (self._folder / _RECORDS).open("wb") as records, (self._folder / _NAMES).open("w") as names:
            while not self._ending.is_set():
                ready = dict(poll.poll(_POLL_MS))
                if self._events.following:
                    self._step(records, names, time.monotonic_ns())
                if self._asked in ready:
                    for file in self._answer():
                        poll.register(file, 0)  # tells only that it has hung up
                for file in (file for file, state in ready.items() if state & ~select.POLLIN):
                    poll.unregister(file)
                    self._events.release(file)
            self._step(records, names, None)
        counts = {
            "lost": self._lost,
            "ambiguous": self._ambiguous,
            "programs": sorted(self._programs),
            "refused": self._refused,
        }
        (self._folder / _COUNTS).write_text(json.dumps(counts))

    def _answer(self) -> Iterator[int]:
        """Answer the processes that ask about a file, and yield what is followed from now on."""
        *asked, self._question = (self._question + os.read(self._asked, 1 << 16)).split(b"\0")
        for question in asked:
            pid, thread, name = question.split(b" ", 2)
            wanted = self._is_kept(os.fsdecode(name))
            if wanted and int(pid) not in self._followed:
                try:
                    yield from self._begin(int(pid))
                except OSError as error:
                    self._refused.append(error.strerror or str(error))
            with suppress(FileNotFoundError):  # the directory was deleted
                (self._folder / thread.decode()).symlink_to(_YES if wanted else _NO)

    def _begin(self, pid: int) -> list[int]:
        """Follow a process and its children to come."""
        if resource.getrlimit(resource.RLIMIT_NOFILE) == self._limits:  # a file for each thread and processor
            resource.setrlimit(resource.RLIMIT_NOFILE, (self._limits[1], self._limits[1]))
        now = time.monotonic_ns()
        followed = self._events.follow(pid)
        self._followed.add(pid)
        samples, changes = self._early
        self._early = samples, [*changes, *mappings_of(pid, now)]
        return followed

    def _step(self, records: IO[bytes], names: IO[str], until: int | None) -> None:
        """Take up what happened before `until`; what is later may still be overtaken by another processor's events."""
        taken = [self._early, *self._events.take()]
        samples = np.concatenate([part for part, _ in taken])
        samples = samples[np.argsort(samples["time"], kind="stable")]
        changes = sorted((one for _, part in taken for one in part), key=lambda one: one.time)
        ready = len(samples) if until is None else int(np.searchsorted(samples["time"], until))
        now = [one for one in changes if until is None or one.time < until]
        samples, under_way, took = self._ended(samples[:ready], samples[ready:])
        self._early = under_way, changes[len(now) :]
        start = 0
        for one, end in zip(
            now, np.searchsorted(samples["time"], [one.time for one in now]).tolist(), strict=True
        ):
            self._keep(samples[start:end], took[start:end], records)
            start = end
            self._apply(one, names)
        self._keep(samples[start:], took[start:], records)
        names.flush()
        records.flush()

    def _ended(self, samples: Samples, later: Samples) -> tuple[Samples, Samples, Durations]:
        """Return the faults that ended, at the time when they began, those under way with what is `later`, and how long
        each that ended took."""
        by_thread = np.argsort(samples["tid"], kind="stable")
        ordered = samples[by_thread]
        begun = np.isin(ordered["id"], list(self._events.begun))
        pairs = np.flatnonzero(begun[:-1] & ~begun[1:] & (ordered["tid"][:-1] == ordered["tid"][1:]))
        last = np.concatenate((ordered["tid"][:-1] != ordered["tid"][1:], [True]))[: len(ordered)]
        ended = ordered[pairs + 1].copy()
        took = (ended["time"] - ordered["time"][pairs]).astype(np.int64)
        ended["time"] = ordered["time"][pairs]
        in_time = np.argsort(ended["time"], kind="stable")
        return ended[in_time], np.concatenate((ordered[begun & last], later)), took[in_time]

    def _apply(self, change: Change, names: IO[str]) -> None:
        if change.kind == LOST:
            self._lost += change.count
        if change.kind == FORKED:
            self._followed.add(change.pid)
        if change.kind == EXITED:
            self._followed.discard(change.pid)
        file = self._number(change.name, names) if change.kind == MAPPED else -1
        if change.executable and file >= 0:
            self._programs.add(file)
        self._maps.apply(change, file)

    def _number(self, name: str, names: IO[str]) -> int:
        """The number of a mapped file; -1 for what is no file, or is left out."""
        if name not in self._numbers:
            kept = self._is_kept(name)
            self._numbers[name] = self._files if kept else -1
            if kept:
                self._files += 1
                names.write(json.dumps(_uri_of(name)) + "\n")
        return self._numbers[name]

    def _is_kept(self, name: str) -> bool:
        return name.startswith("/") and not name.startswith(_NO_FILES) and self._admits(_uri_of(name))

    def _keep(self, samples: Samples, took: Durations, records: IO[bytes]) -> None:
        """Write the faults on mapped files."""
        if not len(samples):
            return
        found = np.zeros(len(samples), _FAULT)
        shared = np.zeros(len(samples), np.int64)
        for pid in np.unique(samples["pid"]).tolist():
            mine = samples["pid"] == pid
            found["file"][mine], found["offset"][mine], shared[mine] = self._maps.find(
                pid, samples["address"][mine].astype(np.int64)
            )
        for name in ("time", "pid", "tid", "address"):
            found[name] = samples[name]
        found["took"] = took
        found["major"] = np.isin(samples["id"], list(self._events.major))
        on_files = found["file"] >= 0
        self._ambiguous += int((on_files & (shared > 0)).sum())
        records.write(_joined(found[on_files & (shared == 0)]).tobytes())


def _joined(faults: Faults) -> Faults:
    """Join the faults of a thread that follow each other: on the same page, on the next one, or on the next that a
    minor fault left to be mapped. A row ends with the page of its last fault."""
    faults = faults[np.argsort(faults["tid"], kind="stable")]
    faults["length"] = mmap.PAGESIZE
    if len(faults) < 2:
        return faults
    before, after = faults[:-1], faults[1:]
    page, following = before["address"] // mmap.PAGESIZE, after["address"] // mmap.PAGESIZE
    around = (before["major"] == 0) & (following == (page // _AROUND + 1) * _AROUND)
    follows = (following == page) | (following == page + 1) | around
    # In the file too: a neighbour in memory may be another part of it.
    follows &= (after["offset"] - before["offset"]) == (following - page) * mmap.PAGESIZE
    follows &= after["time"] - before["time"] - before["took"] <= _JOINED_NS
    for name in ("tid", "pid", "file", "major"):
        follows &= after[name] == before[name]
    firsts = np.flatnonzero(np.concatenate(([True], ~follows)))
    lasts = np.concatenate((firsts[1:], [len(faults)])) - 1
    joined = faults[firsts]
    joined["took"] = faults["time"][lasts] + faults["took"][lasts] - joined["time"]
    joined["length"] = faults["offset"][lasts] + mmap.PAGESIZE - joined["offset"]
    return joined[np.argsort(joined["time"], kind="stable")]


class FaultLog:
    """What a `Follower` kept in the directory `folder`, which may be absent."""

    def __init__(self, folder: Path) -> None:
        self._records = folder / _RECORDS
        self._uris = [json.loads(line) for line in _text(folder / _NAMES).splitlines()]
        self._clock_offset = int(_text(folder / _CLOCK) or 0)
        counts = json.loads(_text(folder / _COUNTS) or "{}")
        self._programs = counts.get("programs", [])
        self.lost = int(counts.get("lost", 0))
        """How many faults the kernel could not tell, because the events came too fast."""
        self.refused: list[str] = counts.get("refused", [])
        """Why processes that mapped a file could not be followed, one reason each."""
        self.ambiguous = int(counts.get("ambiguous", 0))
        """How many faults were on writable shared pages, where reads and writes look alike; they are no rows."""

    @property
    def files(self) -> int:
        """How many files were mapped that are no programs or shared objects."""
        return len(self._uris) - len(self._programs)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows, with the columns pid, tid and fault; times are ns since the Unix epoch."""
        sizes = np.array([_size(uri) for uri in self._uris], np.int64)
        for part in self._parts():
            moved = np.minimum(part["length"], np.maximum(sizes[part["file"]] - part["offset"], 0))
            columns = {
                "t_submit": pa.array(part["time"] + self._clock_offset),
                "uri": pa.DictionaryArray.from_arrays(
                    pa.array(part["file"]), pa.array(self._uris, pa.string())
                ),
                "op": pa.DictionaryArray.from_arrays(
                    pa.array(np.zeros(len(part), np.int32)), pa.array(["read"])
                ),
                "offset": pa.array(part["offset"]),
                "len": pa.array(moved),
                "bytes": pa.array(moved),
                "latency": pa.array(part["took"]),
                "pid": pa.array(part["pid"].astype(np.int64)),
                "tid": pa.array(part["tid"].astype(np.int64)),
                "fault": pa.DictionaryArray.from_arrays(
                    pa.array(part["major"]), pa.array(["minor", "major"])
                ),
            }
            yield pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))

    def _parts(self) -> Iterator[Faults]:
        if not self._records.is_file():
            return
        with self._records.open("rb") as file:
            while data := file.read(_AT_ONCE * _FAULT.itemsize):
                part = np.frombuffer(data, _FAULT, len(data) // _FAULT.itemsize)
                yield part[(part["file"] < len(self._uris)) & ~np.isin(part["file"], self._programs)]


def of_calls(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Add the column `fault` to ops that are no faults: it is null."""
    return batch.append_column("fault", pa.nulls(batch.num_rows, pa.dictionary(pa.int32(), pa.string())))


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def _size(uri: str) -> int:
    """The size of a file, as far as it still exists: the last page of a file is not full."""
    try:
        return Path(uri.removeprefix("file://")).stat().st_size
    except OSError:
        return int(np.iinfo(np.int64).max)


def _uri_of(name: str) -> str:
    """The URI of a file that the kernel calls `name`. It marks those that were deleted."""
    path = name if os.path.lexists(name) else name.removesuffix(" (deleted)")
    return "file://" + path.encode("utf-8", "replace").decode()
