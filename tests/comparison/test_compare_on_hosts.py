"""Two runs that several processes measure: the same table, gates and differences as from one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import tracekit
from tracekit.cli.app import main
from tracekit.comparison.runs import _MEASURES, Run
from tracekit.metrics.spreading import Call, answers
from tracekit.store.reader import TraceReader
from tracekit.store.writer import TraceWriter

OPS = 1500


def make(path: Path, seed: int, *, segment_ops: int, slow: float = 1.0) -> Path:
    """A run with steps, ranks, failures, retries, listings, hints and unknown values."""
    rng = np.random.default_rng(seed)

    def some(values: np.ndarray, share: float = 0.1) -> pa.Array:
        return pa.array(values, pa.int64(), mask=rng.random(OPS) < share)

    columns: dict[str, Any] = {
        "t_submit": np.sort(rng.integers(0, 10**9, OPS)),
        "uri": pa.array([f"s3://b/d/{n}" for n in rng.integers(0, 50, OPS)]),
        "op": pa.array(rng.choice(["read", "get", "list", "put", "hint"], OPS, p=[0.6, 0.2, 0.05, 0.1, 0.05]).tolist()),
        "offset": some(rng.integers(0, 1 << 16, OPS)),
        "len": some(rng.integers(1, 1 << 14, OPS)),
        "bytes": some(rng.integers(0, 1 << 14, OPS)),
        "latency": some((rng.integers(1, 10**7, OPS) * slow).astype(np.int64)),
        "wait_ns": some(rng.integers(0, 10**5, OPS), 0.9),
        "tries": pa.array(rng.integers(1, 3, OPS), pa.int32()),
        "sample_id": some(rng.integers(0, 300, OPS)),
        "step": some(np.arange(OPS) // 40),
        "rank": pa.array(rng.integers(0, 3, OPS), pa.int32()),
        "worker": pa.array(rng.integers(0, 2, OPS), pa.int32()),
        "error": pa.array([None if n % 31 else "timeout" for n in range(OPS)], pa.string()),
    }  # fmt: skip
    with TraceWriter(path, source="import:test", epoch_unix_ns=0, segment_ops=segment_ops) as writer:
        writer.write(pa.RecordBatch.from_pydict(columns))
        writer.count("whole_gets", 3)
    return path


def test_two_runs_measured_on_hosts_compare_as_on_one_machine(tmp_path: Path) -> None:
    a = make(tmp_path / "a", 1, segment_ops=400)
    b = make(tmp_path / "b", 2, segment_ops=1100, slow=1.5)
    options: dict[str, Any] = {"speed": 2.0, "judge": ["latency_ks<=1", "ops_per_s>0", "max_qd<=1x"]}
    alone = tracekit.compare(a, b, **options)
    assert tracekit.compare(a, b, on="local", hosts=2, **options) == alone
    assert len(alone.rows) > 20 and not alone.ok


def test_the_command_measures_on_hosts_and_says_what_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = make(tmp_path / "a", 1, segment_ops=400), make(tmp_path / "b", 2, segment_ops=1100, slow=3)
    words = ["tracekit", "compare", str(a), str(b), "--json", "--on", "local", "--hosts", "1"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    said = json.loads(capsys.readouterr().out)
    assert said["moved"] == json.loads(json.dumps(tracekit.diverge(a, b).to_dict()))
    assert len(said["moved"]["windows"]) == 5


def test_every_field_of_a_run_has_its_measure() -> None:
    assert set(Run.__dataclass_fields__) == set(_MEASURES)


def test_a_replay_is_judged_here_whatever_the_place(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(4096))
    tracekit.record(tmp_path / "x", tmp_path / "t", sample_bytes="1KiB")
    tracekit.replay(tmp_path / "t", out=tmp_path / "r", pace="asap", engine="interpreter")
    found = tracekit.compare(tmp_path / "t", tmp_path / "r", on="local", hosts=1)
    assert (found.kind, found.ok) == ("replay", True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on": "mars"}, "no place to work"),
        ({"hosts": 2}, "give on="),
        ({"on": "local", "hosts": 0}, "less than 1"),
    ],
)
def test_a_wrong_place_or_number_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    a = make(tmp_path / "a", 1, segment_ops=400)
    for ask in (tracekit.compare, tracekit.diverge):
        with pytest.raises(tracekit.UsageError, match=message):
            ask(a, a, **options)


def _rows(reader: TraceReader) -> int:
    return reader.rows


def test_a_trace_that_is_another_where_it_is_asked_is_refused(tmp_path: Path) -> None:
    a = tracekit.open_trace(make(tmp_path / "a", 1, segment_ops=400)).reader
    make(tmp_path / "b", 2, segment_ops=400).rename(tmp_path / "c")
    (tmp_path / "a").rename(tmp_path / "away")
    (tmp_path / "c").rename(tmp_path / "a")
    with pytest.raises(tracekit.UsageError, match="is not the trace that was opened here"):
        answers([Call(_rows, (a,))], on="local", hosts=1)
