"""How the recorded loader assigned work: read from the trace, or inferred from its ops.

A loader's rule decides which worker reads which sample, and when. Closed pacing follows that
rule, because on another target other workers are free at other times: the worker that read a
sample in the recording need not be the one that reads it there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from tracekit.consumer import histogram_bucket_end, think_histogram
from tracekit.replayer.plan import NONE, Plan

__all__ = ["LoaderModel", "infer_model", "model_for", "recorded_model"]

_CONFIDENT = 0.8


@dataclass(frozen=True, slots=True)
class LoaderModel:
    """The rule of a loader. Times are ns, sizes bytes.

    `assignment` is `pool` (any free worker takes the next sample) or `stream` (a batch belongs
    to one worker). `ahead` batches are read before the consumer asks for them; they are released
    when it asks for a batch, or, with `release_on_handover`, already when it gets one. In a pool,
    `any_order` makes batches of whichever samples finish first, and `by_request` lets free
    workers take single requests of a sample. `cap_bytes` limits what is submitted and not handed
    over. Between two epochs the consumer takes `between_ns`, in which workers end and others start. An
    epoch's first op goes `start_ns` after the consumer asks for its first batch. From one task to the next, a
    worker takes `pickup_ns` besides its requests, None if only the recorded times tell. `think_ns` are the consumer's think times in order, drawn from its distribution.
    `source` is `recorded` if the loader stated its rule, else `inferred`, with a `confidence`
    from 0 to 1.
    """

    assignment: str
    workers: int
    ahead: int
    think_ns: tuple[int, ...] = (0,)
    any_order: bool = False
    by_request: bool = False
    release_on_handover: bool = False
    cap_bytes: int | None = None
    steps_per_epoch: int | None = None
    between_ns: int = 0
    start_ns: int = 0
    pickup_ns: int | None = None
    source: str = "recorded"
    confidence: float = 1.0

    def describe(self) -> str:
        """One line for a report."""
        rule = "a pool" if self.assignment == "pool" else "one worker a batch"
        basis = self.source if self.source == "recorded" else f"inferred, confidence {self.confidence:.0%}"
        return f"{rule}, {self.workers} workers, {self.ahead} batches ahead ({basis})"


def model_for(
    plan: Plan,
    wanted: str,
    counters: Mapping[str, int],
    options: Mapping[str, object],
    *,
    filtered: bool = False,
    ranks: int | None = None,
) -> LoaderModel | None:
    """The rule for `plan` under the option `workers_model`; None means stream by stream, as recorded.

    `counters` and `options` are those of the recording. Of a `filtered` plan, only the workers
    that are left take part. The counters are those of `ranks` ranks (None: of those of the plan).
    """
    if wanted == "recorded" or not plan.ops:
        return None
    rank, worker = plan.column("rank").astype(np.int64), plan.column("worker").astype(np.int64)
    model = recorded_model(counters, options, ranks=ranks or len(np.unique(rank))) or infer_model(plan)
    left = len(np.unique(worker[rank == rank[0]]))
    if model is None:
        if wanted == "auto":
            return None
        return LoaderModel(wanted, left, plan.ops, source="forced", confidence=0.0)
    model = replace(
        model, start_ns=_start_ns(plan, model, counters), pickup_ns=_pickup_ns(plan, model, counters)
    )
    if wanted != "auto" and wanted != model.assignment:
        model = replace(model, assignment=wanted, release_on_handover=wanted == "stream", source="forced")
    return replace(model, workers=min(model.workers, left)) if filtered else model


def _start_ns(plan: Plan, model: LoaderModel, counters: Mapping[str, int]) -> int:
    """How long after the consumer's first question an epoch's first op goes: its wait less the batch's reading."""
    epochs = counters.get("consumer_epochs", 0)
    step = plan.column("step")
    if model.assignment != "stream" or not epochs or (step == NONE).any():
        return 0
    rank = plan.column("rank").astype(np.int64)
    submit = plan.column("recorded_ns")
    end = submit + np.clip(plan.column("recorded_latency"), 0, None)
    reading = []
    for number in np.unique(rank):
        mine = rank == number
        place = np.unique(step[mine], return_inverse=True)[1]
        every = model.steps_per_epoch or int(place.max()) + 1
        for first in range(0, int(place.max()) + 1, every):
            rows = np.flatnonzero(mine)[place == first]
            reading.append(int(end[rows].max() - submit[rows].min()))
    wait = counters.get("consumer_first_wait_ns", 0) / epochs
    return max(round(wait - sum(reading) / len(reading)), 0)


def _pickup_ns(plan: Plan, model: LoaderModel, counters: Mapping[str, int]) -> int | None:
    """What a worker took for a batch besides the span of its ops, and to begin the next one; None if not counted."""
    fetches, pickups = counters.get("loader_fetches", 0), counters.get("loader_pickups", 0)
    if model.assignment != "stream" or not fetches or not pickups:
        return None
    keys = np.stack([plan.column(name).astype(np.int64) for name in ("rank", "worker", "step")])
    batches, which = np.unique(keys, axis=1, return_inverse=True)
    submit = plan.column("recorded_ns")
    begin, end = np.full(batches.shape[1], np.iinfo(np.int64).max), np.zeros(batches.shape[1], np.int64)
    np.minimum.at(begin, which.reshape(-1), submit)
    np.maximum.at(end, which.reshape(-1), submit + np.clip(plan.column("recorded_latency"), 0, None))
    besides = counters.get("loader_fetch_ns", 0) / fetches - float((end - begin).mean())
    return max(round(besides), 0) + round(counters.get("loader_pickup_ns", 0) / pickups)


def recorded_model(
    counters: Mapping[str, int], options: Mapping[str, object], *, ranks: int, seed: int = 0
) -> LoaderModel | None:
    """The rule that the loader recorded in its trace; None if it recorded none.

    `counters` and `options` are the trace's. Counters are sums over `ranks` processes, so each
    property is counted once a batch and divided by the number of batches.
    """
    batches = counters.get("consumer_batches", 0)
    workers = options.get("num_workers")  # of traces that an earlier version recorded
    if not batches or not (counters.get("loader_workers") or isinstance(workers, int)):
        return None

    def mean(name: str) -> int:
        return round(counters.get(name, 0) / batches)

    epochs = max(counters.get("consumer_epochs", 0) / max(ranks, 1), 1)
    cap = options.get("max_bytes_in_flight")
    return LoaderModel(
        assignment="stream" if mean("loader_stream_batches") else "pool",
        workers=mean("loader_workers") or (workers if isinstance(workers, int) else 1),
        ahead=mean("consumer_ahead_batches"),
        think_ns=think_times(counters, seed),
        any_order=options.get("loading_mode") == "async_pool",
        by_request=options.get("reader_mode") == "range",
        release_on_handover=bool(mean("loader_stream_batches")),
        cap_bytes=cap if isinstance(cap, int) else None,
        between_ns=counters.get("consumer_between_epochs_ns", 0)
        // max(counters.get("consumer_between_epochs", 0), 1),
        steps_per_epoch=-(-round(batches / max(ranks, 1)) // round(epochs)) if epochs > 1 else None,
    )


def think_times(counters: Mapping[str, int], seed: int) -> tuple[int, ...]:
    """The consumer's think times in ns, in a seeded random order.

    The recording counts them in a histogram of two buckets an octave. Values are spread evenly
    in a bucket, then scaled so that their mean is the exact recorded one.
    """
    batches = counters.get("consumer_batches", 0)
    total = counters.get("consumer_think_ns", 0)
    buckets = think_histogram(counters)
    if not batches:
        return (0,)
    if not buckets:
        return (round(total / batches),)
    values = np.concatenate(
        [low + (histogram_bucket_end(low) - low) * (np.arange(count) + 0.5) / count for low, count in buckets]
    )
    values *= total / max(values.sum(), 1)
    np.random.default_rng(seed).shuffle(values)
    return tuple(np.rint(values).astype(np.int64).tolist())


def infer_model(plan: Plan, *, seed: int = 0) -> LoaderModel | None:
    """The rule that fits the recorded ops best; None if they have no steps or samples, or none fits.

    A pool takes samples in the order of their steps. With streams, the worker of a step follows
    from the step's number.
    """
    step, sample = plan.column("step"), plan.column("sample_id")
    known = (step != NONE) & (sample != NONE)
    if not plan.ops or known.mean() < _CONFIDENT:
        return None
    worker = plan.column("worker").astype(np.int64)
    rank = plan.column("rank").astype(np.int64)
    submit = plan.column("recorded_ns")
    end = submit + np.clip(plan.column("recorded_latency"), 0, None)
    rows = np.flatnonzero(known & (rank == rank[0]))
    workers = len(np.unique(worker[rows]))
    stream = _stream_share(step[rows], worker[rows], workers)
    pool = _pool_share(step[rows], sample[rows], submit[rows])
    confidence = max(stream, pool)
    if confidence < _CONFIDENT:
        return None
    # A pool whose workers happen to take turns is rarer than a loader that makes them.
    assignment = "stream" if stream >= pool else "pool"
    ahead, think = _consumer_of(step[rows], submit[rows], end[rows])
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(think))
    return LoaderModel(
        assignment=assignment,
        workers=workers,
        ahead=ahead,
        think_ns=tuple(think[order].tolist()),
        release_on_handover=assignment == "stream",
        source="inferred",
        confidence=float(confidence),
    )


def _stream_share(step: np.ndarray, worker: np.ndarray, workers: int) -> float:
    """The share of steps that one worker served and whose worker repeats every `workers` steps."""
    steps, first, place = np.unique(step, return_index=True, return_inverse=True)
    of_step = worker[first]
    alone = np.ones(len(steps), bool)
    alone[np.unique(place[worker != of_step[place]])] = False
    repeats = np.ones(len(steps), bool)
    if workers < len(steps):
        repeats[workers:] = of_step[workers:] == of_step[:-workers]
    return float((alone & repeats).mean())


def _pool_share(step: np.ndarray, sample: np.ndarray, submit: np.ndarray) -> float:
    """The share of samples that are taken in order of their steps: a pool has one queue for all workers."""
    _, first = np.unique(np.stack([step, sample]), axis=1, return_index=True)
    taken = first[np.argsort(submit[first], kind="stable")]
    return float((np.diff(step[taken]) >= 0).mean()) if len(taken) > 1 else 1.0


def _consumer_of(step: np.ndarray, submit: np.ndarray, end: np.ndarray) -> tuple[int, np.ndarray]:
    """(batches ahead, think times in ns) of a consumer that the trace does not describe.

    The read-ahead is the largest number of incomplete steps before a step when it begins. A
    think time is visible where everything had been read when a step began.
    """
    steps, place = np.unique(step, return_inverse=True)
    begins, ends = np.full(len(steps), np.iinfo(np.int64).max), np.zeros(len(steps), np.int64)
    np.minimum.at(begins, place, submit)
    np.maximum.at(ends, place, end)
    complete = np.searchsorted(np.sort(ends), begins, side="right")
    ahead = int(max((np.arange(len(steps)) - complete).max(), 0))
    idle = np.diff(begins)[begins[1:] >= np.maximum.accumulate(ends)[:-1]]
    return ahead, idle if len(idle) else np.zeros(1, np.int64)
