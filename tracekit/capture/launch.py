"""Starts the command of a capture: its signals, its exit code, and the proxy that it may be led to."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from tracekit.capture.filters import PathFilter
from tracekit.capture.oplog import OpLog
from tracekit.capture.options import PROXY
from tracekit.capture.tools.engine import Engine
from tracekit.errors import UsageError
from tracekit.processes import descendants_of
from tracekit.recorder import Recorder
from tracekit.units import format_count
from tracekit.validation import parse_all

if TYPE_CHECKING:
    from tracekit.capture.proxy.run import RunningProxy

__all__ = ["Led", "adopts", "allow_adopting", "check_command", "proxied", "proxied_schemes", "run_child"]

_OF_AZURE = ("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME")

_PR_SET_CHILD_SUBREAPER = 36
_may_adopt = False

_FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT, signal.SIGWINCH)
_FROM_THE_TERMINAL = (signal.SIGINT, signal.SIGQUIT)


def check_command(command: Sequence[str]) -> None:
    if not command or shutil.which(command[0]) is None:
        exists = bool(command) and Path(command[0]).is_file()
        problem = "is not executable (chmod +x)" if exists else "was not found"
        raise UsageError(f"command {command[0] if command else ''!r} {problem}", "pass it after --")


def allow_adopting() -> None:
    """Let `run_child` adopt processes: this one starts no children but the command."""
    global _may_adopt
    _may_adopt = True


def adopts(engine: Engine | None) -> bool:
    """Whether processes whose parents end under this engine are to become children of this process. It has none yet."""
    detached = engine is not None and engine.detached
    return _may_adopt and not detached and not descendants_of(os.getpid())


def run_child(argv: list[str], environ: Mapping[str, str], *, adopting: bool) -> int:
    """Run the command and return its exit code, forwarding signals that it does not get from the terminal.

    With `adopting`, descendants whose parents end become children of this process, as those of a daemon's, and are waited for
    when they end: the kernel counts only what such processes moved.
    """
    if adopting:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with _relayed() as relay:
        try:
            child = subprocess.Popen(argv, env=environ)
        except OSError as error:
            raise UsageError(
                f"cannot run command {argv[0]!r}: {error.strerror}", "pass a program after --"
            ) from error
        relay(child)
        while adopting and (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)) is not None:
            if ended.si_pid == child.pid:
                break
            os.waitpid(ended.si_pid, 0)
        code = child.wait()
    if adopting:
        with suppress(ChildProcessError):  # there are no others
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
    return 128 - code if code < 0 else code


@contextmanager
def _relayed() -> Iterator[Callable[[subprocess.Popen[bytes]], None]]:
    running: list[subprocess.Popen[bytes]] = []
    early: list[int] = []

    def forward(number: int, _: FrameType | None) -> None:
        if not running:
            early.append(number)
        elif not (number in _FROM_THE_TERMINAL and _at_terminal()):
            send(running[0], number)

    def relay(child: subprocess.Popen[bytes]) -> None:
        running.append(child)
        for number in early:
            send(child, number)

    def send(child: subprocess.Popen[bytes], number: int) -> None:
        if child.returncode is None:  # not `send_signal`, which may wait for it: `run_child` does
            os.kill(child.pid, number)

    try:
        before = {number: signal.signal(number, forward) for number in (*_FORWARDED, *_FROM_THE_TERMINAL)}
    except ValueError:  # not the main thread, which alone may set handlers
        before = {}
    try:
        yield relay
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _at_terminal() -> bool:
    """Whether Ctrl-C at the terminal reaches this process group, and with it the command."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


@dataclass(slots=True)
class Led:
    """How the command is led to the proxy, and what its user should know."""

    environment: dict[str, str] = field(default_factory=dict)
    ports: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@contextmanager
def proxied(sink: Recorder | OpLog, paths: PathFilter) -> Iterator[Led]:
    """Run the recording proxies, which record what `paths` keep into `sink`: of S3, and of the Azure account that the
    environment names, if it does."""
    from tracekit.capture.proxy.run import RunningProxy, azure_settings, settings_of

    options = parse_all(PROXY, {})
    led = Led()
    with ExitStack() as ending:
        for scheme in proxied_schemes():
            settings = settings_of(options) if scheme == "s3" else azure_settings(options)
            running = RunningProxy(settings, sink, paths, ca_bundle=options["ca_bundle"])
            ending.callback(_close, running, led)
            led.environment |= running.environment()
            led.ports.append(running.port)
            if running.unsigned_because:
                led.notes.append(
                    f"proxy: requests were passed on as they were signed: {running.unsigned_because}"
                )
        yield led


def proxied_schemes() -> tuple[str, ...]:
    """The schemes whose clients a command's proxies take."""
    return ("s3", "az") if any(os.environ.get(name) for name in _OF_AZURE) else ("s3",)


def _close(running: RunningProxy, led: Led) -> None:
    running.close()
    seen = running.exchanges
    led.notes.append(f"proxy: {format_count(seen.requests)} requests were passed on to {running.upstream}")
    if seen.lost:
        led.notes.append(f"proxy: {format_count(seen.lost)} requests were not recorded: {seen.failure}")
