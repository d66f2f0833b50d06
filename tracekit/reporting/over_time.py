"""Rates, queue depth and latency over time, each op kind apart, on one time axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

from tracekit.reporting.panel import COLOURS, Axis, Panel, Series
from tracekit.reporting.source import BYTES, LEAST_US, Source, duration, log_us, seconds, time_axis, unit_of
from tracekit.schema import DATA_KINDS
from tracekit.units import format_duration, format_rate

__all__ = ["in_flight", "latency_over_time", "request_rate", "throughput"]

_KINDS = 6
"""Kinds shown, of both traces together."""
_ALL = 6
"""The colour of all kinds together: grey."""
_Row = dict[str, Any]


def throughput(sources: list[Source]) -> list[Panel]:
    """Bytes per second by op kind."""
    about = "Bytes moved per second, each op kind apart. The bytes of an op are spread evenly over its time."
    found = _cut(sources, "op")
    kinds = [kind for kind in _kinds(found) if kind in DATA_KINDS]
    most = max((row["bytes_per_s"] or 0 for rows in found for row in rows), default=0)
    unit, scale = unit_of(BYTES, most)
    series = _lines(sources, found, kinds, "bytes_per_s", scale, format_rate)
    axis = Axis(f"throughput ({unit}/s)" if most else "throughput")
    return [_panel(sources, found, "throughput", "Throughput", about, axis, series, kinds)]


def request_rate(sources: list[Source]) -> list[Panel]:
    """Ops per second by op kind."""
    about = "Ops submitted per second, each op kind apart."
    found = _cut(sources, "op")
    kinds = _kinds(found)
    series = _lines(sources, found, kinds, "ops_per_s", 1.0, lambda value: f"{value:,.4g} ops/s")
    return [
        _panel(sources, found, "request-rate", "Requests per second", about, Axis("ops/s"), series, kinds)
    ]


def in_flight(sources: list[Source]) -> list[Panel]:
    """Mean ops in flight, all and by op kind."""
    about = "Mean number of ops in flight in each window."
    alone, found = _cut(sources, "all"), _cut(sources, "op")
    kinds = _kinds(found)
    series = _lines(sources, alone, ["all"], "mean_qd", 1.0, _flying)
    if len(kinds) > 1:
        series = tuple(
            replace(one, name=f"{one.name} all".strip(), colour=_ALL + one.colour) for one in series
        )
        series += _lines(sources, found, kinds, "mean_qd", 1.0, _flying)
    return [_panel(sources, found, "in-flight", "Queue depth", about, Axis("ops in flight"), series, kinds)]


def latency_over_time(sources: list[Source]) -> list[Panel]:
    """Median and 99th percentile of the latency of each op kind. Of two traces, the 99th percentile only."""
    found = _cut(sources, "op")
    kinds = _kinds(found)
    quantiles: tuple[tuple[str, str], ...] = (("p99", "p99_us"),)
    if len(sources) == 1:
        quantiles = (("p50", "p50_us"), *quantiles)
    series = tuple(
        replace(one, name=f"{one.name} {name}".strip(), dashed=name == "p50" or one.dashed)
        for name, column in quantiles
        for one in _lines(sources, found, kinds, column, 1.0, duration, least=LEAST_US)
    )
    about = "Latency of the ops submitted in each window, each op kind apart: " + (
        "median (dashed) and 99th percentile." if len(sources) == 1 else "99th percentile."
    )
    axis = log_us("latency", [y for one in series for y in one.y if y is not None])
    return [_panel(sources, found, "latency-over-time", "Latency percentiles", about, axis, series, kinds)]


def _flying(value: float) -> str:
    return f"{value:.3g} ops in flight"


def _cut(sources: Sequence[Source], by: Literal["op", "all"]) -> list[list[_Row]]:
    """The windows of each trace that the run fills.

    The rest at the end is no fair window: a request at both its ends would look like a burst, and over the
    length of a window a steady load would seem to fall.
    """
    cut = []
    for source in sources:
        found = source.windows(by)
        last = max((row["win"] for row in found), default=0)
        cut.append([row for row in found if not last or row["win"] < last or not source.rest_ns()])
    return cut


def _kinds(found: Sequence[Sequence[_Row]]) -> list[str]:
    """The op kinds, those with most ops first."""
    count: dict[str, int] = {}
    for row in (row for rows in found for row in rows):
        count[row["key"]] = count.get(row["key"], 0) + row["ops"]
    return sorted(count, key=lambda kind: (-count[kind], kind))


def _lines(
    sources: Sequence[Source],
    found: Sequence[Sequence[_Row]],
    kinds: Sequence[str],
    column: str,
    scale: float,
    reading: Callable[[float], str],
    *,
    least: float = 0.0,
) -> tuple[Series, ...]:
    """One series for each trace and kind. Colours tell kinds apart, dashes the second trace."""
    _, x_scale = time_axis(sources)
    series = []
    for place, kind in enumerate(kinds[: _KINDS // len(sources)]):
        for index, (source, rows) in enumerate(zip(sources, found, strict=True)):
            mine = [row for row in rows if row["key"] == kind]
            edges = [row["start_s"] - source.zero_s for row in (*mine, *mine[-1:])]
            if mine:
                edges[-1] += mine[-1]["window_s"]
            values = [row[column] for row in (*mine, *mine[-1:])]
            y = [None if value is None else max(value / scale, least) for value in values]
            hover = [
                f"{'unknown' if value is None else reading(value)} at {seconds(s)}"
                for s, value in zip(edges, values, strict=True)
            ]
            colour = (place * len(sources) + index) % len(COLOURS)
            name = source.name if len(kinds) == 1 else f"{source.name} {kind}".strip()
            x = [s / x_scale for s in edges]
            series.append(Series("steps", name, x, y, colour, hover, dashed=bool(index % 2)))
    return tuple(series)


def _panel(
    sources: Sequence[Source],
    found: Sequence[Sequence[_Row]],
    name: str,
    title: str,
    about: str,
    axis: Axis,
    series: tuple[Series, ...],
    kinds: Sequence[str],
) -> Panel:
    rest = max((source.rest_ns() for source, rows in zip(sources, found, strict=True) if rows), default=0)
    note = sources[0].window()
    note += f", without the last {format_duration(rest)}" if rest else ""
    rest_of = kinds[_KINDS // len(sources) :]
    note += (
        f"; {', '.join(rest_of[:5])}{' and others' if len(rest_of) > 5 else ''} not shown" if rest_of else ""
    )
    return Panel(name, title, about, time_axis(sources)[0], axis, series, note=note)
