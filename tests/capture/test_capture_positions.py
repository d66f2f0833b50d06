"""Offsets of reads and writes at a position that others than the engine's own process and descriptor move."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tracekit.capture.command import capture_command
from tracekit.capture.native import NativeEngine
from tracekit.store.reader import open_reader

pytestmark = pytest.mark.skipif(
    NativeEngine().available() is None or shutil.which("gcc") is None, reason="there is no C compiler"
)


def test_offsets_are_those_of_what_was_read(tmp_path, trace):
    program, out = tmp_path / "positions", tmp_path / "said"
    source = Path(__file__).with_name("positions.c")
    if subprocess.run(["gcc", "-O1", "-w", "-o", program, source], capture_output=True).returncode:
        pytest.skip("the headers of the kernel are too old")
    np.arange(0, 65536, 8, dtype=np.int64).tofile(tmp_path / "x.bin")
    command = ["sh", "-c", f'cd "{tmp_path}"; exec "{program}" > "{out}"']
    done = capture_command(command, trace, method="native", include=[f"{tmp_path}/*.bin"], hooks="")
    assert done.exit_code == 0
    said = [tuple(map(int, line.split())) for line in out.read_text().splitlines()]
    query = "SELECT \"offset\", len, bytes FROM ops WHERE op = '{}' ORDER BY t_submit"
    found = {op: open_reader(trace).query(query.format(op)).to_pylist() for op in ("read", "write")}
    assert len(said) == 32
    assert [tuple(row.values()) for row in found["read"]] == said
    assert [row["offset"] for row in found["write"]] == [0, 100, 150]
