"""docs/decisions/ is numbered without gaps, and its index lists every page by its title."""

from __future__ import annotations

import re

import layers

FOLDER = layers.REPO / "docs" / "decisions"
PAGES = sorted(FOLDER.glob("[0-9]*.md"))


def test_decisions_are_numbered_without_gaps() -> None:
    assert PAGES
    assert [int(page.name[:3]) for page in PAGES] == list(range(1, len(PAGES) + 1))


def test_the_index_lists_every_decision_by_its_title() -> None:
    titles = [
        (page.name, *page.read_text(encoding="utf-8").splitlines()[0].split(" ", 2)[1:]) for page in PAGES
    ]
    index = (FOLDER / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[(\d{3})\]\(([^)]+)\) \| (.+) \|$", index, re.MULTILINE)
    assert [(name, number, title) for number, name, title in rows] == titles
