"""The demo: the main job end to end, as `make demo` runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tracekit.parity import compare
from tracekit.store.reader import open_reader


def test_the_demo_holds_parity_on_both_schemes_and_draws_a_picture(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    command = [sys.executable, "-m", "tracekit", "demo", "-o", str(out)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("parity holds") == 2
    assert (out / "demo.png").read_bytes()[:4] == b"\x89PNG"
    recording = open_reader(out / "run.trace")
    for scheme in ("file", "direct"):
        parity = compare(recording, open_reader(out / f"replay-{scheme}.trace"))
        assert parity.row("req_bytes_hist").difference == 0
        assert parity.row("ops").difference == 0
        assert parity.row("bytes").difference == 0
        assert parity.row("bytes_per_step").difference == 0
    again = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert again.returncode == 2
    assert "--overwrite" in again.stderr
