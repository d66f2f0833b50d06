"""Relative names in a strace log: the working directory is followed where the log shows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tracekit.formats.registry import import_trace
from tracekit.store.reader import open_reader


def ops_of(tmp_path: Path, *lines: str) -> list[tuple[str, str, str | None]]:
    log = tmp_path / "strace.log"
    log.write_text("".join(f"7 1700000000.{n:06} {line}\n" for n, line in enumerate(lines)))
    import_trace("strace", log, out=tmp_path / "t")
    rows = open_reader(tmp_path / "t").query("SELECT op, uri, to_uri FROM ops").to_pylist()
    return [(row["op"], row["uri"], row["to_uri"]) for row in rows]


OPENED = 'openat(AT_FDCWD</run>, "part", O_WRONLY|O_CREAT, 0666) = 3</run/part> <0.000010>'
RENAMED = 'rename("part", "whole") = 0 <0.000010>'


def test_a_rename_of_relative_names_is_in_the_directory_that_an_earlier_call_showed(tmp_path: Path) -> None:
    found = ops_of(tmp_path, OPENED, RENAMED, 'unlink("whole") = 0 <0.000010>')
    assert found[-2:] == [
        ("rename", "file:///run/part", "file:///run/whole"),
        ("delete", "file:///run/whole", None),
    ]


@pytest.mark.parametrize(
    ("moved", "directory"),
    [
        ('chdir("deep") = 0 <0.000010>', "/run/deep"),
        ('chdir("/else") = 0 <0.000010>', "/else"),
        ("fchdir(5</else>) = 0 <0.000010>", "/else"),
        ('chdir("deep") = -1 ENOENT (No such file or directory) <0.000010>', "/run"),
    ],
)
def test_a_change_of_directory_is_followed_unless_it_fails(
    tmp_path: Path, moved: str, directory: str
) -> None:
    assert ops_of(tmp_path, OPENED, moved, RENAMED)[-1] == (
        "rename",
        f"file://{directory}/part",
        f"file://{directory}/whole",
    )


def test_a_name_in_a_directory_that_no_call_showed_is_no_row(tmp_path: Path) -> None:
    opened = 'openat(AT_FDCWD</run>, "part", O_WRONLY|O_CREAT, 0666) = 3</run/part> <0.000010>'
    unknown = ops_of(tmp_path, opened, "fchdir(5) = 0 <0.000010>", RENAMED)
    assert [op for op, _, _ in unknown] == ["stat"]
