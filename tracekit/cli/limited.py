"""Runs the command line in a child process where the address space is limited (`ulimit -v`).

A native library that gets no memory may end its process by a signal. The parent, which uses none, then says so
in one line.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable

from tracekit.cli.failing import fail
from tracekit.units import format_size

__all__ = ["run_in_child"]

_PR_SET_PDEATHSIG = 1
_BY_LIBRARIES = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP)
_NO_THREAD = 127
"""How the C library ends a process in which it cannot start a thread."""
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def run_in_child(main: Callable[[], None]) -> None:
    """Run `main` in a child and end as it ends, or with 2 and one line if a library ended it.

    Signals for this process alone are passed on; those of a terminal reach the child by themselves.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*_PASSED_ON, signal.SIGCHLD})
    child = os.fork()
    if not child:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        main()
        sys.exit()
    code = _waited(child)
    if code == _NO_THREAD or -code in _BY_LIBRARIES:
        why = "could not start a thread" if code > 0 else f"was ended by signal {-code}"
        limit = format_size(resource.getrlimit(resource.RLIMIT_AS)[0])
        told = f"out of memory: a native library {why} under the limit of {limit} of address space"
        sys.exit(fail(sys.argv[1:], told, 2, "raise the limit (ulimit -v)"))
    if code < 0:  # end in the same way
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {-code})
        os.kill(os.getpid(), -code)
    sys.exit(code)


def _waited(child: int) -> int:
    """Wait for the child; return its exit code, or minus the signal that ended it."""
    while True:
        came = signal.sigwaitinfo({*_PASSED_ON, signal.SIGCHLD})
        if came.si_signo == signal.SIGCHLD:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
        elif came.si_code <= 0:  # sent by a process, not by the terminal
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, came.si_signo)
