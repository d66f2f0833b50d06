"""A user's script under `mypy --strict`: valid calls pass, and misspelt or mistyped ones do not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
VALID = """\
from pathlib import Path

import numpy as np
import pyarrow as pa

import tracekit

loader = tracekit.create_async_loader(Path("data"), batch_size=np.int64(3), shuffle=True, max_bytes_in_flight="64MiB")
for batch in loader:
    first: tracekit.Sample = batch.samples[0]
dataset: tracekit.Dataset = tracekit.create_dataset("data", sample_bytes=4096)
recorded: tracekit.RecordResult = tracekit.record("data", "t", epochs=2, step_time="5ms", reader_mode="range")
trace: tracekit.Trace = tracekit.open_trace("t")
table: pa.Table = trace.query("FROM ops WHERE len > ?", [3], memory="1GiB")
snapshot: tracekit.MetricsSnapshot = trace.snapshot(threads=2)
sizes: tracekit.Histogram = snapshot.req_bytes_hist
result: tracekit.ReplayResult = tracekit.replay(trace, pace="closed", speed=2, max_bytes_in_flight="64MiB")
parity: tracekit.Parity = tracekit.compare(trace, "u", tolerance=0.1)
moved: tracekit.Divergence = tracekit.diverge(trace, "u")
options = tracekit.ReplayOptions(pace="asap", loop=2)
plan: tracekit.PlanSummary = tracekit.dry_run(trace, options)
tracekit.materialize(trace, "file:///a=file:///b", seed=3)
tracekit.report(trace, "x.html", against="u")
tracekit.plot("steps", trace, "x.png")
findings: list[tracekit.Finding] = tracekit.verify("t")
with tracekit.capture.start("t", hooks=["fsspec"]), tracekit.step(3), tracekit.sample(4):
    tracekit.open("f", "rb").read()
code: int = tracekit.capture.run(["true"], "t", method="hooks").exit_code
"""
INVALID = {
    'tracekit.replay("t", pase="closed")': "pase",
    'tracekit.create_async_loader("u", batchsize=3)': "batchsize",
    'tracekit.record("u", "t", epoch=2)': "epoch",
    'tracekit.dry_run("t", spede=2)': "spede",
    'tracekit.replay("t", speed="fast")': "speed",
    'tracekit.replay("t", allow_writes="yes")': "allow_writes",
    'tracekit.create_dataset("u", num_workers="four")': "num_workers",
    'tracekit.materialize("t", "a=b", regoin="x")': "regoin",
    'tracekit.LoaderOptions(batchsize=3)': "batchsize",
    'tracekit.ReplayOptions(pase="closed")': "pase",
    'tracekit.open_trace("t").query(3)': "query",
    "tracekit.recrod": "recrod",
}  # fmt: skip


@pytest.mark.timeout(600)
def test_strict_checks_accept_valid_calls_and_refuse_misspelt_ones(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy is not installed")
    lines = [*VALID.splitlines(), *INVALID]
    script = tmp_path / "script.py"
    script.write_text("\n".join(lines) + "\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(script)],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=500,
    )
    found = re.findall(rf"{re.escape(script.name)}:(\d+): error: (.*)", done.stdout)
    wrong = {lines[int(number) - 1]: text for number, text in found}
    assert set(wrong) == set(INVALID), done.stdout + done.stderr
    assert all(name in wrong[line] for line, name in INVALID.items()), done.stdout
