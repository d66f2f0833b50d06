"""Pictures of streams and ranks over time: when each had an op in flight, and where its slow ops were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tracekit.reporting.heat import lanes
from tracekit.reporting.panel import Axis, Panel, Series
from tracekit.reporting.source import Source, log_us, one_of, rank_or_worker, seconds, time_axis
from tracekit.reporting.table import brief, counted
from tracekit.units import format_count, format_duration, format_size

__all__ = ["latency_by_size", "rank_heat", "timeline"]

_LANES = 40
_SPANS = 2500
_KINDS = 16
_HEAT_LANES = 64
_LABELS = 16
"""Labels along an axis of lanes at most: more would overlap."""
_CLASSES = ("reads", "writes", "other ops")


def timeline(sources: list[Source]) -> list[Panel]:
    """One lane for each stream, with a line where it had an op in flight."""
    return [_timeline_of(sources, index) for index in range(len(sources))]


def _timeline_of(sources: list[Source], index: int) -> Panel:
    source = sources[index]
    found = source.file("timeline", lanes=_LANES, spans=_SPANS // len(sources))
    axis, scale = time_axis(sources)
    names = {row["lane"]: row["stream"] for row in found}
    order = sorted(names, reverse=True)  # from the lowest up; a stream of which no op ended has no lane
    height = {lane: place for place, lane in enumerate(order)}
    series = []
    for colour, kind in enumerate(_CLASSES):
        x: list[float | None] = []
        y: list[float | None] = []
        hover: list[str] = []
        for row in (row for row in found if row["class"] == kind):
            ends = [(row[end] - source.zero_s) / scale for end in ("start_s", "end_s")]
            x += [*ends, None]
            y += [height[row["lane"]], height[row["lane"]], None]
            failed = f", {format_count(row['failed'])} failed" if row["failed"] else ""
            text = (
                f"{row['stream']}: {counted(row['ops'], 'op')} in {seconds(row['end_s'] - row['start_s'])}"
                f"{failed}, slowest {format_duration(row['slowest_ns'])}"
            )
            hover += [text, text, ""]
        if x:
            series.append(Series("spans", kind, x, y, colour, hover))
    note = ""
    if found and len(names) < found[0]["of_lanes"]:
        note = f"the {len(names)} of {counted(found[0]['of_lanes'], 'stream')} with most time in ops"
    about = "When each stream (rank/worker) had an op in flight. An empty stretch is time in which it asked for nothing."
    return Panel(
        *one_of("timeline", "Time line of each worker", source, index, len(sources)),
        about,
        axis,
        _lane_axis("rank/worker", [names[lane] for lane in order]),
        tuple(series),
        note=note,
        rows=len(names),
    )


def rank_heat(sources: list[Source]) -> list[Panel]:
    """The slowest op of each rank in each window, or of each stream where there is one rank."""
    return [_rank_heat_of(sources, index) for index in range(len(sources))]


def _rank_heat_of(sources: list[Source], index: int) -> Panel:
    source = sources[index]
    by, found = _slowest(source, len(sources))
    axis, scale = time_axis(sources)
    names = {row["lane"]: _label(row["first"], row["last"]) for row in found}
    top = len(names) - 1
    edges = source.columns()
    cells = {}
    for row in found:
        at = seconds(edges[row["win"]])
        moved = "unknown bytes" if row["bytes"] is None else format_size(row["bytes"])
        failed = f", {format_count(row['failed'])} failed" if row["failed"] else ""
        text = f"{names[row['lane']]} at {at}: {counted(row['ops'], 'op')}, {moved}{failed}"
        if row["slowest_ns"] is not None:
            text = f"{text}, slowest {format_duration(row['slowest_ns'])}"
            cells[row["win"], top - row["lane"]] = row["slowest_ns"] / 1e3, text
    everywhere = [row["slowest_ns"] for one in sources for row in _slowest(one, len(sources))[1]]
    scale_us = log_us("", [ns / 1e3 for ns in everywhere if ns is not None])
    grid = lanes(cells, [edge / scale for edge in edges], len(names), "slowest", scale_us)
    note = f"columns of {format_duration(source.column_ns)}"
    many = next((name for name in names.values() if " to " in name), "")
    note += f"; lanes of several, such as {many}" if many else ""
    title = "Rank by time" if by == "rank" else "Worker by time"
    about = f"The slowest op that each {'rank' if by == 'rank' else 'stream (rank/worker)'} submitted in each window."
    return Panel(
        *one_of("rank-by-time", title, source, index, len(sources)),
        about,
        axis,
        _lane_axis(
            "rank" if by == "rank" else "rank/worker", [names[lane] for lane in sorted(names, reverse=True)]
        ),
        grid=grid,
        note=note,
        rows=len(names),
    )


def _slowest(source: Source, of: int) -> tuple[str, list[dict[str, Any]]]:
    """Whether lanes are ranks or workers, and the cells of the map of one of `of` traces."""
    by = rank_or_worker(source)
    return by, source.file("rank_heat", by=by, width=source.column_ns, lanes=_HEAT_LANES // of)


def _label(first: str, last: str) -> str:
    return first if first == last else f"{first} to {last}"


def _lane_axis(title: str, names: Sequence[str]) -> Axis:
    every = -(-len(names) // _LABELS) or 1
    kept = range(len(names) - 1, -1, -every)
    ticks = tuple((float(lane), brief(names[lane], 20)) for lane in kept)
    return Axis(title, ticks=ticks, limits=(-0.6, len(names) - 0.4))


def latency_by_size(sources: list[Source]) -> list[Panel]:
    """The 99th percentile of latency by op kind and size."""
    return [_by_size_of(sources, index) for index in range(len(sources))]


def _by_size_of(sources: list[Source], index: int) -> Panel:
    source = sources[index]
    found = source.file("latency_by_size", most=_KINDS)
    kinds = sorted({row["op"] for row in found}, reverse=True)
    sizes = sorted(
        {(row["lo"], row["hi"]) for row in found}, key=lambda size: -1 if size[0] is None else size[0]
    )
    cells = {}
    for row in found:
        size = (
            "unknown size" if row["lo"] is None else f"{format_size(row['lo'])} to {format_size(row['hi'])}"
        )
        text = (
            f"{row['op']} of {size}: {counted(row['ops'], 'op')}, median {format_duration(row['p50_ns'])}, "
            f"p99 {format_duration(row['p99_ns'])}, max {format_duration(row['max_ns'])}"
        )
        place = sizes.index((row["lo"], row["hi"])), kinds.index(row["op"])
        cells[place] = row["p99_ns"] / 1e3, text
    scale_us = log_us(
        "", [row["p99_ns"] / 1e3 for one in sources for row in one.file("latency_by_size", most=_KINDS)]
    )
    edges = [place - 0.5 for place in range(len(sizes) + 1)]
    grid = lanes(cells, edges, len(kinds), "p99", scale_us)
    every = -(-len(sizes) // 5) or 1
    labels = ["none" if lo is None else format_size(lo) for lo, _ in sizes]
    shown = tuple((float(place), labels[place]) for place in range(0, len(sizes), every))
    about = "The 99th percentile of latency by op kind and size (asked for, else moved; in powers of two)."
    return Panel(
        *one_of("latency-by-size", "Latency by kind and size", source, index, len(sources)),
        about,
        Axis("size", ticks=shown),
        Axis("op", ticks=tuple((float(i), kind) for i, kind in enumerate(kinds))),
        grid=grid,
        rows=len(kinds),
    )
