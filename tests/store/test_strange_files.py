"""What is in the directory of a trace and is none of its segments: copies, files of other traces, and what is no file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tracekit.errors import TraceFormatError
from tracekit.recorder import Recorder
from tracekit.store import index, reader
from tracekit.store.check import repair, verify
from tracekit.store.journal import read_journal
from tracekit.store.layout import journals_of, segments_of
from tracekit.store.reader import open_reader


def recorded(path: Path, *, first: int = 0, segments: int = 2, ops: int = 50) -> Path:
    with Recorder(path, segment_ops=ops) as recorder:
        for i in range(segments * ops):
            recorder.record("file:///d/f", i, 1, recorder.epoch_mono_ns + i, 1, sample_id=first + i)
            if (i + 1) % ops == 0:
                recorder.flush()
    return path


_LEFT = """
import os, sys
from tracekit.recorder import Recorder
recorder = Recorder(sys.argv[1])
for part in range(3):
    for i in range(20):
        recorder.record("file:///d/f", i, 1, recorder.epoch_mono_ns + i, 1, sample_id=part * 20 + i)
    recorder.flush()
os.kill(os.getpid(), 9)
"""


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace with a journal of three batches, as a killed recorder leaves it."""
    path = tmp_path_factory.mktemp("left") / "t"
    subprocess.run([sys.executable, "-c", _LEFT, str(path)], check=False)
    return path


def copied(trace: Path, to: Path) -> tuple[Path, Path]:
    """Return a copy of a trace, and its journal."""
    shutil.copytree(trace, to)
    (journal,) = journals_of(to)
    return to, journal


@pytest.mark.parametrize("name", ["seg-copy.parquet", "zzz.parquet"])
@pytest.mark.parametrize("how", [shutil.copy, os.link])
def test_a_copy_of_a_segment_is_named_and_counts_no_op_twice(
    tmp_path: Path, how: Callable[[Path, Path], object], name: str
) -> None:
    path = recorded(tmp_path / "t")
    how(segments_of(path)[0], path / name)
    with pytest.raises(TraceFormatError, match=f"{name}: .* is a copy of {segments_of(path)[0].stem}"):
        open_reader(path)
    assert [finding.where for finding in verify(path) if finding.broken] == [name]
    (path / name).unlink()
    assert (open_reader(path).rows, verify(path)) == (100, [])


def test_copies_of_a_segment_are_refused_without_a_list_too(tmp_path: Path) -> None:
    path = recorded(tmp_path / "t")
    first = segments_of(path)[0]
    shutil.copy(first, tmp_path / "again.parquet")
    with pytest.raises(TraceFormatError, match="are copies of one segment"):
        open_reader([first, tmp_path / "again.parquet"])
    shutil.copy(first, path / "again.parquet")
    (path / "_trace.parquet").unlink()
    with pytest.raises(TraceFormatError, match="are copies of one segment"):
        open_reader(path)


def test_a_copy_of_a_journal_and_one_of_another_trace_are_named_and_left_by_repair(
    tmp_path: Path, left: Path
) -> None:
    path, _ = copied(left, tmp_path / "t")
    (journal,) = journals_of(left)
    other = recorded(tmp_path / "other")
    for target, what in ((path / ".seg-b.journal", "is a copy"), (other / journal.name, "does not belong")):
        shutil.copy(journal, target)
        kept = target.read_bytes()
        with pytest.raises(TraceFormatError, match=what):
            open_reader(target.parent)
        assert target.name in [finding.where for finding in verify(target.parent)]
        with pytest.raises(TraceFormatError, match=what):
            repair(target.parent)
        assert target.read_bytes() == kept
        target.unlink()
        assert open_reader(target.parent).rows == (60 if target.parent == path else 100)


def test_repair_does_not_take_the_ops_of_another_segment_for_those_of_a_damaged_one(tmp_path: Path) -> None:
    path, other = recorded(tmp_path / "t"), recorded(tmp_path / "other", first=1000)
    first, second = segments_of(path)
    for strange in (segments_of(other)[0], second):
        copy = tmp_path / f"with-{strange.name}"
        shutil.copytree(path, copy)
        shutil.copy(strange, copy / first.name)
        assert [finding.where for finding in verify(copy) if finding.broken] == [first.name]
        done = repair(copy)
        assert (done.ops_lost, done.ops_salvaged, done.set_aside) == (50, 0, (f"_{first.name}.broken",))
        samples = open_reader(copy).query("SELECT sample_id FROM ops").column(0).to_pylist()
        assert sorted(samples) == list(range(50, 100))


def test_a_batch_that_is_in_a_journal_twice_or_of_another_one_counts_as_damage(
    tmp_path: Path, left: Path
) -> None:
    path, journal = copied(left, tmp_path / "t")
    again = tmp_path / "again"
    subprocess.run([sys.executable, "-c", _LEFT, str(again)], check=False)
    (strange,) = journals_of(again)
    whole, foreign = journal.read_bytes(), strange.read_bytes()
    for added in (whole, foreign, whole + foreign):
        journal.write_bytes(whole + added)
        contents = read_journal(journal)
        assert contents is not None
        assert (contents.rows, contents.damaged_bytes) == (60, len(added))
    assert open_reader(path).rows == 60
    assert (repair(path).ops_salvaged, open_reader(path).rows) == (60, 60)
    assert (path / f"{journal.name}.broken").exists()


STRANGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "a directory": Path.mkdir,
    "a pipe": lambda path: os.mkfifo(path),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "text": lambda path: path.write_text("hello\n"),
}


@pytest.mark.parametrize("what", STRANGE)
def test_what_is_no_segment_is_named_in_one_line_and_set_aside_by_repair(tmp_path: Path, what: str) -> None:
    path = recorded(tmp_path / "t")
    segment = segments_of(path)[0]
    segment.unlink()
    STRANGE[what](segment)
    with pytest.raises(TraceFormatError, match=segment.name):
        open_reader(path)
    assert segment.name in [finding.where for finding in verify(path) if finding.broken]
    assert repair(path).set_aside == (f"_{segment.name}.broken",)
    assert (open_reader(path).rows, [finding for finding in verify(path) if finding.broken]) == (50, [])


@pytest.mark.parametrize("what", [name for name in STRANGE if name not in ("empty", "text")])
def test_what_is_no_journal_is_named_in_one_line_and_set_aside_by_repair(tmp_path: Path, what: str) -> None:
    path = recorded(tmp_path / "t")
    journal = path / ".seg-x.journal"
    STRANGE[what](journal)
    with pytest.raises(TraceFormatError, match=journal.name):
        open_reader(path)
    assert journal.name in [finding.where for finding in verify(path) if finding.broken]
    assert repair(path).set_aside == (f"{journal.name}.broken",)
    assert (open_reader(path).rows, verify(path)) == (100, [])


def test_a_trace_is_read_again_only_if_its_list_has_changed_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recorded(tmp_path / "t")
    gone = segments_of(path)[0]
    kept = gone.read_bytes()
    gone.unlink()
    once = reader._open_directory_once
    tries: list[int] = []

    def counted(root: Path) -> reader.TraceReader:
        tries.append(len(tries))
        try:
            return once(root)
        finally:
            if restores:
                gone.write_bytes(kept)

    monkeypatch.setattr(reader, "_open_directory_once", counted)
    restores = False
    with pytest.raises(TraceFormatError, match="is missing"):
        open_reader(path)
    assert len(tries) == 1
    restores = True  # as a recorder changes the list after it was read
    assert open_reader(path).rows == 100
    assert len(tries) == 3


def test_a_process_that_closes_reads_the_footers_of_new_segments_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t"
    read: list[str] = []
    real = index.read_footer

    def noted(file: Path) -> pq.FileMetaData:
        read.append(file.name)
        return real(file)

    monkeypatch.setattr(index, "read_footer", noted)
    for _ in range(5):
        read.clear()
        recorded(path, segments=1, ops=5)
        assert len([name for name in read if name.startswith("seg-")]) == 1
    assert (open_reader(path).rows, verify(path)) == (25, [])
