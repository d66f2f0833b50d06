"""The process of one host of a replay: connects to the coordinator, and carries out what `hosting` does.

Runs as `python -m tracekit.scale.agent HOST PORT INDEX`, with the secret of the replay in the environment. It connects before it loads
the libraries of a replay, so that a host that cannot load them says so. It ends when the coordinator says so or has gone.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress

from tracekit.redaction import redact
from tracekit.scale.pulse import Vitals, start_pulse
from tracekit.scale.wire import Channel

__all__ = ["TOKEN", "environment", "main"]

TOKEN = "TRACEKIT_SCALE_TOKEN"
"""The environment variable with the secret that the hosts of one replay share."""
_CONNECT_S = 30.0


def main(arguments: list[str]) -> int:
    """Serve the coordinator until it has what it wants. Returns the exit code."""
    host, port, number = arguments
    # A launcher may ignore the signal, or block it, as Ray's actors do.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    # Ray starts its workers nice, which makes every op late on a busy host; root may undo it.
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, min(os.getpriority(os.PRIO_PROCESS, 0), 0))
    address, index, token, vitals = (host, int(port)), int(number), os.environ.pop(TOKEN, ""), Vitals()
    start_pulse(address, index, token, vitals)
    vitals.beat()
    try:
        channel = Channel(address, _CONNECT_S)
        channel.send("hello", token=token, index=index, host=socket.gethostname(), pid=os.getpid())
        _serve(channel, host, vitals)
    except (OSError, EOFError):
        return 1  # the coordinator has gone, and nobody is left to tell
    return 0


def _serve(channel: Channel, host: str, vitals: Vitals) -> None:
    """Load the libraries of a replay, and carry out the task. What goes wrong is said to the coordinator."""
    try:
        from tracekit.scale.hosting import serve

        serve(channel, host, vitals)
    except (OSError, EOFError):
        raise
    except Exception as error:
        channel.send("failed", message=redact(f"{type(error).__name__}: {error}"), hint="")
        raise


def environment(token: str, base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment of an agent."""
    return {**base, TOKEN: token}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
