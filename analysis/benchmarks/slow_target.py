"""`python slow_target.py TARGET ...`: run tracekit, or a script, on a target whose reads take longer.

TARGET is `fast` (as it is), `constant` (5 ms a read), `tail` (lognormal around 3 ms, one read in 50
takes 40 ms) or `serial` (1.5 ms a read on a device that serves one at a time, across processes). How long
a read of `tail` takes follows from its file and offset, so that two runs differ by what they do and not by
what they draw. The rest is `tracekit ARGUMENT...` or `SCRIPT ARGUMENT...`. Only reads of regular files outside of the
interpreter are delayed: those of `os.pread` and `os.preadv`, with which loaders and replays read.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_DEVICE = multiprocessing.get_context("fork").Lock()


def constant(descriptor: int, offset: int) -> None:
    """5 ms."""
    time.sleep(0.005)


def tail(descriptor: int, offset: int) -> None:
    """A median of 3 ms; 2 % take 40 ms."""
    draw = random.Random(f"{Path(f'/proc/self/fd/{descriptor}').readlink()} {offset}")
    time.sleep(0.040 if draw.random() < 0.02 else draw.lognormvariate(0, 0.4) * 0.003)


def serial(descriptor: int, offset: int) -> None:
    """1.5 ms on one device."""
    with _DEVICE:
        time.sleep(0.0015)


TARGETS: dict[str, Callable[[int, int], None] | None] = {
    "fast": None,
    "constant": constant,
    "tail": tail,
    "serial": serial,
}


def delayed(call: Any, wait: Callable[[int, int], None]) -> Any:
    """`call` after `wait`. The offset is the third argument of both calls."""

    def read(*arguments: Any) -> Any:
        wait(arguments[0], arguments[2])
        return call(*arguments)

    return read


def main() -> None:
    wait, command = TARGETS[sys.argv[1]], sys.argv[2:]
    if wait is not None:
        os.pread, os.preadv = delayed(os.pread, wait), delayed(os.preadv, wait)
    sys.argv = command
    if command[0] == "tracekit":
        from tracekit.__main__ import main as tracekit

        tracekit()
    else:
        runpy.run_path(command[0], run_name="__main__")


if __name__ == "__main__":
    main()
