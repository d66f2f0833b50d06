"""One axis of a picture."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Axis"]


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis: `named` if its values are texts; `ticks` are (value, label) where the painter must not choose.

    `limits` are its ends where the painter must not choose. Axes with `linked` show the same time: a reader who zooms into one zooms into all of them.
    """

    title: str
    log: bool = False
    whole: bool = False
    named: bool = False
    ticks: tuple[tuple[float, str], ...] = ()
    linked: bool = False
    limits: tuple[float, float] | None = None
