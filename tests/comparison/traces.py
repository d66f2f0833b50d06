"""Recordings and altered copies for the tests of comparisons."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tracekit.store.reader import TraceReader, open_reader

__all__ = ["FILES", "FILE_BYTES", "Rows", "altered", "make_files", "random_rows", "recording", "rows_of"]

FILES = 4
FILE_BYTES = 1 << 20
Rows = list[dict[str, Any]]


def make_files(folder: Path) -> None:
    """The files that `random_rows` reads."""
    folder.mkdir(exist_ok=True)
    for index in range(FILES):
        (folder / f"f{index}").write_bytes(bytes(FILE_BYTES))


def random_rows(folder: Path, seed: int, ops: int, *, gap_ns: int = 1_500_000, failing: float = 0.0) -> Rows:
    """Reads at random places and times; a share of them of a file that does not exist."""
    rng = random.Random(seed)
    rows, now = [], 0
    for index in range(ops):
        length = rng.choice([512, 4096, 4097, 16384])
        fails = rng.random() < failing
        name = "missing" if fails else f"f{rng.randrange(FILES)}"
        rows.append(
            {
                "t_submit": now, "uri": f"file://{folder}/{name}", "op": "read",
                "offset": rng.randrange(FILE_BYTES - length), "len": length, "bytes": 0 if fails else length,
                "latency": rng.randrange(50_000, 300_000), "sample_id": index, "step": index // 5,
                "rank": 0, "worker": index % 2, "error": "not_found" if fails else None,
            }
        )  # fmt: skip
        now += rng.randrange(gap_ns // 2, gap_ns * 2)
    return rows


_SCHEMA = pa.schema(
    [
        ("t_submit", pa.int64()), ("uri", pa.string()), ("op", pa.string()), ("offset", pa.int64()), ("len", pa.int64()),
        ("bytes", pa.int64()), ("latency", pa.int64()), ("sample_id", pa.int64()), ("step", pa.int64()),
        ("rank", pa.int32()), ("worker", pa.int32()), ("error", pa.string()),
    ]
)  # fmt: skip


def recording(path: Path, rows: Sequence[dict[str, Any]]) -> TraceReader:
    """A plain Parquet file of `rows`, as any other tool writes one."""
    pq.write_table(pa.Table.from_pylist(list(rows), schema=_SCHEMA), path)
    return open_reader(path)


def rows_of(trace: Path) -> tuple[Rows, pa.Schema]:
    """The rows of a finished trace in order of their submits, and its schema with all metadata."""
    segments = sorted(trace.glob("seg-*.parquet"))
    table = pa.concat_tables([pq.read_table(segment) for segment in segments], promote_options="default")
    table = table.replace_schema_metadata(pq.read_schema(segments[0]).metadata)
    return sorted(table.to_pylist(), key=lambda row: row["t_submit"]), table.schema


def altered(trace: Path, out: Path, alter: Callable[[Rows], object]) -> TraceReader:
    """A copy of `trace` with its metadata, its rows changed in place by `alter`."""
    rows, schema = rows_of(trace)
    alter(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), out)
    return open_reader(out)
