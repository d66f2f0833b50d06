"""`--live`: the screen of `tracekit watch` over the trace that a verb is writing.

The screen is a process of its own, so that it takes no time from the interpreter that records.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import termios
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Annotated

import typer

from tracekit.errors import UsageError
from tracekit.extras import require

__all__ = ["LiveOption", "watched"]

LiveOption = Annotated[
    bool, typer.Option("--live", help="Show the screen of tracekit watch meanwhile, over the trace of -o.")
]
_PATIENCE_S = 2.5
"""How long the screen may take to notice that the recording has ended."""
_COPY_S = 0.1
_LEAVE = b"\x1b[?1049l\x1b[?25h\x1b[?1000l\x1b[?1003l\x1b[?1006l\x1b[?2004l\x1b[0m"
"""The screen before, a visible cursor, no reports of the mouse: what a screen that was killed did not undo."""


@contextmanager
def watched(out: str | None, *, live: bool, hold_output: bool = False) -> Iterator[None]:
    """Show the screen while the body records into `out`. With `hold_output`, what is printed meanwhile, also by children,
    follows the screen.

    Ctrl-C on the screen interrupts the whole process group, as it does without a screen; `q` only ends the
    screen. Raises UsageError without a terminal, the extra `live`, or `out`.
    """
    if not live:
        yield
        return
    if out is None:
        raise UsageError("live=True needs a trace to watch", "give out=")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(
            "live=True needs a terminal", "leave it out, and run tracekit watch --json elsewhere"
        )
    require("textual", extra="live")
    with ExitStack() as stack:
        terminal = [os.dup(number) for number in (0, 1, 2)]
        for number in terminal:
            stack.callback(os.close, number)
        settings = termios.tcgetattr(terminal[0])
        held = stack.enter_context(_held(terminal)) if hold_output else None
        command = [sys.executable, "-m", "tracekit", "watch", out, "--wait"]
        child = subprocess.Popen(command, stdin=terminal[0], stdout=terminal[1], stderr=terminal[2])
        gone, over = threading.Event(), threading.Event()
        relay = threading.Thread(target=_relay, args=(child, gone, over, held), daemon=True)
        relay.start()
        try:
            yield
            gone.wait(_PATIENCE_S)
        finally:
            over.set()
            os.kill(child.pid, signal.SIGTERM)
            relay.join()
            child.wait()
            if child.returncode < 0:
                os.write(terminal[1], _LEAVE)
                termios.tcsetattr(terminal[0], termios.TCSADRAIN, settings)


class _Held:
    """What is printed while the screen is there: kept in a file, and copied to the terminal afterwards."""

    def __init__(self, terminal: Sequence[int]) -> None:
        self._terminal = terminal
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open until `restore`
        self._copied = 0
        self._numbers = [number for number in (1, 2) if os.isatty(number)]

    def redirect(self) -> None:
        """Put the file in the place of the terminal. Standard input is empty."""
        for number in self._numbers:
            os.dup2(self._file.fileno(), number)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)

    def copy(self) -> None:
        """Print what was kept and is not printed yet."""
        while part := os.pread(self._file.fileno(), 1 << 16, self._copied):
            self._copied += os.write(self._terminal[1], part)

    def restore(self) -> None:
        """Put the terminal back, and print the rest."""
        for number in (0, *self._numbers):
            os.dup2(self._terminal[number], number)
        self.copy()
        self._file.close()


@contextmanager
def _held(terminal: Sequence[int]) -> Iterator[_Held]:
    """Keep what is printed from the screen."""
    held = _Held(terminal)
    _flush()
    held.redirect()
    try:
        yield held
    finally:
        _flush()
        held.restore()


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


def _relay(
    child: subprocess.Popen[bytes], gone: threading.Event, over: threading.Event, held: _Held | None
) -> None:
    """Wait for the screen. Pass Ctrl-C on it, which the terminal hands over as a key, to everyone whom it would have
    reached; when it has ended before the recording, print what is printed as it comes.

    It is not reaped yet: what it read would count as read by the command that is captured.
    """
    ending = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    gone.set()
    interrupted = ending is not None and (ending.si_code, ending.si_status) == (os.CLD_EXITED, 130)
    if interrupted and not over.is_set():
        os.killpg(os.getpgrp(), signal.SIGINT)
    while held is not None and not over.wait(_COPY_S):
        held.copy()
