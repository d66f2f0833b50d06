"""Traces captured on three hosts whose monotonic clocks differ merge to the order in which the ops really were."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from true_order import take_turns

import tracekit

AHEAD_S = (0, 1000, 5000)
SHIFTED = ("unshare", "--time", "--fork", "--kill-child", "--monotonic")
TURNS = 40
RECORDING = """if True:
    import socket, sys, time
    from tracekit import Recorder

    path, own = sys.argv[1], int(sys.argv[2])
    with Recorder(path, source="test", rank=own) as recorder:
        print("ready", flush=True)
        for turn in sys.stdin:
            at = time.monotonic_ns()
            recorder.record(f"file:///{own}", 0, 1, at, 1, bytes=1, sample_id=int(turn))
            print(turn.strip(), flush=True)
"""


def test_the_merged_order_is_the_true_one_within_the_stated_error(tmp_path: Path) -> None:
    if subprocess.run([*SHIFTED, "1", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make time namespaces")
    commands = [
        [*SHIFTED, str(ahead), sys.executable, "-c", RECORDING, str(tmp_path / f"h{number}"), str(number)]
        for number, ahead in enumerate(AHEAD_S)
    ]
    take_turns(commands, [(turn * 7 + turn // 5) % 3 for turn in range(TURNS)])
    error_ns = 20_000
    merged = tracekit.merge(
        [tmp_path / f"h{number}" for number in range(3)], tmp_path / "all", clock_error=f"{error_ns}ns"
    )
    assert (merged.ops, merged.clock_error_ns) == (TURNS, error_ns)
    rows = (
        tracekit.open_trace(tmp_path / "all")
        .query("SELECT sample_id, rank, t_submit FROM ops ORDER BY t_submit")
        .to_pylist()
    )
    assert {row["rank"] for row in rows} == {0, 1, 2}
    for earlier, later in pairwise(rows):
        apart = later["t_submit"] - earlier["t_submit"]
        # Of two ops that are further apart than the errors of both hosts, the order is certain.
        assert earlier["sample_id"] < later["sample_id"] or apart <= 2 * error_ns
