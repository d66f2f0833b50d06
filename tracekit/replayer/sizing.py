"""Choose how many workers drive a plan."""

from __future__ import annotations

import numpy as np

from tracekit.replayer.columns import SLOTS
from tracekit.replayer.loader_model import LoaderModel
from tracekit.replayer.options import ReplayOptions
from tracekit.replayer.plan import Plan

__all__ = ["most_asap_workers", "workers_for"]

_ASAP_WORKERS = 16
_FIRST_WORKERS = 128
_HIGH_RATE = 8_000


def workers_for(
    plan: Plan, options: ReplayOptions, model: LoaderModel | None, *, looping: bool
) -> tuple[int, int]:
    """Workers at the start, and at most."""
    if looping:
        requests = options.threads or options.max_workers
        return requests, requests
    threads = options.threads or _threads(plan, options, model)
    most = min(options.max_workers, SLOTS, plan.room)
    if options.threads or options.pace == "asap":
        most = threads
    elif options.max_ops_in_flight is not None:  # more would only wait at the gate
        most = min(most, options.max_ops_in_flight + 2)
    return threads, max(threads, most)


def most_asap_workers(options: ReplayOptions) -> int:
    """The most workers that start in `asap` pacing, with threads."""
    return options.threads or min(options.max_ops_in_flight or _ASAP_WORKERS, options.max_workers)


def _threads(plan: Plan, options: ReplayOptions, model: LoaderModel | None) -> int:
    """Workers at the start: enough for twice the recording's deepest queue.

    At high rates, where waking up is most of the work, one more than the deepest queue:
    each further worker makes all of them later.
    """
    if options.pace == "asap":
        wanted = most_asap_workers(options)
    elif model is not None:
        wanted = model.workers * len(np.unique(plan.column("rank"))) + 1
    else:
        deepest = plan.peak_in_flight()[0]
        wanted = deepest + 1 if _rate(plan) > _HIGH_RATE else 2 * deepest + 2
        if options.max_ops_in_flight is not None:
            wanted = min(wanted, options.max_ops_in_flight + 2)
    most = min(_FIRST_WORKERS, options.max_workers)
    return min(max(2, min(wanted, most, max(plan.ops, 1))), options.max_workers)


def _rate(plan: Plan) -> float:
    """Ops per second of the plan; 0 for a short plan, which is a burst and not a rate."""
    return plan.ops * 1e9 / max(plan.span_ns, 1) if plan.ops >= _HIGH_RATE else 0
