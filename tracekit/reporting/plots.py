"""Pictures of a trace, by matplotlib. SQL aggregates; here a few thousand points are drawn."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracekit.errors import UsageError
from tracekit.metrics.snapshot import measuring
from tracekit.reporting.heat import heat
from tracekit.reporting.table import brief, short_names
from tracekit.sql import load_sql
from tracekit.store.reader import TraceLike, TraceReader, open_reader
from tracekit.units import format_size
from tracekit.validation import nearest
from tracekit.whole import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

__all__ = ["KINDS", "draw", "plot"]

# Okabe and Ito's palette, without the yellow that white hides: told apart by colour-blind readers.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999", "#000000")
_OVER_TIME = "FROM over_time($windows)"
_FORMATS = (".png", ".svg", ".pdf")


def plot(
    kind: str, trace: TraceLike, out: str | os.PathLike[str], *, against: TraceLike | None = None
) -> None:
    """Draw one picture into `out` (.png, .svg or .pdf); `against` is drawn beside the trace.

    Raises UsageError for an unknown kind or file type.
    """
    draw([kind], trace, out, against=against)


def draw(
    kinds: list[str], trace: TraceLike, out: str | os.PathLike[str], *, against: TraceLike | None = None
) -> None:
    """Draw several pictures, one above the other, into `out`, which appears whole."""
    out = Path(out)
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        near = nearest(unknown[0], KINDS)
        raise UsageError(
            f"unknown picture {unknown[0]!r}", f"{near}{' ' if near else ''}choose {', '.join(KINDS)}"
        )
    if out.suffix not in _FORMATS:
        raise UsageError(f"{out}: unknown picture type", f"name it {', '.join(_FORMATS)}")
    reader = open_reader(trace)
    against = None if against is None else open_reader(against)
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # a third of a second, for every verb
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8 * len(kinds)), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    for axes, kind in zip(figure.subplots(len(kinds), squeeze=False)[:, 0], kinds, strict=True):
        KINDS[kind](axes, _named(reader, against))
        if not axes.has_data():
            axes.text(0.5, 0.5, "nothing to show", transform=axes.transAxes, ha="center", color="#57606a")
        axes.set_title(axes.get_title(), loc="left")
        axes.set_title("")
        axes.grid(visible=True, alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    with whole_file(out) as aside, warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # of letters that the font lacks: they are drawn as boxes
        figure.savefig(aside, format=out.suffix.removeprefix("."))


def _named(reader: TraceReader, against: TraceReader | None) -> list[tuple[str, TraceReader]]:
    if against is None:
        return [("", reader)]
    names = ("recorded", "replayed") if against.source == "replay" else (reader.path.name, against.path.name)
    return [(names[0], reader), (names[1], against)]


def _label(name: str) -> str:
    """A name as matplotlib shows it: no formulas in it, and none hidden for its underscore."""
    plain = brief(name).replace("$", r"\$")
    return f" {plain}" if plain.startswith("_") else plain


def _count(axis: Axis) -> None:
    """Whole numbers alone: what it shows is counted."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))


def _part(shown: int, there: int, what: str) -> str:
    """What a title adds where not all is shown."""
    return f" (the first {shown:,} of {there:,} {what})" if shown < there else ""


def _latency_cdf(axes: Axes, traces: list[tuple[str, TraceReader]]) -> None:
    for index, (name, reader) in enumerate(traces):
        rows = _rows(reader, _load("latency_cdf"))
        axes.plot([max(row["us"], 0.1) for row in rows], [row["fraction"] for row in rows],
                  color=_COLOURS[index], label=_label(name), linewidth=1.8, linestyle=("-", "--")[index % 2])  # fmt: skip
    axes.set(xscale="log", xlabel="latency (us)", ylabel="share of ops", ylim=(0, 1.01), title="Latency")
    if len(traces) > 1:
        axes.legend(frameon=False, loc="lower right")


def _request_sizes(axes: Axes, traces: list[tuple[str, TraceReader]]) -> None:
    found = [(name, _rows(reader, "FROM req_bytes_hist('all')")) for name, reader in traces]
    buckets = sorted({row["lo"] for _, rows in found for row in rows})
    width = 0.8 / len(found)
    for index, (name, rows) in enumerate(found):
        counts = {row["lo"]: row["counts"] for row in rows}
        axes.bar([i + (index - (len(found) - 1) / 2) * width for i in range(len(buckets))],
                 [counts.get(lo, 0) for lo in buckets], width * 0.95, color=_COLOURS[index], label=_label(name))  # fmt: skip
    axes.set_xticks(range(len(buckets)), [f"≥ {format_size(lo)}" for lo in buckets], rotation=30, ha="right")
    axes.set(xlabel="bytes asked for", ylabel="ops", title="Request sizes")
    _count(axes.yaxis)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    if len(found) > 1:
        axes.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))


def _offsets(axes: Axes, traces: list[tuple[str, TraceReader]]) -> None:
    rows = _rows(traces[0][1], _load("offsets"), params={"files": len(_COLOURS), "cells": 160})
    names = short_names({row["file"]: row["uri"] for row in rows})
    for index, (file, name) in enumerate(sorted(names.items())):
        mine = [row for row in rows if row["file"] == file]
        axes.scatter([row["s"] for row in mine], [row["mib"] for row in mine], s=5, linewidths=0,
                     color=_COLOURS[index], label=_label(name), alpha=0.8)  # fmt: skip
    title = "Where each file is read" + _part(len(names), rows[0]["of_files"] if rows else 0, "files")
    axes.set(xlabel="time (s)", ylabel="offset (MiB)", title=title)
    if names:
        axes.legend(
            frameon=False, markerscale=3, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5)
        )


def _throughput(axes: Axes, traces: list[tuple[str, TraceReader]]) -> None:
    for index, (name, reader) in enumerate(traces):
        rows = _rows(reader, _OVER_TIME, params={"windows": 60})
        axes.plot([row["s"] for row in rows], [float("nan") if row["bytes_per_s"] is None else row["bytes_per_s"] / 2**20 for row in rows], color=_COLOURS[index],
                  label=_label(name), linewidth=1.4, linestyle=("-", "--")[index % 2], drawstyle="steps-mid")  # fmt: skip
    axes.set(xlabel="time (s)", ylabel="MiB/s", title="Throughput", ylim=(0, None))
    if len(traces) > 1:
        axes.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))


def _in_flight(axes: Axes, traces: list[tuple[str, TraceReader]]) -> None:
    for index, (name, reader) in enumerate(traces):
        rows = _rows(reader, _OVER_TIME, params={"windows": 120})
        axes.plot([row["s"] for row in rows], [float("nan") if row["mean_qd"] is None else row["mean_qd"] for row in rows], color=_COLOURS[index],
                  label=_label(f"{name} ops".strip()), linewidth=1.4, linestyle=("-", "--")[index % 2],
                  drawstyle="steps-mid")  # fmt: skip
    axes.set(xlabel="time (s)", ylabel="mean ops in flight", title="Queue depth", ylim=(0, None))
    if len(traces) > 1:
        axes.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))


def _latency_heat(axes: Axes, traces: list[tuple[str, TraceReader]]) -> None:
    grid = heat(_rows(traces[0][1], _load("latency_heat"), params={"windows": 120}), 120)
    if grid is not None:
        cells = [[float("nan") if ops is None else ops for ops in row] for row in grid.cells]
        mesh = axes.pcolormesh(grid.edges_s, grid.edges_us, cells, cmap="cividis", vmin=0)
        _count(axes.figure.colorbar(mesh, ax=axes, label="ops").ax.yaxis)
        axes.set_yscale("log")
    axes.set(xlabel="time (s)", ylabel="latency (us)", title="Latency over time")


def _steps(axes: Axes, traces: list[tuple[str, TraceReader]]) -> None:
    title = "Steps"
    for index, (name, reader) in enumerate(traces):
        rows = _rows(reader, _load("steps"), params={"most": 1000})
        title = "Steps" + _part(len(rows), rows[0]["of_steps"], "steps") if rows else title
        shift = (index - (len(traces) - 1) / 2) * 0.4
        axes.bar([row["step"] + shift for row in rows], [row["wall_ms"] for row in rows], 0.8 / len(traces),
                 color=_COLOURS[index], label=_label(name))  # fmt: skip
    axes.set(xlabel="step", ylabel="first submit to last end (ms)", title=title)
    _count(axes.xaxis)
    if len(traces) > 1:
        axes.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))


def _lateness(axes: Axes, traces: list[tuple[str, TraceReader]]) -> None:
    timed = [(name, rows) for name, reader in traces
             if (rows := _rows(reader, "FROM lateness($windows)", params={"windows": 120}))]  # fmt: skip
    if not timed:
        raise UsageError(
            f"{traces[0][1].path}: no op has a due time", "lateness is what a replay's trace shows"
        )
    for name, rows in timed:
        for index, column in enumerate(("p50_us", "p99_us", "max_us")):
            axes.plot([row["s"] for row in rows], [max(row[column], 0.1) for row in rows], color=_COLOURS[index],
                      label=_label(f"{name} {column.removesuffix('_us')}".strip()), linewidth=1.4)  # fmt: skip
    axes.set(xlabel="time (s)", ylabel="lateness (us)", title="Lateness: submit after due")
    axes.set_yscale("log")
    axes.legend(frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1))


def _rows(reader: TraceReader, sql: str, params: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    with measuring(reader) as connection:
        result = connection.sql(sql, params=dict(params) if params else None).to_arrow_table()
        found: list[dict[str, Any]] = result.to_pylist()
        return found


def _load(name: str) -> str:
    return load_sql("tracekit.reporting.queries", name)


KINDS: dict[str, Callable[[Axes, list[tuple[str, TraceReader]]], None]] = {
    "offsets": _offsets,
    "throughput": _throughput,
    "latency-cdf": _latency_cdf,
    "request-sizes": _request_sizes,
    "in-flight": _in_flight,
    "latency-heat": _latency_heat,
    "steps": _steps,
    "lateness": _lateness,
}
"""Every picture, by the name that `tracekit plot` takes."""
