"""The grid of the latency heat map, with every window in it: a pause stays visible, and all cells are one window wide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Heat", "heat"]


@dataclass(frozen=True, slots=True)
class Heat:
    """Rows of cells from the lowest latency up, None where there is no op; edges are one more than cells."""

    edges_x: list[float]
    edges_us: list[float]
    cells: list[list[int | None]]


def heat(rows: Sequence[dict[str, Any]], windows: int, width: float, first: float = 0.0) -> Heat | None:
    """Make the grid of the rows of `latency_heat.sql`, of windows `width` wide on the axis from `first` on. None without rows."""
    if not rows:
        return None
    lowest, highest = (pick(row["level"] for row in rows) for pick in (min, max))
    at = {(row["win"], row["level"]): row["ops"] for row in rows}
    return Heat(
        [first + win * width for win in range(windows + 1)],
        [2 ** (level / 4) / 1e3 for level in range(lowest, highest + 2)],
        [[at.get((win, level)) for win in range(windows)] for level in range(lowest, highest + 1)],
    )
