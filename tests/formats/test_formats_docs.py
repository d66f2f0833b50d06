"""docs/formats.md says what is: its Python runs, its verbs exist, and every format has its line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tracekit.formats.matrix import matrix
from tracekit.formats.registry import names
from tracekit.formats.text.presets import PRESETS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {"Path": Path}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "docs/formats.md", "exec"), scope)
    assert (tmp_path / "ops.iolog").read_text().startswith("fio version 3 iolog\n1 /data/a.bin add\n")
    assert (tmp_path / "io.trace").is_dir()


def test_the_table_is_what_the_formats_declare() -> None:
    assert matrix() in PAGE, "run python -m tracekit.formats.matrix and put its output in docs/formats.md"
    assert all(f"| `{name}` |" in matrix() for name in names())


def test_every_preset_is_named() -> None:
    assert all(f"`{name}`" in PAGE or f"columns {name}`" in PAGE for name in PRESETS)
