"""What a replay tells through `watch` while it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tracekit.replayer.run import replay
from tracekit.store.writer import TraceWriter

OPS, SPACING_NS = 600, 5_000_000


@pytest.mark.parametrize(
    "options",
    [{}, {"threads": 2}, {"engine": "interpreter"}, {"pace": "closed"}, {"max_ops_in_flight": 4}],
    ids=["default", "two threads", "interpreter", "closed", "gated"],
)
def test_the_count_of_ops_done_grows_while_the_replay_runs(tmp_path: Path, options: dict[str, Any]) -> None:
    (tmp_path / "f").write_bytes(bytes(1 << 20))
    columns = {"offset": [0] * OPS, "len": [4096] * OPS, "latency": [1000] * OPS,
               "t_submit": [i * SPACING_NS for i in range(OPS)]}  # fmt: skip
    with TraceWriter(tmp_path / "t", source="import:test", epoch_unix_ns=0) as writer:
        arrays = {name: pa.array(values) for name, values in columns.items()}
        writer.write(pa.RecordBatch.from_pydict({"uri": pa.array([f"file://{tmp_path}/f"] * OPS), **arrays}))
    calls: list[tuple[int, int | None]] = []
    replay(tmp_path / "t", watch=lambda done, known, *_: calls.append((done, known)), **options)
    counts = [done for done, _ in calls]
    assert counts == sorted(counts)
    assert max(counts) <= OPS
    assert {known for _, known in calls} == {OPS}
    assert len({done for done in counts if 0 < done < OPS}) >= 3
