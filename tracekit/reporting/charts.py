"""Paint panels as plotly figures: plain dictionaries that plotly.js draws."""

from __future__ import annotations

import math
from html import escape
from typing import Any

from tracekit.printable import printable
from tracekit.reporting.heat import Heat
from tracekit.reporting.panel import COLOURS, HEAT_COLOURS, Axis, Panel, Series, visible

__all__ = ["figure"]


def _text(text: str) -> str:
    """`text` for plotly, which takes `<` and `&` as markup but knows no entity for a quote."""
    return escape(printable(text), quote=False)


_HEIGHT = 360
_LANE = 16
"""Pixels of a lane, of which a tall picture has many."""
_TALLEST = 760
_CLEAR = "rgba(0,0,0,0)"
_NAMES_FLAT = 5
"""Names along an axis that fit beside each other on a phone; more are turned."""
_TURNED = 56
"""Pixels that turned names take below the axis."""


def figure(panel: Panel) -> dict[str, Any]:
    """The data and layout of a panel, as JSON-able values."""
    data = [_trace(visible(series, panel.x)) for series in panel.series]
    if panel.grid is not None:
        data.append(_heat(panel.grid, panel.x.title))
    near = panel.grid is not None or any(series.kind in ("points", "spans") for series in panel.series)
    turned = _TURNED if _is_turned(panel) else 0
    height = (min(max(150 + _LANE * panel.rows, 220), _TALLEST) if panel.rows else _HEIGHT) + turned
    layout = {
        "xaxis": _axis(panel.x, panel),
        "yaxis": {**_axis(panel.y, panel), **({} if panel.y.log or panel.rows else {"rangemode": "tozero"})},
        "height": height,
        "margin": {"l": 10, "r": 10, "t": 36, "b": 10},
        "hovermode": "closest" if near else "x",
        "paper_bgcolor": _CLEAR,
        "plot_bgcolor": _CLEAR,
        "font": {"family": "system-ui, sans-serif"},
        "showlegend": panel.named,
        "modebar": {"bgcolor": _CLEAR, "color": "#8b949e"},
        "bargap": 0.15 if any(len(series.x) > 3 for series in panel.series) else 0.6,
        # Below the axis: above the chart the toolbar would cover it.
        "legend": {
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": -(76 + turned) / (height - 100 - turned),
            "yanchor": "top",
        },
        "meta": {"linked": panel.x.title if panel.x.linked else ""},
    }
    return {"data": data, "layout": layout}


def _heat(grid: Heat, x_title: str) -> dict[str, Any]:
    made: dict[str, Any] = {
        "type": "heatmap",
        "x": grid.edges_x,
        "y": grid.edges_y,
        "z": grid.cells,
        "hoverongaps": False,
        "colorscale": [[i / 2, colour] for i, colour in enumerate(HEAT_COLOURS)],
        "colorbar": {"title": {"text": grid.title, "side": "right"}, "thickness": 14},
    }
    if grid.ticks:
        made["colorbar"] |= {
            "tickvals": [value for value, _ in grid.ticks],
            "ticktext": [text for _, text in grid.ticks],
        }
        made |= {"zmin": grid.limits[0], "zmax": grid.limits[1]} if grid.limits else {}
    else:
        made["zmin"] = 0
    if grid.hover is None:
        about = f"%{{z:,}} {grid.title}<br>{_text(x_title)}: %{{x:.4g}}<br>latency: %{{y:,.3g}} us"
        return {**made, "hovertemplate": f"{about}<extra></extra>"}
    hover = [[_text(text) for text in row] for row in grid.hover]
    return {**made, "text": hover, "texttemplate": "", "hovertemplate": "%{text}<extra></extra>"}


def _trace(series: Series) -> dict[str, Any]:
    colour, name = COLOURS[series.colour % len(COLOURS)], _text(series.name)
    made: dict[str, Any] = {
        "x": list(series.x),
        "y": list(series.y),
        "name": name,
        "text": [_text(text) for text in series.hover],
        "hovertemplate": f"%{{text}}<extra>{name}</extra>",
    }
    if series.kind == "bars":
        return {**made, "type": "bar", "textposition": "none", "marker": {"color": colour}}
    if series.kind == "points":
        marker = {
            "size": 9 if series.large else 4,
            "color": colour,
            "opacity": 0.5 if series.large else 0.9,
        }
        return {**made, "type": "scattergl", "mode": "markers", "marker": marker}
    if series.kind == "spans":
        return {**made, "type": "scatter", "mode": "lines", "line": {"color": colour, "width": 7}}
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


def _axis(axis: Axis, panel: Panel) -> dict[str, Any]:
    made: dict[str, Any] = {
        "title": {"text": axis.title, "standoff": 8},
        "automargin": True,
        "ticklabelstandoff": 4,
    }
    if axis.log:
        made["type"] = "log"
    if axis.limits:
        made["range"] = [math.log10(end) for end in axis.limits] if axis.log else list(axis.limits)
    if axis.ticks:
        made |= {
            "tickvals": [value for value, _ in axis.ticks],
            "ticktext": [_text(text) for _, text in axis.ticks],
        }
    if axis.whole:
        made |= {"tickformat": ",d"}
    if axis.named:
        names = [str(name) for series in panel.series[:1] for name in series.x]
        short = [_text(name.partition(" to ")[0]) for name in names]
        angle = -90 if _is_turned(panel) else 0
        made |= {"type": "category", "tickvals": names, "ticktext": short, "tickangle": angle}
    return made


def _is_turned(panel: Panel) -> bool:
    """Whether the names along the x axis need to be turned."""
    return panel.x.named and any(len(series.x) > _NAMES_FLAT for series in panel.series)
