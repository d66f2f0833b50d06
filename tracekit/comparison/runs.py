"""Comparing two runs by their distributions: sizes, files, offsets, arrivals, concurrency, steps, failures.

Nothing is assumed about which op of one run is which op of the other. A run compared with
itself has all distances 0. docs/replay.md defines the metrics.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from os.path import commonprefix
from typing import Any

import duckdb
import numpy as np

from tracekit.comparison.cadence import WINDOWS_NS, window_name
from tracekit.comparison.distances import depths, dispersion, ks, mean_shift, total_variation
from tracekit.comparison.responses import define_percentile, response_rows
from tracekit.comparison.table import ParityRow, relative, shown, within
from tracekit.metrics.library import install
from tracekit.sql import load_sql
from tracekit.store.reader import TraceReader
from tracekit.store.statements import value_errors

__all__ = ["Run", "compare_runs", "describe"]

_FLIGHT_OPS = 4_000_000
_LEAST_WINDOWS = 20
_MOST_SIZES = 65_536

KINDS_TOLERANCE = 0.05
SIZES_TOLERANCE = 0.05
FILES_TOLERANCE = 0.15
OFFSETS_TOLERANCE = 0.15
STEPS_TOLERANCE = 0.15
ARRIVALS_TOLERANCE = 0.25
CONCURRENCY_TOLERANCE = 0.20
FAILURES_TOLERANCE = 0.01


@dataclass(frozen=True, slots=True)
class Run:
    """The distributions of one run: counts by value. Sizes in bytes, times in ns.

    `arrivals` holds, for each window length, how many windows had how many ops.
    """

    totals: dict[str, Any]
    kinds: dict[str, int]
    outcomes: dict[str, int]
    sizes: dict[int, int]
    files: dict[str, int]
    footprint: int
    strides: dict[int, int]
    reuse: dict[int, int]
    steps: dict[int, int]
    arrivals: dict[int, dict[int, float]]
    in_flight: dict[int, float]


def describe(reader: TraceReader, *, speed: float = 1.0) -> Run:
    """Measure one run; its times are divided by `speed`."""
    with closing(reader.connect()) as connection, value_errors(reader.path):
        define_percentile(connection, reader.rows)
        install(connection)
        kinds, outcomes = Counter[str](), Counter[str]()
        for kind, outcome, n in _rows(connection, "runs_kinds"):
            kinds[kind] += n
            outcomes[outcome] += n
        totals = _first(connection, "runs")
        flight = connection.execute(
            load_sql("tracekit.comparison", "runs_flight"), {"most": _FLIGHT_OPS}
        ).fetchnumpy()
        first = connection.execute("SELECT min(t_submit) FROM ops WHERE op <> 'hint'").fetchone()
        return Run(
            totals=totals,
            kinds=dict(kinds),
            outcomes=dict(outcomes),
            sizes={lo: n for lo, _, n in _rows(connection, "divergence_sizes", many=_MOST_SIZES)},
            files=dict(_rows(connection, "runs_files")),
            footprint=_rows(connection, "runs_footprint")[0][0],
            strides=dict(_rows(connection, "runs_strides")),
            reuse=dict(_rows(connection, "runs_reuse")),
            steps=dict(_rows(connection, "runs_steps")),
            arrivals=_arrivals(connection, first[0] if first else None, totals["submit_span_ns"], speed),
            in_flight=depths(np.asarray(flight["t_submit"]), np.asarray(flight["latency"])),
        )


def compare_runs(
    a: TraceReader, b: TraceReader, *, tolerance: float, speed: float = 1.0
) -> tuple[ParityRow, ...]:
    """Compare run `b` with run `a`, whose times are divided by `speed`."""
    x, y = describe(a, speed=speed), describe(b)
    return tuple(_table(x, y, tolerance, speed))


def _table(x: Run, y: Run, tolerance: float, speed: float) -> Iterable[ParityRow]:
    a, b = x.totals, y.totals
    yield relative("ops", "ops", a["ops"], b["ops"], tolerance)
    yield within("op_kinds", "distance", total_variation(x.kinds, y.kinds), KINDS_TOLERANCE)
    yield relative("bytes", "bytes", a["bytes"], b["bytes"], tolerance)
    yield within("req_bytes_hist", "distance", mean_shift(x.sizes, y.sizes), SIZES_TOLERANCE)
    yield from _file_rows(x, y)
    for name, of_a, of_b in (("strides", x.strides, y.strides), ("reuse", x.reuse, y.reuse)):
        if of_a or of_b:
            yield within(name, "distance", total_variation(of_a, of_b), OFFSETS_TOLERANCE)
    if x.steps or y.steps:
        yield ParityRow(
            "bytes_per_step",
            "bytes",
            a["bytes_per_step"],
            b["bytes_per_step"],
            mean_shift(x.steps, y.steps),
            mean_shift(x.steps, y.steps) <= STEPS_TOLERANCE,
            STEPS_TOLERANCE,
            "the difference is of the distributions",
        )
    yield from _arrival_rows(x, y)
    if x.in_flight and y.in_flight:
        yield within("in_flight", "distance", ks(x.in_flight, y.in_flight), CONCURRENCY_TOLERANCE)
    duration = a["submit_span_ns"] / speed + (a["duration_ns"] - a["submit_span_ns"])
    timed = duration > 0  # one op of unknown latency says nothing about how long it should take
    yield relative("duration_ns", "ns", duration, b["duration_ns"], tolerance, judged=timed)
    rates = (_rate(a["bytes"], duration), _rate(b["bytes"], b["duration_ns"]))
    yield relative("throughput_bytes_per_s", "bytes/s", *rates, tolerance, judged=timed)
    yield within("failures", "distance", total_variation(x.outcomes, y.outcomes), FAILURES_TOLERANCE)
    failed = a["failed_ops"], b["failed_ops"]
    yield ParityRow(
        "failed_ops", "ops", *failed, None, failed[1] <= failed[0], None, "no more than in the first run"
    )
    yield _endings(a, b)
    for name in ("latency_p50_ns", "latency_p99_ns"):
        yield shown(name, "ns", a[name], b[name])
    yield from response_rows(a, b)
    for name in ("lateness_p50_ns", "lateness_p99_ns", "lateness_max_ns"):
        if b[name] is not None:
            yield shown(name, "ns", a[name], b[name])


def _endings(a: Mapping[str, Any], b: Mapping[str, Any]) -> ParityRow:
    """The row on ops that never ended; what ended is unknown of a run without any latency."""
    of_a, of_b = (
        run["ops"] - run["ended_ops"] if run["ended_ops"] or not run["ops"] else None for run in (a, b)
    )
    if of_a is None or of_b is None:
        return shown(
            "unfinished_ops", "ops", of_a, of_b, note="a run without latencies does not say what ended"
        )
    return ParityRow(
        "unfinished_ops", "ops", of_a, of_b, None, of_b <= of_a, None, "no more than in the first run"
    )


def _file_rows(x: Run, y: Run) -> Iterable[ParityRow]:
    yield relative("files", "files", len(x.files), len(y.files), FILES_TOLERANCE)
    reads = Counter(x.files.values()), Counter(y.files.values())
    yield within("ops_per_file", "distance", mean_shift(*reads), FILES_TOLERANCE)
    yield relative("footprint_bytes", "bytes", x.footprint, y.footprint, FILES_TOLERANCE)
    names = _relative_names(x.files, y.files)
    if names is not None:
        yield within(
            "files_read", "distance", total_variation(*names), FILES_TOLERANCE, note="ops by name of file"
        )


def _relative_names(
    a: Mapping[str, int], b: Mapping[str, int]
) -> tuple[dict[str, int], dict[str, int]] | None:
    """Ops by URI or, if the runs share no URI, by name below each run's own root; None if they share none."""
    if a.keys() & b.keys():
        return dict(a), dict(b)
    short = []
    for files in (a, b):
        root = commonprefix(list(files)).rpartition("/")[0]  # noqa: RUF071 - cut at a slash
        short.append({uri.removeprefix(root): n for uri, n in files.items()})
    return (short[0], short[1]) if short[0].keys() & short[1].keys() else None


def _arrival_rows(x: Run, y: Run) -> Iterable[ParityRow]:
    for window_ns in WINDOWS_NS:
        a, b = x.arrivals[window_ns], y.arrivals[window_ns]
        if min(sum(a.values()), sum(b.values())) < _LEAST_WINDOWS:
            continue
        name = window_name(window_ns)
        yield within(f"arrivals_{name}", "distance", mean_shift(a, b), ARRIVALS_TOLERANCE)
        before, after = dispersion(a), dispersion(b)
        difference = abs(after - before) / max(before, 1.0)
        ok = difference <= ARRIVALS_TOLERANCE
        yield ParityRow(f"dispersion_{name}", "index", before, after, difference, ok, ARRIVALS_TOLERANCE)


def _arrivals(
    connection: duckdb.DuckDBPyConnection, first_ns: int | None, span_ns: int, speed: float
) -> dict[int, dict[int, float]]:
    found: dict[int, dict[int, float]] = {}
    for window_ns in WINDOWS_NS:
        length = max(round(window_ns * speed), 1)
        windows = span_ns // length + 1
        counts = dict(_rows(connection, "runs_arrivals", first_ns=first_ns or 0, window_ns=length))
        found[window_ns] = {0: windows - sum(counts.values()), **counts}
    return found


def _rows(connection: duckdb.DuckDBPyConnection, name: str, **params: int) -> list[Any]:
    sql = load_sql("tracekit.comparison", name)
    return connection.execute(sql, params or None).fetchall()


def _first(connection: duckdb.DuckDBPyConnection, name: str) -> dict[str, Any]:
    result = connection.execute(load_sql("tracekit.comparison", name))
    names = [column[0] for column in result.description or ()]
    return dict(zip(names, result.fetchone() or (), strict=True))


def _rate(nbytes: int | None, duration_ns: float) -> float | None:
    return nbytes * 1e9 / duration_ns if nbytes is not None and duration_ns else None
