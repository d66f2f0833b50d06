"""The screen of `tracekit watch`: rates, latency, workers and slow files of a trace that is being written.

It needs 80 columns and 24 rows, and shows more on a larger terminal.
"""

from __future__ import annotations

import asyncio
import signal
from collections import deque
from collections.abc import Callable
from datetime import datetime
from typing import ClassVar, Literal

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import DataTable, Footer, Sparkline, Static

from tracekit.errors import TracekitError
from tracekit.live.reading import HISTORY, Quantiles, Reading
from tracekit.live.watching import Watcher
from tracekit.printable import printable
from tracekit.units import format_count, format_duration, format_rate, format_size

__all__ = ["Ending", "WatchScreen"]

Ending = Literal["quit", "interrupted", "ended"]
"""How a screen ended: `q`, Ctrl-C (or a signal), or the end of the trace."""

_CURVES: tuple[tuple[str, str, Callable[[Reading], float | None], Callable[[float], str]], ...] = (
    ("ops", "ops/s", lambda r: r.ops_per_s, format_count),
    ("bytes", "bytes/s", lambda r: _plus(r.read_bytes_per_s, r.write_bytes_per_s), format_rate),
    ("p99", "p99", lambda r: None if r.latency is None else r.latency.p99_ns, format_duration),
)
"""The histories: name, label, what is drawn of a reading, and how its largest value is written."""


class WatchScreen(App[Ending]):
    """Watches with `watcher` until the trace ends; `publish` is called with each reading."""

    CSS = """
    Screen { layout: vertical; }
    #title { height: 1; text-style: bold; background: $primary; color: $text; padding: 0 1; }
    .line { height: 1; padding: 0 1; }
    .curve { height: 1; padding: 0 1; }
    .curve .label { width: 9; }
    .curve Sparkline { width: 1fr; height: 1; }
    .curve .most { width: 18; text-align: right; }
    #tables { height: 1fr; }
    #workers { width: 38; }
    #files { width: 1fr; }
    .head { height: 1; padding: 0 1; text-style: bold; }
    """
    TITLE = "tracekit watch"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "leave('quit')", "Quit"),
        Binding("ctrl+c", "leave('interrupted')", "Interrupt", priority=True),
    ]

    def __init__(self, watcher: Watcher, name: str, publish: Callable[[Reading], None]) -> None:
        super().__init__()
        self.failure: TracekitError | None = None
        self.last: Reading | None = None
        self._watcher = watcher
        self._shown_name = printable(name)
        self._publish = publish
        self._history: dict[str, deque[float]] = {curve[0]: deque(maxlen=HISTORY) for curve in _CURVES}

    def compose(self) -> ComposeResult:
        yield Static(Text(self._shown_name), id="title")
        yield Static(self._watcher.waits_for, id="rates", classes="line")
        yield Static("", id="latency", classes="line")
        yield Static("", id="lateness", classes="line")
        for name, label, _, _ in _CURVES:
            with Horizontal(classes="curve"):
                yield Static(label, classes="label")
                yield Sparkline([], id=f"curve-{name}", summary_function=max)
                yield Static("", id=f"most-{name}", classes="most")
        with Horizontal(id="tables"):
            with Vertical(id="workers"):
                yield Static("workers", classes="head")
                yield DataTable(id="worker-table", cursor_type="none", zebra_stripes=True)
            with Vertical(id="files"):
                yield Static("slowest files since the watch began", classes="head")
                yield DataTable(id="file-table", cursor_type="none", zebra_stripes=True)
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self._table("#worker-table").add_columns("worker", "ops/s", "bytes/s", "p99")
        self._table("#file-table").add_columns("file", "max", "mean", "ops")
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self.action_leave, "interrupted")
        self.run_worker(self._follow(), exclusive=True, exit_on_error=True)

    def action_leave(self, ending: Ending) -> None:
        """End the screen."""
        self.exit(ending)

    async def _follow(self) -> None:
        while True:
            try:
                readings = await asyncio.to_thread(self._watcher.poll)
            except TracekitError as error:
                self.failure = error
                self.exit("ended")
                return
            if not self.query("#title"):  # the screen was taken down meanwhile
                return
            for reading in readings:
                self._publish(reading)
                self.last = reading
                for name, _, take, _ in _CURVES:
                    self._history[name].append(take(reading) or 0.0)
            if readings:
                self._show(readings[-1])
            elif self.last is None:
                self._line("rates", self._watcher.waits_for)
            if self._watcher.ended:
                self.exit("ended")
                return
            await asyncio.sleep(self._watcher.due_s())

    def _show(self, reading: Reading) -> None:
        at = datetime.fromtimestamp(reading.end_unix_ns / 1e9).astimezone()
        moved = "" if reading.total_bytes is None else f" · {format_size(reading.total_bytes)}"
        failed = f" · {format_count(reading.total_failed_ops)} failed" if reading.total_failed_ops else ""
        total = f"{at:%H:%M:%S} · {format_count(reading.total_ops)} ops{moved}{failed}"
        self._line("title", f"{self._shortened(self._shown_name, self.size.width - len(total) - 4)}  {total}")
        self._line("rates", "  ".join(_rates(reading)))
        self._line("latency", f"latency   {_quantiles(reading.latency)}")
        late = "" if reading.lateness is None else f"lateness  {_quantiles(reading.lateness)}"
        self._line("lateness", late)
        for name, _, _, shown in _CURVES:
            values = list(self._history[name])
            self.query_one(f"#curve-{name}", Sparkline).data = values
            self._line(f"most-{name}", f"max {shown(max(values, default=0.0))}")
        self._fill(
            "#worker-table",
            [
                (
                    f"{each.rank}/{each.worker}",
                    format_count(round(each.ops * 1e9 / reading.interval_ns)),
                    "-" if each.bytes is None else format_rate(each.bytes * 1e9 / reading.interval_ns),
                    "-" if each.p99_ns is None else format_duration(each.p99_ns),
                )
                for each in reading.workers
            ],
        )
        room = max(self.size.width - 38 - 30, 12)
        self._fill(
            "#file-table",
            [
                (
                    self._shortened(printable(each.uri), room),
                    format_duration(each.max_ns),
                    format_duration(each.mean_ns),
                    format_count(each.ops),
                )
                for each in reading.slowest
            ],
        )

    def _line(self, name: str, text: str) -> None:
        self.query_one(f"#{name}", Static).update(Text(text, no_wrap=True, overflow="ellipsis"))

    def _table(self, name: str) -> DataTable[Text]:
        return self.query_one(name, DataTable)

    def _fill(self, name: str, rows: list[tuple[str, ...]]) -> None:
        table = self._table(name)
        at = table.scroll_y
        table.clear()
        for first, *numbers in rows:
            table.add_row(Text(first), *(Text(number, justify="right") for number in numbers))
        table.scroll_to(y=at, animate=False)

    @staticmethod
    def _shortened(text: str, room: int) -> str:
        """The end of a long name, which tells more than its beginning."""
        return text if len(text) <= room else f"…{text[-max(room - 1, 1) :]}"


def _plus(first: float | None, second: float | None) -> float | None:
    return first if second is None else second if first is None else first + second


def _rates(reading: Reading) -> list[str]:
    rates = (("read", reading.read_bytes_per_s), ("write", reading.write_bytes_per_s))
    flight = "-" if reading.in_flight is None else format_count(round(reading.in_flight, 2))
    return [
        f"ops/s     {format_count(round(reading.ops_per_s, 1))}",
        *(f"{name} {'-' if rate is None else format_rate(rate)}" for name, rate in rates),
        f"in flight {flight}",
        f"failed {format_count(reading.failed_ops)}",
    ]


def _quantiles(times: Quantiles | None) -> str:
    if times is None:
        return "-"
    named = (("p50", times.p50_ns), ("p90", times.p90_ns), ("p99", times.p99_ns), ("max", times.max_ns))
    return "  ".join(f"{name} {format_duration(ns)}" for name, ns in named)
