"""`--live`: the screen of `tracekit watch` over the trace that a verb is writing.

The screen is a process of its own, so that it takes no time from the interpreter that records.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, Annotated

import typer

from tracekit.errors import UsageError
from tracekit.extras import require

__all__ = ["LiveOption", "watched"]

LiveOption = Annotated[
    bool, typer.Option("--live", help="Show the screen of tracekit watch meanwhile, over the trace of -o.")
]
_PATIENCE_S = 2.5
"""How long the screen may take to notice that the recording has ended."""


@contextmanager
def watched(out: str | None, *, live: bool, hold_output: bool = False) -> Iterator[None]:
    """Show the screen while the body records into `out`. With `hold_output`, what is printed meanwhile follows it.

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
        command = [sys.executable, "-m", "tracekit", "watch", out, "--wait"]
        child = subprocess.Popen(command, stdin=terminal[0], stdout=terminal[1], stderr=terminal[2])
        if hold_output:
            stack.enter_context(_held(terminal))
        over = threading.Event()
        relay = threading.Thread(target=_relay, args=(child, over), daemon=True)
        relay.start()
        try:
            yield
            try:
                child.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                child.terminate()
        except BaseException:
            over.set()
            child.terminate()
            raise
        finally:
            over.set()
            child.wait()
            relay.join()


def _relay(child: subprocess.Popen[bytes], over: threading.Event) -> None:
    """Pass Ctrl-C on the screen, which the terminal hands over as a key, to everyone whom it would have reached."""
    if child.wait() == 130 and not over.is_set():
        os.killpg(os.getpgrp(), signal.SIGINT)


@contextmanager
def _held(terminal: list[int]) -> Iterator[None]:
    """Keep what is printed meanwhile from the screen, and print it afterwards; standard input is empty meanwhile."""
    kept: list[tuple[int, IO[bytes]]] = []
    sys.stdout.flush()
    sys.stderr.flush()
    with ExitStack() as stack:
        for number in (1, 2):
            if os.isatty(number):
                file: IO[bytes] = stack.enter_context(tempfile.TemporaryFile())
                kept.append((number, file))
                os.dup2(file.fileno(), number)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number in (0, 1, 2):
                os.dup2(terminal[number], number)
            for number, file in kept:
                file.seek(0)
                while part := file.read(1 << 16):
                    os.write(number, part)
