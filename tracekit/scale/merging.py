"""`tracekit.merge`: joins the traces of many hosts on one time axis, by their wall clocks and given offsets."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tracekit.errors import TraceFormatError, UsageError
from tracekit.keywords import Duration, Flag, RankRule
from tracekit.replayer.missing import NOT_ISSUED
from tracekit.scale_options import MERGE
from tracekit.store.clocks import Clock, clock_of, largest_error
from tracekit.store.index import Entry, read_index
from tracekit.store.join import Piece, join, origin_of
from tracekit.store.locate import each_trace, local_path
from tracekit.store.manifest import read_manifest
from tracekit.store.reader import SegmentInfo, TraceLike, TraceReader, open_reader
from tracekit.store.streams import ranks_of
from tracekit.units import parse_duration
from tracekit.validation import parse_all

__all__ = ["Merged", "MergedHost", "merge"]

_OFFSET = re.compile(r"(?P<name>.+)=(?P<sign>[+-]?)(?P<time>[^=]+)")


@dataclass(frozen=True, slots=True)
class MergedHost:
    """One host of one merged trace: what was added to its clock, and by how much it may still be wrong (None: unknown).

    `ranks` has the new number of each rank that was changed.
    """

    trace: str
    host: str
    ops: int
    offset_ns: int
    error_ns: int | None
    ranks: dict[int, int]


@dataclass(frozen=True, slots=True)
class Merged:
    """A merged trace: where it is, what it holds, and how well its hosts agree on the time.

    `clock_error_ns` is the largest error of a host, None if that of one is unknown. `unfinished` counts segments that
    were being recorded, or that a crash left.
    """

    out: Path
    traces: int
    ops: int
    epoch_unix_ns: int
    clock_error_ns: int | None
    unfinished: int
    hosts: tuple[MergedHost, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "out": str(self.out),
            "hosts": [
                {**asdict(host), "ranks": {str(old): new for old, new in host.ranks.items()}}
                for host in self.hosts
            ],
        }


def merge(
    traces: Iterable[TraceLike],
    out: str | os.PathLike[str],
    *,
    offset: str | Iterable[str] = (),
    clock_error: Duration | None = None,
    ranks: RankRule | str = "auto",
    overwrite: Flag = False,
) -> Merged:
    """Join `traces`, such as those of the hosts of one job, into the trace `out`, with all times from one epoch.

    Times are placed by the wall clock of each host at the epoch of its trace, plus the `offset` of the host or the
    trace (`"h1=-250us"`). Traces of one boot of a machine keep to its monotonic clock: one of them is placed by the wall clock, the
    others by what lies between, exactly. `clock_error` bounds what is left; the merged trace states it. Where two traces have the same rank,
    the later one's gets a free number, unless `ranks` says otherwise. No op, column, label or counter is lost.

    Raises UsageError for an invalid option, a trace given twice or an existing `out`; TraceFormatError for a trace
    that cannot be read, or that states no epoch.
    """
    options = parse_all(
        MERGE, {"offset": offset, "clock_error": clock_error, "ranks": ranks, "overwrite": overwrite}
    )
    named = [(_name(trace), open_reader(trace)) for trace in each_trace(traces)]
    target = local_path(out)
    _check(named, target)
    offsets = _Offsets(options["offset"], options["clock_error"], _one_boot(named))
    renumbered = _ranks([reader for _, reader in named], options["ranks"])
    placed = [
        (name, reader, segment, offsets.clock(name, segment), changed)
        for (name, reader), changed in zip(named, renumbered, strict=True)
        for segment in reader.segments
    ]
    offsets.refuse_unused()
    begins = [_begin(reader) + offsets.added(name, segment) for name, reader, segment, _, _ in placed]
    epoch = min(begins, default=min(_begin(reader) for _, reader in named))
    pieces = (
        Piece(
            segment,
            _begin(reader) + reader.shift_of(segment) + offsets.added(name, segment) - epoch,
            clock,
            changed,
        )
        for name, reader, segment, clock, changed in placed
    )
    ops = join(
        pieces,
        target,
        epoch_unix_ns=epoch,
        overwrite=options["overwrite"],
        lost=[entry for _, reader in named for entry in _lost(reader)],
        notes=_notes([reader.not_issued for _, reader in named if reader.not_issued]),
    )
    hosts = tuple(_hosts(placed))
    return Merged(
        target,
        len(named),
        ops,
        epoch,
        largest_error(host.error_ns for host in hosts),
        sum(len(reader.unfinished) for _, reader in named),
        hosts,
    )


_Placed = tuple[str, TraceReader, SegmentInfo, Clock, dict[int, int]]


def _name(trace: TraceLike) -> str:
    if isinstance(trace, str | os.PathLike):
        return os.fspath(trace)
    if isinstance(trace, TraceReader):
        return str(trace.path)
    if hasattr(trace, "reader"):
        return str(trace.reader.path)
    return " ".join(os.fspath(name) for name in trace)


def _check(named: Sequence[tuple[str, TraceReader]], target: Path) -> None:
    """Refuse no trace at all, the same ops twice, and a target that is one of the traces."""
    if not named:
        raise UsageError("there is no trace to merge", "give traces=, one or more")
    seen: dict[str, str] = {}
    for name, reader in named:
        if reader.epoch_unix_ns is None:
            raise TraceFormatError(
                f"{name} states no epoch, so its times have no place on a common axis",
                "import it with tracekit import",
            )
        if os.path.realpath(target) == os.path.realpath(reader.path):
            raise UsageError(f"{target} is one of the traces", "choose another out=")
        for segment in reader.segments:
            key = origin_of(segment) or os.path.realpath(segment.path)
            if key in seen:
                raise UsageError(
                    f"{seen[key]} and {name} hold the same ops ({segment.path.name})", "give each trace once"
                )
            seen[key] = name


def _lost(reader: TraceReader) -> Iterator[Entry]:
    """Yield the segments whose ops the trace had once, under names that are theirs alone."""
    index = read_index(reader.path) if reader.path.is_dir() else None
    for entry in index.entries.values() if index is not None else ():
        if entry.lost:
            yield replace(entry, name=f"{reader.trace_id}-{entry.name}")


def _notes(not_issued: Sequence[dict[str, Any]]) -> dict[str, str]:
    """What is to be known of partial replays: the ops that are missing, by their numbers where these are of one plan."""
    if not not_issued:
        return {}
    known = not_issued[0]
    if len(not_issued) > 1:
        ranges = sum(len(each["plan_ops"]) + each["ranges_left_out"] for each in not_issued)
        known = {"ops": sum(each["ops"] for each in not_issued), "plan_ops": [], "ranges_left_out": ranges}
    return {NOT_ISSUED: json.dumps(known)}


def _begin(reader: TraceReader) -> int:
    return reader.epoch_unix_ns or 0


@dataclass(frozen=True, slots=True)
class _Boot:
    """By how much a trace lies elsewhere than its own wall clock says, as another trace of the boot has the better one."""

    boot_id: str
    shift_ns: int
    error_ns: int | None

    def wrote(self, segment: SegmentInfo) -> bool:
        """Whether a segment was written in that boot: a trace on a shared file system may have others."""
        return segment.metadata.get("boot_id") == self.boot_id


def _one_boot(named: Sequence[tuple[str, TraceReader]]) -> dict[str, _Boot]:
    """Find the traces of one boot of a machine, and place all by the one whose wall clock was best; by name of the trace."""
    found: dict[str, list[tuple[str, TraceReader, int]]] = {}
    for name, reader in named:
        manifest = read_manifest(reader.path) if reader.path.is_dir() else None
        if manifest is not None and manifest.boot_id and manifest.machine_epoch_ns is not None:
            found.setdefault(manifest.boot_id, []).append((name, reader, manifest.machine_epoch_ns))
    boots = {}
    for boot, traces in found.items():
        errors = [
            largest_error(
                clock_of(segment).error_ns
                for segment in reader.segments
                if segment.metadata.get("boot_id") == boot
            )
            for _, reader, _ in traces
        ]
        best = min(range(len(traces)), key=lambda i: (errors[i] is None, errors[i] or 0))
        _, reference, zero = traces[best]
        for name, reader, epoch in traces:
            if reader is not reference:
                shift = _begin(reference) + epoch - zero - _begin(reader)
                boots[name] = _Boot(boot, shift, errors[best])
    return boots


class _Offsets:
    """The offsets of hosts and traces: those that were given, by name, and those of traces of one boot."""

    def __init__(self, rules: Sequence[str], error_ns: int | None, boots: Mapping[str, _Boot]) -> None:
        self._given: dict[str, int] = {}
        self._error_ns = error_ns
        self._boots = boots
        self._used: set[str] = set()
        for rule in rules:
            found = _OFFSET.fullmatch(rule)
            if found is None:
                raise UsageError(
                    f"offset={rule!r} is not NAME=TIME", "write the name of a host or trace, = and a time"
                )
            ns = int(parse_duration(found["time"]))
            if found["name"] in self._given:
                raise UsageError(f"offset= is given twice for {found['name']}", "keep one of them")
            self._given[found["name"]] = -ns if found["sign"] == "-" else ns

    def added(self, trace: str, segment: SegmentInfo) -> int:
        """Return the ns to add to the times of a segment: those of its trace and of its host."""
        names = {trace, Path(trace).name, segment.metadata.get("host", "")}
        self._used |= names
        boot = self._boot(trace, segment)
        return sum(ns for name, ns in self._given.items() if name in names) + (boot.shift_ns if boot else 0)

    def clock(self, trace: str, segment: SegmentInfo) -> Clock:
        """Return what the merged trace states of the clock of a segment."""
        stated, added, boot = clock_of(segment), self.added(trace, segment), self._boot(trace, segment)
        given = added - (boot.shift_ns if boot else 0)
        if boot is not None:
            stated = Clock(stated.offset_ns, boot.error_ns, "boot")
        error = self._error_ns if self._error_ns is not None or given else stated.error_ns
        return Clock(stated.offset_ns + added, error, "given" if given else stated.how)

    def _boot(self, trace: str, segment: SegmentInfo) -> _Boot | None:
        """What places a segment by another trace of its boot, unless an offset was given for its trace."""
        boot = self._boots.get(trace)
        own = {trace, Path(trace).name} & self._given.keys()
        return boot if boot is not None and not own and boot.wrote(segment) else None

    def refuse_unused(self) -> None:
        """Raise UsageError for a name that is neither a host nor a trace."""
        for name in self._given:
            if name not in self._used:
                known = ", ".join(sorted(used for used in self._used if used))
                raise UsageError(
                    f"offset= names {name}, which is no host or trace here", f"there are {known}"
                )


def _ranks(readers: Sequence[TraceReader], rule: str) -> list[dict[int, int]]:
    """Return, for each trace, the new number of each rank that changes."""
    if rule == "keep":
        return [{} for _ in readers]
    held = [ranks_of(reader) for reader in readers]
    taken = set() if rule == "assign" else set().union(*held)
    free = (number for number in range(1 << 31) if number not in taken)
    seen: set[int] = set()
    changes = []
    for mine in held:
        clash = mine if rule == "assign" else mine & seen
        renamed = {old: next(free) for old in sorted(clash)}
        changes.append({old: new for old, new in renamed.items() if old != new})
        seen |= mine
    return changes


def _hosts(placed: Sequence[_Placed]) -> Iterator[MergedHost]:
    """Yield one row for each host of each trace."""
    found: dict[tuple[str, str], list[tuple[SegmentInfo, Clock, Mapping[int, int]]]] = {}
    for name, _, segment, clock, changed in placed:
        found.setdefault((name, segment.metadata.get("host", "")), []).append((segment, clock, changed))
    for (name, host), parts in found.items():
        yield MergedHost(
            name,
            host,
            sum(segment.rows for segment, _, _ in parts),
            parts[0][1].offset_ns,
            largest_error(clock.error_ns for _, clock, _ in parts),
            dict(parts[0][2]),
        )
