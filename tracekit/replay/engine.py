"""Replaying a trace, whole: plan, checks before anything runs, engine, result."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from tracekit.backends.base import CACHE_POLICIES, Backend
from tracekit.backends.registry import backend_for
from tracekit.errors import UsageError
from tracekit.gate import Gate
from tracekit.parity import DEFAULT_TOLERANCE, compare
from tracekit.recorder import Recorder
from tracekit.replay.expected import expected_measures
from tracekit.replay.mapping import parse_rules
from tracekit.replay.pacer import PACES, make_pacer
from tracekit.replay.plan import Filters, Plan, build_plan
from tracekit.replay.result import ReplayResult
from tracekit.replay.threads import ThreadEngine
from tracekit.store.reader import TraceReader, open_reader
from tracekit.store.writer import check_target
from tracekit.uri import scheme_of

__all__ = ["ReplayOptions", "Watch", "replay"]

Watch = Callable[[int, int, str], None]
"""Called with (ops done, ops planned, a note on lateness and in-flight) while a replay runs."""


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """How to replay; names as the CLI's. Sizes in bytes, times in ns, None for no cap or no limit."""

    mapping: tuple[str, ...] = ()
    pace: str = "recorded"
    speed: float = 1.0
    max_bytes_in_flight: int | None = None
    max_ops_in_flight: int | None = None
    page_cache_mode: str = "default"
    filters: Filters = field(default_factory=Filters)
    max_gap_ns: int | None = None
    loops: int = 1
    threads: int | None = None
    tolerance: float = DEFAULT_TOLERANCE

    def __post_init__(self) -> None:
        if self.pace not in PACES:
            raise UsageError(f"--pace {self.pace!r} is unknown", f"choose {', '.join(PACES)}")
        if self.page_cache_mode not in CACHE_POLICIES:
            raise UsageError(
                f"--page-cache-mode {self.page_cache_mode!r} is unknown",
                f"choose {', '.join(CACHE_POLICIES)}",
            )
        if self.threads is not None and not 1 <= self.threads <= 4096:
            raise UsageError(f"--threads {self.threads} is out of range", "give 1 to 4096")


def replay(
    trace: str | Path | TraceReader,
    options: ReplayOptions | None = None,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    watch: Watch | None = None,
) -> ReplayResult:
    """Re-drive `trace`, record that as a trace at `out` (None: kept only for the result), and compare.

    Raises UsageError or BackendError before anything is read if the options, the mapping
    or the target cannot be; a single op that fails later is a row with an error.
    """
    options = options or ReplayOptions()
    reader = trace if isinstance(trace, TraceReader) else open_reader(trace)
    plan = build_plan(
        reader, parse_rules(options.mapping), speed=options.speed, filters=options.filters,
        max_gap_ns=options.max_gap_ns, loops=options.loops,
    )  # fmt: skip
    backends = _Backends()
    for uri in {scheme_of(uri): uri for uri in plan.uris}.values():
        backends.of(uri).preflight(uri)
    if out is not None:
        check_target(Path(out), overwrite=overwrite)
    with tempfile.TemporaryDirectory(prefix="tracekit-replay-") as scratch:
        target = Path(out) if out is not None else Path(scratch) / "replay.trace"
        if out is not None and overwrite and target.exists():
            shutil.rmtree(target)
        whole = _drive(plan, backends, options, reader, target, watch)
        done = open_reader(target)
        return _result(reader, plan, done, options, Path(out) if out is not None else None, partial=not whole)


def _drive(
    plan: Plan,
    backends: _Backends,
    options: ReplayOptions,
    reader: TraceReader,
    target: Path,
    watch: Watch | None,
) -> bool:
    gate = None
    if options.max_bytes_in_flight is not None or options.max_ops_in_flight is not None:
        gate = Gate(options.max_bytes_in_flight, options.max_ops_in_flight)
    pacer = make_pacer(options.pace, plan, speed=options.speed)
    noted = {
        "replay": {**_noted(options), "of": reader.trace_id, "expected": asdict(expected_measures(plan))}
    }
    with Recorder(target, source="replay", options=noted) as recorder:
        engine = ThreadEngine(
            plan, pacer, gate, recorder, backend_of=backends.of, threads=_threads(plan, options),
            cache_policy=options.page_cache_mode,
        )  # fmt: skip

        def tell() -> None:
            if watch is not None:
                late = max((p.late_ns for p in engine.progress), default=0)
                watch(sum(p.done for p in engine.progress), plan.ops, f"late {late / 1e6:.2f} ms")

        whole = engine.run(tell)
        recorder.set_counters(backends.counters())
    return whole


def _threads(plan: Plan, options: ReplayOptions) -> int:
    """Enough that the recording's deepest queue, twice over, finds a free worker; capped by the gate."""
    if options.threads is not None:
        return options.threads
    if options.pace == "asap":
        wanted = options.max_ops_in_flight or 16
    else:
        wanted = 2 * plan.peak_in_flight()[0] + 2
        if options.max_ops_in_flight is not None:
            wanted = min(wanted, options.max_ops_in_flight + 2)
    return max(2, min(wanted, 128, max(plan.ops, 1)))


def _noted(options: ReplayOptions) -> dict[str, Any]:
    noted = {
        name: getattr(options, name)
        for name in ("pace", "speed", "max_bytes_in_flight", "max_ops_in_flight", "page_cache_mode", "loops")
    }
    noted["mapping"] = list(options.mapping)
    noted.update({name: value for name, value in asdict(options.filters).items() if value is not None})
    if options.max_gap_ns is not None:
        noted["max_gap_ns"] = options.max_gap_ns
    return noted


def _result(
    reader: TraceReader,
    plan: Plan,
    done: TraceReader,
    options: ReplayOptions,
    out: Path | None,
    *,
    partial: bool,
) -> ReplayResult:
    sql = files("tracekit.replay").joinpath("failures.sql").read_text(encoding="utf-8")
    with closing(done.connect()) as connection:
        failures = connection.sql(sql, params={"most": 5}).to_arrow_table().to_pylist()
        sql = files("tracekit.replay").joinpath("timing.sql").read_text(encoding="utf-8")
        timing = connection.sql(sql).to_arrow_table().to_pylist()[0]
    parity = compare(reader, done, tolerance=options.tolerance)
    return ReplayResult(
        out=out, planned_ops=plan.ops, ops=done.rows, partial=partial,
        failed_ops=int(parity.row("failed_ops").b or 0), failures=tuple(failures), skipped=plan.skipped,
        assumed_offsets=plan.assumed_offsets, assumed_lengths=plan.assumed_lengths, counters=done.counters,
        parity=parity, timing=timing,
    )  # fmt: skip


class _Backends:
    """One backend a scheme, made when first asked for."""

    def __init__(self) -> None:
        self._made: dict[str, Backend] = {}
        self._lock = threading.Lock()

    def of(self, uri: str) -> Backend:
        scheme = scheme_of(uri)
        with self._lock:
            if scheme not in self._made:
                self._made[scheme] = backend_for(uri)
            return self._made[scheme]

    def counters(self) -> dict[str, int]:
        total: dict[str, int] = {}
        for backend in self._made.values():
            for name, value in backend.counters.items():
                total[name] = total.get(name, 0) + value
        return total
