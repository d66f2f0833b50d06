"""What the pictures of a trace show: their queries, titles, units and axes.

The panels are ready to paint: `plots` (matplotlib) and `charts` (plotly) draw the same ones. SQL aggregates, so that a panel holds a few thousand points whatever the size of the trace.
This module knows neither painter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

from tracekit.errors import UsageError
from tracekit.reporting.heat import heat
from tracekit.reporting.over_time import in_flight, latency_over_time, request_rate, throughput
from tracekit.reporting.panel import COLOURS, Axis, Panel, Series
from tracekit.reporting.source import (
    BYTES,
    LEAST_US,
    SECONDS,
    Source,
    duration,
    log_us,
    one_of,
    opened,
    seconds,
    time_axis,
    unit_of,
)
from tracekit.reporting.streams import latency_by_size, rank_heat, timeline
from tracekit.reporting.table import brief, counted, short_names
from tracekit.store.reader import TraceReader
from tracekit.units import format_count, format_duration, format_size
from tracekit.validation import choosing

__all__ = ["KINDS", "drawn", "panels"]

_STEPS = 1000
_FILES = len(COLOURS)
_CELLS = 120
_ALL = 6
"""The colour of all kinds together where they are shown apart, too: grey."""


def panels(kinds: Iterable[str], traces: Sequence[tuple[str, TraceReader]]) -> list[Panel]:
    """Query the panels of the given kinds, each of all traces. Raises UsageError for an unknown kind."""
    builders = [_builder(kind) for kind in kinds]
    with opened(traces) as sources:
        return [panel for build in builders for panel in _asked(build, sources)]


def drawn(kind: str, sources: list[Source]) -> list[Panel]:
    """The panels of one kind of the open traces."""
    return _asked(_builder(kind), sources)


def _asked(build: Callable[[list[Source]], list[Panel]], sources: list[Source]) -> list[Panel]:
    for source in sources:
        source.taken()
    found = build(sources)
    sql = tuple(dict.fromkeys(text for source in sources for text in source.taken()))
    return [replace(panel, sql=sql) for panel in found]


def _builder(kind: str) -> Callable[[list[Source]], list[Panel]]:
    if kind not in KINDS:
        raise UsageError(f"unknown picture {kind!r}", choosing(kind, KINDS))
    return KINDS[kind]


def _latency_cdf(sources: list[Source]) -> list[Panel]:
    series = []
    for index, source in enumerate(sources):
        apart = source.file("latency_cdf", by="op")
        kinds = sorted({(-row["ops"], row["key"]) for row in apart})[: _ALL // len(sources)]
        found = [(_ALL, "all", source.file("latency_cdf", by="all"))]
        if len(kinds) > 1:
            found += [
                (place * len(sources), kind, [row for row in apart if row["key"] == kind])
                for place, (_, kind) in enumerate(kinds)
            ]
        else:
            found[0] = (0, *found[0][1:])
        for place, kind, points in found:
            x = [max(row["us"], LEAST_US) for row in points]
            y = [100 * row["fraction"] for row in points]
            of = "ops" if kind == "all" else kind
            hover = [
                f"{100 * row['fraction']:.4g} % of {of} in less than {duration(row['us'])}" for row in points
            ]
            name = source.name if len(kinds) < 2 else f"{source.name} {kind}".strip()
            series.append(_series("line", name, x, y, place + index, hover, dashed=bool(index % 2)))
    axis = log_us("latency", [x for one in series for x in one.x])
    about = "Share of ops that took less than a latency, all ops and each kind apart."
    return [Panel("latency-cdf", "Latency distribution", about, axis, Axis("ops (%)"), tuple(series))]


def _request_sizes(sources: list[Source]) -> list[Panel]:
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


def _offsets(sources: list[Source]) -> list[Panel]:
    return [_offsets_of(sources, index) for index in range(len(sources))]


def _offsets_of(sources: list[Source], index: int) -> Panel:
    source = sources[index]
    found = source.file("offsets", files=_FILES, cells=_CELLS)
    x_axis, x_scale = time_axis(sources)
    y_unit, y_scale = unit_of(BYTES, max((row["start"] for row in found), default=0))
    names = short_names({row["file"]: row["uri"] for row in found})
    series = []
    for place, (file, name) in enumerate(sorted(names.items())):
        mine = [row for row in found if row["file"] == file]
        x, y = (
            [(row["s"] - source.zero_s) / x_scale for row in mine],
            [row["start"] / y_scale for row in mine],
        )
        hover = [f"offset {format_size(row['start'])} at {seconds(row['s'] - source.zero_s)}" for row in mine]
        series.append(Series("points", brief(name), x, y, place, hover))
    note = ""
    if found and len(names) < found[0]["of_files"]:
        share = sum(row["ops"] for row in found) / found[0]["of_reads"]
        note = (
            f"the {len(names)} busiest of {counted(found[0]['of_files'], 'file')}, {share:.0%} of the reads"
        )
    about = "Offset of each read over time."
    return Panel(
        *one_of("offsets", "Where each file is read", source, index, len(sources)),
        about,
        x_axis,
        Axis(f"offset ({y_unit})"),
        tuple(series),
        note=note,
    )


def _latency_heat(sources: list[Source]) -> list[Panel]:
    made = []
    for index, source in enumerate(sources):
        x_axis, x_scale = time_axis(sources)
        found = source.file("latency_heat", width=source.column_ns)
        grid = heat(found, [edge / x_scale for edge in source.columns()])
        axis = log_us("latency", grid.edges_y if grid else ())
        note = f"columns of {format_duration(source.column_ns)}"
        about = "Number of ops by time of submit and latency."
        names = one_of("latency-heat", "Latency over time", source, index, len(sources))
        made.append(Panel(*names, about, x_axis, axis, grid=grid, note=note))
    return made


def _reuse_distance(sources: list[Source]) -> list[Panel]:
    found = [source.rows("reuse_distance()") for source in sources]
    buckets = sorted({(row["lo"], row["hi"]) for some in found for row in some if row["lo"] is not None})
    labels = [f"{format_size(lo)} to {format_size(hi)}" for lo, hi in buckets]
    series, notes = [], []
    for index, (source, some) in enumerate(zip(sources, found, strict=True)):
        counts = {(row["lo"], row["hi"]): row for row in some}
        y = [counts[bucket]["counts"] if bucket in counts else 0 for bucket in buckets]
        hover = [f"{counted(n, 'read')} again after {label}" for n, label in zip(y, labels, strict=True)]
        series.append(Series("bars", source.name, labels, y, index, hover))
        first = counts[None, None]["counts"] if (None, None) in counts else 0
        total = sum(row["counts"] for row in some)
        if total:
            of = f" of {source.name}" if source.name else ""
            notes.append(f"{format_count(first)} of {counted(total, 'read')}{of} of what was not read before")
    about = (
        "Reads of what was read before, by the bytes read in between: a cache of that size that drops "
        "what was read longest ago would have served them."
    )
    x, y_axis = Axis("bytes read in between", named=True), Axis("reads", whole=True)
    return [Panel("reuse-distance", "Reuse distance", about, x, y_axis, tuple(series), note="; ".join(notes))]


def _steps(sources: list[Source]) -> list[Panel]:
    found = [source.file("steps", most=_STEPS) for source in sources]
    longest = max((row["wall_ns"] or 0 for some in found for row in some), default=0)
    unit, scale = unit_of(SECONDS, longest / 1e9)
    series = []
    for index, (source, some) in enumerate(zip(sources, found, strict=True)):
        y = [None if row["wall_ns"] is None else row["wall_ns"] / 1e9 / scale for row in some]
        hover = [f"step {row['step']}: {_step(row)}" for row in some]
        series.append(Series("bars", source.name, [row["step"] for row in some], y, index, hover))
    of_steps = max((row["of_steps"] for some in found for row in some), default=0)
    note = f"the first {_STEPS:,} of {of_steps:,} steps" if of_steps > _STEPS else ""
    about = "Time from the first submit to the last end of each step, on its slowest rank."
    x, y_axis = Axis("step", whole=True), Axis(f"duration ({unit})")
    return [Panel("steps", "Steps", about, x, y_axis, tuple(series), note=note)]


def _lateness(sources: list[Source]) -> list[Panel]:
    x_axis, x_scale = time_axis(sources)
    series: list[Series] = []
    drawn: tuple[tuple[Literal["points", "line"], str], ...] = (
        ("points", "max"),
        ("line", "p99"),
        ("line", "p50"),
    )
    for source in sources:
        found = source.rows("lateness_in($width, $early)", width=source.width_ns, early=source.early_ns)
        x = [(row["s"] - source.zero_s) / x_scale for row in found]
        # The maximum as large points below the lines: in a window of few ops it equals the p99 and would hide it.
        for kind, what in drawn if found else ():
            late = [row[f"{what}_us"] for row in found]
            hover = [
                f"{what} {duration(us)} late at {seconds(row['s'] - source.zero_s)}"
                for us, row in zip(late, found, strict=True)
            ]
            colour = len(series) if len(sources) > 1 else {"max": 5, "p99": 1, "p50": 0}[what]
            y = [max(us, LEAST_US) for us in late]
            name = f"{source.name} {what}".strip()
            series.append(Series(kind, name, x, y, colour, hover, dashed=what == "p99", large=what == "max"))
    axis = log_us("lateness", [y for one in series for y in one.y if y is not None])
    about = "How long after its due time each op was submitted: median, 99th percentile and maximum."
    note = sources[-1].window()
    return [Panel("lateness", "Lateness of the replay", about, x_axis, axis, tuple(series), note=note)]


KINDS: dict[str, Callable[[list[Source]], list[Panel]]] = {
    "timeline": timeline,
    "rank-by-time": rank_heat,
    "throughput": throughput,
    "request-rate": request_rate,
    "in-flight": in_flight,
    "latency-over-time": latency_over_time,
    "latency-cdf": _latency_cdf,
    "latency-heat": _latency_heat,
    "latency-by-size": latency_by_size,
    "request-sizes": _request_sizes,
    "offsets": _offsets,
    "reuse-distance": _reuse_distance,
    "steps": _steps,
    "lateness": _lateness,
}
"""Every kind of picture, by the name that `tracekit plot` takes."""


def _series(
    kind: Any,
    name: str,
    x: Sequence[float],
    y: Sequence[float | None],
    index: int,
    hover: list[str],
    *,
    dashed: bool,
) -> Series:
    return Series(kind, name, x, y, index % len(COLOURS), hover, dashed=dashed)


def _step(row: dict[str, Any]) -> str:
    if row["wall_ns"] is None:
        return "no op ended"
    name = brief((row["slowest_uri"] or "").rsplit("/", 1)[-1])
    held = f" on rank {row['slowest_rank']} of {row['ranks']}" if row["ranks"] > 1 else ""
    return f"{format_duration(row['wall_ns'])}{held}; slowest op {format_duration(row['slowest_ns'] or 0)} in {name}"
