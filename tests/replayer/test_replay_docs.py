"""docs/replay.md holds: its examples run, and every option is on it."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest

from tracekit.cli import replay as verb
from tracekit.replayer.options import Filters, ReplayOptions

PAGE = Path(__file__).resolve().parents[2] / "docs" / "replay.md"


def test_the_examples_run_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    blocks = list(re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    assert len(blocks) >= 5
    names: dict[str, object] = {"__name__": "example"}
    for block in blocks:
        exec(compile("\n" * text[: block.start(1)].count("\n") + block[1], PAGE.name, "exec"), names)


def test_every_option_is_on_the_page_by_both_its_names() -> None:
    text = PAGE.read_text(encoding="utf-8")
    keywords = [
        field.name for kind in (ReplayOptions, Filters) for field in fields(kind) if field.name != "filters"
    ]
    assert [name for name in keywords if f"`{name}`" not in text] == []
    renamed = {"map_": "map", "dry_run_": "dry-run"}
    flags = [renamed.get(name, name.replace("_", "-")) for name in inspect.signature(verb._replay).parameters]
    wanted = [flag for flag in flags if flag not in ("trace", "out", "json")]
    assert [flag for flag in wanted if f"`--{flag}" not in text] == []


def test_every_metric_of_parity_is_defined() -> None:
    from tracekit.comparison.parity import Measures, _table

    empty = Measures(1, 0, 1, 1, 1, 1, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, {0: 1}, {0: 1})
    text = PAGE.read_text(encoding="utf-8")
    for row in _table(empty, empty, 0.15, 1.0, timed=True).rows:
        last = "_" + row.metric.partition("_")[2]
        assert f"`{row.metric}`" in text or f"`{last}`" in text, row.metric
