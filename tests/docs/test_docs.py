"""The documentation: its examples run, its links resolve, and the reference is current."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from tracekit.cli.app import run
from tracekit.cli.reference import reference
from tracekit.trace import open_trace

REPO = Path(__file__).resolve().parents[2]
PAGES = sorted([*REPO.glob("*.md"), *REPO.glob("docs/**/*.md"), *REPO.glob("sample_traces/*.md")])
_BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


def blocks(page: Path, language: str) -> list[str]:
    return [body for kind, body in _BLOCK.findall(page.read_text()) if kind == language]


def run_python(code: str, folder: Path) -> str:
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=100
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_the_command_line_reference_is_current() -> None:
    assert (REPO / "docs" / "cli-reference.md").read_text() == reference(), "run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_links_between_pages_resolve(page: Path) -> None:
    for target in _LINK.findall(page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_examples_of_the_trace_page_run(tmp_path: Path) -> None:
    page = REPO / "docs" / "trace.md"
    (code,) = blocks(page, "python")
    assert "1000 [{'last_step': 31}]" in run_python(code, tmp_path)
    (sql,) = blocks(page, "sql")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        result = duckdb.sql(sql)
        assert result is not None
        assert result.fetchall() == [("file:///data/train-0.tar", 1000, 1000 * 131072)]


def test_the_readmes_python_runs(tmp_path: Path) -> None:
    data = tmp_path / "train"
    data.mkdir()
    for i in range(40):
        (data / f"{i}.bin").write_bytes(b"x" * 5000)
    (code,) = blocks(REPO / "README.md", "python")
    out = run_python(code.replace("file:///data/train", f"file://{data}"), tmp_path)
    assert '"bytes": 200000' in out


def test_the_readme_names_every_page_of_the_documentation() -> None:
    text = (REPO / "README.md").read_text()
    for page in REPO.glob("docs/*.md"):
        assert f"docs/{page.name}" in text, page.name


def test_nothing_names_a_path_of_one_machine() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=REPO, capture_output=True, text=True, check=False
    ).stdout.split("\n")
    machine = "/" + "work/"
    for name in listed:
        path = REPO / name
        if path.suffix in (".py", ".md", ".toml", ".sql", ".txt", ".csv") and path.is_file():
            assert machine not in path.read_text(encoding="utf-8"), name


def test_the_readmes_tour_has_five_lines_and_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for folder in ("data", "nvme"):
        (tmp_path / folder).mkdir()
        for i in range(10):
            (tmp_path / folder / f"{i}.bin").write_bytes(bytes(10_000))
    reading = "import pathlib\nfor path in sorted(pathlib.Path('data').iterdir()): path.read_bytes()\n"
    (tmp_path / "train.py").write_text(reading)
    monkeypatch.chdir(tmp_path)
    tour = (REPO / "README.md").read_text().split("## A tour in five lines", 1)[1]
    lines = re.findall(r"^\$ tracekit (.*)", _BLOCK.findall(tour)[0][1], re.MULTILINE)
    assert len(lines) == 5
    for line in lines:
        words = shlex.split(line, comments=True)
        words = [sys.executable if word == "python" else word for word in words]
        words = [word.replace("///data", f"//{tmp_path}/data") for word in words]
        words = [word.replace("direct:///mnt/nvme/data", f"file://{tmp_path}/nvme") for word in words]
        code = run(words)
        shown = capfd.readouterr()
        # Parity of a busy machine may fail.
        assert code == 0 or (words[0] in ("replay", "compare") and code == 1), (line, shown)
        assert shown.out or shown.err, line
    assert open_trace("nvme.trace").ops == open_trace("run.trace").ops >= 10
