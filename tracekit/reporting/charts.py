"""Interactive charts for the page, by plotly. SQL aggregates; a chart holds a few thousand points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import plotly.graph_objects as go

from tracekit.metrics.snapshot import measuring
from tracekit.reporting.heat import heat
from tracekit.reporting.table import brief, short_names
from tracekit.sql import load_sql
from tracekit.store.reader import TraceReader
from tracekit.units import format_size

__all__ = ["Chart", "charts"]

# Okabe and Ito's palette, without the yellow that white hides: told apart by colour-blind readers.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999", "#7F6A00")
_WINDOWS = 80
_STEPS = 1500
_FILES = 8


@dataclass(frozen=True, slots=True)
class Chart:
    """One picture: an id, what it shows in words (its accessible name), and plotly's figure."""

    name: str
    title: str
    about: str
    figure: go.Figure


def charts(traces: list[tuple[str, TraceReader]]) -> list[Chart]:
    """The charts of one trace, or of two beside each other, leaving out those with nothing to show."""
    made = [
        _latency(traces), _over_time(traces), *(one(traces[0][1], _whose(traces)) for one in (_offsets, _heat)), _sizes(traces),
        _steps(traces), _lateness(traces),
    ]  # fmt: skip
    return [chart for chart in made if chart is not None]


def _whose(traces: list[tuple[str, TraceReader]]) -> str:
    """What is added about a chart of the first trace alone where there are two."""
    return f" Of {traces[0][0]}." if len(traces) > 1 else ""


def _latency(traces: list[tuple[str, TraceReader]]) -> Chart | None:
    figure = go.Figure()
    for index, (name, reader) in enumerate(traces):
        rows = _rows(reader, _picture("latency_cdf"))
        figure.add_scatter(
            x=[max(r["us"], 0.01) for r in rows], y=[100 * r["fraction"] for r in rows], name=escape(name),
            line=_line(index), hovertemplate="%{y:.3f} % of ops took less than %{x:,.3g} us<extra>" + escape(name) + "</extra>",
        )  # fmt: skip
    _axes(figure, "latency (us, log)", "share of ops (%)", x_log=True)
    return _chart("latency", "Latency", "Cumulative distribution of latency.", figure)


def _over_time(traces: list[tuple[str, TraceReader]]) -> Chart | None:
    figure = go.Figure()
    for index, (name, reader) in enumerate(traces):
        rows = _rows(reader, "FROM over_time($windows)", {"windows": _WINDOWS})
        x = [r["s"] for r in rows]
        figure.add_scatter(
            x=x, y=[None if r["bytes_per_s"] is None else r["bytes_per_s"] / 2**20 for r in rows], name=escape(f"{name} MiB/s"), line=_line(index, shape="hvh"),
            hovertemplate="%{y:,.1f} MiB/s at %{x:.3g} s<extra>" + escape(name) + "</extra>",
        )  # fmt: skip
        figure.add_scatter(
            x=x, y=[r["mean_qd"] for r in rows], name=escape(f"{name} mean ops in flight"), yaxis="y2",
            line={**_line(index + 2), "width": 1.2, "dash": "dot"},
            hovertemplate="%{y:.2f} ops in flight at %{x:.3g} s<extra>" + escape(name) + "</extra>",
        )  # fmt: skip
    _axes(figure, "time (s)", "MiB/s")
    figure.update_layout(
        yaxis2={
            "title": "ops in flight",
            "overlaying": "y",
            "side": "right",
            "rangemode": "tozero",
            "showgrid": False,
        }
    )
    return _chart(
        "over-time",
        "Throughput and queue depth over time",
        "Bytes a second and mean ops in flight, in equal windows.",
        figure,
    )


def _offsets(reader: TraceReader, whose: str) -> Chart | None:
    rows = _rows(reader, _picture("offsets"), {"files": _FILES, "cells": 100})
    figure = go.Figure()
    names = {file: brief(name) for file, name in short_names({r["file"]: r["uri"] for r in rows}).items()}
    for index, (file, name) in enumerate(sorted(names.items())):
        mine = [r for r in rows if r["file"] == file]
        figure.add_scattergl(
            x=[r["s"] for r in mine], y=[r["mib"] for r in mine], name=escape(name), mode="markers",
            marker={"size": 4, "color": COLOURS[index % len(COLOURS)]},
            hovertemplate="offset %{y:,.2f} MiB at %{x:.3g} s<extra>" + escape(name) + "</extra>",
        )  # fmt: skip
    _axes(figure, "time (s)", "offset (MiB)", hover="closest")
    return _chart(
        "offsets",
        "Where each file is read",
        f"Offset of each read over time, of the first {len(names)} of {rows[0]['of_files'] if rows else 0} files used.{whose}",
        figure,
    )


def _heat(reader: TraceReader, whose: str) -> Chart | None:
    grid = heat(_rows(reader, _picture("latency_heat"), {"windows": _WINDOWS}), _WINDOWS)
    figure = go.Figure()
    if grid is not None:
        figure.add_heatmap(
            x=grid.edges_s, y=grid.edges_us, z=grid.cells, zmin=0, colorscale="Cividis", colorbar={"title": "ops"},
            hoverongaps=False,
            hovertemplate="%{z} ops of about %{y:,.3g} us at %{x:.3g} s<extra></extra>",
        )  # fmt: skip
    _axes(figure, "time (s)", "latency (us, log)", y_log=True, hover="closest")
    return _chart(
        "heat", "Latency over time", f"How many ops took how long, window by window.{whose}", figure
    )


def _sizes(traces: list[tuple[str, TraceReader]]) -> Chart | None:
    figure = go.Figure()
    found = [(name, _rows(reader, "FROM req_bytes_hist('all')")) for name, reader in traces]
    for index, (name, rows) in enumerate(found):
        figure.add_bar(
            x=[_size(r["lo"], r["hi"]) for r in rows], y=[r["counts"] for r in rows], name=escape(name),
            marker={"color": COLOURS[index]}, hovertemplate="%{y:,} requests of %{x}<extra>" + escape(name) + "</extra>",
        )  # fmt: skip
    sizes = sorted({(r["lo"], r["hi"]) for _, rows in found for r in rows})
    figure.update_xaxes(categoryorder="array", categoryarray=[_size(lo, hi) for lo, hi in sizes])
    _axes(figure, "bytes asked for", "ops")
    return _chart("sizes", "Request sizes", "Requests by the power of two that their length reaches.", figure)


def _size(lo: int, hi: int) -> str:
    return f"{format_size(lo)} - {format_size(hi)}"


def _steps(traces: list[tuple[str, TraceReader]]) -> Chart | None:
    figure = go.Figure()
    for index, (name, reader) in enumerate(traces):
        rows = _rows(reader, _picture("steps"), {"most": _STEPS})
        figure.add_bar(
            x=[r["step"] for r in rows], y=[r["wall_ms"] for r in rows], name=escape(name), marker={"color": COLOURS[index]},
            customdata=[[r["slowest_us"], escape(brief((r["slowest_uri"] or "").rsplit("/", 1)[-1]))] for r in rows],
            hovertemplate="step %{x}: %{y:,.3g} ms; slowest op %{customdata[0]:,.0f} us in %{customdata[1]}<extra>" + escape(name) + "</extra>",
        )  # fmt: skip
    _axes(figure, "step", "first submit to last end (ms)")
    return _chart(
        "steps",
        "Steps",
        f"Time from first submit to last end of each batch, of its slowest rank (the first {_STEPS:,} batches).",
        figure,
    )


def _lateness(traces: list[tuple[str, TraceReader]]) -> Chart | None:
    figure = go.Figure()
    for name, reader in traces:
        rows = _rows(reader, "FROM lateness($windows)", {"windows": _WINDOWS})
        for index, column in enumerate(("p50_us", "p99_us", "max_us") if rows else ()):
            figure.add_scatter(
                x=[r["s"] for r in rows], y=[max(r[column], 0.1) for r in rows], name=escape(f"{name} {column.removesuffix('_us')}"),
                line=_line(index), hovertemplate="%{y:,.3g} us late at %{x:.3g} s<extra>" + column.removesuffix("_us") + "</extra>",
            )  # fmt: skip
    _axes(figure, "time (s)", "lateness (us, log)", y_log=True)
    return _chart(
        "lateness", "Lateness of the replay", "How long after its due time each op was submitted.", figure
    )


def _chart(name: str, title: str, about: str, figure: go.Figure) -> Chart | None:
    if not figure.data or all(not _length(trace) for trace in figure.data):
        return None
    return Chart(name, title, about, figure)


def _length(trace: Any) -> int:
    return 0 if trace.x is None else len(trace.x)


def _line(index: int, **more: Any) -> dict[str, Any]:
    return {"color": COLOURS[index % len(COLOURS)], "width": 2, "dash": ("solid", "dash")[index % 2], **more}


def _axes(
    figure: go.Figure, x: str, y: str, *, x_log: bool = False, y_log: bool = False, hover: str = "x"
) -> None:
    figure.update_layout(
        xaxis={"title": x, "type": "log" if x_log else None}, yaxis={"title": y, "type": "log" if y_log else None, "rangemode": "normal" if y_log else "tozero"},
        margin={"l": 60, "r": 60, "t": 40, "b": 50}, height=370, hovermode=hover, paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)", legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}, modebar={"bgcolor": "rgba(0,0,0,0)", "color": "#8b949e"}, font={"family": "system-ui, sans-serif"},
    )  # fmt: skip


def _picture(name: str) -> str:
    return load_sql("tracekit.reporting.queries", name)


def _rows(reader: TraceReader, sql: str, params: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    with measuring(reader) as connection:
        found: list[dict[str, Any]] = (
            connection.sql(sql, params=dict(params) if params else None).to_arrow_table().to_pylist()
        )
        return found
