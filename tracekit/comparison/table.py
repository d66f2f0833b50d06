"""The outcome of a comparison: rows, rules and the verdict. It holds values and measures nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from html import escape
from math import isfinite
from typing import Any

__all__ = ["Parity", "ParityRow", "exact", "relative", "shown", "within"]


@dataclass(frozen=True, slots=True)
class ParityRow:
    """One metric: its values in both traces, the difference, and the verdict.

    `difference` is relative to `a` for counts, sizes and times; for the units `distance` and
    `share` it is absolute. `ok` is None for a metric that is shown and not judged; `note` then
    says why. `tolerance` is the largest difference that passes, None where another rule holds.
    `cause` is `client` for metrics that only the replaying client can spoil, else empty. `low` and
    `high` are the interval of the difference over several runs, None for a single one.
    """

    metric: str
    unit: str
    a: float | None
    b: float | None
    difference: float | None
    ok: bool | None
    tolerance: float | None = None
    note: str = ""
    cause: str = ""
    low: float | None = None
    high: float | None = None

    @property
    def by_difference(self) -> bool:
        """Whether the metric passes if its difference is at most its tolerance."""
        return self.difference is not None and self.ok is (self.difference <= (self.tolerance or 0.0))


@dataclass(frozen=True, slots=True, repr=False)
class Parity:
    """The table of a comparison and its verdict.

    `kind` is `replay` (B was judged op by op against the plan made from A) or `runs` (the
    distributions of two runs were compared); `reason` says why that kind was chosen.
    """

    rows: tuple[ParityRow, ...]
    tolerance: float
    speed: float
    kind: str = "runs"
    reason: str = ""
    gates: tuple[ParityRow, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether every judged metric and every gate passes."""
        return not self.failed

    @property
    def failed(self) -> tuple[ParityRow, ...]:
        """The metrics and gates that fail, in the order of the table."""
        return tuple(row for row in (*self.rows, *self.gates) if row.ok is False)

    @property
    def verdict(self) -> tuple[str, ...]:
        """The verdict in one line, or one line for each cause of a failure."""
        if self.ok:
            return ("parity holds",)
        lines = []
        names = [row.metric for row in self.failed if row.cause != "client" and row not in self.gates]
        late = [row.metric for row in self.failed if row.cause == "client"]
        gates = [row.metric for row in self.gates if row.ok is False]
        if names:
            other = "recording" if self.kind == "replay" else "first run"
            lines.append(f"differs from the {other}: {', '.join(names)}")
        if late:
            lines.append(f"not faithful: the client was late: {', '.join(late)}")
        if gates:
            lines.append(f"gate failed: {', '.join(gates)}")
        return tuple(lines)

    def row(self, metric: str) -> ParityRow:
        """The row of one metric. Raises KeyError if there is none."""
        for row in self.rows:
            if row.metric == metric:
                return row
        raise KeyError(metric)

    def __repr__(self) -> str:
        return f"<Parity: {'; '.join(self.verdict)} ({len(self.rows) + len(self.gates)} metrics)>"

    def _repr_html_(self) -> str:
        words = {True: "pass", False: "FAIL", None: "-"}
        cells = [
            [
                row.metric,
                *("-" if x is None else f"{x:.6g}" for x in (row.a, row.b, row.difference)),
                words[row.ok],
            ]
            for row in (*self.rows, *self.gates)
        ]
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>" for line in cells)
        head = "".join(f"<th>{name}</th>" for name in ("metric", "A", "B", "difference", "verdict"))
        return f"<p>{escape('; '.join(self.verdict))}</p><table><tr>{head}</tr>{body}</table>"

    def to_dict(self) -> dict[str, Any]:
        """The table for JSON, where an infinite difference is null."""
        return {
            "ok": self.ok,
            "verdict": list(self.verdict),
            "kind": self.kind,
            "reason": self.reason,
            "tolerance": finite(self.tolerance),
            "speed": self.speed,
            "metrics": _json(self.rows),
            "gates": _json(self.gates),
        }


def within(
    metric: str,
    unit: str,
    difference: float | None,
    tolerance: float,
    *,
    judged: bool = True,
    note: str = "",
    cause: str = "",
) -> ParityRow:
    """A row whose value is itself a distance or a share that should be 0."""
    ok = difference <= tolerance if judged and difference is not None else None
    return ParityRow(metric, unit, 0.0, difference, difference, ok, tolerance, note, cause)


def relative(
    metric: str,
    unit: str,
    a: float | None,
    b: float | None,
    tolerance: float,
    *,
    judged: bool = True,
    note: str = "",
) -> ParityRow:
    """A row judged by the difference of `b` from `a`, relative to `a`. A value that one side does not know fails."""
    if judged and (a is None) != (b is None):
        return ParityRow(metric, unit, a, b, None, False, tolerance, note or "unknown on one side")
    difference = relative_difference(a, b)
    ok = difference <= tolerance if judged and difference is not None else None
    return ParityRow(metric, unit, a, b, difference, ok, tolerance if judged else None, note)


def exact(metric: str, unit: str, a: float, b: float, *, note: str = "") -> ParityRow:
    """A row whose values must be equal."""
    return ParityRow(metric, unit, a, b, relative_difference(a, b), a == b, 0.0, note)


def shown(metric: str, unit: str, a: float | None, b: float | None, *, note: str = "") -> ParityRow:
    """A row that is not judged."""
    return ParityRow(metric, unit, a, b, relative_difference(a, b), None, None, note)


def relative_difference(a: float | None, b: float | None) -> float | None:
    """|b - a| / |a|; 0 if they are equal, infinite from 0, None if one is unknown."""
    if a is None or b is None:
        return None
    if a == b:
        return 0.0
    return abs(b - a) / abs(a) if a else float("inf")


def finite(value: float | None) -> float | None:
    """`value`, or None for what JSON cannot hold."""
    return value if value is None or isfinite(value) else None


def _json(rows: Iterable[ParityRow]) -> list[dict[str, Any]]:
    numbers = ("a", "b", "difference", "tolerance", "low", "high")
    return [{**asdict(row), **{name: finite(getattr(row, name)) for name in numbers}} for row in rows]
