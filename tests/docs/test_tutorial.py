"""The tutorial: the commands and programs of the page run, in order."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tracekit.cli.app import run

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "tutorial.md").read_text(encoding="utf-8")
JUDGING = ("replay", "compare")
"""Commands that exit 1 if parity does not hold, as on a busy machine."""


@pytest.mark.timeout(240)
def test_every_command_of_the_tutorial_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PWD", str(tmp_path))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    programs = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    for program in programs[:2]:
        Path(program.splitlines()[0].removeprefix("# ")).write_text(program)
    commands = re.findall(r"^\$ (.+)$", PAGE, re.MULTILINE)
    assert len(commands) > 12
    for command in commands:
        first, *words = shlex.split(os.path.expandvars(command))
        if words[0] == "report":  # takes seconds, and has tests of its own
            continue
        code = run(words) if first == "tracekit" else subprocess.run([first, *words], check=False).returncode
        allowed = (0, 1) if words[0] in JUDGING else (0,)
        assert code in allowed, (command, capfd.readouterr().err)
    exec(programs[2], {})
