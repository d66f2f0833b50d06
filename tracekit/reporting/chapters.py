"""The chapters of the page: which panels stand in each, in which order. Writes no HTML itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from tracekit.reporting.html import chart, listing_section
from tracekit.reporting.listings import LISTINGS, listing
from tracekit.reporting.panel import Panel
from tracekit.reporting.phases import phases
from tracekit.reporting.series import drawn
from tracekit.reporting.source import Source

__all__ = ["CHAPTERS", "Chapter", "fill"]

_Kind = Literal["picture", "table", "phases"]


@dataclass(frozen=True, slots=True)
class Chapter:
    """A heading with its anchor, the panels below it as (anchor, title, HTML), and its pictures."""

    name: str
    title: str
    panels: list[tuple[str, str, str]] = field(default_factory=list)
    pictures: list[Panel] = field(default_factory=list)


CHAPTERS: tuple[tuple[str, str, tuple[tuple[_Kind, str], ...]], ...] = (
    (
        "time",
        "Over time",
        (
            ("picture", "timeline"),
            ("picture", "rank-by-time"),
            ("picture", "throughput"),
            ("picture", "request-rate"),
            ("picture", "in-flight"),
            ("picture", "latency-over-time"),
            ("picture", "latency-heat"),
            ("picture", "lateness"),
        ),
    ),
    (
        "latency",
        "Latency",
        (
            ("picture", "latency-cdf"),
            ("picture", "latency-by-size"),
            ("table", "op-kinds"),
            ("table", "tail"),
        ),
    ),
    ("stalls", "Stalls and phases", (("table", "idle"), ("phases", "phases"))),
    ("who", "Ranks and workers", (("table", "ranks"), ("table", "streams"))),
    ("file-chapter", "Files", (("table", "files"), ("table", "failures"))),
    ("step-chapter", "Steps", (("picture", "steps"), ("table", "step-table"))),
    (
        "how",
        "Patterns",
        (
            ("table", "patterns"),
            ("picture", "offsets"),
            ("picture", "request-sizes"),
            ("picture", "reuse-distance"),
        ),
    ),
)
"""Name, title and panels of each chapter that consists of queries."""


def fill(sources: list[Source], wanted: str, missing: list[str]) -> Chapter:
    """Query one of `CHAPTERS`. The titles of panels that have nothing to show are added to `missing`."""
    name, title, members = next(chapter for chapter in CHAPTERS if chapter[0] == wanted)
    chapter = Chapter(name, title)
    for kind, member in members:
        _add(chapter, kind, member, sources, missing)
    return chapter


def _add(chapter: Chapter, kind: _Kind, member: str, sources: Sequence[Source], missing: list[str]) -> None:
    if kind == "picture":
        found = drawn(member, list(sources))
        for panel in found:
            if panel.empty:
                missing.append(panel.title)
            else:
                chapter.panels.append((panel.name, panel.title, chart(panel)))
                chapter.pictures.append(panel)
        return
    tables = phases(sources) if kind == "phases" else listing(member, sources)
    for one in tables:
        chapter.panels.append((one.name, one.title, listing_section(one)))
    if not tables:
        missing.append("Phases" if kind == "phases" else LISTINGS[member].title)
