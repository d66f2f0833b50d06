"""What the pictures of a trace show: their queries, titles, units and axes.

The panels are ready to paint: `plots` (matplotlib) and `charts` (plotly) draw the same ones. SQL aggregates, so that a panel holds a few thousand points whatever the size of the trace.
This module knows neither painter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import duckdb

from tracekit.errors import UsageError
from tracekit.metrics.measuring import measuring, rows
from tracekit.reporting.heat import heat
from tracekit.reporting.panel import COLOURS, Axis, Panel, Series
from tracekit.reporting.table import brief, counted, short_names
from tracekit.sql import load_sql
from tracekit.store.reader import TraceReader
from tracekit.units import format_count, format_duration, format_rate, format_size
from tracekit.validation import nearest

__all__ = ["KINDS", "pair_names", "panels"]

_WINDOWS = 100
_STEPS = 1000
_FILES = len(COLOURS)
_CELLS = 120
_LEAST_US = 0.1
"""Where a log axis of times starts: smaller values are drawn there."""
_SECONDS = (("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("min", 60.0), ("h", 3600.0))
_BYTES = (("B", 1.0), ("KiB", 2.0**10), ("MiB", 2.0**20), ("GiB", 2.0**30), ("TiB", 2.0**40))


@dataclass(frozen=True, slots=True)
class _Source:
    """A trace to draw. `width_ns`, the length of a window, is the same for all traces of a picture.

    `zero_s` is what the picture takes as time 0, in s since the first submit: the first transfer
    where two traces are compared, since a replay does not list and stat the files first.
    """

    name: str
    connection: duckdb.DuckDBPyConnection
    span_ns: int
    width_ns: int
    zero_s: float

    def rows(self, source: str, **params: Any) -> list[dict[str, Any]]:
        return rows(self.connection, source, params)

    def file(self, name: str, **params: Any) -> list[dict[str, Any]]:
        return self.rows(f"({load_sql('tracekit.reporting.queries', name)})", **params)


def pair_names(reader: TraceReader, against: TraceReader | None) -> tuple[str, str]:
    """What to call a trace and the one beside it."""
    if against is None:
        return "", ""
    if against.source == "replay":
        return "recorded", "replayed"
    a, b = reader.path.name, against.path.name
    return (a, b) if a != b else (f"{a} (A)", f"{b} (B)")


def panels(kinds: Iterable[str], traces: Sequence[tuple[str, TraceReader]]) -> list[Panel]:
    """Query the panels of the given kinds, each of all traces. Raises UsageError for an unknown kind."""
    builders = [_builder(kind) for kind in kinds]
    with ExitStack() as stack:
        opened = [(name, stack.enter_context(measuring(reader))) for name, reader in traces]
        spans = [rows(connection, "run_extent()")[0]["span_ns"] or 1 for _, connection in opened]
        (window,) = rows(
            opened[0][1],
            "(SELECT round_window($span::BIGINT, $windows) AS ns)",
            {"span": max(spans), "windows": _WINDOWS},
        )
        sources = [
            _Source(
                name, connection, span, window["ns"], _first_transfer(connection) if len(traces) > 1 else 0.0
            )
            for (name, connection), span in zip(opened, spans, strict=True)
        ]
        return [panel for build in builders for panel in build(sources)]


def _first_transfer(connection: duckdb.DuckDBPyConnection) -> float:
    """The submit of the first op that moves data, in s since the first submit of all."""
    sql = "(SELECT (min(t_submit) - min(t0)) / 1e9 AS s FROM ops, run_extent() WHERE op NOT IN ('hint', 'list', 'stat'))"
    return rows(connection, sql)[0]["s"] or 0.0


def _time(sources: Sequence[_Source]) -> tuple[Axis, float]:
    """The time axis of a picture and the length of its unit in s."""
    unit, scale = _unit(_SECONDS, max(source.span_ns for source in sources) / 1e9)
    late = any(source.name for source in sources)  # two traces have names
    return Axis(f"time since the first transfer ({unit})" if late else f"time ({unit})"), scale


def _builder(kind: str) -> Callable[[list[_Source]], list[Panel]]:
    if kind not in KINDS:
        hint = f"{nearest(kind, KINDS)} choose from {', '.join(KINDS)}".strip()
        raise UsageError(f"unknown picture {kind!r}", hint)
    return KINDS[kind]


def _latency_cdf(sources: list[_Source]) -> list[Panel]:
    series = []
    for index, source in enumerate(sources):
        found = source.file("latency_cdf")
        x = [max(row["us"], _LEAST_US) for row in found]
        y = [100 * row["fraction"] for row in found]
        hover = [
            f"{100 * row['fraction']:.4g} % of ops took less than {_duration(row['us'])}" for row in found
        ]
        series.append(_series("line", source.name, x, y, index, hover))
    axis = _log_us("latency", [x for one in series for x in one.x])
    about = "Share of ops that took less than a latency."
    return [Panel("latency-cdf", "Latency distribution", about, axis, Axis("ops (%)"), tuple(series))]


def _request_sizes(sources: list[_Source]) -> list[Panel]:
    found = [source.rows("req_bytes_hist('all')") for source in sources]
    buckets = sorted({(row["lo"], row["hi"]) for some in found for row in some})
    labels = [f"{format_size(lo)} to {format_size(hi)}" for lo, hi in buckets]
    series, notes = [], []
    for index, (source, some) in enumerate(zip(sources, found, strict=True)):
        counts = {(row["lo"], row["hi"]): row["counts"] for row in some}
        y = [counts.get(bucket, 0) for bucket in buckets]
        hover = [f"{counted(n, 'op')} of {label}" for n, label in zip(y, labels, strict=True)]
        series.append(Series("bars", source.name, labels, y, index, hover))
        (total,) = source.rows("(SELECT count(*) AS ops FROM ops WHERE op <> 'hint')")
        missing = total["ops"] - sum(y)
        if missing:
            of = f" of {source.name}" if source.name else ""
            notes.append(
                f"{format_count(missing)} of {counted(total['ops'], 'op')}{of} without a length not shown"
            )
    about = "Ops by the length asked for, in powers of two."
    x, y_axis = Axis("length", named=True), Axis("ops", whole=True)
    return [Panel("request-sizes", "Request sizes", about, x, y_axis, tuple(series), note="; ".join(notes))]


def _throughput(sources: list[_Source]) -> list[Panel]:
    about = "Bytes moved per second. The bytes of an op are spread evenly over its time."
    return _over_time(sources, "throughput", "Throughput", about, "bytes_per_s")


def _in_flight(sources: list[_Source]) -> list[Panel]:
    about = "Mean number of ops in flight in each window."
    return _over_time(sources, "in-flight", "Queue depth", about, "mean_qd")


def _over_time(sources: list[_Source], name: str, title: str, about: str, column: str) -> list[Panel]:
    cut = [_whole_windows(source) for source in sources]
    found = [some for some, _ in cut]
    x_axis, x_scale = _time(sources)
    most = max((row[column] or 0 for some in found for row in some), default=0)
    y_unit, y_scale = _unit(_BYTES, most) if column == "bytes_per_s" else ("", 1.0)
    series = []
    for index, (source, some) in enumerate(zip(sources, found, strict=True)):
        edges = [row["start_s"] - source.zero_s for row in (*some, *some[-1:])]
        if some:
            edges[-1] += some[-1]["window_s"]
        values = [row[column] for row in (*some, *some[-1:])]
        hover = [
            f"{_reading(value, column)} at {_seconds(s)}" for s, value in zip(edges, values, strict=True)
        ]
        y = [None if value is None else value / y_scale for value in values]
        series.append(_series("steps", source.name, [s / x_scale for s in edges], y, index, hover))
    y_title = f"throughput ({y_unit}/s)" if y_unit else "ops in flight"
    rest = max(rest for _, rest in cut)
    ending = f", without the last {_seconds(rest)}" if rest else ""
    note = f"windows of {format_duration(sources[0].width_ns)}{ending}"
    return [Panel(name, title, about, x_axis, Axis(y_title), tuple(series), note=note)]


def _whole_windows(source: _Source) -> tuple[list[dict[str, Any]], float]:
    """The windows of a run that it fills, and the length of the rest at its end in s.

    The rest is no fair window: a request at both its ends would look like a burst, and over the
    length of a window a steady load would seem to fall.
    """
    found = source.rows("over_windows($width)", width=source.width_ns)
    last_s = found[-1]["window_s"] if found else 0.0
    if len(found) > 1 and round(last_s * 1e9) < source.width_ns:
        return found[:-1], last_s
    return found, 0.0


def _offsets(sources: list[_Source]) -> list[Panel]:
    return [_offsets_of(source, index, len(sources)) for index, source in enumerate(sources)]


def _offsets_of(source: _Source, index: int, of: int) -> Panel:
    found = source.file("offsets", files=_FILES, cells=_CELLS)
    x_axis, x_scale = _time([source])
    y_unit, y_scale = _unit(_BYTES, max((row["start"] for row in found), default=0))
    names = short_names({row["file"]: row["uri"] for row in found})
    series = []
    for place, (file, name) in enumerate(sorted(names.items())):
        mine = [row for row in found if row["file"] == file]
        x, y = (
            [(row["s"] - source.zero_s) / x_scale for row in mine],
            [row["start"] / y_scale for row in mine],
        )
        hover = [
            f"offset {format_size(row['start'])} at {_seconds(row['s'] - source.zero_s)}" for row in mine
        ]
        series.append(Series("points", brief(name), x, y, place, hover))
    note = ""
    if found and len(names) < found[0]["of_files"]:
        share = sum(row["ops"] for row in found) / found[0]["of_reads"]
        note = (
            f"the {len(names)} busiest of {counted(found[0]['of_files'], 'file')}, {share:.0%} of the reads"
        )
    about = "Offset of each read over time."
    return Panel(
        *_one_of("offsets", "Where each file is read", source, index, of), about,
        x_axis, Axis(f"offset ({y_unit})"), tuple(series), note=note,
    )  # fmt: skip


def _latency_heat(sources: list[_Source]) -> list[Panel]:
    made = []
    for index, source in enumerate(sources):
        x_axis, x_scale = _time([source])
        found = source.file("latency_heat", width=source.width_ns)
        windows = max(-(-source.span_ns // source.width_ns), 1)
        grid = heat(found, windows, source.width_ns / 1e9 / x_scale, -source.zero_s / x_scale)
        axis = _log_us("latency", grid.edges_us if grid else ())
        note = f"windows of {format_duration(source.width_ns)}"
        about = "Number of ops by time of submit and latency."
        names = _one_of("latency-heat", "Latency over time", source, index, len(sources))
        made.append(Panel(*names, about, x_axis, axis, grid=grid, note=note))
    return made


def _steps(sources: list[_Source]) -> list[Panel]:
    found = [source.file("steps", most=_STEPS) for source in sources]
    unit, scale = _unit(
        _SECONDS, max((row["wall_ms"] or 0 for some in found for row in some), default=0) / 1e3
    )
    series = []
    for index, (source, some) in enumerate(zip(sources, found, strict=True)):
        y = [None if row["wall_ms"] is None else row["wall_ms"] / 1e3 / scale for row in some]
        hover = [f"step {row['step']}: {_step(row)}" for row in some]
        series.append(Series("bars", source.name, [row["step"] for row in some], y, index, hover))
    of_steps = max((row["of_steps"] for some in found for row in some), default=0)
    note = f"the first {_STEPS:,} of {of_steps:,} steps" if of_steps > _STEPS else ""
    about = "Time from the first submit to the last end of each step, on its slowest rank."
    x, y_axis = Axis("step", whole=True), Axis(f"duration ({unit})")
    return [Panel("steps", "Steps", about, x, y_axis, tuple(series), note=note)]


def _lateness(sources: list[_Source]) -> list[Panel]:
    x_axis, x_scale = _time(sources)
    series: list[Series] = []
    drawn: tuple[tuple[Literal["points", "line"], str], ...] = (
        ("points", "max"),
        ("line", "p99"),
        ("line", "p50"),
    )
    for source in sources:
        found = source.rows("lateness($windows)", windows=_WINDOWS)
        x = [(row["s"] - source.zero_s) / x_scale for row in found]
        # The maximum as large points below the lines: in a window of few ops it equals the p99 and would hide it.
        for kind, what in drawn if found else ():
            late = [row[f"{what}_us"] for row in found]
            hover = [
                f"{what} {_duration(us)} late at {_seconds(row['s'] - source.zero_s)}"
                for us, row in zip(late, found, strict=True)
            ]
            colour = len(series) if len(sources) > 1 else {"max": 5, "p99": 1, "p50": 0}[what]
            y = [max(us, _LEAST_US) for us in late]
            name = f"{source.name} {what}".strip()
            series.append(Series(kind, name, x, y, colour, hover, dashed=what == "p99", large=what == "max"))
    axis = _log_us("lateness", [y for one in series for y in one.y if y is not None])
    about = "How long after its due time each op was submitted: median, 99th percentile and maximum."
    note = f"windows of {format_duration(sources[-1].width_ns)}"
    return [Panel("lateness", "Lateness of the replay", about, x_axis, axis, tuple(series), note=note)]


KINDS: dict[str, Callable[[list[_Source]], list[Panel]]] = {
    "offsets": _offsets,
    "throughput": _throughput,
    "latency-cdf": _latency_cdf,
    "request-sizes": _request_sizes,
    "in-flight": _in_flight,
    "latency-heat": _latency_heat,
    "steps": _steps,
    "lateness": _lateness,
}
"""Every kind of picture, by the name that `tracekit plot` takes."""


def _series(
    kind: Any, name: str, x: Sequence[float], y: Sequence[float | None], index: int, hover: list[str]
) -> Series:
    return Series(kind, name, x, y, index % len(COLOURS), hover, dashed=bool(index % 2))


def _one_of(kind: str, title: str, source: _Source, index: int, of: int) -> tuple[str, str]:
    """The name and title of a panel that shows one trace of several."""
    return (kind, title) if of == 1 else (f"{kind}-{index + 1}", f"{title}: {source.name}")


def _unit(units: Sequence[tuple[str, float]], most: float) -> tuple[str, float]:
    """The unit in which `most` reads as a small number, and its size."""
    fitting = [unit for unit in units if most >= 2 * unit[1]]
    return fitting[-1] if fitting else units[0]


def _log_us(title: str, values: Iterable[float | str]) -> Axis:
    """A log axis of us. The ticks carry their units, and are closer where the values are close."""
    numbers = [float(value) for value in values]
    if not numbers:
        return Axis(f"{title} (log)", log=True)
    low, high = min(numbers), max(numbers)
    steps = (
        (1.0,)
        if high > 50 * low
        else (1.0, 2.0, 5.0)
        if high > 5 * low
        else (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
    )
    ticks = [step * 10.0**power for power in range(-3, 13) for step in steps]
    inside = [tick for tick in ticks if low / 10 < tick < high * 10]
    return Axis(f"{title} (log)", log=True, ticks=tuple((tick, _duration(tick)) for tick in inside))


def _reading(value: float | None, column: str) -> str:
    if value is None:
        return "unknown"
    return format_rate(value) if column == "bytes_per_s" else f"{value:.3g} ops in flight"


def _step(row: dict[str, Any]) -> str:
    if row["wall_ms"] is None:
        return "no op ended"
    name = brief((row["slowest_uri"] or "").rsplit("/", 1)[-1])
    return f"{format_duration(row['wall_ms'] * 1e6)}; slowest op {_duration(row['slowest_us'])} in {name}"


def _duration(us: float | None) -> str:
    return "unknown" if us is None else format_duration(us * 1e3)


def _seconds(s: float) -> str:
    return format_duration(s * 1e9)
