"""The grids of heat maps, with every window in them: a pause stays visible, and all cells are one window wide."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tracekit.reporting.axis import Axis

__all__ = ["Heat", "heat", "lanes"]


@dataclass(frozen=True, slots=True)
class Heat:
    """Rows of cells from the lowest up, None where there is no op; edges are one more than cells.

    `title` names what a colour means, `ticks` are (value, label) and `limits` the ends of the scale where values are not counts.
    `hover` has a text per cell; without it the value is shown.
    """

    edges_x: list[float]
    edges_y: list[float]
    cells: list[list[float | None]]
    title: str = "ops"
    ticks: tuple[tuple[float, str], ...] = ()
    limits: tuple[float, float] | None = None
    hover: list[list[str]] | None = None


def heat(rows: Sequence[dict[str, Any]], edges_x: list[float]) -> Heat | None:
    """Make the grid of the rows of `latency_heat.sql`, of windows between the edges. None without rows."""
    if not rows:
        return None
    lowest, highest = (pick(row["level"] for row in rows) for pick in (min, max))
    at = {(row["win"], row["level"]): row["ops"] for row in rows}
    return Heat(
        edges_x,
        [2 ** (level / 4) / 1e3 for level in range(lowest, highest + 2)],
        [[at.get((win, level)) for win in range(len(edges_x) - 1)] for level in range(lowest, highest + 1)],
    )


def lanes(
    found: Mapping[tuple[int, int], tuple[float, str]],
    edges_x: list[float],
    count: int,
    title: str,
    scale: Axis,
) -> Heat | None:
    """Make a grid of `count` lanes from (column, lane): (us, hover text), coloured on the log axis `scale`. None without values."""
    if not found:
        return None
    columns = range(len(edges_x) - 1)
    low, high = scale.limits or (1.0, 1.0)
    at = {place: (math.log10(max(us, low)), text) for place, (us, text) in found.items()}
    nothing = (None, "")
    return Heat(
        edges_x,
        [lane - 0.5 for lane in range(count + 1)],
        [[at.get((column, lane), nothing)[0] for column in columns] for lane in range(count)],
        title,
        tuple((math.log10(us), text) for us, text in scale.ticks),
        (math.log10(low), math.log10(high)),
        [[at.get((column, lane), nothing)[1] for column in columns] for lane in range(count)],
    )
