"""Comparing two runs by their distributions: sizes, files, offsets, arrivals, concurrency, steps, failures.

Nothing is assumed about which op of one run is which op of the other. A run compared with
itself has all distances 0. docs/replay.md defines the metrics.
"""

from __future__ import annotations

from collections import ChainMap, Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from typing import Any

import duckdb
import numpy as np

from tracekit.comparison.cadence import WINDOWS_NS, window_name
from tracekit.comparison.distances import depths, dispersion, ks, mean_shift, total_variation
from tracekit.comparison.responses import define_percentile, response_rows
from tracekit.comparison.table import ParityRow, relative, shown, within
from tracekit.metrics.measuring import measuring
from tracekit.metrics.spreading import Call, answers
from tracekit.sql import load_sql, sql_names
from tracekit.store.reader import TraceReader

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

    `outcomes_of_kinds` counts by kind and outcome. `arrivals` holds, for each window length, how many windows had how many ops.
    """

    totals: dict[str, Any]
    outcomes_of_kinds: dict[tuple[str, str], int]
    sizes: dict[int, int]
    files: dict[str, int]
    footprint: int
    strides: dict[int, int]
    reuse: dict[int, int]
    steps: dict[int, int]
    arrivals: dict[int, dict[int, float]]
    in_flight: dict[int, float]

    @property
    def kinds(self) -> Counter[str]:
        """Ops by kind."""
        return self._counted(0)

    @property
    def outcomes(self) -> Counter[str]:
        """Ops by outcome: a class of errors, or `ok`."""
        return self._counted(1)

    def _counted(self, place: int) -> Counter[str]:
        found = Counter[str]()
        for key, n in self.outcomes_of_kinds.items():
            found[key[place]] += n
        return found


def describe(reader: TraceReader, names: Sequence[str], *, speed: float = 1.0) -> dict[str, Any]:
    """Measure some fields of the `Run` of a trace; its times are divided by `speed`."""
    sql = (load_sql("tracekit.comparison", name) for name in sql_names("tracekit.comparison"))
    with measuring(reader, *sql) as connection:
        define_percentile(connection, reader.rows)
        return {name: _MEASURES[name](connection, speed) for name in names}


def compare_runs(
    a: TraceReader,
    b: TraceReader,
    *,
    tolerance: float,
    speed: float = 1.0,
    on: str | None = None,
    hosts: int | None = None,
) -> tuple[ParityRow, ...]:
    """Compare run `b` with run `a`, whose times are divided by `speed`. With a place `on`, its hosts measure the fields of both."""
    alone = on is None
    groups = [tuple(_MEASURES)] if alone else [(name,) for name in _MEASURES]
    calls = [
        Call(_described, (reader,), (names, by)) for reader, by in ((a, speed), (b, 1.0)) for names in groups
    ]
    found = answers(calls, on=on, hosts=hosts)
    x, y = (Run(**dict(ChainMap(*part))) for part in (found[: len(groups)], found[len(groups) :]))
    return tuple(_table(x, y, tolerance, speed))


def _described(reader: TraceReader, names: Sequence[str], speed: float) -> dict[str, Any]:
    return describe(reader, names, speed=speed)


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
    """The row on ops that never ended."""
    of_a, of_b = a["unfinished_ops"], b["unfinished_ops"]
    if of_a is None or of_b is None:
        note = "a run without all latencies does not say what ended"
        return shown("unfinished_ops", "ops", of_a, of_b, note=note)
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


def _totals(connection: duckdb.DuckDBPyConnection, speed: float) -> dict[str, Any]:
    result = connection.execute(load_sql("tracekit.comparison", "runs"))
    names = [column[0] for column in result.description or ()]
    return dict(zip(names, result.fetchone() or (), strict=True))


def _outcomes(connection: duckdb.DuckDBPyConnection, speed: float) -> dict[tuple[str, str], int]:
    return {(kind, outcome): n for kind, outcome, n in _rows(connection, "runs_kinds")}


def _sizes(connection: duckdb.DuckDBPyConnection, speed: float) -> dict[int, int]:
    return {lo: n for lo, _, n in _rows(connection, "divergence_sizes", many=_MOST_SIZES)}


def _footprint(connection: duckdb.DuckDBPyConnection, speed: float) -> int:
    return int(_rows(connection, "runs_footprint")[0][0])


def _in_flight(connection: duckdb.DuckDBPyConnection, speed: float) -> dict[int, float]:
    sql = load_sql("tracekit.comparison", "runs_flight")
    flight = connection.execute(sql, {"most": _FLIGHT_OPS}).fetchnumpy()
    return depths(np.asarray(flight["t_submit"]), np.asarray(flight["latency"]))


def _arrivals(connection: duckdb.DuckDBPyConnection, speed: float) -> dict[int, dict[int, float]]:
    sql = "SELECT coalesce(min(t_submit), 0), coalesce(max(t_submit) - min(t_submit), 0) FROM ops WHERE op <> 'hint'"
    first_ns, span_ns = connection.execute(sql).fetchone() or (0, 0)
    found: dict[int, dict[int, float]] = {}
    for window_ns in WINDOWS_NS:
        length = max(round(window_ns * speed), 1)
        windows = span_ns // length + 1
        counts = dict(_rows(connection, "runs_arrivals", first_ns=first_ns, window_ns=length))
        found[window_ns] = {0: windows - sum(counts.values()), **counts}
    return found


def _counts(name: str) -> Callable[[duckdb.DuckDBPyConnection, float], dict[Any, int]]:
    """Return the measure that is a query of values and their counts."""
    return lambda connection, speed: dict(_rows(connection, name))


_MEASURES: Mapping[str, Callable[[duckdb.DuckDBPyConnection, float], Any]] = {
    "totals": _totals,
    "reuse": _counts("runs_reuse"),
    "strides": _counts("runs_strides"),
    "footprint": _footprint,
    "in_flight": _in_flight,
    "arrivals": _arrivals,
    "sizes": _sizes,
    "files": _counts("runs_files"),
    "steps": _counts("runs_steps"),
    "outcomes_of_kinds": _outcomes,
}
"""How each field of a `Run` is measured, given by how much to divide the times. Those that take longest come first."""


def _rows(connection: duckdb.DuckDBPyConnection, name: str, **params: int) -> list[Any]:
    sql = load_sql("tracekit.comparison", name)
    return connection.execute(sql, params or None).fetchall()


def _rate(nbytes: int | None, duration_ns: float) -> float | None:
    return nbytes * 1e9 / duration_ns if nbytes is not None and duration_ns else None
