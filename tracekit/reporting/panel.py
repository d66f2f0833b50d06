"""What a picture or a table of the report consists of. Knows neither traces nor painters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from tracekit.reporting.axis import Axis
from tracekit.reporting.heat import Heat

__all__ = ["COLOURS", "HEAT_COLOURS", "Axis", "Listing", "Panel", "Series", "visible"]

# Okabe and Ito's palette, which colour-blind readers can tell apart, without yellow and black: those
# disappear on a light and on a dark background.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999", "#7F6A00")
HEAT_COLOURS = ("#3A6EA5", "#8F8B76", "#FDD23A")
"""From low to high: every colour shows on a light and on a dark background."""
_LEAST_SPAN = 500
"""Spans are painted at least as wide as this part of the axis: one or two pixels."""


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one colour; `y` is None where the value is unknown. `hover` has a text per point.

    `steps` have one more `x` than values that count: a value holds from its `x` to the next. `spans` are
    thick lines between pairs of points, with None between the pairs.
    """

    kind: Literal["line", "steps", "points", "bars", "spans"]
    name: str
    x: Sequence[float | str | None]
    y: Sequence[float | None]
    colour: int
    hover: Sequence[str] = ()
    dashed: bool = False
    large: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture: `name` is unique among the panels of a report, `note` says what of the trace is shown.

    `sql` are the queries behind it, as `tracekit query` takes them. `rows` is the number of lanes of a tall picture.
    """

    name: str
    title: str
    about: str
    x: Axis
    y: Axis
    series: tuple[Series, ...] = ()
    grid: Heat | None = None
    note: str = ""
    sql: tuple[str, ...] = ()
    rows: int = 0

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw."""
        return self.grid is None and not any(y is not None for one in self.series for y in one.y)

    @property
    def named(self) -> bool:
        """Whether it needs a legend."""
        return any(one.name for one in self.series)


@dataclass(frozen=True, slots=True)
class Listing:
    """One table: the names of its columns end with their units, as in `wall_ns`. `note` says what is left out."""

    name: str
    title: str
    about: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    note: str = ""
    sql: tuple[str, ...] = ()


def visible(series: Series, axis: Axis) -> Series:
    """Return `series` to be painted along `axis`: spans get a width that can be seen, whatever they last."""
    if series.kind != "spans" or axis.limits is None:
        return series
    least = (axis.limits[1] - axis.limits[0]) / _LEAST_SPAN
    x = list(series.x)
    for begin in range(0, len(x) - 1, 3):
        start, end = x[begin], x[begin + 1]
        if isinstance(start, float) and isinstance(end, float):
            x[begin + 1] = max(end, start + least)
    return replace(series, x=x)
