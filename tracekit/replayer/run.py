"""Replay a trace: make the plan, check the target, run an engine, judge the result."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from tracekit.comparison.junit import junit_path, write_junit
from tracekit.comparison.repeats import combine
from tracekit.comparison.responses import define_percentile
from tracekit.errors import UsageError
from tracekit.keywords import Duration, ReplayKeywords
from tracekit.options import DRY_RUN, VERDICT
from tracekit.remote import check_remote_target, publish_remote
from tracekit.replayer import residency
from tracekit.replayer.allocator import returning_memory
from tracekit.replayer.backends import Backends
from tracekit.replayer.checks import PlanSummary, check_targets, summarize
from tracekit.replayer.columns import STOP
from tracekit.replayer.compare import compare
from tracekit.replayer.drive import Watch, drive, model_of_recording, options_to_record
from tracekit.replayer.engines.jit import preload
from tracekit.replayer.mapping import parse_rules
from tracekit.replayer.missing import NOTHING_MISSING, Missing, missing_ops
from tracekit.replayer.options import ReplayOptions
from tracekit.replayer.pacing import closed_pacer
from tracekit.replayer.plan import Plan
from tracekit.replayer.planning import build_plan
from tracekit.replayer.predict import predict_duration
from tracekit.replayer.residency import Residency
from tracekit.replayer.result import ReplayResult
from tracekit.replayer.totals import plan_totals
from tracekit.replayer.touched import Touched, touched_by
from tracekit.replayer.verdict import ClientFacts, judge
from tracekit.sql import load_sql
from tracekit.store.locate import local_path
from tracekit.store.reader import TraceLike, TraceReader, open_reader
from tracekit.store.remote import RemotePath, is_remote, remote_path
from tracekit.store.statements import value_errors
from tracekit.store.target import check_target
from tracekit.units import format_size
from tracekit.validation import parse

__all__ = ["ReplayOptions", "Watch", "dry_run", "replay"]

_LONG_PLAN = 1_000_000
_MEASURED_FILES = 10_000
_WRONG_NAMED = 5


@dataclass(frozen=True, slots=True)
class _Run:
    """The outcome of driving the plan."""

    whole: bool
    client: ClientFacts
    before: Residency | None
    after: Residency | None
    wrong: list[str]
    missing: Missing | None = None
    """The ops that were not issued, if that is known already."""


def replay(
    trace: TraceLike,
    options: ReplayOptions | Mapping[str, Any] | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    junit: str | os.PathLike[str] | None = None,
    watch: Watch | None = None,
    **given: Unpack[ReplayKeywords],
) -> ReplayResult:
    """Re-drive `trace`, record that as a trace at `out` (None: kept only for the result), and compare.

    Options are a `ReplayOptions` or a dict, and keywords of the same names, which win. With
    `overwrite=True`, an existing trace at `out` is replaced. With `repeat` over 1 the traces are kept at
    `NAME-1.trace`, `NAME-2.trace` and so on, and the parity has medians with intervals. `junit` names a file
    for the parity as JUnit XML. Raises UsageError or BackendError before
    anything is read if an option, a rule of `map` or the target is invalid. An op that fails later is a
    row with an error.
    """
    options = ReplayOptions.of(options, **given)
    reader = open_reader(trace)
    kept = None if out is None else remote_path(out) if is_remote(out) else local_path(out)
    report = None if junit is None else junit_path(junit)
    result = _repeated(reader, options, kept, watch)
    if report is not None:
        write_junit(result.parity, report, name=reader.path.name)
    return result


def _repeated(
    reader: TraceReader, options: ReplayOptions, kept: Path | None, watch: Watch | None
) -> ReplayResult:
    """Replay as often as asked for."""
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
        if os.path.realpath(kept) == os.path.realpath(reader.path):
            raise UsageError(f"{kept} is the recording itself", "choose another out=")
        if isinstance(kept, RemotePath):
            check_remote_target(kept, overwrite=options.overwrite)
            if options.on is None:
                return _replay_to_store(reader, options, kept, watch)
        else:
            check_target(kept, overwrite=options.overwrite)
    if options.on is not None:
        return _replay_on_hosts(reader, options, kept, watch)
    if reader.rows <= _LONG_PLAN:
        return _replay_here(reader, options, kept, watch)
    if options.engine in ("auto", "compiled"):
        preload()
    with returning_memory():
        return _replay_here(reader, options, kept, watch)


def _replay_to_store(
    reader: TraceReader, options: ReplayOptions, kept: RemotePath, watch: Watch | None
) -> ReplayResult:
    """Replay once, from this host, and put the trace on an object store."""
    with tempfile.TemporaryDirectory(prefix="tracekit-replay-") as scratch:
        target = Path(scratch) / "replay.trace"
        result = _replay(reader, options, target, watch)
        publish_remote(target, kept)
        return replace(result, out=kept)


def _replay_here(
    reader: TraceReader, options: ReplayOptions, kept: Path | None, watch: Watch | None
) -> ReplayResult:
    """Replay once, from this host."""
    rules = parse_rules(options.map)
    plan = build_plan(reader, rules, options)
    backends = Backends(options.store_options, roots=rules.local_roots())
    try:
        touched = check_targets(plan, backends, options)
        with tempfile.TemporaryDirectory(prefix="tracekit-replay-") as scratch:
            target = kept if kept is not None else Path(scratch) / "replay.trace"
            run = _run(plan, backends, options, reader, target, watch, touched)
            return _result(reader, plan, open_reader(target), options, kept, run, watch)
    finally:
        plan.shared.header[STOP] = 1
        backends.close()


def _replay_on_hosts(
    reader: TraceReader, options: ReplayOptions, kept: Path | None, watch: Watch | None
) -> ReplayResult:
    """Replay once, from several hosts."""
    # Imported here: its network code takes a tenth of the time in which a replay from this host starts.
    from tracekit.scale.distribute import distribute

    if options.cold or options.warm:
        raise UsageError("cold= and warm= are for a replay from this host", "leave them out")
    with tempfile.TemporaryDirectory(prefix="tracekit-replay-") as scratch:
        target = kept if kept is not None else Path(scratch) / "replay.trace"
        done = distribute(reader, options, target, watch)
        run = _Run(done.whole, done.client, None, None, done.wrong, done.missing)
        result = _result(reader, done.plan, open_reader(target), options, kept, run, watch)
        return replace(result, hosts=done.hosts, warnings=(*done.warnings, *result.warnings))


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
        touched = Touched()
        if totals.changes:
            plan = build_plan(reader, parse_rules(options.map), options)
            touched = touched_by(plan, backends, options)[0]
        predicted_ns, rule = _predict(reader, options, latency_ns)
        return replace(
            summarize(totals, backends, touched), predicted_duration_ns=predicted_ns, loader_model=rule
        )


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
    model = model_of_recording(plan, options, reader)
    duration = predict_duration(
        closed_pacer(plan, speed=options.speed, model=model),
        latencies.__getitem__,
        size_of=sizes.__getitem__,
        max_bytes=options.max_bytes_in_flight,
        max_ops=options.max_ops_in_flight,
    )
    return duration, None if model is None else model.describe()


def _run(
    plan: Plan,
    backends: Backends,
    options: ReplayOptions,
    reader: TraceReader,
    target: Path,
    watch: Watch | None,
    touched: Touched,
) -> _Run:
    local = residency.local_files(plan.uris)
    measured = bool(local) and (options.cold or options.warm or len(local) <= _MEASURED_FILES)
    ready = residency.drop if options.cold else residency.warm if options.warm else residency.measure
    before = ready(local) if measured else None
    began = time.monotonic_ns()
    whole, client, wrong = drive(plan, backends, options, reader, target, watch, touched)
    client = replace(client, wall_ns=time.monotonic_ns() - began)
    if plan.failure is not None:
        raise plan.failure
    return _Run(whole, client, before, residency.measure(local) if measured else None, wrong)


def _result(
    reader: TraceReader,
    plan: Plan,
    done: TraceReader,
    options: ReplayOptions,
    out: Path | None,
    run: _Run,
    watch: Watch | None,
) -> ReplayResult:
    with closing(done.connect()) as connection, value_errors(done.path):
        failures = connection.sql(_sql("failures"), params={"most": 5}).to_arrow_table().to_pylist()
        timing: dict[str, Any] = {"ops": 0}
        if "gate_wait" in done.columns:  # else there is no op to tell of
            define_percentile(connection, done.rows)
            timing = connection.sql(_sql("timing")).to_arrow_table().to_pylist()[0]
    if watch is not None:
        watch(int(timing["ops"]), plan.ops, "comparing with the recording")
    parity = compare(reader, done, **{name: getattr(options, name) for name in VERDICT})
    planned = plan.ops
    if not run.whole and plan.streamed:  # the plan was not made to its end
        planned = int(parity.row("completeness").a or 0)
    return ReplayResult(
        out=out,
        planned_ops=planned,
        ops=int(timing["ops"]),
        partial=not run.whole,
        failed_ops=int(parity.row("failed_ops").b or 0),
        failures=tuple(failures),
        skipped=plan.skipped,
        assumed_offsets=plan.assumed_offsets,
        assumed_lengths=plan.assumed_lengths,
        counters=done.counters,
        parity=parity,
        timing=timing,
        client=run.client,
        verdict=judge(timing, run.client, _needed_workers(done, timing, run.client)),
        residency_before=run.before,
        residency_after=run.after,
        options=options_to_record(options),
        warnings=tuple(_warnings(reader, plan, options, run)),
        not_issued=_missing(run, done, planned),
    )


def _missing(run: _Run, done: TraceReader, planned: int) -> Missing:
    if run.missing is not None:
        return run.missing
    return NOTHING_MISSING if run.whole else missing_ops(done, planned)


def _needed_workers(done: TraceReader, timing: dict[str, Any], client: ClientFacts) -> int | None:
    """How many ops would have been in flight at once had each gone when it was due; None if workers were not the limit."""
    if not client.at_limit or timing.get("lateness_p99_ns") is None:
        return None
    with closing(done.connect()) as connection, value_errors(done.path):
        row = connection.execute(_sql("needed_workers")).fetchone()
    return None if row is None else row[0]


def _warnings(reader: TraceReader, plan: Plan, options: ReplayOptions, run: _Run) -> Iterator[str]:
    """Yield requests that could not be honoured, and likely mistakes."""
    if not plan.ops and reader.rows:
        yield "no op of the trace passes the filters" if options.filters else "the trace has no op to replay"
    before = run.before
    yield from run.wrong[:_WRONG_NAMED]
    if before is None:
        return
    total, cached = format_size(before.bytes), format_size(before.resident_bytes)
    if options.cold and before.resident_bytes:
        yield f"cold=True: {cached} of {total} stayed in the page cache (another process maps it, or it is not on a disk)"
    if options.warm and before.resident_bytes < before.bytes:
        yield f"warm=True: the page cache holds only {cached} of {total} (is memory short?)"


def _sql(name: str) -> str:
    return load_sql("tracekit.replayer", name)
