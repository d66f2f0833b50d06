"""A program in a pseudo terminal, for the tests of screens."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

__all__ = ["TRACEKIT", "Terminal"]

REPO = Path(__file__).resolve().parents[2]
TRACEKIT = (sys.executable, "-m", "tracekit")


class Terminal:
    """A pseudo terminal of 80 x 24 with a program in it."""

    def __init__(self, *command: str) -> None:
        self.master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (24, 80))
        self.settings = termios.tcgetattr(slave)
        self.child = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, cwd=REPO,
            env={**os.environ, "TERM": "xterm-256color"}, preexec_fn=lambda: _own(slave),
        )  # fmt: skip
        self.slave = slave
        self.text = b""

    def read_until(self, part: bytes, timeout_s: float = 60.0) -> None:
        end = time.monotonic() + timeout_s
        while part not in self.text:
            ready, _, _ = select.select([self.master], [], [], max(end - time.monotonic(), 0))
            assert ready, self.text[-2000:]
            self.text += os.read(self.master, 1 << 16)

    def ended(self) -> int:
        """The exit code, once the program has ended; what it prints meanwhile is read."""
        while self.child.poll() is None:
            ready, _, _ = select.select([self.master], [], [], 0.1)
            if ready:
                self.text += os.read(self.master, 1 << 16)
        while select.select([self.master], [], [], 0.1)[0]:
            self.text += os.read(self.master, 1 << 16)
        assert termios.tcgetattr(self.slave) == self.settings, "the terminal is left as it was"
        assert b"\x1b[?1049l" in self.text, "the screen before is back"
        os.close(self.master)
        os.close(self.slave)
        return self.child.returncode


def _own(slave: int) -> None:
    fcntl.ioctl(slave, termios.TIOCSCTTY, struct.pack("i", 0))
    signal.signal(signal.SIGINT, signal.default_int_handler)
