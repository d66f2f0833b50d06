"""The demo: the main job from end to end, as `make demo` runs it."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

import tracekit
from tracekit.replayer.compare import compare
from tracekit.store.reader import open_reader


def test_a_full_disk_during_the_demo_is_one_line_that_names_the_file(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tracekit", "demo", "-o", str(tmp_path / "demo")]
    limits = (1 << 20, 1 << 20)
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits),
    )  # fmt: skip
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert "train-00000.bin" in run.stderr


@pytest.mark.timeout(480)
def test_the_demo_replays_every_op_on_both_schemes_and_draws_a_picture(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    command = [sys.executable, "-m", "tracekit", "demo", "-o", str(out)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    held = run.stdout.count("parity holds")  # parity includes times, which depend on the machine's load
    assert run.returncode == (0 if held == 2 else 1), run.stdout + run.stderr
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


@pytest.mark.parametrize("name", ["notes.txt", "dataset/mine.bin", "run.trace/x"])
def test_the_demo_never_replaces_files_that_it_did_not_make(tmp_path: Path, name: str) -> None:
    mine = tmp_path / "demo" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(tracekit.UsageError, match="not part of an earlier demo"):
        tracekit.demo(tmp_path / "demo", overwrite=True)
    assert mine.read_text() == "mine"
