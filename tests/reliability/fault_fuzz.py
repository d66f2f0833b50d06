"""Bytes that somebody made to break the readers."""

from __future__ import annotations

import random
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
from fault_rows import Row

FUZZ = Path(__file__).with_name("fuzz.py")


def mutator(target: str, folder: Path, times: int, draw: random.Random) -> tuple[int, str]:
    seed = draw.randrange(1 << 32)
    done = _run(target, folder, str(seed), str(times))
    assert done.returncode == 0, (
        f"fuzz.py {target}, seed {seed}: exit code {done.returncode}; the input is {folder}/input\n{done.stderr[-3000:]}"
    )
    return times, f"nothing: {int(done.stdout)} read, {times - int(done.stdout)} refused in one line"


def atheris(target: str, folder: Path, times: int, draw: random.Random) -> tuple[int, str]:
    """Run atheris for `times` seconds."""
    if find_spec("atheris") is None:
        pytest.skip("atheris is not installed")
    done = _run(target, folder, "--atheris", str(times))
    assert done.returncode == 0, f"the input is {folder}/input\n{done.stderr[-3000:]}"
    runs = [line.split()[1] for line in done.stderr.splitlines() if line.startswith("Done ")]
    return int(runs[0]), "nothing"


def _run(target: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FUZZ), target, str(folder), *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


_SUBJECTS = {
    "parquet": "Parquet files with changed bytes",
    "journal": "journals with changed bytes",
    "importers": "logs with changed bytes, for every importer",
    "rules": "mapping rules and URIs with changed bytes",
}
_PROMISES = {
    "parquet": "they are read, or refused in one line; no crash",
    "journal": "no row appears that was not recorded",
    "importers": "a whole trace, whose impossible ops `verify` names, or one line and nothing on disk",
    "rules": "no target lies outside that of the rule",
}
_TIMES = {"parquet": (60, 3000), "journal": (40, 2000), "importers": (150, 5000), "rules": (2000, 100_000)}
ROWS = [
    Row(f"fuzz-{name}", what, _PROMISES[name], *_TIMES[name], partial(mutator, name))
    for name, what in _SUBJECTS.items()
] + [
    Row(f"atheris-{name}", f"{what}, guided by coverage", _PROMISES[name], 0, 150, partial(atheris, name))
    for name, what in _SUBJECTS.items()
]
