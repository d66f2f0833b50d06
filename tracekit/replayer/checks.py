"""Checks before a replay, and the summary of a dry run. Nothing here reads or writes data."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tracekit.errors import BackendError, ErrorClass, UsageError
from tracekit.replayer.backends import Backends
from tracekit.replayer.mapping import parse_rules
from tracekit.replayer.options import ReplayOptions
from tracekit.replayer.plan import Plan
from tracekit.replayer.totals import PlanTotals
from tracekit.uri import FILE_SCHEMES, scheme_of, to_path

__all__ = ["PlanSummary", "check_targets", "check_writes", "summarize", "uses_loop"]

_STATS_AT_ONCE = 16
_PROBES = 20


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """What a replay would do. Sizes in bytes, times in ns; `missing` and `too_small` name targets.

    The peaks are what would be in flight if every op took as long as recorded; None if no latency is recorded.
    """

    ops: int
    puts: int
    bytes: int
    files: int
    span_ns: int
    peak_ops_in_flight: int | None
    peak_bytes_in_flight: int | None
    missing: tuple[str, ...]
    too_small: tuple[str, ...]
    skipped: dict[str, int]
    assumed_offsets: int
    assumed_lengths: int
    predicted_duration_ns: int | None = None
    """In closed pacing, from the first submit to the last end."""
    loader_model: str | None = None
    """The loader's rule that closed pacing follows; None for stream by stream."""

    def to_dict(self) -> dict[str, Any]:
        """The summary for JSON."""
        return asdict(self)


def summarize(totals: PlanTotals, backends: Backends) -> PlanSummary:
    """Summarize a plan. Asks the target for the size of each object that is read and not written."""
    plan, sizes = totals.plan, totals.sizes
    read = np.flatnonzero(totals.read & ~totals.put).tolist()
    found = _sizes(backends, [plan.uris[index] for index in read])
    return PlanSummary(
        ops=totals.ops,
        puts=totals.puts,
        bytes=totals.bytes,
        files=int((totals.read | totals.put).sum()),
        span_ns=totals.span_ns,
        # An op of known latency is in flight for at least 1 ns.
        peak_ops_in_flight=totals.peaks.ops if totals.peaks.ops or not totals.ops else None,
        peak_bytes_in_flight=totals.peaks.bytes if totals.peaks.ops or not totals.ops else None,
        missing=tuple(plan.uris[index] for index, size in zip(read, found, strict=True) if size is None),
        too_small=tuple(
            plan.uris[index]
            for index, size in zip(read, found, strict=True)
            if size is not None and size < sizes[index]
        ),
        skipped=plan.skipped,
        assumed_offsets=plan.assumed_offsets,
        assumed_lengths=plan.assumed_lengths,
    )


def check_targets(plan: Plan, backends: Backends, options: ReplayOptions) -> None:
    """Raise UsageError or BackendError if no object of a scheme that the plan reads can be reached."""
    if not plan.streamed:
        check_writes(plan, plan.files_of("put"), backends, options)
    put = set() if plan.streamed else set(plan.files_of("put"))
    read = (
        plan.uris
        if plan.streamed
        else [plan.uris[i] for i in plan.files_of("read", "get", existing=True) if i not in put]
    )
    for scheme in {scheme_of(uri) for uri in read}:
        _reach([uri for uri in read if scheme_of(uri) == scheme], backends)
    remote = [uri for uri in read if scheme_of(uri) not in FILE_SCHEMES]
    if remote and (options.cold or options.warm):
        raise UsageError(
            f"cold= and warm= are for local files; {remote[0]} has no page cache here", "leave them out"
        )


def check_writes(plan: Plan, put: Sequence[int], backends: Backends, options: ReplayOptions) -> None:
    """Raise UsageError if a put (to the URIs `put`) would leave the mapped targets or replace an object."""
    for index in put:
        if not options.map or _same_place(plan.uris[index], plan.sources[index]):
            raise UsageError(
                f"{plan.uris[index]} would be written where it was recorded",
                "give another target as map=FROM=TO",
            )
    rules = parse_rules(options.map)
    for index in put:
        rules.check_inside(plan.sources[index], plan.uris[index])
    if put and not options.overwrite_objects:
        targets = [plan.uris[index] for index in put]
        there = [u for u, size in zip(targets, _sizes(backends, targets), strict=True) if size is not None]
        if there:
            more = f" and {len(there) - 1} more" if len(there) > 1 else ""
            raise UsageError(
                f"{there[0]}{more} would be overwritten", "choose another target, or give overwrite=True"
            )


def _same_place(uri: str, other: str) -> bool:
    """Whether both URIs name one object; links of local files are resolved."""
    if uri == other or not {scheme_of(uri), scheme_of(other)} <= set(FILE_SCHEMES):
        return uri == other
    return os.path.realpath(to_path(uri)) == os.path.realpath(to_path(other))


def uses_loop(plan: Plan, backends: Backends, options: ReplayOptions) -> bool:
    """Whether the event-loop engine drives the plan: where every backend can, unless threads are asked for."""
    schemes = {scheme_of(uri): uri for uri in plan.uris}
    able = bool(schemes) and all(backends.of(uri).remote for uri in schemes.values())
    if options.engine == "loop" and schemes and not able:
        raise UsageError(
            f"engine=loop cannot drive {', '.join(sorted(schemes))}",
            "it is for object stores; leave it out",
        )
    return able and options.engine not in ("compiled", "interpreter")


def _reach(uris: Sequence[str], backends: Backends) -> None:
    """Raise BackendError if none of `uris` can be reached. A missing object is fine if another exists."""
    missing: BackendError | None = None
    for uri in uris[:: max(len(uris) // _PROBES, 1)]:
        try:
            backends.of(uri).preflight(uri)
            return
        except BackendError as error:
            if error.error_class != ErrorClass.NOT_FOUND:
                raise
            missing = missing or error
    if missing is not None:
        hint = (
            "say with map= where the data is, or make objects of the right sizes with `tracekit materialize`"
        )
        raise BackendError(missing.message, hint, missing.error_class) from missing


def _sizes(backends: Backends, uris: Sequence[str]) -> list[int | None]:
    def size(uri: str) -> int | None:
        try:
            return backends.of(uri).stat(uri).size
        except BackendError as error:
            if error.error_class == ErrorClass.NOT_FOUND:
                return None
            raise

    if all(scheme_of(uri) in FILE_SCHEMES for uri in uris):
        return [size(uri) for uri in uris]
    with ThreadPoolExecutor(_STATS_AT_ONCE) as pool:
        return list(pool.map(size, uris))
