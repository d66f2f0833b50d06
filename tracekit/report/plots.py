"""Pictures of a trace, by matplotlib. SQL aggregates; here a few thousand points are drawn."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import closing
from importlib.resources import files
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from tracekit.errors import UsageError
from tracekit.metrics.queries import load as load_metric
from tracekit.store.reader import TraceReader
from tracekit.units import format_size

__all__ = ["KINDS", "draw", "plot"]

# Okabe and Ito's palette: told apart by colour-blind readers.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
_FORMATS = (".png", ".svg", ".pdf")


def plot(kind: str, reader: TraceReader, out: Path, *, against: TraceReader | None = None) -> None:
    """Draw one picture into `out` (.png, .svg or .pdf); `against` is drawn beside the trace.

    Raises UsageError for an unknown kind or file type.
    """
    draw([kind], reader, out, against=against)


def draw(kinds: list[str], reader: TraceReader, out: Path, *, against: TraceReader | None = None) -> None:
    """Draw several pictures, one above the other, into `out`, which appears whole."""
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise UsageError(f"no picture {unknown[0]!r}", f"there are {', '.join(KINDS)}")
    if out.suffix not in _FORMATS:
        raise UsageError(f"{out}: unknown picture type", f"name it {', '.join(_FORMATS)}")
    figure = Figure(figsize=(9, 3.8 * len(kinds)), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    for axes, kind in zip(figure.subplots(len(kinds), squeeze=False)[:, 0], kinds, strict=True):
        KINDS[kind](axes, _named(reader, against))
        axes.grid(visible=True, alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.partial{out.suffix}")
    try:
        figure.savefig(temporary)
        temporary.replace(out)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _named(reader: TraceReader, against: TraceReader | None) -> list[tuple[str, TraceReader]]:
    if against is None:
        return [("", reader)]
    names = ("recorded", "replayed") if against.source == "replay" else (reader.path.name, against.path.name)
    return [(names[0], reader), (names[1], against)]


def _latency_cdf(axes: Axes, traces: list[tuple[str, TraceReader]]) -> None:
    for index, (name, reader) in enumerate(traces):
        rows = _rows(reader, "latency_cdf")
        axes.plot([max(row["us"], 0.1) for row in rows], [row["fraction"] for row in rows],
                  color=_COLOURS[index], label=name, linewidth=1.8, linestyle=("-", "--")[index % 2])  # fmt: skip
    axes.set(xscale="log", xlabel="latency (us)", ylabel="share of ops", ylim=(0, 1.01), title="Latency")
    if len(traces) > 1:
        axes.legend(frameon=False, loc="lower right")


def _request_sizes(axes: Axes, traces: list[tuple[str, TraceReader]]) -> None:
    found = [(name, _rows(reader, "req_bytes_hist", load_metric)) for name, reader in traces]
    buckets = sorted({row["lo"] for _, rows in found for row in rows})
    width = 0.8 / len(found)
    for index, (name, rows) in enumerate(found):
        counts = {row["lo"]: row["counts"] for row in rows}
        axes.bar([i + (index - (len(found) - 1) / 2) * width for i in range(len(buckets))],
                 [counts.get(lo, 0) for lo in buckets], width * 0.95, color=_COLOURS[index], label=name)  # fmt: skip
    axes.set_xticks(range(len(buckets)), [f"≥ {format_size(lo)}" for lo in buckets], rotation=30, ha="right")
    axes.set(xlabel="bytes asked for", ylabel="ops", title="Request sizes")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    if len(found) > 1:
        axes.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))


def _offsets(axes: Axes, traces: list[tuple[str, TraceReader]]) -> None:
    rows = _rows(traces[0][1], "offsets", params={"files": len(_COLOURS), "cells": 160})
    names = {row["file"]: row["uri"].rsplit("/", 1)[-1] for row in rows}
    for index, (file, name) in enumerate(sorted(names.items())):
        mine = [row for row in rows if row["file"] == file]
        axes.scatter([row["s"] for row in mine], [row["mib"] for row in mine], s=5, linewidths=0,
                     color=_COLOURS[index], label=name, alpha=0.8)  # fmt: skip
    axes.set(xlabel="time (s)", ylabel="offset (MiB)", title="Where each file is read")
    if names:
        axes.legend(
            frameon=False, markerscale=3, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5)
        )


def _throughput(axes: Axes, traces: list[tuple[str, TraceReader]]) -> None:
    for index, (name, reader) in enumerate(traces):
        rows = _rows(reader, "over_time", params={"windows": 60})
        axes.plot([row["s"] for row in rows], [row["mib_per_s"] for row in rows], color=_COLOURS[index],
                  label=name, linewidth=1.4, linestyle=("-", "--")[index % 2])  # fmt: skip
    axes.set(xlabel="time (s)", ylabel="MiB/s", title="Throughput", ylim=(0, None))
    if len(traces) > 1:
        axes.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))


def _rows(
    reader: TraceReader,
    name: str,
    load: Callable[[str], str] | None = None,
    params: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    sql = (load or _load)(name)
    with closing(reader.connect()) as connection:
        found: list[dict[str, Any]] = (
            connection.sql(sql, params=dict(params) if params else None).to_arrow_table().to_pylist()
        )
        return found


def _load(name: str) -> str:
    return files("tracekit.report.queries").joinpath(f"{name}.sql").read_text(encoding="utf-8")


KINDS: dict[str, Callable[[Axes, list[tuple[str, TraceReader]]], None]] = {
    "offsets": _offsets,
    "throughput": _throughput,
    "latency-cdf": _latency_cdf,
    "request-sizes": _request_sizes,
}
"""Every picture, by the name that `tracekit plot` takes."""
