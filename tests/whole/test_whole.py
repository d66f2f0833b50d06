"""Files appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tracekit.whole import whole_file


def test_a_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with whole_file(target) as aside:
        aside.write_text("half")
        assert not target.exists()
        aside.write_text("whole")
    assert target.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("before", [None, "before"])
def test_an_exception_leaves_what_was_there_and_nothing_else(tmp_path: Path, before: str | None) -> None:
    target = tmp_path / "out"
    if before is not None:
        target.write_text(before)
    with pytest.raises(KeyboardInterrupt), whole_file(target) as aside:
        aside.write_text("half")
        raise KeyboardInterrupt
    assert [path.read_text() for path in tmp_path.iterdir()] == ([] if before is None else [before])


def test_a_name_of_the_greatest_length_works(tmp_path: Path) -> None:
    target = tmp_path / ("x" * 255)
    with whole_file(target) as aside:
        aside.write_text("whole")
    assert target.read_text() == "whole"


def test_a_file_that_was_never_made_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "out"):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("made", ["no/such/folder/out", "a-file/out", "a-folder"])
def test_an_error_names_the_file_that_was_asked_for(tmp_path: Path, made: str) -> None:
    (tmp_path / "a-file").write_bytes(b"")
    (tmp_path / "a-folder").mkdir()
    with pytest.raises(OSError) as raised, whole_file(tmp_path / made) as aside:
        aside.write_bytes(b"x")
    assert (raised.value.filename, raised.value.filename2) == (str(tmp_path / made), None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-file", "a-folder"]
