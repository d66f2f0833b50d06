"""Traces of given ops, for the tests of pictures and the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from tracekit.store.reader import TraceReader, open_reader
from tracekit.store.writer import TraceWriter


def written(path: Path, rows: list[dict[str, Any]], source: str = "import:test") -> TraceReader:
    texts = ("uri", "op", "error")
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {
        n: pa.array([r.get(n) for r in rows], pa.string() if n in texts else pa.int64()) for n in names
    }
    with TraceWriter(path, source=source, epoch_unix_ns=0) as writer:
        if rows:
            writer.write(pa.RecordBatch.from_pydict(columns))
    return open_reader(path)


def op(t: int, **more: Any) -> dict[str, Any]:
    return {
        "t_submit": t,
        "uri": "file:///d/a",
        "op": "read",
        "offset": 0,
        "len": 4096,
        "latency": 1000,
        "sample_id": 0,
        **more,
    }
