"""Drive a plan: choose the engine and its size, run it, and record what it does."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracekit.comparison.changes import COMPARED, OBJECTS, WRONG_OBJECTS
from tracekit.errors import UsageError
from tracekit.gate import Gate
from tracekit.options import FILTERS, VERDICT
from tracekit.recorder import Recorder
from tracekit.redaction import redact
from tracekit.replayer.backends import Backends
from tracekit.replayer.checks import uses_loop
from tracekit.replayer.columns import BUSY, DONE, LATE
from tracekit.replayer.engines.compiled import CompiledEngine, unfit
from tracekit.replayer.engines.interpreter import EngineSettings, ThreadEngine, lead
from tracekit.replayer.engines.loop import LoopEngine
from tracekit.replayer.loader_model import LoaderModel, model_for
from tracekit.replayer.options import ReplayOptions
from tracekit.replayer.pacing import make_pacer
from tracekit.replayer.plan import Plan
from tracekit.replayer.sizing import workers_for
from tracekit.replayer.touched import Touched
from tracekit.replayer.verdict import ClientFacts
from tracekit.store.fingerprint import fingerprint
from tracekit.store.reader import TraceReader
from tracekit.store.streams import ranks_of
from tracekit.store.target import claiming
from tracekit.units import format_count, format_duration

__all__ = ["HostPart", "Watch", "drive", "model_of_recording", "options_to_record"]

_SEGMENT_OPS, _STREAMED_SEGMENT_OPS = 1 << 20, 1 << 17
Watch = Callable[[int, int, str], None]
"""Called with (ops done, ops planned, a note on rate, lateness and in-flight) while a replay runs."""


@dataclass(frozen=True, slots=True)
class HostPart:
    """What is special about driving a plan as one of `hosts` hosts, number `host`.

    `start` returns the agreed start on the monotonic clock (see `EngineSettings`); `ended` is called when the engine has
    ended, after which Ctrl-C no longer ends it early. `abandons` says that a second Ctrl-C, which leaves requests that hang,
    ends the replay as the first one does. In-flight caps are for all hosts together: each gets an equal share.
    """

    host: int
    hosts: int
    start: Callable[[int], int]
    ended: Callable[[], None]
    abandons: Callable[[], bool]

    def share(self, cap: int | None) -> int | None:
        """Return this host's share of a cap, at least 1."""
        return None if cap is None else max(cap // self.hosts + (self.host < cap % self.hosts), 1)


_ALONE = HostPart(0, 1, lead, lambda: None, lambda: False)


def drive(
    plan: Plan,
    backends: Backends,
    options: ReplayOptions,
    reader: TraceReader,
    target: Path,
    watch: Watch | None,
    touched: Touched,
    part: HostPart = _ALONE,
) -> tuple[bool, ClientFacts, list[str]]:
    """Drive the plan; return whether it was whole, the client's facts without wall time, and what is wrong at the target."""
    looping = uses_loop(plan, backends, options)
    model = model_of_recording(plan, options, reader)
    fallback = None if looping else _fallback(plan, options)
    compiled = not looping and fallback is None
    threads, most = workers_for(plan, options, model, looping=looping)
    settings = EngineSettings(
        threads,
        most,
        options.page_cache_mode,
        options.overwrite_objects,
        options.write_data,
        options.realtime,
        part.start,
    )
    noted = {
        "replay": {**options_to_record(options), "of": reader.trace_id, "fingerprint": fingerprint(reader)}
    }
    tell = _teller(plan, reader.rows * options.loop * options.clients, watch)
    gate = _gate(options, model, part)
    pacer = make_pacer(options.pace, plan, speed=options.speed, model=model)
    with claiming(target, overwrite=options.overwrite):
        recorder = Recorder(target, source="replay", options=noted, segment_ops=_segment_ops(plan))
    with recorder:
        kind = CompiledEngine if compiled else LoopEngine if looping else ThreadEngine
        engine: CompiledEngine | LoopEngine | ThreadEngine = kind(
            plan, pacer, gate, recorder, backend_of=backends.of, settings=settings
        )
        try:
            whole = _run(engine, tell, part)
        except BaseException:  # a second Ctrl-C, a full disk: what was recorded stays, and is marked
            recorder.count("replay_interrupted")
            raise
        counters = Counter(backends.counters())
        counters.update(engine.counters if isinstance(engine, CompiledEngine) else {})
        workers, at_limit = _crew_of(engine, threads)
        ring = isinstance(engine, CompiledEngine) and engine.uses_ring
        # The number of workers is above 0, so that a replay of no op is written, too.
        recorder.set_counters({**counters, "replay_workers": workers})
        if whole or not plan.streamed:  # else the plan was not made to its end
            recorder.set_counters({"replay_planned_ops": plan.ops})
        wrong = touched.wrong(backends) if whole else []
        if plan.changes and whole:
            recorder.set_counters({COMPARED: 1, OBJECTS: len(touched.targets), WRONG_OBJECTS: len(wrong)})
        if not whole:
            recorder.count("replay_interrupted")
    name = "compiled" if compiled else "loop" if looping else "interpreter"
    return (
        whole,
        ClientFacts(
            name,
            workers,
            engine.cpu_ns,
            engine.cpu_wait_ns,
            at_limit=at_limit,
            fallback=fallback,
            cores=min(workers, len(os.sched_getaffinity(0))) if compiled and not ring else 1,
            ring=ring,
            spun_ns=engine.spun_ns if isinstance(engine, CompiledEngine) else 0,
        ),
        wrong,
    )


def _run(
    engine: CompiledEngine | LoopEngine | ThreadEngine, tell: Callable[[], None], part: HostPart
) -> bool:
    """Run the engine; return whether the replay was whole."""
    try:
        return engine.run(tell)
    except KeyboardInterrupt:
        if not part.abandons():
            raise
        return False
    finally:
        part.ended()


def _segment_ops(plan: Plan) -> int:
    """How many rows a segment of the replay has: few while a plan streams, because each is sorted in memory."""
    return _STREAMED_SEGMENT_OPS if plan.streamed else _SEGMENT_OPS


def _crew_of(engine: CompiledEngine | LoopEngine | ThreadEngine, threads: int) -> tuple[int, bool]:
    """How many workers have run, and whether no more could be started."""
    if isinstance(engine, LoopEngine):
        return threads, True
    if isinstance(engine, CompiledEngine):
        return engine.workers, engine.at_limit
    return engine.crew.size, engine.crew.at_limit


def _fallback(plan: Plan, options: ReplayOptions) -> str | None:
    """Why the interpreter drives the plan; None if the compiled engine does.

    Raises UsageError if that is asked for and cannot.
    """
    if options.engine == "interpreter":
        return "engine=interpreter was given"
    reason = unfit(plan)
    if options.engine == "compiled" and reason is not None:
        raise UsageError(f"engine=compiled cannot drive this plan: {reason}", "or leave out engine=")
    return reason


def _gate(options: ReplayOptions, model: LoaderModel | None, part: HostPart) -> Gate | None:
    """The cap that was asked for, or else that of the recorded loader."""
    max_bytes = part.share(options.max_bytes_in_flight)
    if not options.capped and model is not None:
        max_bytes = model.cap_bytes
    if max_bytes is None and options.max_ops_in_flight is None:
        return None
    return Gate(max_bytes, part.share(options.max_ops_in_flight))


def model_of_recording(plan: Plan, options: ReplayOptions, reader: TraceReader) -> LoaderModel | None:
    """The rule that closed pacing follows; None for other paces, or to go stream by stream."""
    if options.pace != "closed" or plan.streamed or plan.changes:
        return None
    return model_for(
        plan,
        options.workers_model,
        reader.counters,
        reader.options,
        filtered=bool(options.filters),
        ranks=len(ranks_of(reader)),
    )


def options_to_record(options: ReplayOptions) -> dict[str, Any]:
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
