"""Hosts that record one op after the other, so that the true order of the ops is known."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

__all__ = ["take_turns"]


def take_turns(commands: Sequence[Sequence[str]], order: Sequence[int]) -> None:
    """Start a host by each command, let the hosts that `order` names record one op each in turn, and end them.

    A host says `ready`, records an op for each line that it reads, its number from 0, and answers with the number.
    """
    hosts = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        for command in commands
    ]
    for host in hosts:
        assert host.stdout is not None and host.stdout.readline() == "ready\n"
    for turn, number in enumerate(order):  # each begins when the one before has answered
        host = hosts[number]
        assert host.stdin is not None and host.stdout is not None
        host.stdin.write(f"{turn}\n")
        assert host.stdout.readline() == f"{turn}\n"
    for host in hosts:
        assert host.stdin is not None
        host.stdin.close()
        assert host.wait(30) == 0
