"""`python -m tracekit`, and the console script: the way in to the command line."""

import resource
import signal
import sys


def main() -> None:
    """Run the command line; in a child process where the address space is limited.

    Ctrl-C while it is imported waits until that is done: in the middle of an import it would be
    a traceback, or be swallowed by the library that is just being imported.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        _run(before)
        return
    from tracekit.cli.limited import run_in_child

    run_in_child(lambda: _run(before))


def _run(signals: set[int | signal.Signals]) -> None:
    """Run the command line, with this mask of signals once it is imported."""
    from tracekit.cli.app import main as run

    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)
    except KeyboardInterrupt:
        sys.stderr.write("tracekit: interrupted\n")
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
