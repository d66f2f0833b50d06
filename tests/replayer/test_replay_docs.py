"""The examples of docs/replay.md run, and every metric is defined there."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

from tracekit.recorder import Recorder
from tracekit.replayer.compare import compare
from tracekit.replayer.run import replay

PAGE = Path(__file__).resolve().parents[2] / "docs" / "replay.md"


def test_the_examples_run_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    blocks = list(re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    assert len(blocks) >= 5
    names: dict[str, object] = {"__name__": "example"}
    for block in blocks:
        exec(compile("\n" * text[: block.start(1)].count("\n") + block[1], PAGE.name, "exec"), names)


def test_every_metric_of_a_comparison_is_defined(tmp_path: Path) -> None:
    """Those of a replay with caps, and those of two runs."""
    (tmp_path / "data").write_bytes(bytes(1 << 16))
    with Recorder(tmp_path / "run.trace") as recorder:
        start = time.monotonic_ns()
        for i in range(300):
            recorder.record(
                f"file://{tmp_path}/data",
                i,
                64,
                start + i * 1_000_000,
                1000,
                bytes=64,
                step=i // 8,
                sample_id=i,
            )
    caps: dict[str, Any] = {"max_ops_in_flight": 4, "max_bytes_in_flight": 4096}
    result = replay(tmp_path / "run.trace", out=tmp_path / "again.trace", **caps)
    runs = compare(tmp_path / "again.trace", tmp_path / "again.trace")
    text = PAGE.read_text(encoding="utf-8")
    for row in (*result.parity.rows, *runs.rows):
        family = re.sub("_(10ms|100ms|1s|10s)$", "_*", row.metric)
        assert f"`{row.metric}`" in text or f"`{family}`" in text, row.metric
