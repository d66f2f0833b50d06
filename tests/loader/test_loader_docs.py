"""The pages about the loader hold: their examples run, and every option is on them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tracekit.cli import record
from tracekit.loader.options import (
    LOADING_MODES,
    OPTION_NAMES,
    RANDOM_INDEX_MODES,
    READER_MODES,
    LoaderOptions,
)
from tracekit.loader.profiles import PROFILES

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = ("api/python-api.md", "loader-options.md")


def test_the_examples_run_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (DOCS / PAGES[0]).read_text(encoding="utf-8")
    blocks = list(re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    assert len(blocks) >= 10
    names: dict[str, object] = {"__name__": "example"}
    for block in blocks:
        line = text[: block.start(1)].count("\n")
        exec(compile("\n" * line + block[1], PAGES[0], "exec"), names)


@pytest.mark.parametrize("page", PAGES)
def test_every_option_choice_and_profile_is_on_the_page(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    words = [*OPTION_NAMES, *LOADING_MODES, *READER_MODES, *RANDOM_INDEX_MODES, *PROFILES]
    missing = [word for word in words if not re.search(rf"\b{word}\b", text)]
    assert missing == []


def test_the_defaults_in_the_table_are_the_defaults() -> None:
    text = (DOCS / PAGES[0]).read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?`) \| (.*?) \|", text, re.MULTILINE)
    shown = {name: value.strip("`") for names, value in rows for name in re.findall(r"`(\w+)`", names)}
    shown |= {"shard_rank": "0", "shard_world_size": "1", "target_request_bytes": str(128 * 1024)}
    assert {name: str(value) for name, value in LoaderOptions().to_dict().items()} == shown


def test_every_option_is_a_flag_of_the_verb() -> None:
    import inspect

    parameters = inspect.signature(record._record).parameters
    assert set(OPTION_NAMES) <= set(parameters)
