"""`tracekit.compare`: judge a replay against its recording, or compare two runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Unpack

from tracekit.comparison.gates import Gate, check_gates, parse_gates
from tracekit.comparison.hosts import clock_error_ns
from tracekit.comparison.junit import junit_path, write_junit
from tracekit.comparison.planned import ReplayRules
from tracekit.comparison.repeats import combine
from tracekit.comparison.replays import judge_replay
from tracekit.comparison.responses import replay_responses
from tracekit.comparison.runs import compare_runs
from tracekit.comparison.table import Parity
from tracekit.errors import TraceFormatError, UsageError
from tracekit.keywords import VerdictKeywords
from tracekit.metrics.spreading import check_place
from tracekit.replayer.expected import planned_ops
from tracekit.replayer.options import Filters, ReplayOptions, VerdictOptions
from tracekit.replayer.sizing import most_asap_workers
from tracekit.spread import together
from tracekit.store.fingerprint import fingerprint
from tracekit.store.reader import TraceLike, TraceReader, open_reader

__all__ = ["compare", "replay_of"]


def compare(
    a: TraceLike,
    b: TraceLike,
    *others: TraceLike,
    speed: float | None = None,
    junit: str | os.PathLike[str] | None = None,
    on: str | None = None,
    hosts: int | None = None,
    **given: Unpack[VerdictKeywords],
) -> Parity:
    """Compare trace `b`, and any `others`, with trace `a`.

    If `b` is a replay of exactly the ops of `a`, every op of `b` is judged against the plan,
    which is made again from `a` and the options that `b` was replayed with. Otherwise, or if
    `speed` is given, the two are compared as runs, by their distributions; the times of `a`
    are divided by `speed`.

    With `others`, which are runs or replays like `b`, the table has medians over runs with 95 %
    bootstrap intervals, and a metric passes if the whole interval is within its tolerance.

    `tolerance` is a fraction; it holds for counts, bytes, duration and throughput, and other
    metrics have their own (see docs/replay.md). For replays: `max_lateness` (ns, or text such
    as `20ms`) bounds how late an op may go; `allow_empty` accepts a replay of no ops;
    `partial` accepts one that was interrupted; without `expect_failures` no op may fail, even
    if it failed in the recording. `judge` holds gates such as `latency_p99<=1.2x`;
    `junit` names a file for the outcome as JUnit XML.

    With `on` (local, ray or ray://HOST:PORT), two runs are measured on that many `hosts`: each answers some of the queries over
    a trace, which it must find by the same path. The figures are the same. A replay is judged op by op in this process.

    Raises UsageError for an invalid option or gate, TraceFormatError for a trace that cannot be read.
    """
    if speed is not None and not speed > 0:
        raise UsageError(f"speed={speed} is not positive", "give a factor such as 0.5, 1 or 10")
    check_place(on, hosts)
    options = VerdictOptions(**given)
    gates = parse_gates(options.judge)
    report = None if junit is None else junit_path(junit)
    recording, runs = open_reader(a), [open_reader(run) for run in (b, *others)]
    rules = ReplayRules(
        tolerance=options.tolerance,
        max_lateness_ns=options.max_lateness,
        allow_empty=options.allow_empty,
        partial=options.partial,
        expect_failures=options.expect_failures,
    )
    with together(on, hosts):
        parity = combine([_compare(recording, run, rules, speed, gates, on, hosts) for run in runs])
    if report is not None:
        names = " ".join(reader.path.name for reader in (recording, *runs))
        write_junit(parity, report, name=names)
    return parity


def _compare(
    a: TraceReader,
    b: TraceReader,
    rules: ReplayRules,
    speed: float | None,
    gates: Sequence[Gate],
    on: str | None,
    hosts: int | None,
) -> Parity:
    origin = replay_of(a, b) if speed is None else _Origin(None, "speed= was given")
    if origin.options is not None:
        rules = replace(
            rules,
            pace=origin.options.pace,
            max_ops_in_flight=origin.options.max_ops_in_flight,
            max_bytes_in_flight=origin.options.max_bytes_in_flight,
            workers=most_asap_workers(origin.options),
            clock_error_ns=clock_error_ns(b),
        )
        rows = judge_replay(planned_ops(a, origin.options), b, rules)
        rows += replay_responses(a, b)
        found = Parity(rows, rules.tolerance, 1.0, "replay", origin.reason)
    else:
        factor = speed or 1.0
        rows = compare_runs(a, b, tolerance=rules.tolerance, speed=factor, on=on, hosts=hosts)
        found = Parity(rows, rules.tolerance, factor, "runs", origin.reason)
    return _gated(found, a, b, gates, on, hosts)


@dataclass(frozen=True, slots=True)
class _Origin:
    """How a replay was made from a recording (None: it was not), and what that rests on."""

    options: ReplayOptions | None
    reason: str


def replay_of(a: TraceReader, b: TraceReader) -> _Origin:
    """Decide whether `b` is a replay of the ops of `a`, by the fingerprint of the ops."""
    noted = b.options.get("replay") if b.source == "replay" else None
    recorded = noted.get("fingerprint") if isinstance(noted, dict) else None
    if recorded is None or not isinstance(noted, dict):
        if "plan_op" in b.columns and "plan_op" not in a.columns:  # its metadata was lost, or removed
            reason = "B has the rows of a replay without its metadata: judged as a replay of all of A"
            return _Origin(ReplayOptions(), reason)
        return _Origin(None, "B is not a replay")
    if recorded != fingerprint(a):
        return _Origin(None, "B is a replay of another recording")
    return _Origin(
        _options(b, noted), "B is a replay of A: the fingerprint of its recording is that of A's ops"
    )


def _options(b: TraceReader, noted: dict[str, Any]) -> ReplayOptions:
    """The options that shaped the plan of the replay `b`."""
    of_plan = (
        "pace",
        "speed",
        "loop",
        "clients",
        "stagger",
        "stagger_phase",
        "max_gap",
        "map",
        "allow_writes",
        "skip",
        "max_ops_in_flight",
        "max_bytes_in_flight",
        "threads",
        "max_workers",
    )
    known = {field.name for field in fields(ReplayOptions)} & {*of_plan}
    known |= {field.name for field in fields(Filters)}
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in noted.items() if name in known}
    try:
        return ReplayOptions.of(values)
    except (UsageError, TypeError) as error:
        raise TraceFormatError(
            f"{b.path}: its replay options are damaged: {error}", "replay again"
        ) from error


def _gated(
    parity: Parity,
    a: TraceReader,
    b: TraceReader,
    gates: Sequence[Gate],
    on: str | None,
    hosts: int | None,
) -> Parity:
    """Add the gates; a gate on a metric of the table replaces the rule of that metric."""
    if not gates:
        return parity
    named = {gate.metric for gate in gates}
    rows = tuple(
        replace(row, ok=None, note="judged by a gate") if row.metric in named else row for row in parity.rows
    )
    return replace(parity, rows=rows, gates=check_gates(gates, parity, a, b, on=on, hosts=hosts))
