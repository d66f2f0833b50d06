"""A static checker accepts a right script and names every wrong line of a wrong one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

GOOD = """
from datetime import timedelta

import numpy as np

import tracekit

loader = tracekit.create_async_loader("data", batch_size=np.int64(8), shuffle=64, max_bytes_in_flight="64MiB")
dataset = tracekit.create_dataset("data", sample_bytes="128KiB", retries=3)
for pace in ("recorded", "closed"):
    result = tracekit.replay("run.trace", pace=pace, speed=2, start="30s", max_gap=timedelta(seconds=1), rank=[0, 1])
again = tracekit.replay("run.trace", tracekit.ReplayOptions(op="read", cold=np.bool_(True)), out="b.trace", map="/a=/b")
plan = tracekit.dry_run("run.trace", {"speed": 2}, pace="closed", latency="5ms")
made = tracekit.materialize("run.trace", ["/a=/b"], seed=1, endpoint="http://127.0.0.1:9000")
done = tracekit.record("data", "run.trace", epochs=2, step_time="50ms", num_workers=2)
options = tracekit.LoaderOptions(reader_mode="range", target_request_bytes=None)
size: int | None = options.target_request_bytes
chosen = tracekit.profile("torch", batch_size=4)
"""

BAD = """
import tracekit

tracekit.replay("run.trace", pase="closed")
tracekit.replay("run.trace", max_bytes_in_flight=[1])
tracekit.replay("run.trace", mapping="/a=/b")
tracekit.create_async_loader("data", batchsize=3)
tracekit.create_async_loader("data", batch_size="many", shuffle="yes")
tracekit.create_dataset("data", samplebytes=3)
tracekit.dry_run("run.trace", spede=2)
tracekit.materialize("run.trace", ["/a=/b"], store_options={})
tracekit.record("data", "run.trace", stepps=3)
tracekit.LoaderOptions(bath_size=3)
tracekit.ReplayOptions(loops=3)
tracekit.profile("torch", bath_size=3)
"""


def checked(tmp_path: Path, script: str) -> dict[int, str]:
    """What mypy --strict says of a user's script, by line."""
    path = tmp_path / "script.py"
    path.write_text(script)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-context"]
    run = subprocess.run(
        [*command, "--cache-dir", str(Path(__file__).resolve().parents[2] / ".mypy_cache"), str(path)],
        cwd=tmp_path, capture_output=True, text=True, timeout=110,
    )  # fmt: skip
    assert run.returncode in (0, 1), run.stderr
    return {int(number): text for number, text in re.findall(r"script\.py:(\d+): error: (.*)", run.stdout)}


def test_a_correct_script_passes_mypy(tmp_path: Path) -> None:
    assert checked(tmp_path, GOOD) == {}


def test_mypy_reports_every_wrong_line(tmp_path: Path) -> None:
    wrong = {number for number, line in enumerate(BAD.splitlines(), 1) if line.startswith("tracekit.")}
    assert set(checked(tmp_path, BAD)) == wrong
