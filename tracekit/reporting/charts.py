"""Paint panels as plotly figures: plain dictionaries that plotly.js draws."""

from __future__ import annotations

from html import escape
from typing import Any

from tracekit.reporting.panel import COLOURS, HEAT_COLOURS, Axis, Panel, Series

__all__ = ["figure"]

_HEIGHT = 360
_CLEAR = "rgba(0,0,0,0)"


def figure(panel: Panel) -> dict[str, Any]:
    """The data and layout of a panel, as JSON-able values."""
    data = [_trace(series) for series in panel.series]
    if panel.grid is not None:
        data.append(
            {
                "type": "heatmap", "x": panel.grid.edges_x, "y": panel.grid.edges_us, "z": panel.grid.cells,
                "zmin": 0, "colorscale": [[i / 2, colour] for i, colour in enumerate(HEAT_COLOURS)], "hoverongaps": False,
                "colorbar": {"title": {"text": "ops"}, "thickness": 14},
                "hovertemplate": f"%{{z:,}} ops<br>{panel.x.title}: %{{x:.4g}}<br>latency: %{{y:,.3g}} us<extra></extra>",
            }
        )  # fmt: skip
    near = panel.grid is not None or any(series.kind == "points" for series in panel.series)
    layout = {
        "xaxis": _axis(panel.x), "yaxis": {**_axis(panel.y), **({} if panel.y.log else {"rangemode": "tozero"})},
        "height": _HEIGHT, "margin": {"l": 10, "r": 10, "t": 36, "b": 10}, "hovermode": "closest" if near else "x",
        "paper_bgcolor": _CLEAR, "plot_bgcolor": _CLEAR, "font": {"family": "system-ui, sans-serif"},
        "showlegend": panel.named, "modebar": {"bgcolor": _CLEAR, "color": "#8b949e"}, "bargap": 0.15 if any(len(series.x) > 3 for series in panel.series) else 0.6,
        # Below the axis: above the chart the toolbar would cover it.
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": -0.24, "yanchor": "top"},
    }  # fmt: skip
    return {"data": data, "layout": layout}


def _trace(series: Series) -> dict[str, Any]:
    colour, name = COLOURS[series.colour % len(COLOURS)], escape(series.name)
    made: dict[str, Any] = {
        "x": list(series.x), "y": list(series.y), "name": name, "text": [escape(text) for text in series.hover],
        "hovertemplate": f"%{{text}}<extra>{name}</extra>",
    }  # fmt: skip
    if series.kind == "bars":
        return {**made, "type": "bar", "textposition": "none", "marker": {"color": colour}}
    if series.kind == "points":
        return {
            **made,
            "type": "scattergl",
            "mode": "markers",
            "marker": {
                "size": 9 if series.large else 4,
                "color": colour,
                "opacity": 0.5 if series.large else 0.9,
            },
        }
    line = {"color": colour, "width": 2, "dash": "dash" if series.dashed else "solid"}
    # A lone value between unknown ones would have no line.
    lone = sum(value is not None for value in series.y) < 3
    mode = "lines+markers" if lone else "lines"
    return {
        **made,
        "type": "scatter",
        "mode": mode,
        "line": {**line, "shape": "hv"} if series.kind == "steps" else line,
    }


def _axis(axis: Axis) -> dict[str, Any]:
    made: dict[str, Any] = {"title": {"text": axis.title, "standoff": 8}, "automargin": True, "nticks": 8}
    if axis.log:
        made["type"] = "log"
    if axis.ticks:
        made |= {"tickvals": [value for value, _ in axis.ticks], "ticktext": [text for _, text in axis.ticks]}
    if axis.whole:
        made |= {"tickformat": ",d"}
    return made
