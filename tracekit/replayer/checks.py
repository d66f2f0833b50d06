"""Checks before a replay, and the summary of a dry run. Nothing here reads or writes data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tracekit.errors import BackendError, ErrorClass, UsageError
from tracekit.replayer.backends import Backends
from tracekit.replayer.options import ReplayOptions
from tracekit.replayer.plan import Plan
from tracekit.replayer.totals import PlanTotals
from tracekit.replayer.touched import Touched, found_sizes, touched_by
from tracekit.uri import FILE_SCHEMES, scheme_of

__all__ = ["PlanSummary", "check_targets", "summarize", "uses_loop"]

_PROBES = 20


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """What a replay would do. Sizes in bytes, times in ns; `missing` and `too_small` name targets.

    `changes` counts the ops that change something, by kind; `creates`, `replaces`, `renames` (FROM -> TO) and
    `deletes` name objects at the target.

    The peaks are what would be in flight if every op took as long as recorded; None if no latency is recorded.
    """

    ops: int
    changes: dict[str, int]
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
    creates: tuple[str, ...] = ()
    replaces: tuple[str, ...] = ()
    renames: tuple[str, ...] = ()
    deletes: tuple[str, ...] = ()
    predicted_duration_ns: int | None = None
    """In closed pacing, from the first submit to the last end."""
    loader_model: str | None = None
    """The loader's rule that closed pacing follows; None for stream by stream."""

    def to_dict(self) -> dict[str, Any]:
        """The summary for JSON."""
        return asdict(self)


def summarize(totals: PlanTotals, backends: Backends, touched: Touched) -> PlanSummary:
    """Summarize a plan that changes `touched`. Asks the target for the size of each object that has to be there."""
    plan, sizes = totals.plan, totals.sizes
    read = np.flatnonzero(totals.read).tolist()
    found = found_sizes(backends, [plan.uris[index] for index in read])
    outcome = touched.outcome()
    return PlanSummary(
        ops=totals.ops,
        changes=totals.changes,
        bytes=totals.bytes,
        files=int(totals.used.sum()),
        span_ns=totals.span_ns,
        # An op of known latency is in flight for at least 1 ns.
        peak_ops_in_flight=totals.peaks.ops if totals.peaks.ops or not totals.ops else None,
        peak_bytes_in_flight=totals.peaks.bytes if totals.peaks.ops or not totals.ops else None,
        missing=_once(plan.uris[index] for index, size in zip(read, found, strict=True) if size is None),
        too_small=_once(
            plan.uris[index]
            for index, size in zip(read, found, strict=True)
            if size is not None and size < sizes[index]
        ),
        skipped=plan.skipped,
        assumed_offsets=plan.assumed_offsets,
        assumed_lengths=plan.assumed_lengths,
        creates=outcome["creates"],
        replaces=outcome["replaces"],
        renames=outcome["renames"],
        deletes=outcome["deletes"],
    )


def _once(uris: Iterable[str]) -> tuple[str, ...]:
    """Each of `uris` once: several objects of a recording may map to one."""
    return tuple(dict.fromkeys(uris))


def check_targets(plan: Plan, backends: Backends, options: ReplayOptions) -> Touched:
    """Return what the plan changes.

    Raises UsageError or BackendError if no object of a scheme that the plan reads can be reached, or if a
    change is impossible or not allowed.
    """
    touched, needed = touched_by(plan, backends, options) if not plan.streamed else (Touched(), [])
    read = plan.uris if plan.streamed else [plan.uris[index] for index in needed]
    for scheme in {scheme_of(uri) for uri in read}:
        _reach([uri for uri in read if scheme_of(uri) == scheme], backends)
    remote = [uri for uri in read if scheme_of(uri) not in FILE_SCHEMES]
    if remote and (options.cold or options.warm):
        raise UsageError(
            f"cold= and warm= are for local files; {remote[0]} has no page cache here", "leave them out"
        )
    return touched


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
