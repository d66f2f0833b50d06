"""The examples of docs/metrics.md run as they stand, on a trace beside them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from tracekit.metrics import library
from tracekit.store.writer import TraceWriter
from tracekit.trace import open_trace

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "metrics.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """A directory with the files that the examples name."""
    n = 300
    columns = {
        "t_submit": [1000 * i for i in range(n)],
        "uri": [f"file:///data/{i % 3}" for i in range(n)],
        "offset": [4096 * i for i in range(n)],
        "len": [4096] * n,
        "latency": [3500] * n,
        "step": [i // 10 for i in range(n)],
    }
    with TraceWriter(
        tmp_path / "run.trace", source="import:test", epoch_unix_ns=0, segment_ops=100
    ) as writer:
        kinds = {"uri": pa.string()}
        writer.write(
            pa.RecordBatch.from_pydict({k: pa.array(v, kinds.get(k, pa.int64())) for k, v in columns.items()})
        )
    shutil.copytree(Path(library.__file__).parent, tmp_path / "library")
    return tmp_path


def test_every_python_example_runs(beside: Path) -> None:
    outs = [
        subprocess.run(
            [sys.executable, "-c", code], cwd=beside, capture_output=True, text=True, check=True
        ).stdout
        for code in blocks("python")
    ]
    assert outs[0] == "300 4\n"
    assert outs[1].splitlines() == [
        f"(300, {300 * 4096})",
        "[('file:///data/0', 100), ('file:///data/1', 100), ('file:///data/2', 100)]",
    ]


def test_every_sql_example_gives_rows(beside: Path) -> None:
    trace = open_trace(beside / "run.trace")
    statements = [one.strip() for block in blocks("sql") for one in block.split(";") if one.strip()]
    assert len(statements) == 6
    for statement in statements:
        assert len(trace.query(statement)), statement
