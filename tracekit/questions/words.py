"""Values of an answer for people: the unit of a column is at the end of its name."""

from __future__ import annotations

from typing import Any

from tracekit.units import format_count, format_named, format_rate

__all__ = ["heading", "in_words"]

_LABELS = ("rank", "worker", "step", "slowest_rank", "straggler", "before_step", "after_step")
"""Columns of numbers that count nothing."""


def heading(name: str) -> str:
    """The name of a column without its unit: `p99_ns` is `p99`, `moved_bytes` is `moved`, `ops_per_s` is `ops/s`."""
    for unit in ("_ns", "_bytes"):
        name = name.removesuffix(unit)
    return name.replace("_per_s", "/s").replace("_", " ")


def in_words(name: str, value: Any) -> str:
    """The value of the column `name` with its unit; `-` if it is unknown."""
    if value is None:
        return "-"
    if isinstance(value, str) or name in _LABELS:
        return str(value)
    if name.endswith("_share"):
        return f"{value:.1%}"
    if name.endswith("bytes_per_s"):
        return format_rate(value)
    if isinstance(value, float) and not name.endswith(("_ns", "_bytes")):
        return f"{value:.3g}" if abs(value) < 1000 else format_count(value)
    return format_named(name, value)
