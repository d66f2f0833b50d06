"""Every notebook runs from top to bottom as a script and prints its result."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).resolve().parents[2] / "analysis" / "notebooks"
ENDS = {
    "explore": "explored 517 ops, 15 windows, 4 streams, 5 slow steps",
    "compare_replay": "parity ok ",
    "capture_to_verdict": "captured 360 ops, 5 files read again, replayed 360",
    "capacity": "capacity: 5 cache sizes",
}


def test_every_notebook_is_tested() -> None:
    assert {path.stem for path in NOTEBOOKS.glob("*.py")} == set(ENDS)


@pytest.mark.timeout(340)
@pytest.mark.parametrize("name", list(ENDS))
def test_a_notebook_runs_to_its_end(name: str) -> None:
    pytest.importorskip("marimo", reason="marimo is not installed")
    env = {**os.environ, "MPLBACKEND": "Agg"}
    env.pop("TRACE", None)
    command = [sys.executable, str(NOTEBOOKS / f"{name}.py")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=110, env=env)
    assert run.returncode == 0, run.stderr[-2000:]
    assert ENDS[name] in run.stdout
