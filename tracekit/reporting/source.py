"""A trace to draw: its connection, its time axis, and the record of what it was asked.

What was asked is shown on the page as SQL that `tracekit query` takes: the queries of a picture and its
text are the same by construction.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import duckdb

from tracekit.metrics.measuring import measuring, rows
from tracekit.reporting.panel import Axis
from tracekit.reporting.table import counted
from tracekit.sql import load_sql
from tracekit.store.reader import TraceReader
from tracekit.units import format_duration

__all__ = [
    "BYTES",
    "LEAST_US",
    "SECONDS",
    "Source",
    "duration",
    "log_us",
    "one_of",
    "opened",
    "pair_names",
    "rank_or_worker",
    "seconds",
    "statement",
    "time_axis",
    "unit_of",
]

_WINDOWS = 100
LEAST_US = 0.1
"""Where a log axis of times starts: smaller values are drawn there."""
SECONDS = (("ns", 1e-9), ("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("min", 60.0), ("h", 3600.0))
BYTES = (("B", 1.0), ("KiB", 2.0**10), ("MiB", 2.0**20), ("GiB", 2.0**30), ("TiB", 2.0**40))
_MARGIN = 1.3
"""How far a log axis goes beyond its values."""
_MOST_TICKS = 6
_TICKS: tuple[tuple[tuple[float, ...], int], ...] = (
    ((1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0), 1),
    ((1.0, 2.0, 5.0), 1),
    ((1.0, 3.0), 1),
    ((1.0,), 1),
    ((1.0,), 2),
    ((1.0,), 3),
)
"""Where ticks may be, the closest first: the steps in a power of ten, and every how many powers."""
_QUERIES = "tracekit.reporting.queries"


@dataclass(frozen=True, slots=True)
class Source:
    """A trace to draw. All traces of a picture have windows of the same length.

    Rates and phases are of windows of `width_ns`, the first from `early_ns` before the first submit: of `steps`
    steps of the run, or round where `steps` is 0. Heat maps have columns of `column_ns`, which is always round.

    `zero_s` is what the picture takes as time 0, in s since the first submit: the first transfer
    where two traces are compared, since a replay does not list and stat the files first.
    """

    name: str
    reader: TraceReader
    connection: duckdb.DuckDBPyConnection
    span_ns: int
    width_ns: int
    early_ns: int
    steps: int
    column_ns: int
    zero_s: float
    asked: list[str] = field(default_factory=list)
    known: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """The answers so far: several pictures ask the same."""

    def rows(self, source: str, **params: Any) -> list[dict[str, Any]]:
        """The rows of `FROM source`, a macro call."""
        return self._rows(statement(f"FROM {source}", params), source, params)

    def file(self, name: str, package: str = _QUERIES, **params: Any) -> list[dict[str, Any]]:
        """The rows of a shipped query."""
        sql = load_sql(package, name)
        return self._rows(statement(sql, params), f"({sql})", params)

    def query(self, sql: str) -> list[dict[str, Any]]:
        """The rows of a query without parameters."""
        return self._rows(statement(sql, {}), f"({sql})", {})

    def windows(self, by: str) -> list[dict[str, Any]]:
        """The load in each window, for each value of the grouping `by`."""
        call = "over_windows_by($width, $by, early_ns := $early)"
        return self.rows(call, width=self.width_ns, by=by, early=self.early_ns)

    def columns(self) -> list[float]:
        """The edges of the columns of a heat map, in s since time 0."""
        count = max(-(-self.span_ns // self.column_ns), 1)
        return [column * self.column_ns / 1e9 - self.zero_s for column in range(count + 1)]

    def rest_ns(self) -> int:
        """The length of the end of the run that fills no window; 0 if there is none, or nothing else."""
        long = self.span_ns + self.early_ns
        return long % self.width_ns if long > self.width_ns else 0

    def window(self) -> str:
        """The length of a window as text."""
        length = format_duration(self.width_ns)
        return (
            f"windows of {counted(self.steps, 'step')} ({length})" if self.steps else f"windows of {length}"
        )

    def _rows(self, text: str, source: str, params: dict[str, Any]) -> list[dict[str, Any]]:
        self.asked.append(text)
        if text not in self.known:
            self.known[text] = rows(self.connection, source, params)
        return self.known[text]

    def taken(self) -> tuple[str, ...]:
        """What was asked since the last call."""
        found = tuple(dict.fromkeys(self.asked))
        self.asked.clear()
        return found


def statement(sql: str, params: dict[str, Any]) -> str:
    """`sql` without its comments and with the values of `params` in their places."""
    lines = [line for line in sql.splitlines() if not line.lstrip().startswith("--")]
    return re.sub(
        r"\$(\w+)",
        lambda found: _literal(params[found[1]]),
        "\n".join(line for line in lines if line.strip()),
    )


def _literal(value: Any) -> str:
    return f"'{value}'" if isinstance(value, str) else json.dumps(value)


def pair_names(reader: TraceReader, against: TraceReader | None) -> tuple[str, str]:
    """What to call a trace and the one beside it."""
    if against is None:
        return "", ""
    if against.source == "replay":
        return "recorded", "replayed"
    a, b = reader.path.name, against.path.name
    return (a, b) if a != b else (f"{a} (A)", f"{b} (B)")


@contextmanager
def opened(traces: Sequence[tuple[str, TraceReader]]) -> Iterator[list[Source]]:
    """Connect to the traces, with windows of one length for all."""
    with ExitStack() as stack:
        connected = [(name, reader, stack.enter_context(measuring(reader))) for name, reader in traces]
        spans = [rows(connection, "run_extent()")[0]["span_ns"] or 1 for _, _, connection in connected]
        longest = {"span": max(spans), "windows": _WINDOWS}
        round_ns = "round_window($span::BIGINT, $windows) AS column_ns"
        sql = f"(SELECT width_ns, period_ns, {round_ns} FROM time_window($span::BIGINT, $windows))"
        (window,) = rows(connected[0][2], sql, longest)
        width_ns, period_ns = window["width_ns"], window["period_ns"]
        steps = width_ns // period_ns if period_ns else 0
        made = []
        for (name, reader, connection), span in zip(connected, spans, strict=True):
            (lull,) = rows(connection, "(SELECT lull($period::BIGINT) AS ns)", {"period": period_ns})
            zero_s = _first_transfer(connection) if len(traces) > 1 else 0.0
            made.append(
                Source(
                    name, reader, connection, span, width_ns, lull["ns"], steps, window["column_ns"], zero_s
                )
            )
        yield made


def _first_transfer(connection: duckdb.DuckDBPyConnection) -> float:
    """The submit of the first op that moves data, in s since the first submit of all."""
    sql = "(SELECT (min(t_submit) - min(t0)) / 1e9 AS s FROM ops, run_extent() WHERE op NOT IN ('hint', 'list', 'stat'))"
    return rows(connection, sql)[0]["s"] or 0.0


def time_axis(sources: Sequence[Source]) -> tuple[Axis, float]:
    """The time axis of a picture and the length of its unit in s."""
    unit, scale = unit_of(SECONDS, max(source.span_ns for source in sources) / 1e9)
    late = any(source.name for source in sources)  # two traces have names
    title = f"time since the first transfer ({unit})" if late else f"time ({unit})"
    begin = min(-source.zero_s - (source.early_ns / 1e9) for source in sources)
    end = max(source.span_ns / 1e9 - source.zero_s for source in sources)
    return Axis(title, linked=True, limits=(begin / scale, end / scale)), scale


def one_of(kind: str, title: str, source: Source, index: int, of: int) -> tuple[str, str]:
    """The name and title of a panel that shows one trace of several."""
    return (kind, title) if of == 1 else (f"{kind}-{index + 1}", f"{title}: {source.name}")


def rank_or_worker(source: Source) -> str:
    """What tells the streams of a trace apart: `rank`, or `worker` where there is one rank."""
    (row,) = source.rows("(SELECT count(DISTINCT coalesce(rank, -1)) AS n FROM ops WHERE op <> 'hint')")
    return "rank" if row["n"] > 1 else "worker"


def unit_of(units: Sequence[tuple[str, float]], most: float) -> tuple[str, float]:
    """The unit in which `most` reads as a small number, and its size."""
    fitting = [unit for unit in units if most >= 2 * unit[1]]
    return fitting[-1] if fitting else units[0]


def log_us(title: str, values: Iterable[float | str | None]) -> Axis:
    """A log axis of us that ends just outside the values. The ticks carry their units, and are few enough for a phone."""
    numbers = [max(float(value), LEAST_US) for value in values if value is not None]
    if not numbers:
        return Axis(f"{title} (log)", log=True)
    low, high = min(numbers) / _MARGIN, max(numbers) * _MARGIN
    ticks: list[float] = []
    for steps, every in _TICKS:
        ticks = [step * 10.0**power for power in range(-3, 13) if power % every == 0 for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= _MOST_TICKS:
            break
    return Axis(
        f"{title} (log)", log=True, limits=(low, high), ticks=tuple((tick, duration(tick)) for tick in ticks)
    )


def duration(us: float | None) -> str:
    """A duration in us as text."""
    return "unknown" if us is None else format_duration(us * 1e3)


def seconds(s: float) -> str:
    """A time in s as text."""
    return format_duration(s * 1e9)
