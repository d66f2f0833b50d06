"""Replaying on object stores: the event-loop engine keeps cadence, cap, order and errors as threads do."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pytest
from measuring import until

from tracekit.backends.registry import backend_for
from tracekit.errors import BackendError, UsageError
from tracekit.replay.engine import replay
from tracekit.replay.materialize import materialize
from tracekit.store.reader import TraceReader, open_reader
from tracekit.store.writer import TraceWriter

LENGTH = 8192
OBJECT = 65536


@pytest.fixture
def recording(tmp_path: Path) -> TraceReader:
    """Range reads and whole gets of local files, 10 ms apart, on two streams."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in "abcd":
        (folder / name).write_bytes(os.urandom(OBJECT))
    count = 60
    gets = [i % 4 == 3 for i in range(count)]
    with TraceWriter(tmp_path / "t", source="import:test", epoch_unix_ns=0) as writer:
        writer.write(
            pa.RecordBatch.from_pydict(
                {
                    "t_submit": [i * 10_000_000 for i in range(count)],
                    "uri": [f"file://{folder}/{'abcd'[i % 4]}" for i in range(count)],
                    "op": ["get" if whole else "read" for whole in gets],
                    "offset": [None if whole else (i % 8) * LENGTH for i, whole in enumerate(gets)],
                    "len": [OBJECT if whole else LENGTH for whole in gets],
                    "bytes": [OBJECT if whole else LENGTH for whole in gets],
                    "latency": [2_000_000] * count, "sample_id": list(range(count)),
                    "step": [i // 4 for i in range(count)], "worker": [i % 2 for i in range(count)],
                }
            )
        )  # fmt: skip
    return open_reader(tmp_path / "t")


def check(recording: TraceReader, root: str, tmp_path: Path) -> None:
    """Every op again on the store, in each pace and by each engine, with the cap held."""
    rule = f"file://{tmp_path}/data={root}"
    assert materialize(recording, [rule]).made == 4
    for how in (
        {"pace": "recorded"}, {"pace": "closed"}, {"pace": "asap"}, {"pace": "asap", "engine": "threads", "threads": 4},
        {"pace": "asap", "max_bytes_in_flight": OBJECT},
    ):  # fmt: skip
        result = until(
            lambda how=how: replay(
                recording, mapping=rule, out=tmp_path / "r", overwrite=True, tolerance=0.5, **how
            ),
            lambda result: result.parity.row("duration_ns").ok is not False,
        )
        assert (result.ops, result.failed_ops) == (60, 0), (how, result.failures)
        assert result.client.engine == how.get("engine", "loop")
        assert result.parity.row("bytes").difference == 0
        assert result.parity.row("req_bytes_hist").difference == 0
        assert result.counters["range_gets"] == 45
        assert result.counters["whole_gets"] == 15
        facts = 'SELECT op, "offset", len, bytes, step, worker FROM ops ORDER BY sample_id'
        wanted = recording.query(facts.replace('"offset"', 'coalesce("offset", 0) AS "offset"'))
        assert open_reader(tmp_path / "r").query(facts).to_pylist() == wanted.to_pylist()
        if how == {"pace": "recorded"}:
            early = open_reader(tmp_path / "r").query("SELECT min(t_submit - t_due) AS ns FROM ops")
            assert early.column("ns")[0].as_py() >= 0
            assert result.parity.row("duration_ns").ok


def test_a_recording_replays_on_s3(recording: TraceReader, s3_bucket: str, tmp_path: Path) -> None:
    check(recording, f"s3://{s3_bucket}/made", tmp_path)


def test_a_recording_replays_on_azure(recording: TraceReader, az_container: str, tmp_path: Path) -> None:
    check(recording, f"az://{az_container}/made", tmp_path)


def test_a_lost_object_is_a_row_with_its_error(
    recording: TraceReader, s3_bucket: str, tmp_path: Path
) -> None:
    backend = backend_for(f"s3://{s3_bucket}")
    for name in "abc":
        backend.put(f"s3://{s3_bucket}/made/{name}", os.urandom(OBJECT))
    result = replay(recording, pace="asap", mapping=f"file://{tmp_path}/data=s3://{s3_bucket}/made")
    assert (result.ops, result.failed_ops) == (60, 15)
    assert not result.ok
    assert {failure["error"] for failure in result.failures} == {"not_found"}


def test_what_a_store_cannot_do_is_said_before_anything_runs(
    recording: TraceReader, s3_bucket: str, tmp_path: Path
) -> None:
    rule = f"file://{tmp_path}/data=s3://{s3_bucket}/nothing"
    with pytest.raises(BackendError, match="nothing"):
        replay(recording, mapping=rule, out=tmp_path / "r")
    materialize(recording, [rule])
    with pytest.raises(UsageError, match="no page cache"):
        replay(recording, mapping=rule, cold=True, out=tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_puts_go_to_the_store_only_when_allowed(tmp_path: Path, s3_bucket: str) -> None:
    with TraceWriter(tmp_path / "t", source="import:test", epoch_unix_ns=0) as writer:
        writer.write(
            pa.RecordBatch.from_pydict(
                {
                    "t_submit": [0, 50_000_000], "uri": ["s3://recorded/new", "s3://recorded/new"], "op": ["put", "get"],
                    "offset": [None, None], "len": [LENGTH, LENGTH], "bytes": [LENGTH, LENGTH],
                    "latency": [1_000_000] * 2, "sample_id": [None, None],
                }
            )
        )  # fmt: skip
    rule = f"s3://recorded=s3://{s3_bucket}"
    result = replay(tmp_path / "t", mapping=rule, allow_writes=True, speed=0.2, tolerance=1e9)
    assert (result.ops, result.failed_ops) == (2, 0)
    assert backend_for(f"s3://{s3_bucket}").stat(f"s3://{s3_bucket}/new").size == LENGTH
    with pytest.raises(UsageError, match="overwritten"):
        replay(tmp_path / "t", mapping=rule, allow_writes=True)
