"""What a trace says of the ops that a replay did not issue is kept by whoever writes the trace anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_merge_hosts import make

import tracekit
from tracekit.errors import TraceFormatError
from tracekit.recorder import Recorder
from tracekit.store.index import read_index, write_sealed
from tracekit.store.manifest import read_manifest


def noted(path: Path, note: str) -> Path:
    """A trace of which `note` says what was not issued."""
    make(path, [1, 2, 3])
    manifest, index = read_manifest(path), read_index(path)
    assert manifest is not None and index is not None
    write_sealed(path, manifest, index.entries.values(), notes={"not_issued": note})
    return path


def missing(ops: int, *ranges: tuple[int, int], left_out: int = 0) -> dict[str, Any]:
    return {"ops": ops, "plan_ops": [list(each) for each in ranges], "ranges_left_out": left_out}


def not_issued(path: Path) -> Any:
    return tracekit.open_trace(path).info()["not_issued"]


def test_merging_a_partial_replay_with_a_whole_one_keeps_the_ops_that_it_did_not_issue(
    tmp_path: Path,
) -> None:
    known = missing(5, (0, 2), (7, 8))
    partial, whole = noted(tmp_path / "a", json.dumps(known)), make(tmp_path / "b", [4, 5])
    assert not_issued(partial) == known
    tracekit.merge([whole, partial], tmp_path / "m")
    assert not_issued(tmp_path / "m") == known
    tracekit.merge([tmp_path / "m"], tmp_path / "again")
    assert not_issued(tmp_path / "again") == known


def test_merging_partial_replays_adds_up_the_ops_and_says_that_their_numbers_are_left_out(
    tmp_path: Path,
) -> None:
    first = noted(tmp_path / "a", json.dumps(missing(5, (0, 2), (7, 8), left_out=1)))
    second = noted(tmp_path / "b", json.dumps(missing(2, (4, 5))))
    tracekit.merge([first, second], tmp_path / "m")
    assert not_issued(tmp_path / "m") == missing(7, left_out=4)


def test_a_repair_and_a_recorder_that_joins_keep_them(tmp_path: Path) -> None:
    known = missing(1, (3, 3))
    trace = noted(tmp_path / "a", json.dumps(known))
    tracekit.repair(trace)
    assert not_issued(trace) == known
    with Recorder(trace) as recorder:
        recorder.record("file:///d/0", 0, 1, recorder.epoch_mono_ns, 5)
    assert tracekit.open_trace(trace).reader.rows == 4
    assert not_issued(trace) == known


@pytest.mark.parametrize("note", ["{", "[1, 2]", "\xff"])
def test_a_note_that_cannot_be_read_is_an_error_and_not_the_end_of_a_whole_replay(
    tmp_path: Path, note: str
) -> None:
    trace = noted(tmp_path / "a", note)
    with pytest.raises(TraceFormatError, match="which ops were not issued cannot be read"):
        not_issued(trace)
    with pytest.raises(TraceFormatError, match="which ops were not issued cannot be read"):
        tracekit.merge([trace], tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_trace_that_says_nothing_of_them_issued_all(tmp_path: Path) -> None:
    make(tmp_path / "a", [1])
    assert not_issued(tmp_path / "a") == {}
    (segment,) = (tmp_path / "a").glob("seg-*.parquet")
    assert not_issued(segment) == {}
    with Recorder(tmp_path / "live") as recorder:
        recorder.record("file:///d/0", 0, 1, recorder.epoch_mono_ns, 5)
        recorder.flush()
        assert not_issued(tmp_path / "live") == {}
