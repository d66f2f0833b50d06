"""Processes in time namespaces whose monotonic clocks differ, recording into one trace."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import tracekit
from tracekit.store.manifest import read_manifest

RECORDING = """if True:
    import sys, time
    from tracekit import Recorder

    with Recorder(sys.argv[1], source="test") as recorder:
        began = time.time_ns()
        recorder.record("file:///a", 0, 1, time.monotonic_ns(), 1, bytes=1)
        print(began, time.time_ns())
"""
SHIFTED = ("unshare", "--time", "--fork", "--kill-child", "--monotonic")


def record(path: Path, ahead_s: int) -> tuple[int, int]:
    words = [] if not ahead_s else [*SHIFTED, str(ahead_s)]
    run = subprocess.run(
        [*words, sys.executable, "-c", RECORDING, str(path)], capture_output=True, text=True, check=True, timeout=60
    )  # fmt: skip
    before, after = run.stdout.split()
    return int(before), int(after)


@pytest.mark.parametrize("order", [(0, 1000, 5000), (5000, 0, 1000)])
def test_every_op_is_at_its_time_whoever_made_the_trace(tmp_path: Path, order: tuple[int, ...]) -> None:
    if subprocess.run([*SHIFTED, "1", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make time namespaces")
    spans = [record(tmp_path / "t", ahead) for ahead in order]
    trace = tracekit.open_trace(tmp_path / "t")
    manifest = read_manifest(tmp_path / "t")
    assert manifest is not None and manifest.mono_shift_ns == order[0] * 10**9
    times = [
        row["t_submit"] + manifest.epoch_unix_ns
        for row in trace.query("SELECT t_submit FROM ops").to_pylist()
    ]
    for (before, after), time in zip(spans, times, strict=True):
        slack = 1_000_000_000  # the wall clock may be set meanwhile; the namespaces are far more apart
        assert before - slack <= time <= after + slack
