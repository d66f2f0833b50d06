"""The examples on the pages about the loader run, and every profile is described."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tracekit.loader.profiles import PROFILES

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = "api/python-api.md"


def test_the_examples_run_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (DOCS / PAGE).read_text(encoding="utf-8")
    blocks = list(re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    assert len(blocks) >= 10
    names: dict[str, object] = {"__name__": "example"}
    for block in blocks:
        line = text[: block.start(1)].count("\n")
        exec(compile("\n" * line + block[1], PAGE, "exec"), names)


def test_every_profile_is_described() -> None:
    text = (DOCS / "loader-options.md").read_text(encoding="utf-8")
    assert [name for name in PROFILES if f"`{name}`" not in text] == []
