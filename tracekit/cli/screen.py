"""Prints what verbs have in common: lines, tables, JSON and progress.

Results go to stdout; progress, remarks and errors go to stderr. Progress is shown only on a
terminal, and only after two seconds.
"""

from __future__ import annotations

import json as json_format
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment

from tracekit.cli.flags import with_flags
from tracekit.formats.rows import plain
from tracekit.printable import printable
from tracekit.reporting.table import least_width, record_table, rows_table
from tracekit.whole import is_stream, whole_file

__all__ = [
    "Advance",
    "as_json",
    "console",
    "emit_json",
    "emit_outcome",
    "emit_text",
    "emitting",
    "errors",
    "note",
    "notes",
    "progress",
    "say",
    "show_rows",
    "working",
]


class _Console(Console):
    """A console for which a closed pipe is not a failure: the verb's exit code stands."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render with the control characters in names and messages escaped."""
        for part in super().render(renderable, options):
            yield part if part.control else Segment(printable(part.text), part.style)


# Without markup, so that names of files and objects are shown as they are, brackets and all.
# Output that is not a terminal gets tables at their full width.
_plain = partial(_Console, highlight=False, markup=False, emoji=False)
console = _plain(width=None if sys.stdout is not None and sys.stdout.isatty() else 10_000)
errors = _plain(stderr=True)
_QUIET_S = 2.0


class Advance(Protocol):
    """Is called as work goes on, with what is done, what there is to do, and a note such as a rate."""

    def __call__(self, done: int, total: int | None = None, note: str = "") -> None: ...


@contextmanager
def progress(what: str, *, total: int | None = None, unit_is_bytes: bool = False) -> Iterator[Advance]:
    """Show a progress bar on stderr; yields the function that moves it."""
    if not errors.is_terminal:
        yield lambda done, total=None, note="": None
        return
    from rich.progress import DownloadColumn

    amount: ProgressColumn = DownloadColumn(binary_units=True) if unit_is_bytes else MofNCompleteColumn()
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        amount,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=errors, transient=True) as bar:
        began = time.monotonic()
        task = bar.add_task(what, total=total, visible=False, note="")

        def advance(done: int, total: int | None = None, note: str = "") -> None:
            late = time.monotonic() - began >= _QUIET_S
            bar.update(task, completed=done, total=total, visible=late, note=note)

        yield advance


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show that work goes on, and for how long, where nobody knows how much is left."""
    if not errors.is_terminal:
        yield
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True) as bar:
        task = bar.add_task(what, total=None, visible=False)
        timer = threading.Timer(_QUIET_S, bar.update, (task,), {"visible": True})
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def say(text: object) -> None:
    """Print a line of the result, however long."""
    console.print(text, soft_wrap=True)


def note(text: object) -> None:
    """Print a remark on stderr, however long."""
    errors.print(text, soft_wrap=True)


def show_rows(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows as a table or, if the terminal is too narrow for one, each as a list of its values."""
    rows = [[printable(value) if isinstance(value, str) else value for value in row] for row in rows]
    if least_width(columns, rows) <= console.width:
        console.print(rows_table(columns, rows))
        return
    for number, row in enumerate(rows, 1):
        console.print(record_table(columns, row, number))


def emit_outcome(value: Mapping[str, Any], text: str, out: Path, *, json: bool) -> None:
    """Report what was written to `out`, as JSON or as a line: on stderr if `out` is a stream such as stdout."""
    aside = is_stream(out)
    if json:
        (sys.stderr if aside else sys.stdout).write(as_json(value))
    else:
        (note if aside else say)(text)


def as_json(value: Any) -> str:
    """Return `value` as a JSON text; infinity and NaN become null."""
    return json_format.dumps(plain(value), indent=2, allow_nan=False) + "\n"


def emit_json(value: Any, target: Path | None = None) -> None:
    """Print `value` as JSON, or write it to `target` whole; infinity and NaN become null."""
    emit_text(as_json(value), target)


def emit_text(text: str, target: Path | None = None) -> None:
    """Print `text`, or write it to the file `target`, which appears whole; `-` is standard output."""
    if target is None or str(target) == "-":
        sys.stdout.write(text)
        return
    with emitting(target) as aside:
        aside.write_text(text, encoding="utf-8")


@contextmanager
def emitting(target: Path | None) -> Iterator[Path]:
    """Yield a file for a long result; on a clean exit it is printed, or appears at `target` whole.

    `-` is standard output.
    """
    if target is None or str(target) == "-":
        with tempfile.TemporaryDirectory(prefix="tracekit-") as folder:
            aside = Path(folder) / "out"
            yield aside
            with aside.open(encoding="utf-8", newline="") as file:
                shutil.copyfileobj(file, sys.stdout)
        return
    with whole_file(target) as aside:
        yield aside
    if not is_stream(target):
        note(f"wrote {target}")


def notes(lines: Sequence[str]) -> None:
    """Print the notes of a result on stderr, with parameters written as flags."""
    for line in lines:
        note(f"note: {with_flags(line)}")
