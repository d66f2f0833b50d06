"""The modules import each other as CONTRIBUTING.md's table of rooms says: from the same row or a lower one."""

from __future__ import annotations

import graphlib
import re

import layers
import pytest

ONLY = {
    "backends/": (),
    "store/": (),
    "metrics/": ("store/",),
    "comparison/": ("store/", "metrics/"),
}
"""Rooms that know less than the order of the table allows: these rooms and the ground floor."""
SEPARATE = {
    ("loader/", "replayer/"),
    ("replayer/", "loader/"),
    ("capture/", "replayer/"),
    ("replayer/", "capture/"),
}


def table() -> list[list[str]]:
    """The rows of CONTRIBUTING.md's table of rooms, top to bottom: the rooms that each names."""
    text = (layers.REPO / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.split("## How the code is laid out", 1)[1].split("\nInside the rooms", 1)[0]
    rows = [
        re.findall(r"`([\w./]+)`", line.split("|")[1])
        for line in section.splitlines()
        if line.startswith("| `")
    ]
    assert len(rows) > 10
    return rows


def test_the_table_of_rooms_names_every_room_once_and_no_other() -> None:
    named = [name for row in table() for name in row]
    assert len(named) == len(set(named))
    assert set(named) == layers.rooms()


def test_every_folder_with_code_is_described_in_the_contributing_guide() -> None:
    text = (layers.REPO / "CONTRIBUTING.md").read_text(encoding="utf-8")
    inner = {
        str(path.parent.relative_to(layers.PACKAGE))
        for path in layers.PACKAGE.glob("*/**/*.py")
        if path.parent.parent != layers.PACKAGE
    }
    assert len(inner) > 5
    assert inner == set(re.findall(r"^\| `([\w/]+/\w+)/` \|", text, re.MULTILINE))


def test_imports_go_down_the_table_of_rooms() -> None:
    level = {name: number for number, row in enumerate(table()) for name in row}
    found = layers.imports()
    assert len(found) > 100
    upwards = [
        str(each) for each in found if level[layers.room(each.imported)] < level[layers.room(each.importer)]
    ]
    assert upwards == []


def test_nobody_below_the_face_imports_the_face() -> None:
    above = {"__main__.py", "cli/"}
    assert [
        str(each)
        for each in layers.imports()
        if layers.room(each.imported) == layers.FACE and layers.room(each.importer) not in above
    ] == []


def test_no_two_modules_import_each_other_directly_or_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for each in layers.imports():
        if each.imported != each.importer:
            graph.setdefault(each.importer, set()).add(each.imported)
    try:
        order = list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        pytest.fail("import circle: " + " -> ".join(error.args[1]))
    assert len(order) > 50


@pytest.mark.parametrize("importer", ONLY)
def test_a_restricted_room_imports_only_what_it_may_know(importer: str) -> None:
    mine = [each for each in layers.imports() if layers.room(each.importer) == importer]
    allowed = {importer, *ONLY[importer], *table()[-1]}
    assert mine
    assert [str(each) for each in mine if layers.room(each.imported) not in allowed] == []


def test_rooms_that_do_not_know_each_other_do_not_import_each_other() -> None:
    pairs = [(layers.room(each.importer), layers.room(each.imported), str(each)) for each in layers.imports()]
    assert [text for importer, imported, text in pairs if (importer, imported) in SEPARATE] == []
