"""`assert_parity`: a comparison of traces as an assertion. It needs no test framework."""

from __future__ import annotations

import os
from typing import Unpack

from tracekit.comparison.table import Parity, ParityRow
from tracekit.keywords import VerdictKeywords
from tracekit.replayer.compare import compare
from tracekit.store.reader import TraceLike

__all__ = ["assert_parity", "failure_message"]


def assert_parity(
    a: TraceLike,
    b: TraceLike,
    *others: TraceLike,
    speed: float | None = None,
    junit: str | os.PathLike[str] | None = None,
    **given: Unpack[VerdictKeywords],
) -> Parity:
    """Compare `b`, and any `others`, with `a` as `tracekit.compare` does, and return the table.

    Raises AssertionError, which names each metric and gate that fails with its values, if one does;
    and what `compare` raises.
    """
    parity = compare(a, b, *others, speed=speed, junit=junit, **given)
    if not parity.ok:
        raise AssertionError(failure_message(parity))
    return parity


def failure_message(parity: Parity) -> str:
    """The verdict, why traces were compared as they were, and a line for each metric that fails."""
    return "\n".join([*parity.verdict, parity.reason, *(f"  {_line(row)}" for row in parity.failed)])


def _line(row: ParityRow) -> str:
    values = f"{_number(row.a)} and {_number(row.b)} {row.unit}, difference {_number(row.difference)}"
    allowed = "" if row.tolerance is None else f", allowed {_number(row.tolerance)}"
    return f"{row.metric}: {values}{allowed}{f' ({row.note})' if row.note else ''}"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.6g}"
