"""Choose how many processes and workers drive a plan."""

from __future__ import annotations

import os

import numpy as np

from tracekit.replayer.columns import SLOTS
from tracekit.replayer.engines.fast import FAST_MODES
from tracekit.replayer.loader_model import LoaderModel
from tracekit.replayer.options import ReplayOptions
from tracekit.replayer.plan import Plan
from tracekit.uri import scheme_of

__all__ = ["most_asap_workers", "processes_for", "workers_for"]

_ASAP_WORKERS = 16
_FIRST_WORKERS = 128
_RATE_OF_ONE_PROCESS = 8_000
_RATE_OF_FAST_LOOP = 100_000
"""Ops a second up to which one interpreter keeps time better than two: their threads are in each other's way."""
_RUN_OF_ONE_PROCESS = 200_000


def processes_for(plan: Plan, options: ReplayOptions) -> int:
    """Processes to use: more than one only for local files at rates above one interpreter's."""
    if options.processes is not None:
        return options.processes
    if (
        options.capped
        or options.realtime
        or options.pace == "closed"
        or any(scheme_of(uri) != "file" for uri in plan.uris)
    ):
        return 1
    cores = min(len(os.sched_getaffinity(0)), 8)
    if options.pace == "asap":
        return cores if plan.ops >= _RUN_OF_ONE_PROCESS else 1
    return cores if _rate(plan) > _most_of_one_process(options) else 1


def workers_for(
    plan: Plan, options: ReplayOptions, processes: int, model: LoaderModel | None, *, looping: bool
) -> tuple[int, int]:
    """Workers at the start, and at most, of one process."""
    if looping:
        requests = options.threads or options.max_workers
        return requests, requests
    threads = options.threads or _threads(plan, options, processes, model)
    most = min(options.max_workers, SLOTS // processes, plan.room)
    if options.threads or options.pace == "asap":
        most = threads
    elif options.max_ops_in_flight is not None:  # more would only wait at the gate
        most = min(most, options.max_ops_in_flight + 2)
    return threads, max(threads, most)


def most_asap_workers(options: ReplayOptions) -> int:
    """The most workers that one process starts in `asap` pacing, with threads."""
    return options.threads or min(options.max_ops_in_flight or _ASAP_WORKERS, options.max_workers)


def _threads(plan: Plan, options: ReplayOptions, processes: int, model: LoaderModel | None) -> int:
    """Workers of one process at the start: enough for twice the recording's deepest queue.

    At high rates, where waking up is most of the work, one more than the deepest queue:
    each further worker makes all of them later.
    """
    if options.pace == "asap":
        wanted = most_asap_workers(options)
    elif model is not None:
        wanted = model.workers * len(np.unique(plan.column("rank"))) + 1
    else:
        deepest = plan.peak_in_flight()[0]
        wanted = deepest + 1 if _rate(plan) > _RATE_OF_ONE_PROCESS else 2 * deepest + 2
        if options.max_ops_in_flight is not None:
            wanted = min(wanted, options.max_ops_in_flight + 2)
    most = min(_FIRST_WORKERS, options.max_workers)
    return min(max(2, min(-(-wanted // processes), most, max(plan.ops, 1))), options.max_workers)


def _rate(plan: Plan) -> float:
    """Ops per second of the plan; 0 for a short plan, which is a burst and not a rate."""
    return plan.ops * 1e9 / max(plan.span_ns, 1) if plan.ops >= _RATE_OF_ONE_PROCESS else 0


def _most_of_one_process(options: ReplayOptions) -> int:
    fast = options.page_cache_mode in FAST_MODES and not options.allow_writes
    return _RATE_OF_FAST_LOOP if fast else _RATE_OF_ONE_PROCESS
