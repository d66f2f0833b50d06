"""The screen of `tracekit watch`: what it shows at 80 x 24, and that it ends as it is told to."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

import tracekit

pytest.importorskip("textual", reason="textual is not installed")

from pseudo_terminal import TRACEKIT, Terminal
from textual.widget import Widget
from textual.widgets import DataTable, Sparkline, Static

from tracekit.live.reading import Reading
from tracekit.live.screen import WatchScreen
from tracekit.live.watching import Watcher

REPO = Path(__file__).resolve().parents[2]
SAMPLE = REPO / "sample_traces" / "s3.trace"


def record(path: Path, ops: int = 50) -> tracekit.Recorder:
    recorder = tracekit.Recorder(path)
    for number in range(ops):
        recorder.record(f"file:///d/{number % 2}", 0, 100, time.monotonic_ns() - 10**9, 2000 + number, bytes=100, worker=number % 3)  # fmt: skip
    recorder.flush()
    return recorder


def app_over(path: Path) -> tuple[WatchScreen, list[Reading]]:
    published: list[Reading] = []
    return WatchScreen(Watcher(path, interval="100ms"), str(path), published.append), published


async def until_shown(app: WatchScreen) -> None:
    for _ in range(200):
        if app.last is not None and app.last.total_ops:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("no reading was shown")


def test_the_numbers_of_the_last_reading_are_on_the_screen(tmp_path: Path) -> None:
    recorder = record(tmp_path / "run.trace")
    app, published = app_over(tmp_path / "run.trace")

    async def look() -> None:
        async with app.run_test(size=(80, 24)) as pilot:
            await until_shown(app)
            await pilot.pause()
            assert "run.trace" in str(app.query_one("#title", Static).render())
            assert "50 ops" in str(app.query_one("#title", Static).render())
            assert "ops/s" in str(app.query_one("#rates", Static).render())
            workers, files = (app.query_one(name, DataTable) for name in ("#worker-table", "#file-table"))
            assert (workers.row_count, files.row_count) == (3, 2)
            assert app.query_one("#curve-ops", Sparkline).data
            widgets = [widget for widget in app.screen.walk_children(Widget) if widget.region.area]
            assert all(widget.region.right <= 80 and widget.region.bottom <= 24 for widget in widgets)
            await pilot.press("q")

    asyncio.run(look())
    recorder.close()
    assert app.return_value == "quit"
    assert published[-1] == app.last


@pytest.mark.parametrize(("key", "ending"), [("q", "quit"), ("ctrl+c", "interrupted")])
def test_a_key_ends_the_screen(tmp_path: Path, key: str, ending: str) -> None:
    recorder = record(tmp_path / "t")
    app, _ = app_over(tmp_path / "t")

    async def press() -> None:
        async with app.run_test(size=(80, 24)) as pilot:
            await pilot.press(key)

    asyncio.run(press())
    recorder.close()
    assert app.return_value == ending


def test_the_end_of_the_trace_ends_the_screen() -> None:
    app, published = app_over(SAMPLE)

    async def wait() -> None:
        async with app.run_test(size=(80, 24)):
            for _ in range(200):
                if app.return_value is not None:
                    return
                await asyncio.sleep(0.02)

    asyncio.run(wait())
    assert (app.return_value, published[-1].total_ops) == ("ended", 513)


def test_a_name_with_control_characters_and_markup_is_shown_as_text(tmp_path: Path) -> None:
    with tracekit.Recorder(tmp_path / "t") as recorder:
        recorder.record("file:///d/[bold]\x1b[2J", 0, 1, time.monotonic_ns() - 10**9, 5)
        recorder.flush()
        app, _ = app_over(tmp_path / "t")

        async def look() -> None:
            async with app.run_test(size=(120, 24)) as pilot:
                await until_shown(app)
                await pilot.pause()
                cell = app.query_one("#file-table", DataTable).get_row_at(0)[0].plain
                assert "[bold]" in cell and "\x1b" not in cell

        asyncio.run(look())


@pytest.mark.parametrize(("keys", "code"), [(b"q", 0), (b"\x03", 130)])
def test_the_terminal_is_restored_when_a_key_ends_the_watch(tmp_path: Path, keys: bytes, code: int) -> None:
    recorder = record(tmp_path / "t")
    terminal = Terminal(*TRACEKIT, "watch", str(tmp_path / "t"))
    terminal.read_until(b"50 ops")
    os.write(terminal.master, keys)
    assert terminal.ended() == code
    recorder.close()
    assert b"still being written" in terminal.text and b"Traceback" not in terminal.text


def test_a_signal_ends_the_screen_and_restores_the_terminal(tmp_path: Path) -> None:
    recorder = record(tmp_path / "t")
    terminal = Terminal(*TRACEKIT, "watch", str(tmp_path / "t"))
    terminal.read_until(b"50 ops")
    terminal.child.send_signal(signal.SIGTERM)
    assert terminal.ended() == 130
    recorder.close()


def test_a_replay_with_live_shows_the_screen_and_then_its_result(tmp_path: Path) -> None:
    data = tmp_path / "data.bin"
    data.write_bytes(b"x" * 4096)
    with tracekit.Recorder(tmp_path / "run.trace") as recorder:
        began = time.monotonic_ns()
        for number in range(40):
            recorder.record(f"file://{data}", 0, 4096, began + number * 80_000_000, 20_000, bytes=4096)
    replayed = tmp_path / "again.trace"
    terminal = Terminal(*TRACEKIT, "replay", str(tmp_path / "run.trace"), "-o", str(replayed), "--live")
    terminal.read_until(b"slowest files")
    assert terminal.ended() in (0, 1)  # parity of a busy machine
    assert b"recorded in" in terminal.text and b"Traceback" not in terminal.text
    assert tracekit.open_trace(replayed).ops == 40


def test_live_without_a_terminal_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tracekit.cli.app import run

    assert run(["replay", str(SAMPLE), "-o", str(tmp_path / "t"), "--live"]) == 2
    assert "--live needs a terminal" in capsys.readouterr().err
