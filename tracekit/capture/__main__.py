"""`python -m tracekit.capture`: set up a Python so that TRACEKIT_TRACE starts a capture.

`path` prints the directory to put on PYTHONPATH. `enable` writes, and `disable` removes, a
`.pth` file that this Python reads at every start, so that TRACEKIT_TRACE alone is enough.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

from tracekit.capture.environment import with_bootstrap

__all__ = ["main"]

_USAGE = "usage: python -m tracekit.capture path | enable | disable"
_LINE = "import os; os.environ.get('TRACEKIT_TRACE') and __import__('tracekit.capture.session').capture.session.join_quietly()\n"


def main(arguments: list[str]) -> int:
    """Run one of the three commands and return the exit code."""
    word = arguments[0] if arguments else ""
    if word == "path" and len(arguments) == 1:
        sys.stdout.write(with_bootstrap(None) + "\n")
        return 0
    if word in ("enable", "disable") and len(arguments) == 1:
        return _startup_line(wanted=word == "enable")
    sys.stderr.write(_USAGE + "\n")
    return 2


def _startup_line(*, wanted: bool) -> int:
    file = Path(sysconfig.get_path("purelib"), "tracekit_capture.pth")
    try:
        if wanted:
            file.write_text(_LINE)
        else:
            file.unlink(missing_ok=True)
    except OSError as error:
        sys.stderr.write(
            f"tracekit: {file}: {error.strerror} (use a virtual environment that you can write to)\n"
        )
        return 2
    sys.stdout.write(f"{file} {'written' if wanted else 'removed'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
