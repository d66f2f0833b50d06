"""The tables of the report: shipped queries with their titles. The unit of a column stands in its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tracekit.questions.ask import question_named
from tracekit.reporting.panel import Listing
from tracekit.reporting.source import Source, one_of
from tracekit.reporting.table import counted

__all__ = ["LISTINGS", "is_number", "listing"]


@dataclass(frozen=True, slots=True)
class _Table:
    query: str
    title: str
    about: str
    columns: tuple[str, ...]
    most: int = 30
    of: str = ""
    """The column that counts the rows without the limit, and the noun in `each`."""
    each: str = ""
    limited: str = "the first"
    asked: bool = False
    """Whether it is a ready question, which `tracekit ask` answers too."""


LISTINGS: dict[str, _Table] = {
    "failures": _Table(
        "errors",
        "Failures",
        "Failed ops by class and kind.",
        ("error", "op", "ops", "op_share", "files", "first_at_ns", "last_at_ns", "first_uri"),
        asked=True,
    ),
    "streams": _Table(
        "workers",
        "Streams",
        "Ops by rank and worker, those with the largest p99 latency first.",
        ("rank", "worker", "ops", "ops_share", "moved_bytes", "failed_ops", "p50_ns", "p99_ns", "max_ns"),
        200,
        asked=True,
    ),
    "ranks": _Table(
        "ranks",
        "Ranks",
        "Ops by rank, those with the most time in ops first.",
        (
            "rank",
            "workers",
            "ops",
            "moved_bytes",
            "bytes_share",
            "first_at_ns",
            "last_at_ns",
            "p99_ns",
            "total_ns",
        ),
        200,
        asked=True,
    ),
    "tail": _Table(
        "tail",
        "The tail",
        "What the slowest 1 % of ops have in common. A lift of 1 is in proportion to the ops of the group.",
        ("grouped_by", "key", "tail_ops", "tail_share", "all_share", "lift", "worst_ns"),
        asked=True,
    ),
    "op-kinds": _Table(
        "op-kinds",
        "Op kinds",
        "How many ops of each kind there are, what they moved, and how long they took.",
        ("op", "ops", "failed_ops", "moved_bytes", "p50_ns", "p99_ns", "max_ns", "total_ns"),
        asked=True,
    ),
    "idle": _Table(
        "idle",
        "Idle gaps",
        "The longest stretches in which nothing was in flight: storage was asked for nothing.",
        ("at_ns", "idle_ns", "run_share", "between", "before_uri", "after_uri"),
        12,
    ),
    "files": _Table(
        "files",
        "Files",
        "Reads and writes of each file. The column reuse is the bytes moved over the extent of the file.",
        ("uri", "ops", "moved_bytes", "total_ns", "p99_ns", "max_ns", "reuse", "pattern", "failed"),
        150,
        "of_files",
        "file",
        "those with most ops, most bytes or most time in ops:",
    ),
    "step-table": _Table(
        "steps",
        "Steps and the rank that held them up",
        "Each step on its slowest rank: first submit to last end, the median of all ranks beside it, and its slowest op.",
        (
            "step",
            "wall_ns",
            "ranks",
            "slowest_rank",
            "median_wall_ns",
            "moved_bytes",
            "slowest_ns",
            "slowest_uri",
        ),
        1000,
        "of_steps",
        "step",
    ),
    "patterns": _Table(
        "patterns",
        "Access patterns",
        "Files by the way in which their reads and writes follow one another.",
        ("pattern", "files", "ops", "moved_bytes", "bytes_share", "sequential_share", "example_uri"),
    ),
}
"""Every table of the page, by the name that is its anchor."""


def listing(name: str, sources: Sequence[Source]) -> list[Listing]:
    """The table called `name` of each trace, without the empty ones."""
    table = LISTINGS[name]
    made = []
    for index, source in enumerate(sources):
        source.taken()
        most = table.most // len(sources)
        if table.asked:
            found = source.query(question_named(table.query).sql(most))
        else:
            found = source.file(table.query, most=most)
        if not found:
            continue
        total = found[0][table.of] if table.of else len(found)
        note = f"{table.limited} {len(found)} of {counted(total, table.each)}" if len(found) < total else ""
        if table.asked and len(found) == most:
            note = f"at most {most} rows"
        rows = tuple(tuple(row[column] for column in table.columns) for row in found)
        anchor, title = one_of(name, table.title, source, index, len(sources))
        made.append(Listing(anchor, title, table.about, table.columns, rows, note, source.taken()))
    return made


def is_number(values: Sequence[Any]) -> bool:
    """Whether a column is aligned to the right."""
    return all(value is None or isinstance(value, int | float) for value in values)
