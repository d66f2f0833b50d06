"""Replay a trace: make the plan, check the target, run an engine, judge the result."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from tracekit.comparison.fingerprint import fingerprint
from tracekit.comparison.repeats import combine
from tracekit.comparison.runs import define_percentile
from tracekit.errors import UsageError
from tracekit.gate import Gate
from tracekit.keywords import Duration, ReplayKeywords
from tracekit.options import DRY_RUN, FILTERS, VERDICT
from tracekit.recorder import Recorder
from tracekit.replayer import residency
from tracekit.replayer.backends import Backends
from tracekit.replayer.checks import PlanSummary, check_targets, check_writes, summarize, uses_loop
from tracekit.replayer.columns import BUSY, DONE, LATE, SLOTS, STOP
from tracekit.replayer.compare import compare
from tracekit.replayer.engines.compiled import CompiledEngine, available, drives
from tracekit.replayer.engines.fast import FAST_MODES
from tracekit.replayer.engines.interpreter import EngineSettings, ThreadEngine
from tracekit.replayer.engines.loop import LoopEngine
from tracekit.replayer.engines.processes import run_processes
from tracekit.replayer.loader_model import LoaderModel, model_for
from tracekit.replayer.mapping import parse_rules
from tracekit.replayer.options import ReplayOptions
from tracekit.replayer.pacing import closed_pacer, make_pacer
from tracekit.replayer.plan import Plan, build_plan
from tracekit.replayer.predict import predict_duration
from tracekit.replayer.residency import Residency
from tracekit.replayer.result import ReplayResult
from tracekit.replayer.totals import plan_totals
from tracekit.replayer.verdict import ClientFacts, judge
from tracekit.sql import load_sql
from tracekit.store.locate import local_path
from tracekit.store.reader import TraceLike, TraceReader, open_reader
from tracekit.store.target import check_target, replacing
from tracekit.units import format_count, format_duration, format_size
from tracekit.uri import redact, scheme_of
from tracekit.validation import parse

__all__ = ["ReplayOptions", "Watch", "dry_run", "replay"]

Watch = Callable[[int, int, str], None]
"""Called with (ops done, ops planned, a note on rate, lateness and in-flight) while a replay runs."""

_ASAP_WORKERS = 16
_FIRST_WORKERS = 128
_RATE_OF_ONE_PROCESS = 8_000
_RATE_OF_FAST_LOOP = 100_000
"""Ops a second up to which one interpreter keeps time better than two: their threads are in each other's way."""
_RUN_OF_ONE_PROCESS = 200_000
_MEASURED_FILES = 10_000


@dataclass(frozen=True, slots=True)
class _Run:
    """The outcome of driving the plan."""

    whole: bool
    client: ClientFacts
    before: Residency | None
    after: Residency | None


def replay(
    trace: TraceLike,
    options: ReplayOptions | Mapping[str, Any] | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    watch: Watch | None = None,
    **given: Unpack[ReplayKeywords],
) -> ReplayResult:
    """Re-drive `trace`, record that as a trace at `out` (None: kept only for the result), and compare.

    Options are a `ReplayOptions` or a dict, and keywords of the same names, which win. With
    `overwrite=True`, an existing trace at `out` is replaced. With `repeat` over 1 the traces are kept at
    `NAME-1.trace`, `NAME-2.trace` and so on, and the parity has medians with intervals. Raises UsageError or BackendError before
    anything is read if an option, a rule of `map` or the target is invalid. An op that fails later is a
    row with an error.
    """
    options = ReplayOptions.of(options, **given)
    reader = open_reader(trace)
    kept = None if out is None else local_path(out)
    if options.repeat == 1:
        return _replay(reader, options, kept, watch)
    results: list[ReplayResult] = []
    for number in range(1, options.repeat + 1):
        results.append(_replay(reader, options, kept and _numbered(kept, number), watch))
        if results[-1].partial:
            break
    return replace(results[0], parity=combine([each.parity for each in results]), repeats=tuple(results))


def _numbered(path: Path, number: int) -> Path:
    """`run-1.trace` for `run.trace`: where one of several replays is kept."""
    return path.with_name(f"{path.stem}-{number}{path.suffix}")


def _replay(
    reader: TraceReader, options: ReplayOptions, kept: Path | None, watch: Watch | None
) -> ReplayResult:
    """Replay once."""
    if kept is not None:
        if kept.resolve() == reader.path.resolve():
            raise UsageError(f"{kept} is the recording itself", "choose another out=")
        check_target(kept, overwrite=options.overwrite)
    plan = build_plan(reader, parse_rules(options.map), options)
    backends = Backends(options.store_options)
    try:
        check_targets(plan, backends, options)
        with tempfile.TemporaryDirectory(prefix="tracekit-replay-") as scratch:
            target = kept if kept is not None else Path(scratch) / "replay.trace"
            with replacing(target, overwrite=options.overwrite):
                pass  # the empty trace that takes the old one's place is the one that the replay joins
            run = _run(plan, backends, options, reader, target, watch)
            return _result(reader, plan, open_reader(target), options, kept, run)
    finally:
        plan.shared.header[STOP] = 1
        backends.close()


def dry_run(
    trace: TraceLike,
    options: ReplayOptions | Mapping[str, Any] | None = None,
    *,
    latency: Duration | None = None,
    **given: Unpack[ReplayKeywords],
) -> PlanSummary:
    """Return what `replay` would do and what the target lacks. Raises as `replay` does; reads no data.

    For closed pacing the duration is predicted in virtual time: with every op taking `latency`
    (ns, or text such as "5ms"), or as long as recorded.
    """
    options = ReplayOptions.of(options, **given)
    reader = open_reader(trace)
    latency_ns = parse(DRY_RUN["latency"], latency)
    with closing(Backends(options.store_options)) as backends:
        totals = plan_totals(reader, parse_rules(options.map), options)
        check_writes(totals.plan, np.flatnonzero(totals.put).tolist(), backends, options)
        predicted_ns, rule = _predict(reader, options, latency_ns)
        return replace(summarize(totals, backends), predicted_duration_ns=predicted_ns, loader_model=rule)


def _gate(options: ReplayOptions, model: LoaderModel | None) -> Gate | None:
    """The cap that was asked for, or else that of the recorded loader."""
    max_bytes = options.max_bytes_in_flight
    if not options.capped and model is not None:
        max_bytes = model.cap_bytes
    if max_bytes is None and options.max_ops_in_flight is None:
        return None
    return Gate(max_bytes, options.max_ops_in_flight)


def _predict(
    reader: TraceReader, options: ReplayOptions, latency_ns: int | None
) -> tuple[int | None, str | None]:
    """The duration of closed pacing in ns, and the rule that it follows; None where there is no prediction."""
    if options.pace != "closed":
        return None, None
    plan = build_plan(reader, parse_rules(options.map), options)
    if plan.streamed or not plan.ops:
        return None, None
    recorded = np.clip(plan.column("recorded_latency"), 0, None)
    latencies = recorded.tolist() if latency_ns is None else [latency_ns] * plan.ops
    sizes = np.clip(plan.column("length"), 0, None).tolist()
    model = _loader_model(plan, options, reader)
    duration = predict_duration(
        closed_pacer(plan, speed=options.speed, model=model),
        latencies.__getitem__,
        size_of=sizes.__getitem__,
        max_bytes=options.max_bytes_in_flight,
        max_ops=options.max_ops_in_flight,
    )
    return duration, None if model is None else model.describe()


def _run(
    plan: Plan, backends: Backends, options: ReplayOptions, reader: TraceReader, target: Path, watch: Watch | None
) -> _Run:  # fmt: skip
    local = residency.local_files(plan.uris)
    measured = bool(local) and (options.cold or options.warm or len(local) <= _MEASURED_FILES)
    ready = residency.drop if options.cold else residency.warm if options.warm else residency.measure
    before = ready(local) if measured else None
    began = time.monotonic_ns()
    whole, client = _drive(plan, backends, options, reader, target, watch)
    client = replace(client, wall_ns=time.monotonic_ns() - began)
    if plan.failure is not None:
        raise plan.failure
    return _Run(whole, client, before, residency.measure(local) if measured else None)


def _drive(
    plan: Plan, backends: Backends, options: ReplayOptions, reader: TraceReader, target: Path, watch: Watch | None
) -> tuple[bool, ClientFacts]:  # fmt: skip
    """Drive the plan; return whether it was whole, and the client's facts without wall time."""
    looping = uses_loop(plan, backends, options)
    compiled = not looping and _uses_compiled(plan, options)
    processes = 1 if looping or compiled else _processes(plan, options)
    model = _loader_model(plan, options, reader) if processes == 1 else None
    threads, most = _workers(plan, options, processes, model, looping=looping)
    settings = EngineSettings(
        threads, most, options.page_cache_mode, options.overwrite_objects, options.realtime
    )
    noted = {"replay": {**_noted(options), "of": reader.trace_id, "fingerprint": fingerprint(reader)}}
    tell = _teller(plan, reader.rows * options.loop, watch)
    if processes > 1:
        whole, children = run_processes(
            plan, options, out=target, noted=noted, parts=processes, settings=settings, watch=tell
        )
        return whole, ClientFacts(
            engine="interpreter", workers=sum(child.workers for child in children), processes=processes,
            cpu_ns=sum(child.cpu_ns for child in children), cpu_wait_ns=sum(child.cpu_wait_ns for child in children),
            at_limit=any(child.at_limit for child in children),
        )  # fmt: skip
    gate = _gate(options, model)
    pacer = make_pacer(options.pace, plan, speed=options.speed, model=model)
    with Recorder(target, source="replay", options=noted) as recorder:
        engine: CompiledEngine | LoopEngine | ThreadEngine
        if compiled:
            engine = CompiledEngine(plan, pacer, gate, recorder, settings=settings)
        else:
            kind = LoopEngine if looping else ThreadEngine
            engine = kind(plan, pacer, gate, recorder, backend_of=backends.of, settings=settings)
        try:
            whole = engine.run(tell)
        except BaseException:  # a second Ctrl-C, a full disk: what was recorded stays, and is marked
            recorder.count("replay_interrupted")
            raise
        counters = {**backends.counters(), **(engine.counters if isinstance(engine, CompiledEngine) else {})}
        recorder.set_counters({**counters, "replay_planned_ops": plan.ops, "replay_processes": 1})
        if not whole:
            recorder.count("replay_interrupted")
    if isinstance(engine, LoopEngine):
        workers, at_limit = threads, True
    elif isinstance(engine, CompiledEngine):
        workers, at_limit = engine.workers, engine.at_limit
    else:
        workers, at_limit = engine.crew.size, engine.crew.at_limit
    name = "compiled" if compiled else "loop" if looping else "interpreter"
    return whole, ClientFacts(name, workers, 1, engine.cpu_ns, engine.cpu_wait_ns, at_limit=at_limit)


def _uses_compiled(plan: Plan, options: ReplayOptions) -> bool:
    """Whether the compiled engine drives the plan. Raises UsageError if it is asked for and cannot."""
    if options.engine != "compiled":
        return False
    if (options.processes or 1) == 1 and drives(plan, options.pace, options.page_cache_mode):
        return True
    hint = "it reads file:// at recorded times or as fast as possible; leave out engine="
    raise UsageError(
        "engine=compiled cannot drive this plan", hint if available() else "pip install 'tracekit[fast]'"
    )


def _teller(plan: Plan, total: int, watch: Watch | None) -> Callable[[], None]:
    """Make the function that reports progress to `watch`, from the workers' counters."""
    last_ns, last_done, last_busy = time.monotonic_ns(), 0, 0

    def tell() -> None:
        nonlocal last_ns, last_done, last_busy
        if watch is None:
            return
        now = time.monotonic_ns()
        done, busy = (int(plan.shared.counters(counter).sum()) for counter in (DONE, BUSY))
        late = int(plan.shared.counters(LATE).max())
        rate = (done - last_done) * 1e9 / max(now - last_ns, 1)
        in_flight = (busy - last_busy) / max(now - last_ns, 1)
        last_ns, last_done, last_busy = now, done, busy
        known = total if plan.streamed else plan.ops
        watch(
            done,
            known,
            f"{format_count(round(rate))} ops/s, {in_flight:.1f} in flight, late {format_duration(max(late, 0))}",
        )

    return tell


def _processes(plan: Plan, options: ReplayOptions) -> int:
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


def _rate(plan: Plan) -> float:
    """Ops per second of the plan; 0 for a short plan, which is a burst and not a rate."""
    return plan.ops * 1e9 / max(plan.span_ns, 1) if plan.ops >= _RATE_OF_ONE_PROCESS else 0


def _most_of_one_process(options: ReplayOptions) -> int:
    fast = options.page_cache_mode in FAST_MODES and not options.allow_writes
    return _RATE_OF_FAST_LOOP if fast else _RATE_OF_ONE_PROCESS


def _workers(
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


def _threads(plan: Plan, options: ReplayOptions, processes: int, model: LoaderModel | None) -> int:
    """Workers of one process at the start: enough for twice the recording's deepest queue.

    At high rates, where waking up is most of the work, one more than the deepest queue:
    each further worker makes all of them later.
    """
    if options.pace == "asap":
        wanted = options.max_ops_in_flight or _ASAP_WORKERS
    elif model is not None:
        wanted = model.workers * len(np.unique(plan.column("rank"))) + 1
    else:
        deepest = plan.peak_in_flight()[0]
        wanted = deepest + 1 if _rate(plan) > _RATE_OF_ONE_PROCESS else 2 * deepest + 2
        if options.max_ops_in_flight is not None:
            wanted = min(wanted, options.max_ops_in_flight + 2)
    most = min(_FIRST_WORKERS, options.max_workers)
    return min(max(2, min(-(-wanted // processes), most, max(plan.ops, 1))), options.max_workers)


def _loader_model(plan: Plan, options: ReplayOptions, reader: TraceReader) -> LoaderModel | None:
    """The rule that closed pacing follows; None for other paces, or to go stream by stream."""
    if options.pace != "closed" or plan.streamed:
        return None
    return model_for(
        plan, options.workers_model, reader.counters, reader.options, filtered=bool(options.filters)
    )


def _noted(options: ReplayOptions) -> dict[str, Any]:
    """The options as kept in the replay's trace: without those of the verdict."""
    noted = {
        name: value
        for name, value in options.to_dict().items()
        if name not in VERDICT and not (name in FILTERS and value is None)
    }
    noted["map"] = tuple(redact(rule) for rule in options.map)
    if options.uri_glob is not None:
        noted["uri_glob"] = redact(options.uri_glob)
    return noted


def _result(
    reader: TraceReader, plan: Plan, done: TraceReader, options: ReplayOptions, out: Path | None, run: _Run
) -> ReplayResult:  # fmt: skip
    with closing(done.connect()) as connection:
        failures = connection.sql(_sql("failures"), params={"most": 5}).to_arrow_table().to_pylist()
        timing: dict[str, Any] = {"ops": 0}
        if "gate_wait" in done.columns:  # else there is no op to tell of
            define_percentile(connection, done.rows)
            timing = connection.sql(_sql("timing")).to_arrow_table().to_pylist()[0]
    parity = compare(reader, done, **{name: getattr(options, name) for name in VERDICT})
    return ReplayResult(
        out=out, planned_ops=plan.ops, ops=int(timing["ops"]), partial=not run.whole,
        failed_ops=int(parity.row("failed_ops").b or 0), failures=tuple(failures), skipped=plan.skipped,
        assumed_offsets=plan.assumed_offsets, assumed_lengths=plan.assumed_lengths, counters=done.counters,
        parity=parity, timing=timing, client=run.client, verdict=judge(timing, run.client, _needed_workers(done, timing, run.client)),
        residency_before=run.before, residency_after=run.after, options=_noted(options),
        warnings=tuple(_warnings(reader, plan, options, run.before)),
    )  # fmt: skip


def _needed_workers(done: TraceReader, timing: dict[str, Any], client: ClientFacts) -> int | None:
    """How many ops would have been in flight at once had each gone when it was due; None if workers were not the limit."""
    if not client.at_limit or timing.get("lateness_p99_ns") is None:
        return None
    with closing(done.connect()) as connection:
        row = connection.execute(_sql("needed_workers")).fetchone()
    return None if row is None else row[0]


def _warnings(
    reader: TraceReader, plan: Plan, options: ReplayOptions, before: Residency | None
) -> Iterator[str]:
    """Yield requests that could not be honoured, and likely mistakes."""
    if not plan.ops and reader.rows:
        yield "no op of the trace passes the filters" if options.filters else "the trace has no op to replay"
    if before is None:
        return
    total, cached = format_size(before.bytes), format_size(before.resident_bytes)
    if options.cold and before.resident_bytes:
        yield f"cold=True: {cached} of {total} stayed in the page cache (another process maps it, or it is not on a disk)"
    if options.warm and before.resident_bytes < before.bytes:
        yield f"warm=True: the page cache holds only {cached} of {total} (is memory short?)"


def _sql(name: str) -> str:
    return load_sql("tracekit.replayer", name)
