"""The grid of the latency heat map: whole, so that a pause is a pause and a cell as wide as its window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Heat", "heat"]


@dataclass(frozen=True, slots=True)
class Heat:
    """Cells row by row from the lowest latency, None where no op is; their edges in s and us, one more than cells."""

    edges_s: list[float]
    edges_us: list[float]
    cells: list[list[int | None]]


def heat(rows: Sequence[dict[str, Any]], windows: int) -> Heat | None:
    """Of the rows of `latency_heat.sql`; None of none."""
    if not rows:
        return None
    lowest, highest = (pick(row["level"] for row in rows) for pick in (min, max))
    at = {(row["win"], row["level"]): row["ops"] for row in rows}
    return Heat(
        [win * rows[0]["window_s"] for win in range(windows + 1)],
        [2 ** (level / 4) / 1e3 for level in range(lowest, highest + 2)],
        [[at.get((win, level)) for win in range(windows)] for level in range(lowest, highest + 1)],
    )
