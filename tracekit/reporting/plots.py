"""Paint panels with matplotlib, into PNG, SVG or PDF files."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tracekit.errors import UsageError
from tracekit.extras import require
from tracekit.reporting.panel import COLOURS, HEAT_COLOURS, Axis, Panel, Series, visible
from tracekit.reporting.series import KINDS, panels
from tracekit.reporting.source import pair_names
from tracekit.reporting.table import brief
from tracekit.store.reader import TraceLike, open_reader
from tracekit.whole import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis as PlotAxis
    from matplotlib.figure import Figure
from tracekit.uri import local_file

__all__ = ["KINDS", "draw", "paint", "plot"]

_FORMATS = (".png", ".svg", ".pdf")
_BACKGROUND = "white"
_NOTE = "#57606a"


def plot(
    kind: str, trace: TraceLike, out: str | os.PathLike[str], *, against: TraceLike | None = None
) -> None:
    """Draw one picture into `out` (.png, .svg or .pdf), of the trace and of `against` if given.

    Raises UsageError for an unknown kind or file type, or if the extra `report` is not installed.
    """
    draw([kind], trace, out, against=against)


def draw(
    kinds: Sequence[str],
    trace: TraceLike,
    out: str | os.PathLike[str],
    *,
    against: TraceLike | None = None,
) -> None:
    """Draw several pictures, one above the other, into `out`, which appears whole. Raises as `plot` does."""
    out = local_file(out)
    if out.suffix not in _FORMATS:
        raise UsageError(f"{out}: unknown picture type", f"name it {', '.join(_FORMATS)}")
    require("matplotlib", extra="report")
    reader = open_reader(trace)
    second = None if against is None else open_reader(against)
    names = pair_names(reader, second)
    traces = [(names[0], reader)] + ([] if second is None else [(names[1], second)])
    found = panels(kinds, traces)
    late = [panel for panel in found if panel.name == "lateness" and panel.empty]
    if late:
        raise UsageError(f"{reader.path}: no op has a due time", "only the trace of a replay shows lateness")
    figure = paint(found)
    with whole_file(out) as aside, warnings.catch_warnings():
        # Letters that the font lacks are drawn as boxes, with a warning for each.
        warnings.simplefilter("ignore", UserWarning)
        figure.savefig(aside, format=out.suffix.removeprefix("."))


def paint(found: Sequence[Panel]) -> Figure:
    """Paint the panels, one above the other, on a figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8 * len(found)), layout="constrained", dpi=120, facecolor=_BACKGROUND)
    FigureCanvasAgg(figure)
    for axes, panel in zip(figure.subplots(len(found), squeeze=False)[:, 0], found, strict=True):
        _paint(axes, panel)
    return figure


def _paint(axes: Axes, panel: Panel) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    if panel.empty:
        axes.text(0.5, 0.5, "nothing to show", transform=axes.transAxes, ha="center", color=_NOTE)
    for index, series in enumerate(panel.series):
        _series(axes, visible(series, panel.x), index, len(panel.series))
    if panel.grid is not None:
        grid = panel.grid
        cells = [[float("nan") if value is None else value for value in row] for row in grid.cells]
        colours = LinearSegmentedColormap.from_list("ops", HEAT_COLOURS)
        least = None if grid.ticks else 0
        mesh = axes.pcolormesh(grid.edges_x, grid.edges_y, cells, cmap=colours, vmin=least)
        scale = axes.figure.colorbar(mesh, ax=axes, label=grid.title).ax
        if grid.ticks:
            low, high = scale.get_ylim()
            inside = [(value, text) for value, text in grid.ticks if low <= value <= high]
            scale.set_yticks([value for value, _ in inside], labels=[text for _, text in inside])
        else:
            _whole(scale.yaxis)
    _axis(axes, "x", panel.x)
    _axis(axes, "y", panel.y)
    if (
        not panel.y.log
        and not panel.empty
        and all(series.kind not in ("points", "spans") for series in panel.series)
    ):
        axes.set_ylim(bottom=0)
    axes.set_title(panel.title, loc="left", fontweight="bold", fontsize="medium")
    if panel.note:
        axes.set_title(panel.note, loc="right", fontsize="small", color=_NOTE)
    if panel.named and not panel.empty:
        _legend(axes)
    axes.grid(visible=True, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _series(axes: Axes, series: Series, index: int, of: int) -> None:
    colour, label = COLOURS[series.colour % len(COLOURS)], _label(series.name)
    y = [float("nan") if value is None else value for value in series.y]
    if series.kind == "bars":
        if len(y) < 4:  # a few bars would fill the picture
            axes.set_xlim(-2, len(y) + 1)
        width = 0.8 / of
        shift = (index - (of - 1) / 2) * width
        named = any(isinstance(x, str) for x in series.x)
        x = [place + shift for place in (range(len(y)) if named else (float(x or 0) for x in series.x))]
        axes.bar(x, y, width * 0.95, color=colour, label=label)
        if named:
            axes.set_xticks(range(len(y)), [str(x) for x in series.x], rotation=30, ha="right")
        return
    x = [float("nan") if value is None else float(value) for value in series.x]
    if series.kind == "spans":
        pairs = zip(series.x[::3], series.x[1::3], series.y[::3], strict=True)
        ends = [(float(start or 0), float(end or 0), lane) for start, end, lane in pairs if lane is not None]
        starts, stops, at = (list(values) for values in zip(*ends, strict=True))
        axes.hlines(at, starts, stops, color=colour, label=label, linewidth=5)
        return
    if series.kind == "points":
        size, alpha = (40, 0.5) if series.large else (6, 0.8)
        axes.scatter(x, y, s=size, linewidths=0, color=colour, label=label, alpha=alpha)
        return
    axes.plot(
        x,
        y,
        color=colour,
        label=label,
        linewidth=1.6,
        linestyle="--" if series.dashed else "-",
        drawstyle="steps-post" if series.kind == "steps" else "default",
        # A lone value between unknown ones would have no line.
        marker="." if sum(value is not None for value in series.y) < 3 else None,
    )


def _legend(axes: Axes) -> None:
    """Put a legend below the axis, with points large enough to see their colour."""
    from matplotlib.collections import PathCollection

    legend = axes.legend(
        frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(0, -0.16), ncols=4
    )
    for handle in legend.legend_handles:
        if isinstance(handle, PathCollection):
            handle.set_sizes([40])


def _axis(axes: Axes, which: str, axis: Axis) -> None:
    from matplotlib.ticker import MaxNLocator

    painted: PlotAxis = getattr(axes, f"{which}axis")
    getattr(axes, f"set_{which}label")(axis.title)
    if axis.log:
        getattr(axes, f"set_{which}scale")("log")
    if axis.limits:
        getattr(axes, f"set_{which}lim")(*axis.limits)
    if axis.ticks:
        low, high = painted.get_view_interval()
        painted.set_ticks([value for value, _ in axis.ticks], labels=[text for _, text in axis.ticks])
        getattr(axes, f"set_{which}lim")(low, high)
    elif axis.whole:
        _whole(painted)
    elif not axis.log and not axis.named:
        painted.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))


def _whole(axis: PlotAxis) -> None:
    """Put ticks at whole numbers only, with thousands separated."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    axis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _label(name: str) -> str:
    """Escape a name for matplotlib, which renders `$...$` as a formula and hides names that start with `_`."""
    plain = brief(name).replace("$", r"\$")
    return f" {plain}" if plain.startswith("_") else plain
