"""strace: the command line that runs a program under it.

Needs no library and sees every system call, of static programs too, at a price of about a
tenth of a millisecond a call. The log is read by `formats.syscalls.strace`.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from tracekit.formats.syscalls.calls import TRACED, VECTORED

__all__ = ["available", "command"]


def available() -> str | None:
    """Return the path of the strace program, or None."""
    return shutil.which("strace")


def command(program: str, log: Path, argv: Sequence[str]) -> list[str]:
    """Return the command line that runs `argv` under strace, with `log` as its output.

    With `-D` the command stays our own child. One log for all threads keeps their calls in
    order, even if the system uses a process number twice. `?` lets strace ignore calls that
    the machine does not have; `abbrev` has vectors written out, whose lengths are needed.
    """
    return [
        program, "-D", "-f", "-ttt", "-T", "-y", "-s", "0", "-q", "-e", "signal=none",
        "-e", "trace=" + ",".join(f"?{name}" for name in TRACED), "-e", "abbrev=!" + ",".join(f"?{name}" for name in VECTORED),
        "--seccomp-bpf", "-o", str(log), "--", *argv,
    ]  # fmt: skip
