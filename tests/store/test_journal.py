"""Journals: what of them is read after damage, and what `repair` keeps."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pyarrow as pa
import pytest

from tracekit.recorder import Recorder
from tracekit.store.check import repair, verify
from tracekit.store.journal import JournalWriter, read_journal
from tracekit.store.layout import journals_of, segments_of
from tracekit.store.manifest import new_manifest, write_manifest
from tracekit.store.reader import open_reader
from tracekit.store.segment import conform

BATCHES, ROWS = 4, 20


def journal(path: Path, suffix: str = ".journal") -> tuple[Path, list[int]]:
    """A trace that holds one journal as a killed recorder leaves it; its path, and where each batch ends."""
    path.mkdir()
    write_manifest(path, new_manifest())
    ends = []
    writer = None
    for part in range(BATCHES):
        columns = {"uri": ["s3://b/k"] * ROWS, "offset": [0] * ROWS, "len": [1] * ROWS, "latency": [1] * ROWS,
                   "t_submit": [part] * ROWS, "sample_id": list(range(part * ROWS, (part + 1) * ROWS))}  # fmt: skip
        (batch,) = conform(pa.RecordBatch.from_pydict(columns)).to_batches()
        writer = writer or JournalWriter(path / f".seg-a{suffix}", batch.schema)
        writer.append(batch, {"retries": part})
        ends.append(writer.path.stat().st_size)
    assert writer is not None
    writer.close()
    return writer.path, ends


def samples(path: Path) -> set[int]:
    return set(open_reader(path).query("SELECT sample_id FROM ops").column(0).to_pylist())


def flip(file: Path, at: int, bit: int = 0) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1 << bit
    file.write_bytes(data)


def test_any_flipped_byte_costs_its_own_batch_and_no_other(tmp_path: Path) -> None:
    file, ends = journal(tmp_path / "t")
    good = file.read_bytes()
    for at in range(0, len(good), 97):
        flip(file, at)
        hit = next(part for part, end in enumerate(ends) if at < end)
        contents = read_journal(file)
        assert contents is not None
        ids = {i for batch in contents.batches for i in batch.column("sample_id").to_pylist()}
        assert ids == set(range(BATCHES * ROWS)) - set(range(hit * ROWS, (hit + 1) * ROWS)), at
        assert contents.lost_bytes == ends[hit] - (ends[hit - 1] if hit else 0), at
        file.write_bytes(good)


@pytest.mark.parametrize("part", range(BATCHES))
def test_zeroed_sectors_give_no_rows_and_later_batches_are_read(tmp_path: Path, part: int) -> None:
    file, ends = journal(tmp_path / "t")
    data = bytearray(file.read_bytes())
    start = ends[part - 1] if part else 0
    data[start : start + 512] = bytes(512)
    file.write_bytes(data)
    assert samples(tmp_path / "t") == set(range(BATCHES * ROWS)) - set(range(part * ROWS, (part + 1) * ROWS))
    assert "damaged" in verify(tmp_path / "t")[0].what


@pytest.mark.parametrize(("inserted", "at_batch"), [(b"\0" * 3, 2), (b"garbage", 1)])
def test_batches_behind_inserted_bytes_are_read_at_any_alignment(
    tmp_path: Path, inserted: bytes, at_batch: int
) -> None:
    file, ends = journal(tmp_path / "t")
    data = file.read_bytes()
    file.write_bytes(data[: ends[at_batch]] + inserted + data[ends[at_batch] :])
    assert samples(tmp_path / "t") == set(range(BATCHES * ROWS))
    contents = read_journal(file)
    assert contents is not None
    assert contents.damaged_bytes == len(inserted)


def test_repair_keeps_a_journal_of_which_it_dropped_a_byte_and_removes_one_that_it_read_whole(
    tmp_path: Path,
) -> None:
    whole, _ = journal(tmp_path / "whole")
    done = repair(tmp_path / "whole")
    assert (done.ops_salvaged, done.set_aside) == (BATCHES * ROWS, ())
    assert not whole.exists()
    damaged, ends = journal(tmp_path / "damaged")
    flip(damaged, ends[0] + 3)
    left = damaged.read_bytes()
    done = repair(tmp_path / "damaged")
    assert done.ops_salvaged == (BATCHES - 1) * ROWS
    assert done.damaged_bytes == ends[1] - ends[0]
    assert done.set_aside == (f"{damaged.name}.broken",)
    assert damaged.with_name(damaged.name + ".broken").read_bytes() == left
    for path in ("whole", "damaged"):
        assert verify(tmp_path / path) == []


def test_a_wholly_damaged_journal_is_kept_and_the_trace_opens(tmp_path: Path) -> None:
    file, _ = journal(tmp_path / "t")
    file.write_bytes(bytes(file.stat().st_size))
    assert open_reader(tmp_path / "t").rows == 0
    assert verify(tmp_path / "t")[0].broken
    assert repair(tmp_path / "t").ops_salvaged == 0
    assert file.with_name(file.name + ".broken").exists()


def test_verify_tells_a_torn_batch_from_damage_and_a_closed_journal_has_neither(tmp_path: Path) -> None:
    file, ends = journal(tmp_path / "t")
    (finding,) = verify(tmp_path / "t")
    assert finding.what == f"is an unfinished journal of {BATCHES * ROWS} ops"
    os.truncate(file, ends[-1] - 50)
    (finding,) = verify(tmp_path / "t")
    torn = ends[-1] - 50 - ends[-2]
    assert f"its last {torn} bytes are of a batch that was not written to its end" in finding.what
    assert "damaged" not in finding.what


def old_journal(path: Path, *, closed: bool) -> Path:
    """A journal as tracekit 0.1 wrote it: one Arrow IPC stream."""
    path.mkdir()
    write_manifest(path, new_manifest())
    columns = {"uri": ["s3://b/k"] * 3, "offset": [0] * 3, "len": [1] * 3, "latency": [1] * 3,
               "t_submit": [1, 2, 3], "sample_id": [0, 1, 2]}  # fmt: skip
    (batch,) = conform(pa.RecordBatch.from_pydict(columns)).to_batches()
    with pa.OSFile(str(path / "seg-a.arrows"), "wb") as sink:
        stream = pa.ipc.new_stream(sink, batch.schema)
        stream.write_batch(batch, custom_metadata={"tracekit.counters": "{}"})
        if closed:
            stream.close()
    return path


@pytest.mark.parametrize("closed", [True, False])
def test_journals_of_the_first_version_are_read_and_repaired(tmp_path: Path, closed: bool) -> None:
    path = old_journal(tmp_path / "t", closed=closed)
    assert samples(path) == {0, 1, 2}
    assert verify(path)[0].what == "is an unfinished journal of 3 ops"
    assert repair(path).torn_bytes == 0
    assert samples(path) == {0, 1, 2}
    assert verify(path) == []
    assert not journals_of(path)


def test_repair_after_a_crash_between_the_segment_and_the_removal_of_its_journal_counts_ops_once(
    tmp_path: Path,
) -> None:
    file, _ = journal(tmp_path / "t")
    left = file.read_bytes()
    repair(tmp_path / "t")
    file.write_bytes(left)
    repair(tmp_path / "t")
    assert not file.exists()
    assert open_reader(tmp_path / "t").rows == BATCHES * ROWS


def test_a_damaged_segment_is_rebuilt_from_its_journal(tmp_path: Path) -> None:
    file, _ = journal(tmp_path / "t")
    left = file.read_bytes()
    repair(tmp_path / "t")
    (segment,) = segments_of(tmp_path / "t")
    flip(segment, 40)
    file.write_bytes(left)
    repair(tmp_path / "t")
    assert samples(tmp_path / "t") == set(range(BATCHES * ROWS))
    assert verify(tmp_path / "t") == []


def test_a_directory_that_vanishes_while_recording_fails_the_flush(tmp_path: Path) -> None:
    import shutil

    from tracekit.errors import TracekitError

    for recorded in (0, 10):
        recorder = Recorder(tmp_path / f"t{recorded}")
        for i in range(recorded):
            recorder.record("file:///d/f", i, 1, time.monotonic_ns(), 1)
        recorder.flush()
        shutil.rmtree(tmp_path / f"t{recorded}")
        if recorded:
            recorder.record("file:///d/f", 0, 1, time.monotonic_ns(), 1)
        with pytest.raises(TracekitError, match="recording failed"):
            recorder.flush()
        with pytest.raises(TracekitError, match="recording failed"):
            recorder.close()
