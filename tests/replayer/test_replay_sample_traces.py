"""Logs written by other tools are imported, materialized and replayed with the same requests.

How closely the times match is measured by analysis/benchmarks/bench_parity.py.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fidelity import differences

from tracekit.formats.registry import import_trace
from tracekit.replayer.materialize import materialize
from tracekit.replayer.run import replay
from tracekit.store.reader import TraceReader, open_reader

TRACES = Path(__file__).resolve().parents[2].parent / "shared" / "traces"
LOGS = {
    "dftracer": "dftracer-dlio-unet3d.pfw.gz",
    "s3dlio": "s3dlio_oplog.tsv.zst",
    "warp": "warp-benchdata-get.csv.zst",
    "darshan": "darshan-dxt.darshan",
}
HOW = {
    "dftracer": (4_000_000_000, 2.0),
    "s3dlio": (4_000_000_000, 1.0),
    "warp": (500_000_000, 0.1),
    "darshan": (4_000_000_000, 1.0),
}
"""Of each: how much of it, and how fast: warp read 4 GB/s."""


def imported(tmp_path: Path, fmt: str) -> TraceReader:
    log = TRACES / LOGS[fmt]
    if not log.exists():
        pytest.skip(f"{log.name} is not beside this checkout")
    if fmt == "darshan":
        pytest.importorskip("darshan", reason="the package darshan is not installed")
        pytest.importorskip("tracekit.formats.darshan_dxt", reason="this build reads no Darshan logs")
    import_trace(fmt, log, tmp_path / "t")
    return open_reader(tmp_path / "t")


def roots(reader: TraceReader) -> list[str]:
    found = reader.query("SELECT DISTINCT regexp_extract(uri, '^[a-z0-9]+://[^/]*/') AS root FROM ops")
    return [root for root in found.column("root").to_pylist() if root]


@pytest.mark.parametrize("scheme", ["file", "direct"])
@pytest.mark.parametrize("fmt", list(LOGS))
def test_an_imported_log_replays_with_the_same_requests(tmp_path: Path, fmt: str, scheme: str) -> None:
    reader = imported(tmp_path, fmt)
    target = tmp_path / "made"
    first = reader.query("SELECT min(t_submit) AS t FROM ops").column("t")[0].as_py()
    reads = (
        reader.query("SELECT t_submit AS t FROM ops WHERE op IN ('read', 'get') ORDER BY t")
        .column("t")
        .to_pylist()
    )
    start = reads[len(reads) // 3] - first  # from where it reads in earnest
    rules = [f"{root}={scheme}://{target}/{i}/" for i, root in enumerate(roots(reader))]
    window_ns, speed = HOW[fmt]
    how = {
        "start": start,
        "end": start + window_ns,
        "max_gap": 200_000_000,
        "tolerance": 1e9,
        "max_lateness": "1h",
    }
    # Writes are not replayed here, so what the trace writes before it reads it must be there, too.
    read_only = tmp_path / "reads.parquet"
    pq.write_table(reader.query("FROM ops WHERE op IN ('read', 'get')"), read_only)
    materialize(read_only, rules)
    result = replay(reader, map=rules, speed=speed, out=tmp_path / "r", overwrite=True, **how)
    assert result.ops > 0
    # Objects that did not exist when recorded are not made, so that reads of them fail again.
    assert {failure["error"] for failure in result.failures} <= {"not_found"}, result.failures
    assert differences(result.parity) <= {"failures"}, result.parity.to_dict()
    assert result.parity.row("req_bytes_hist").difference == 0
    assert result.parity.row("bytes").difference == 0


def test_a_foreign_log_replays_with_the_same_requests_on_s3(tmp_path: Path, s3_bucket: str) -> None:
    on_object_store(imported(tmp_path, "s3dlio"), f"s3://{s3_bucket}", tmp_path)


def test_a_foreign_log_replays_with_the_same_requests_on_azure(tmp_path: Path, az_container: str) -> None:
    on_object_store(imported(tmp_path, "s3dlio"), f"az://{az_container}", tmp_path)


def on_object_store(reader: TraceReader, target: str, folder: Path) -> None:
    """Slowed to what a test server in Python serves: some 40 ops a second."""
    rules = [f"{root}={target}/{i}/" for i, root in enumerate(roots(reader))]
    materialize(reader, rules)
    result = replay(
        reader, map=rules, speed=0.03, out=folder / "r", overwrite=True, tolerance=1e9, max_lateness="1h"
    )
    assert result.ops == 265
    assert differences(result.parity) <= {"failures"}, result.to_dict()  # of the recording, not of the replay
    assert result.assumed_offsets == 64
    assert result.parity.row("req_bytes_hist").difference == 0
