"""docs/formats.md says what is: its Python runs, its verbs exist, and every format has its line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tracekit.formats.matrix import matrix, presets, with_tables
from tracekit.formats.registry import import_trace, importer, importers, names
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


def test_the_tables_are_what_the_formats_and_presets_declare() -> None:
    assert with_tables(PAGE) == PAGE, "run python -m tracekit.formats.matrix docs/formats.md"
    assert matrix() in PAGE and presets() in PAGE
    assert all(f"| `{name}` |" in matrix() for name in names())
    assert all(f"| `{name}` |" in presets() for name in PRESETS)


@pytest.mark.parametrize("name", importers())
def test_the_closing_line_is_what_the_format_declares(name: str) -> None:
    carries = importer(name).carries
    line = carries.closing(name)
    assert line.startswith(f"the format {name} holds times ({carries.times})")
    assert all(word in line.partition("; not ")[2] for word in carries.lacking())
    assert (carries.completeness == "no") == ("does not say whether ops are missing" in line)
    assert carries.completeness == "no" or carries.completeness in line


def test_an_import_ends_with_the_closing_line_of_its_format(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("fio version 3 iolog\n5 /d/x read 0 512\n")
    done = import_trace("fio", tmp_path / "log", tmp_path / "t")
    assert done.closing == (
        "the format fio holds times (us, from the start), offsets, lengths; not latencies, samples and steps, streams,"
        " errors; of its completeness it says: files not closed"
    )
