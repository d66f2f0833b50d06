"""Traces of several ranks that read files in turn, for replays from many hosts and as many clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from tracekit.store.writer import TraceWriter

__all__ = ["record_ranks", "write_ops"]

_FILE_BYTES = 4096 * 8


_OPS_BEFORE = 20


def record_ranks(
    folder: Path, *, ranks: int = 6, ops: int = 20, gap_ns: int = 2_000_000, then: str | None = None
) -> Path:
    """A trace of `ranks` ranks, each with `ops` reads of a file of its own, in turn. Rank 0 reads the file `then` after 20 ops."""
    (folder / "data").mkdir()
    for rank in range(ranks):
        (folder / "data" / f"{rank}.bin").write_bytes(bytes([rank]) * _FILE_BYTES)
    names = [f"{rank}.bin" for rank in range(ranks)]
    if then is not None:
        (folder / "data" / then).write_bytes(bytes(_FILE_BYTES))
        names[0] = then
    n = ranks * ops
    return write_ops(
        folder / "t",
        {
            "t_submit": [i * gap_ns for i in range(n)],
            "uri": [
                f"file://{folder}/data/{names[i % ranks] if i // ranks >= _OPS_BEFORE else f'{i % ranks}.bin'}"
                for i in range(n)
            ],
            "op": ["read"] * n,
            "offset": [i // ranks * 4096 % _FILE_BYTES for i in range(n)],
            "len": [4096] * n,
            "bytes": [4096] * n,
            "latency": [50_000] * n,
            "sample_id": list(range(n)),
            "step": [i // ranks for i in range(n)],
            "rank": [i % ranks for i in range(n)],
        },
    )


def write_ops(path: Path, columns: Mapping[str, Sequence[Any]]) -> Path:
    """Write the trace `path` of `columns`: texts, and numbers for all others."""
    kinds = {"uri": pa.string(), "op": pa.string()}
    with TraceWriter(path, source="import:test", epoch_unix_ns=0) as writer:
        writer.write(
            pa.RecordBatch.from_pydict({k: pa.array(v, kinds.get(k, pa.int64())) for k, v in columns.items()})
        )
    return path
