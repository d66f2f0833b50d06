"""The sample traces: whole, small, without secrets, and replayed within parity on every scheme."""

from __future__ import annotations

from pathlib import Path

import pytest
from fidelity import differences

from tracekit.replayer.materialize import materialize
from tracekit.replayer.run import replay
from tracekit.store.check import verify
from tracekit.store.reader import TraceReader, open_reader

SAMPLES = Path(__file__).resolve().parents[1] / "sample_traces"
ROOTS = {
    "file": "file:///tmp/tracekit-sample",
    "direct": "direct:///tmp/tracekit-sample",
    "s3": "s3://tracekit-sample",
    "az": "az://tracekit-sample",
}


def sample(name: str) -> TraceReader:
    return open_reader(SAMPLES / f"{name}.trace")


@pytest.mark.parametrize("name", list(ROOTS))
def test_a_sample_trace_is_complete_small_and_documented(name: str) -> None:
    reader = sample(name)
    assert verify(reader.path) == []
    assert sum(segment.file_bytes for segment in reader.segments) < 2_000_000
    assert reader.options["target_request_bytes"] == 32768
    (row,) = reader.query(
        "SELECT count(*) AS reads, count(DISTINCT step) AS steps FROM ops WHERE op = 'read'"
    ).to_pylist()
    assert row == {"reads": 512, "steps": 32}
    text = b"".join(path.read_bytes() for path in reader.path.iterdir())
    for secret in (b"testing", b"devstoreaccount1;", b"AccountKey", b"Signature"):
        assert secret not in text


@pytest.mark.parametrize("target", ["file", "direct"])
@pytest.mark.parametrize("name", list(ROOTS))
def test_a_sample_replays_with_the_same_requests_on_local_files(
    tmp_path: Path, name: str, target: str
) -> None:
    reader = sample(name)
    rules = (f"{ROOTS[name]}={target}://{tmp_path}",)
    assert materialize(reader, rules, seed=1).made == 4
    result = replay(reader, map=rules, out=tmp_path / "r", tolerance=1e9, max_lateness="1h")
    assert (result.failed_ops, differences(result.parity)) == (0, set()), result.to_dict()
    assert result.parity.row("req_bytes_hist").difference == 0


@pytest.mark.parametrize("name", list(ROOTS))
def test_a_sample_replays_with_the_same_requests_on_s3(tmp_path: Path, name: str, s3_bucket: str) -> None:
    on_object_store(tmp_path, name, f"s3://{s3_bucket}")


@pytest.mark.parametrize("name", list(ROOTS))
def test_a_sample_replays_with_the_same_requests_on_azure(
    tmp_path: Path, name: str, az_container: str
) -> None:
    on_object_store(tmp_path, name, f"az://{az_container}")


def on_object_store(tmp_path: Path, name: str, target: str) -> None:
    """Slowed to what a test server in Python serves: some 60 ops a second."""
    reader = sample(name)
    rules = (f"{ROOTS[name]}={target}",)
    assert materialize(reader, rules).made == 4
    speed = {"file": 0.08, "direct": 0.08, "s3": 0.3, "az": 0.12}[name]
    result = replay(
        reader,
        map=rules,
        speed=speed,
        end=int(2.5e9 * speed),
        out=tmp_path / "r",
        tolerance=1e9,
        max_lateness="1h",
    )
    assert (result.failed_ops, differences(result.parity)) == (0, set()), result.to_dict()
    assert result.ops > 60
    assert result.parity.row("req_bytes_hist").difference == 0
