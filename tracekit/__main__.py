"""`python -m tracekit`, and the console script: the way in to the command line."""

import signal
import sys


def main() -> None:
    """Run the command line.

    Ctrl-C while it is imported waits until that is done: in the middle of an import it would be
    a traceback, or be swallowed by the library that is just being imported.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    from tracekit.cli.app import main as run

    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    except KeyboardInterrupt:
        sys.stderr.write("tracekit: interrupted\n")
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
