"""Which ops of a plan have no row in the trace of its replay, because it ended early."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tracekit.sql import load_sql
from tracekit.store.reader import TraceReader
from tracekit.store.statements import value_errors
from tracekit.units import format_count

__all__ = ["NOTHING_MISSING", "NOT_ISSUED", "Missing", "missing_ops"]

NOT_ISSUED = "not_issued"
"""The metadata key of the trace of a replay that lost a host."""

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Missing:
    """The ops of a plan that were not issued, or whose host was lost before it could tell.

    `ranges` are numbers of ops in the plan, as in the column `plan_op`: first and last of each range.
    """

    ops: int = 0
    ranges: tuple[tuple[int, int], ...] = ()

    @classmethod
    def all_of(cls, planned: int) -> Missing:
        """All ops of a plan."""
        return cls(planned, ((0, planned - 1),)) if planned else cls()

    def to_dict(self, most: int | None = None) -> dict[str, Any]:
        """The ranges for JSON, at most the first `most`; `ranges_left_out` counts the others."""
        shown = [list(each) for each in islice(self.ranges, most)]
        return {"ops": self.ops, "plan_ops": shown, "ranges_left_out": len(self.ranges) - len(shown)}

    def in_words(self) -> str:
        """How many there are, and the first few."""
        shown = [
            str(first) if first == last else f"{first} to {last}" for first, last in self.ranges[:_SHOWN]
        ]
        more = " and more" if len(self.ranges) > _SHOWN else ""
        return f"{format_count(self.ops)} ops: plan_op {', '.join(shown)}{more}"


NOTHING_MISSING = Missing()


def missing_ops(done: TraceReader, planned: int) -> Missing:
    """Return the ops of a plan of `planned` ops that have no row in `done`."""
    if "plan_op" not in done.columns:  # there is no row at all
        return Missing.all_of(planned)
    with closing(done.connect()) as connection, value_errors(done.path):
        sql = load_sql("tracekit.replayer", "missing")
        found = connection.execute(sql, {"planned": planned}).fetchall()
    return Missing(
        sum(last - first + 1 for first, last in found), tuple((first, last) for first, last in found)
    )
