"""Everything that repeats an option agrees with the table: keywords, dataclasses, documentation."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import pytest

from tracekit import LoaderOptions, ReplayOptions, keywords
from tracekit.backends.objects.az import AzOptions
from tracekit.backends.objects.gs import GsOptions
from tracekit.backends.objects.http import HttpOptions
from tracekit.backends.objects.s3 import S3Options
from tracekit.cli.tables import with_tables
from tracekit.options import FILTERS, LOADER, REPLAY
from tracekit.replayer.options import Filters
from tracekit.store_options import CLIENTS, STORE, backend_table
from tracekit.validation import Kind, Table, parse

DOCS = Path(__file__).resolve().parents[2] / "docs"
DATACLASSES: list[tuple[type[Any], Table]] = [
    (LoaderOptions, LOADER),
    (ReplayOptions, REPLAY),
    (Filters, FILTERS),
    (S3Options, backend_table("s3")),
    (AzOptions, backend_table("az")),
    (GsOptions, backend_table("gs")),
    (HttpOptions, backend_table("https")),
]
KEYWORDS: list[tuple[type[Any], Table]] = [
    (keywords.LoaderKeywords, LOADER),
    (keywords.ReplayKeywords, REPLAY),
    (keywords.StoreKeywords, STORE),
]


@pytest.mark.parametrize(("kind", "table"), DATACLASSES)
def test_an_options_object_has_the_options_of_the_table_and_their_defaults(
    kind: type[Any], table: Table
) -> None:
    assert {field.name for field in dataclasses.fields(kind)} == set(table)
    made = kind()
    assert {name: getattr(made, name) for name in table} == {
        name: option.default for name, option in table.items()
    }


@pytest.mark.parametrize(("kind", "table"), KEYWORDS)
def test_typed_keywords_are_those_of_the_table(kind: type[Any], table: Table) -> None:
    hints = get_type_hints(kind)
    assert set(hints) == set(table)
    for name, hint in hints.items():
        assert (NoneType in get_args(hint)) == table[name].optional, name


@pytest.mark.parametrize(("kind", "table"), DATACLASSES)
def test_the_attributes_types_allow_none_where_the_table_does(kind: type[Any], table: Table) -> None:
    for name, hint in get_type_hints(kind).items():
        assert (NoneType in get_args(hint)) == table[name].optional, name


def test_a_default_is_a_valid_value() -> None:
    for _, table in DATACLASSES:
        for option in table.values():
            assert parse(option, option.default) == option.default


def test_options_of_the_same_name_mean_the_same_to_loader_and_replay() -> None:
    for name in set(LOADER) & set(REPLAY):
        mine, theirs = (dataclasses.replace(table[name], group="") for table in (LOADER, REPLAY))
        assert mine == theirs


def test_every_client_is_a_choice() -> None:
    assert {name for names in CLIENTS.values() for name in names} == set(STORE["client"].choices)
    assert all(backend_table(scheme)["client"].choices == names for scheme, names in CLIENTS.items())


def test_help_is_a_sentence_and_choices_are_given() -> None:
    for _, table in DATACLASSES:
        for option in table.values():
            assert option.help[0].isupper() and option.help.endswith("."), option.name
            assert bool(option.choices) == (option.kind is Kind.CHOICE), option.name


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.stem)
def test_the_tables_of_options_in_the_documentation_are_fresh(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert with_tables(text) == text, "run `make docs`"


def test_every_table_of_options_is_on_a_page() -> None:
    pages = {
        name: (DOCS / name).read_text(encoding="utf-8")
        for name in ("loader-options.md", "replay.md", "backends.md")
    }
    for (page, text), table in zip(pages.items(), (LOADER, REPLAY, backend_table("s3")), strict=True):
        assert [name for name in table if f"| `{name}` |" not in text] == [], page
