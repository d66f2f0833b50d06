"""What a terminal shows: names unchanged, and tables that fit."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from rich.console import Console

from tracekit.cli import screen
from tracekit.recorder import Recorder

ODD = "we[/ird] [bold]:warning: $x^"


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """Return a trace whose names are markup to those who draw them."""
    folder = tmp_path / ODD
    (folder / "_a[").mkdir(parents=True)  # a closing tag holds a slash: its halves are directories
    (folder / "_a[/_b].bin").write_bytes(bytes(1 << 16))
    with Recorder(folder / "t[0].trace", options={"note": "[/red]"}) as recorder:
        start = time.monotonic_ns()
        for i in range(16):
            recorder.record(f"file://{folder}/_a[/_b].bin", i * 4096, 4096, start + i * 1_000_000, 50_000,
                            bytes=4096, sample_id=i, step=i // 4)  # fmt: skip
    return folder / "t[0].trace"


def tracekit(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tracekit", *(str(a) for a in arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=90)


def on_a_terminal(columns: int, *arguments: object) -> str:
    """Return what a command prints on a terminal of `columns` columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    size = {"COLUMNS": str(columns), "LINES": "50"}  # Rich takes a dumb terminal for one of 80 columns
    environ = {**os.environ, "TERM": "dumb", "NO_COLOR": "1", **size}
    command = [sys.executable, "-m", "tracekit", *(str(a) for a in arguments)]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            shown += part
        assert process.wait(60) == 0, shown
    os.close(ours)
    return shown.decode()


def test_brackets_and_colons_in_names_are_shown_as_they_are(odd: Path, tmp_path: Path) -> None:
    uri = f"file://{odd.parent}/_a[/_b].bin"
    asked = tracekit("query", odd, "SELECT DISTINCT uri FROM ops")
    assert asked.returncode == 0 and uri in asked.stdout
    info = tracekit("info", odd)
    assert info.returncode == 0 and "[/red]" in info.stdout and ODD in info.stdout.replace("\n", "")
    written = tracekit("stats", odd, "--json", "-o", odd.parent / "s.json")
    assert written.returncode == 0 and f"{ODD}/s.json" in written.stderr
    assert f"{ODD}/t[0].trace is whole" in tracekit("verify", odd).stdout
    again = tracekit(
        "replay", odd, "--tolerance", "1e9", "--max-lateness", "1h", "-o", odd.parent / "again[/].trace"
    )
    assert again.returncode in (0, 1), again.stderr  # parity depends on time
    assert f"{ODD}/again[/].trace" in again.stdout
    compared = tracekit("compare", odd, odd.parent / "again[/].trace", "--tolerance", "1000")
    assert compared.returncode in (0, 1) and "_b].bin" in compared.stdout, compared.stderr
    moved = tracekit("replay", odd, "--dry-run", "--map", f"file://{odd.parent}=file://{tmp_path}/no[/ne]")
    assert f"{tmp_path}/no[/ne]/_a[/_b].bin" in moved.stdout, moved.stderr


def test_pictures_and_reports_show_names_as_they_are(odd: Path) -> None:
    for kind in ("offsets", "latency-cdf"):
        drawn = tracekit("plot", kind, odd, "--against", odd, "-o", odd.parent / f"{kind}.svg")
        assert drawn.returncode == 0, drawn.stderr
    assert "_b].bin" in (odd.parent / "offsets.svg").read_text()
    page = tracekit("report", odd, "--against", odd, "-o", odd.parent / "r.html")
    assert page.returncode == 0, page.stderr


def test_rows_are_printed_at_full_width_where_output_is_not_a_terminal(odd: Path) -> None:
    shown = tracekit("query", odd, "SELECT * FROM ops LIMIT 3").stdout
    assert len(shown.splitlines()) == 3 + 4
    assert all(f"{odd.parent}/_a[/_b].bin" in line for line in shown.splitlines()[3:-1])


def test_rows_too_wide_for_a_terminal_are_shown_one_at_a_time(odd: Path) -> None:
    narrow = on_a_terminal(80, "query", odd, "SELECT * FROM ops LIMIT 2")
    assert "row 1" in narrow and "row 2" in narrow and "┃" not in narrow
    assert "sample_id" in narrow
    few = on_a_terminal(80, "query", odd, "SELECT op, len, step FROM ops LIMIT 2")
    assert "┃ op" in few and "row 1" not in few


def test_the_column_offset_which_is_a_keyword_of_sql_is_explained(odd: Path) -> None:
    asked = tracekit("query", odd, "SELECT uri, max(offset) FROM ops GROUP BY uri")
    assert asked.returncode == 2
    assert 'write "offset" or ops.offset' in asked.stderr and len(asked.stderr.splitlines()) == 1
    assert tracekit("query", odd, 'SELECT max("offset") FROM ops').returncode == 0


def test_work_that_goes_on_is_shown_where_nobody_knows_how_much_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(screen, "errors", Console(file=shown, force_terminal=True, width=80))
    monkeypatch.setattr(screen, "_QUIET_S", 3600.0)
    with screen.working("compare"):
        pass
    assert "compare" not in shown.getvalue()
    monkeypatch.setattr(screen, "_QUIET_S", 0.0)
    end = time.monotonic() + 30
    with screen.working("compare"):
        while "compare" not in shown.getvalue() and time.monotonic() < end:
            time.sleep(0.01)
    assert "compare" in shown.getvalue()
